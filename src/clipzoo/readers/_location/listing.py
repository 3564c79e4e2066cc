"""Search for shards: location -> names and paths of its files."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from clipzoo.errors import DatasetError
from clipzoo.files import Place, below, join, matching, open_file, place

log = logging.getLogger(__name__)

MOST = 1_000_000
"""Files that one brace range may name."""

_WILD = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def find(location: str, suffixes: Sequence[str] = (".tar",)) -> dict[str, Place]:
    """Return name -> path of every shard of a folder, a single file, or a glob or brace pattern; sorted by name.

    A name is the path below the folder (or below the pattern's part before the first wildcard), without ``.tar`` and
    ``.parquet``, which a store adds. Shards are listed, so gaps in their numbers do not matter. Missing files of a
    brace pattern cause a warning.

    Raises:
        DatasetError: no shard was found, or one is compressed.
    """
    root, listed = files(location)
    paths = [path for path in listed if path.suffix.lower() in suffixes or packing(path.name)]
    shards = {_name(path, root): path for path in paths if path.suffix.lower() in suffixes}
    if ".tar" in suffixes:
        _refuse_packed(paths, shards)
    if not shards:
        raise nothing(location)
    for name in shards:
        if name != name.encode("utf-8", "replace").decode():
            raise DatasetError(f"the name of the shard {name!r} is not UTF-8, and labels are stored by it: rename it")
    _warn_of_missing(location, set(paths))
    return dict(sorted(shards.items()))


def nothing(location: str) -> DatasetError:
    """Return the error for a location without data."""
    return DatasetError(
        f"no data was found at {location!r}: no .tar, .parquet, .csv or .tsv file and no image; give a folder, a "
        "file, a pattern such as 'data/*.tar' or 'data/{00000..00099}.tar', or a list of files (.txt)"
    )


def files(location: str) -> tuple[Place, Iterator[Place]]:
    """Return the root of the names, and the files of a folder, a file, a list of files, or a glob or brace pattern.

    Raises:
        DatasetError: there is no such file or folder.
    """
    path = place(location)
    if path.is_dir():
        return path, _all_below(path)
    if path.is_file():
        return _listed(path) if path.suffix.lower() == ".txt" else (path.parent, iter([path]))
    if not _WILD.search(location):
        web = location.startswith(("http://", "https://"))
        why = "; a web server lists no files: give a pattern or a list (docs/data.md)" if web else ""
        raise DatasetError(f"there is no file or folder {location!r}; check the path of the dataset{why}")
    return fixed_folder(path), iter(matching(expand(str(path))))


def fixed_folder(path: Place) -> Place:
    """Return the folder of a pattern before its first wildcard."""
    while _WILD.search(str(path)):
        path = path.parent
    return path


def _all_below(folder: Place) -> Iterator[Place]:
    """Return every visible file of a folder and of all folders below it."""
    if isinstance(folder, Path):
        return (inner / name for inner, names in folders(folder) for name in names)
    return (folder / name for name in below(folder) if not re.search(r"(^|/)\.", name))


def _listed(path: Place) -> tuple[Place, Iterator[Place]]:
    """Return (common folder, files) of a list: one path or address per line, relative to the folder of the list."""
    lines = (line.strip() for line in path.read_bytes().decode("utf-8-sig", "replace").splitlines())
    places = [join(path.parent, line) for line in lines if line and line[0] != "#"]
    if not places:
        raise DatasetError(f"{path} lists no files; write one path or address per line")
    for root in places[0].parents:
        if all(root in one.parents for one in places):
            return root, iter(places)
    raise DatasetError(f"{path} lists {places[0]} and files that lie under no common folder; list those of one disk")


def _warn_of_missing(location: str, present: Collection[Place]) -> None:
    """Warn of missing shards that a brace pattern names one by one."""
    path = place(location)
    if "{" not in location or path in present or path.exists():
        return
    named = [place(one) for one in expand(str(path)) if not re.search(r"[*?\[]", one)]
    missing = [one.name for one in named if one not in present]
    if missing:
        listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        log.warning("%d of the %d files that %s names are not there: %s", len(missing), len(named), location, listed)


def folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, its visible files) of ``root`` and all folders below it, linked ones included, each once.

    Raises:
        DatasetError: a folder cannot be listed.
    """
    visited: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in visited:
            inner.clear()
            continue
        visited.add(real)
        inner[:] = sorted(name for name in inner if name[0] != ".")
        yield Path(folder), sorted(name for name in files if name[0] != ".")


def _refuse(error: OSError) -> None:
    raise DatasetError(f"cannot list {error.filename} ({error.strerror}); make it readable, or leave it out") from error


def expand(pattern: str) -> list[str]:
    """Expand shell braces: ``a{00..02}``, ``{train,val}/*.tar``; several in one pattern multiply."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inner: str) -> list[str]:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        return inner.split(",")
    first, last = bounds.groups()
    if int(last) - int(first) > MOST:
        raise DatasetError(f"the range {{{inner}}} names more than {MOST} files; give a folder or a glob instead")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _name(path: Place, root: Place) -> str:
    name: PurePath = path.relative_to(root)  # type: ignore[arg-type]  # both lie on a disk, or on one network
    return (name.with_suffix("") if path.suffix.lower() in (".tar", ".parquet") else name).as_posix()


def packing(name: str) -> str:
    """Return the ending of a compressed tar's name, or ""."""
    return next((ending for ending in _PACKED if name.lower().endswith(ending)), "")


def _refuse_packed(paths: list[Place], shards: dict[str, Place]) -> None:
    """Raise `DatasetError` for a compressed shard without an unpacked copy, which would be skipped silently."""
    have = set(shards.values())
    for path in sorted(paths, key=str):
        ending = packing(path.name)
        if ending and path.with_name(path.name[: -len(ending)] + ".tar") not in have:
            raise _packed(path, ending.lstrip("."))


def refuse_compressed(path: Place) -> None:
    """Raise `DatasetError` if the file's first bytes are those of a compressor."""
    with open_file(path) as file:
        head = file.read(6)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise _packed(path, name)


def _packed(path: Place, format: str) -> DatasetError:
    tool = "gunzip" if "g" in format else "bunzip2" if "b" in format else "unxz" if "x" in format else "unzstd"
    name = shlex.quote(path.name)
    command = f"{tool} {name}" if packing(path.name) else f"{tool} < {name} > new.tar && mv new.tar {name}"
    return DatasetError(
        f"{path} is compressed ({format}); members of a compressed tar cannot be read by offset, and images gain "
        f"nothing from it: unpack it once, for example `{command}`"
    )


@contextmanager
def readable(path: Place) -> Iterator[None]:
    """Raise `DatasetError` in place of an `OSError` in the block, which reads the file ``path``."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"cannot read {path} ({error.strerror or error}); check that it is there") from error
