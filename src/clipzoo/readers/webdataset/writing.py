"""Writer of tar shards; equal samples give equal bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from clipzoo import files
from clipzoo.errors import DatasetError
from clipzoo.readers.base import Span
from clipzoo.readers.webdataset.layout import Layout
from clipzoo.readers.webdataset.tar import is_kept


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """Write a tar of (key, {extension: bytes}) and return the number of samples.

    Equal samples give equal bytes: no times, owners or versions are written. The file is written atomically.

    Raises:
        DatasetError: a key is empty, has a dot in its last part, is repeated, or leads out of the tar.
    """
    keys: set[str] = set()
    with (
        files.atomic(path, exclusive=True) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for key, members in samples:
            if key in keys or Layout().split(f"{key}.x") is None or "." in key.rpartition("/")[2]:
                raise DatasetError(f"the key {key!r} is repeated, is empty or has a dot; give each sample a unique key")
            if not is_kept(f"{key}.x"):
                raise DatasetError(f"the key {key!r} is not the path of a file in a tar, so no reader would use it; "
                                   "write it without '..', '\\' and '/' or './' in front")  # fmt: skip
            keys.add(key)
            for ext, data in members.items():
                add_member(tar, f"{key}.{ext}", data)
    return len(keys)


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> Span:
    """Append a regular file without time or owner, and return the span of its bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded, len(data)
