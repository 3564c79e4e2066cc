"""Where shards are: a location -> the tar files it means, by name."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from clipzoo.errors import DatasetError

_WILD = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def find(location: str) -> dict[str, Path]:
    """Name -> path of every shard of a folder, a single .tar, or a glob or brace pattern; sorted by name.

    A name is the path below the folder (or below the pattern's part before the first wildcard), without
    ``.tar``. Shards are listed, never counted: gaps in their numbers do not matter.

    Raises:
        DatasetError: nothing is there, or it is compressed.
    """
    if "://" in location:
        raise DatasetError(
            f"{location!r} is a remote address; shards are read by offset from a file system: copy or mount them"
        )
    root, paths = _candidates(location)
    shards = {_name(path, root): path for path in paths if path.suffix == ".tar"}
    _refuse_packed(location, paths, shards)
    if not shards:
        raise DatasetError(
            f"no .tar shard was found at {location!r}; give a folder, a .tar file, or a pattern such as "
            "'data/*.tar' or 'data/{00000..00099}.tar'"
        )
    return dict(sorted(shards.items()))


def _candidates(location: str) -> tuple[Path, list[Path]]:
    """(root of the names, files that may be shards)."""
    path = Path(location).expanduser()
    if path.is_dir():
        return path, list(_walk(path))
    if path.is_file():
        return path.parent, [path]
    if not _WILD.search(location):
        raise DatasetError(f"there is no file or folder {location!r}; check the path of the dataset")
    parts = path.parts
    fixed = next(i for i, part in enumerate(parts) if _WILD.search(part))
    found = {hit for pattern in expand(str(path)) for hit in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    return Path(*parts[:fixed]), [Path(hit) for hit in found if Path(hit).is_file()]


def _walk(root: Path) -> Iterator[Path]:
    """All visible files below ``root``, linked folders included, each folder once."""
    seen: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if name[0] != ".")
        yield from (Path(folder, name) for name in files if name[0] != ".")


def expand(pattern: str) -> list[str]:
    """Shell braces: ``a{00..02}``, ``{train,val}/*.tar``; several in one pattern multiply."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inner: str) -> list[str]:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        return inner.split(",")
    first, last = bounds.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _refuse_packed(location: str, paths: list[Path], shards: dict[str, Path]) -> None:
    """A compressed shard without its unpacked twin would be left out silently."""
    have = set(shards.values())
    for path in sorted(paths):
        ending = next((e for e in _PACKED if path.name.endswith(e)), None)
        if ending and path.with_name(path.name.removesuffix(ending) + ".tar") not in have:
            raise _packed(path, ending.lstrip("."))


def refuse_compressed(path: Path) -> None:
    """Raise `DatasetError` if the file's first bytes are those of a compressor."""
    with path.open("rb") as file:
        head = file.read(6)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise _packed(path, name)


def _packed(path: Path, how: str) -> DatasetError:
    tool = "gunzip" if "g" in how else "bunzip2" if "b" in how else "unxz" if "x" in how else "unzstd"
    return DatasetError(
        f"{path} is compressed ({how}); members of a compressed tar cannot be read by offset, and images gain "
        f"nothing from it: unpack it once, for example `{tool} {path.name}`"
    )
