"""Files of a folder that are named by keys of samples."""

from __future__ import annotations

import errno
from pathlib import Path

from clipzoo.errors import SampleError

UNNAMED = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ})
"""Errors of names. Others, such as a full disk, stop the export."""


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a new file below a folder.

    Raises:
        SampleError: the name leads out of the folder, is that of another file, or is not possible on this disk.
    """
    path = inside(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
    except OSError as error:
        if error.errno not in UNNAMED:
            raise
        why = "another sample has this name" if error.errno == errno.EEXIST else f"{error.strerror}"
        raise SampleError(f"no file can be called {name!r}: {why}. Give the samples unique, shorter keys") from error


def inside(folder: Path, name: str) -> Path:
    """Return the path of a name below a folder; `SampleError` if it leads out of the folder."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise SampleError(
            f"{name!r} leads out of the folder, or is not the name of a file. Give the sample another key"
        )
    return folder / name
