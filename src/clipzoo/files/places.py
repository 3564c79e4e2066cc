"""Local and remote files with one interface.

A `Place` is a `pathlib.Path` or a remote address. Both support ``/``, ``is_file()``, ``open()`` and other methods of
`pathlib.Path`; functions for everything that differs between them are here.
"""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar

import fsspec

from clipzoo import plugins
from clipzoo.errors import RemoteError
from clipzoo.files import _copies, _local
from clipzoo.files._remote import Remote, RemoteFile

AnyPath: TypeAlias = str | os.PathLike[str]
Place: TypeAlias = Path | Remote
In = TypeVar("In")
Out = TypeVar("Out")

_ONE_SLASH = re.compile(r"(\w+):/(?!/)")

REQUESTS = 32
"""Concurrent requests to a network."""

GAP = 2**16
"""Spans of a remote file with at most so many bytes between them are read by one request."""


def place(given: AnyPath | Remote) -> Place:
    """Return the place of a path or address; ``file://`` is a path.

    Raises:
        RemoteError: the protocol of the address is unknown, or one of its slashes is missing.
    """
    if isinstance(given, Remote):
        return given
    if (match := _ONE_SLASH.match(str(given))) and match[1] in fsspec.available_protocols():
        address = f"{match[1]}:/{str(given)[match.end() - 1 :]}"
        raise RemoteError(f"{given} has one slash after {match[1]}:, as `pathlib` leaves it. Give the text {address}")
    if isinstance(given, Path):
        return given
    given = os.fspath(given)
    if given.startswith(("file://", "local://")):
        return Path(given.partition("://")[2])
    return Remote.parse(given) if "://" in given else Path(given).expanduser()


def local(given: AnyPath, what: str) -> Path:
    """Return the path of a file or folder that must be on a local disk; ``what`` names it in the error.

    Raises:
        RemoteError: it is an address, also one of whose slashes `Path` has removed one.
    """
    path = Path(given) if _ONE_SLASH.match(str(given)) else place(given)
    if isinstance(path, Remote) or _ONE_SLASH.match(str(path)):
        raise RemoteError(
            f"{given} is an address, but {what} must be on a local disk: give a path, and copy the data with the tools "
            "of its object store"
        )
    return path.expanduser()


def missing(path: Path) -> str:
    """Return a sentence that a path does not exist, with similar names next to it, or the part that is missing."""
    near = plugins.nearest(path.name, [one.name for one in path.parent.iterdir()]) if path.parent.is_dir() else ""
    there = next(one for one in path.absolute().parents if one.is_dir())
    why = "" if path.parent.is_dir() else f"; of its path, only {there} exists"
    return f"{path} does not exist{f' ({near})' if near else why}"


def join(folder: Place, name: str) -> Place:
    """Return the place that ``name`` means in a file of ``folder``: an address, or a path relative to the folder.

    Raises:
        RemoteError: a remote file names a local one.
    """
    joined = place(name) if "://" in name or (isinstance(folder, Path) and name[:1] == "~") else folder / name
    if isinstance(folder, Remote) and isinstance(joined, Path):
        raise RemoteError(f"a file in {folder} names the local file {name!r}; it may only name addresses")
    return joined


def remote(where: Place) -> bool:
    """Return True for a remote address."""
    return isinstance(where, Remote)


# Read ------------------------------------------------------------------------------------------------------


def read_at(path: Place, offset: int, size: int) -> bytes:
    """Return ``size`` bytes of a file from ``offset``, or fewer at the end of the file.

    Files and connections are kept open, one set per process: safe in threads and after a fork.

    Raises:
        OSError: the file cannot be opened or read.
        RemoteError: it cannot be reached.
    """
    source = local_copy(path)
    if isinstance(source, Path):
        try:
            return _local.read_at(source, offset, size)
        except FileNotFoundError:
            if isinstance(path, Path):
                raise
            source = path  # another thread has just removed the copy
    return source.read(offset, size)


def local_copy(path: Place) -> Place:
    """Return the local copy of a remote file if there is one, else the place itself."""
    return path if isinstance(path, Path) else _copies.copy_of(path) or path


def read_spans(path: Place, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of several (offset, size) of a file; adjacent spans of a remote file are one request."""
    start, end = min((at for at, _ in spans), default=0), max((at + size for at, size in spans), default=0)
    if isinstance(path, Path) or end - start > sum(size for _, size in spans) + GAP:
        return [read_at(path, *span) for span in spans]
    data = read_at(path, start, end - start)
    return [data[at - start : at - start + size] for at, size in spans]


def threads(path: Place) -> int:
    """Return the number of threads that should read concurrently: 1 from a disk."""
    return 1 if isinstance(path, Path) else REQUESTS


def map_ahead(call: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """Yield ``call(item)`` for each item in order, computed in advance by ``workers`` threads if there are several."""
    if workers == 1:
        yield from map(call, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from in_order(pool, call, items, workers)


def in_order(pool: Executor, call: Callable[[In], Out], items: Iterable[In], window: int) -> Iterator[Out]:
    """Yield ``call(item)`` for each item in order; ``window`` items are with the pool at a time."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) == window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def open_raw(path: Place) -> io.RawIOBase:
    """Open a file for reading without a buffer."""
    source = local_copy(path)
    return io.FileIO(source, opener=_local.plain) if isinstance(source, Path) else RemoteFile(source)


def read(path: Place) -> bytes:
    """Return all bytes of a file of unknown origin.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
        RemoteError: it cannot be reached.
    """
    if isinstance(path, Remote):
        return path.read_bytes()
    with open(path, "rb", opener=_local.plain) as file:
        return file.read()


def open_file(path: Place) -> BinaryIO:
    """Open a file for reading at any position."""
    return io.BufferedReader(open_raw(path))


def open_for_arrow(path: Place) -> Path | BinaryIO:
    """Return a file in a form that pyarrow reads."""
    return for_arrow(path) if isinstance(path, Path) else open_file(path)


def for_arrow(path: Path) -> Path:
    """Return a path that pyarrow takes for one: it takes a relative one such as ``run-12:30/a.parquet`` for a URI."""
    return path.absolute()


def size(path: Place) -> int:
    """Return the size of a file in bytes; raise OSError if it does not exist."""
    source = local_copy(path)
    return source.stat().st_size if isinstance(source, Path) else source.size()


def state(path: Place) -> str:
    """Return a text that changes with the file, computed without reading it; "" if the file does not exist.

    On a disk, it is the size and the time of modification; in an object store, all metadata of the object.

    Raises:
        RemoteError: it cannot be reached.
    """
    if isinstance(path, Remote):
        return path.state()
    with suppress(OSError, ValueError):  # a name that no file can have
        metadata = path.stat()
        return f"{metadata.st_size} {metadata.st_mtime_ns}"
    return ""


@contextmanager
def cached(path: Place) -> Iterator[None]:
    """Download a remote file once and read it from a local copy during the block; for files that are read completely.

    Raises:
        OSError, RemoteError: it cannot be downloaded.
    """
    if isinstance(path, Path):
        yield
    else:
        with _copies.cached(path):
            yield


def keep_cached(path: Place) -> None:
    """Do the same until the process ends."""
    if isinstance(path, Remote):
        _copies.keep_cached(path)


@contextmanager
def open_regular(path: Place) -> Iterator[tuple[BinaryIO, int | None]]:
    """Yield a file of unknown origin with its size; an empty file and None for a device, pipe or folder."""
    if isinstance(path, Remote):
        source = RemoteFile(path)
        with io.BufferedReader(source) as file:
            yield file, source.size
        return
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a named pipe would block
    try:
        found = os.fstat(number)
        if stat.S_ISREG(found.st_mode):
            with open(number, "rb", closefd=False) as file:
                yield file, found.st_size
        else:
            yield io.BytesIO(), None
    finally:
        os.close(number)


def leads_out(root: Place, name: str) -> bool:
    """Return True if a name below ``root`` points out of it, by ``..`` or by a link."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return True
    if isinstance(root, Remote):
        return "://" in name
    real, top = (os.path.realpath(path) for path in (root / name, root))
    return os.path.commonpath([real, top]) != top


# List ------------------------------------------------------------------------------------------------------


def below(folder: Place, suffix: str = "") -> dict[str, int]:
    """Return relative path -> bytes of every file below ``folder`` whose name ends with ``suffix``.

    Raises:
        OSError: a folder cannot be listed. Its files must not be taken for missing ones.
        RemoteError: the folder cannot be reached.
    """
    if isinstance(folder, Remote):
        with suppress(FileNotFoundError):
            return {name: size for name, size in folder.below().items() if name.endswith(suffix)}
        return {}
    sizes: dict[str, int] = {}
    for inner, _, names in os.walk(folder, onerror=_refuse):
        for path in (Path(inner, name) for name in names if name.endswith(suffix)):
            with suppress(FileNotFoundError):  # removed in the meantime, or a broken link
                found = path.stat()
                if stat.S_ISREG(found.st_mode):
                    sizes[path.relative_to(folder).as_posix()] = found.st_size
    return sizes


def _refuse(error: OSError) -> None:
    """Raise an error of listing a folder, unless there is no such folder."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder; none if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError as error:
        _refuse(error)
        return []


def nested(root: Place, name: str) -> list[Place]:
    """Return the files ``root/*/*/name``, sorted.

    Raises:
        OSError: a folder cannot be listed.
    """
    if isinstance(root, Path):
        files = [inner / name for outer in _folders(root) for inner in _folders(outer)]
        return sorted(file for file in files if file.exists())
    inner = [folder / name for outer in root.folders() for folder in outer.folders()]
    return [*_existing(inner)]


def matching(patterns: Iterable[str]) -> list[Place]:
    """Return the existing files that patterns with ``*``, ``?`` and ``[]``, or plain names, match, sorted."""
    places = [place(pattern) for pattern in patterns]
    hits = {hit for one in places if isinstance(one, Path) for hit in glob.glob(str(one), recursive=True)}  # noqa: PTH207
    local = [Path(hit) for hit in sorted(hits) if Path(hit).is_file()]
    wild = [one for one in places if isinstance(one, Remote) and set("*[") & set(str(one))]
    plain = [one for one in places if isinstance(one, Remote) and not set("*[") & set(str(one))]
    return [*local, *sorted({*_existing(plain), *(hit for one in wild for hit in one.glob())})]


def _existing(places: Sequence[Remote]) -> list[Remote]:
    exist = map_ahead(Remote.is_file, places, REQUESTS)
    return [place for place, exists in zip(places, exist, strict=True) if exists]
