"""Files wherever they lie: the one place that knows a disk from a network.

A `Place` is a `pathlib.Path` or the address of a file or folder behind a network; both can be joined by ``/``, asked
``is_file()``, opened for reading, and so on. What differs between them is here.
"""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar

from clipzoo.errors import RemoteError
from clipzoo.files import _local, _near
from clipzoo.files._remote import Remote, RemoteFile

AnyPath: TypeAlias = str | os.PathLike[str]
Place: TypeAlias = Path | Remote
In = TypeVar("In")
Out = TypeVar("Out")

ASKED = 32
"""Requests that run at once where each waits for a network."""

GAP = 2**16
"""Spans of a remote file that lie so near to each other, in bytes, are read by one request."""


def place(given: AnyPath | Remote) -> Place:
    """The place of a path or address; ``file://`` is a path.

    Raises:
        RemoteError: the address is of no known kind.
    """
    if isinstance(given, Path | Remote):
        return given
    given = os.fspath(given)
    if given.startswith(("file://", "local://")):
        return Path(given.partition("://")[2])
    return Remote.parse(given) if "://" in given else Path(given).expanduser()


def local(given: AnyPath, what: str) -> Path:
    """The path of a file or folder that has to lie on a disk of this machine; ``what`` it is.

    Raises:
        RemoteError: it is an address, though `Path` may have taken a slash of it.
    """
    found = place(given)
    if isinstance(found, Remote) or re.match(r"\w+:/", str(found)):
        raise RemoteError(
            f"{given} is an address, and {what} has to lie on a disk of this machine: give a path, and copy it "
            "there, or from there, with the tools of its store"
        )
    return found.expanduser()


def join(folder: Place, name: str) -> Place:
    """What ``name`` means in a file that lies in ``folder``: an address, or a path, which may be relative to it.

    Raises:
        RemoteError: a file on a network names one of this machine.
    """
    found = place(name) if "://" in name or (isinstance(folder, Path) and name[:1] == "~") else folder / name
    if isinstance(folder, Remote) and isinstance(found, Path):
        raise RemoteError(f"a file in {folder} names {name!r}, a file of this machine; it may name addresses only")
    return found


def remote(where: Place) -> bool:
    """Whether it lies behind a network."""
    return isinstance(where, Remote)


# Read ------------------------------------------------------------------------------------------------------


def read_at(path: Place, offset: int, size: int) -> bytes:
    """``size`` bytes of the file at ``path`` from ``offset``, or fewer where the file ends before.

    Files are kept open, or connections, one set a process: safe in threads and after a fork.

    Raises:
        OSError: the file cannot be opened or read.
        RemoteError: it cannot be reached.
    """
    here = nearest(path)
    if isinstance(here, Path):
        try:
            return _local.read_at(here, offset, size)
        except FileNotFoundError:
            if isinstance(path, Path):
                raise
            here = path  # another thread has just given the copy up
    return here.read(offset, size)


def nearest(path: Place) -> Place:
    """The copy of a remote file, where there is one."""
    return path if isinstance(path, Path) else _near.copy_of(path) or path


def read_spans(path: Place, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """`read_at` of several (offset, size); by one request where they lie together."""
    start, end = min((at for at, _ in spans), default=0), max((at + size for at, size in spans), default=0)
    if isinstance(path, Path) or end - start > sum(size for _, size in spans) + GAP:
        return [read_at(path, *span) for span in spans]
    data = read_at(path, start, end - start)
    return [data[at - start : at - start + size] for at, size in spans]


def threads(where: Place) -> int:
    """How many threads should read at once, beside those that compute: 1 from a disk."""
    return 1 if isinstance(where, Path) else ASKED


def ahead(call: Callable[[In], Out], items: Iterable[In], many: int) -> Iterator[Out]:
    """``call`` of each item, in their order; ``many`` of them at once, where that is more than 1."""
    if many == 1:
        yield from map(call, items)
        return
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(many) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(call, item))
                if len(waiting) == many:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def raw(path: Place) -> io.RawIOBase:
    """The file without a buffer."""
    here = nearest(path)
    return io.FileIO(here, opener=_local.plain) if isinstance(here, Path) else RemoteFile(here)


def read(path: Place) -> bytes:
    """All bytes of a file that may be somebody else's.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
        RemoteError: it cannot be reached.
    """
    if isinstance(path, Remote):
        return path.read_bytes()
    with open(path, "rb", opener=_local.plain) as file:
        return file.read()


def opened(path: Place) -> BinaryIO:
    """The file, to be read from anywhere."""
    return io.BufferedReader(raw(path))


def arrow(path: Place) -> Path | BinaryIO:
    """What pyarrow reads."""
    return path if isinstance(path, Path) else opened(path)


def size(path: Place) -> int:
    """Bytes of a file; OSError if it is not there."""
    here = nearest(path)
    return here.stat().st_size if isinstance(here, Path) else here.size()


def state(path: Place) -> str:
    """What is another text when a file has changed, found without reading it; "" if it is not there.

    On a disk its size and time of change; elsewhere all that the store tells of it.

    Raises:
        RemoteError: it cannot be reached.
    """
    if isinstance(path, Remote):
        return path.state()
    with suppress(OSError, ValueError):  # a name that no file can have
        found = path.stat()
        return f"{found.st_size} {found.st_mtime_ns}"
    return ""


@contextmanager
def near(path: Place) -> Iterator[None]:
    """While the block lasts, a remote file is fetched once and read from a copy on disk; for what is read whole.

    Raises:
        OSError, RemoteError: it cannot be fetched.
    """
    if isinstance(path, Path):
        yield
    else:
        with _near.near(path):
            yield


def keep(path: Place) -> None:
    """As `near`, for as long as the process lasts."""
    if isinstance(path, Remote):
        _near.keep(path)


@contextmanager
def regular(path: Place) -> Iterator[tuple[BinaryIO, int | None]]:
    """A file that somebody else named, and its size; None if it is a device, a pipe or a folder."""
    if isinstance(path, Remote):
        source = RemoteFile(path)
        with io.BufferedReader(source) as file:
            yield file, source.size
        return
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe would otherwise block for ever
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
    """Whether a name below ``root`` leads elsewhere, by ``..`` or by a link."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return True
    if isinstance(root, Remote):
        return "://" in name
    real, top = (os.path.realpath(path) for path in (root / name, root))
    return os.path.commonpath([real, top]) != top


# List ------------------------------------------------------------------------------------------------------


def below(folder: Place, suffix: str = "") -> dict[str, int]:
    """Path below ``folder`` -> bytes, of every file whose name ends so."""
    if isinstance(folder, Remote):
        with suppress(FileNotFoundError):
            return {name: size for name, size in folder.below().items() if name.endswith(suffix)}
        return {}
    sizes: dict[str, int] = {}
    for path in folder.rglob(f"*{suffix}"):
        with suppress(FileNotFoundError):  # gone, or a link to nothing
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                sizes[path.relative_to(folder).as_posix()] = found.st_size
    return sizes


def nested(root: Place, name: str) -> list[Place]:
    """The files ``root/*/*/name``, sorted."""
    if isinstance(root, Path):
        return [*sorted(root.glob(f"*/*/{name}"))]
    inner = [folder / name for outer in root.folders() for folder in outer.folders()]
    return [*_there(inner)]


def found(patterns: Iterable[str]) -> list[Place]:
    """The files that patterns with ``*``, ``?`` and ``[]`` mean, sorted; those without are files themselves."""
    places = [place(pattern) for pattern in patterns]
    hits = {hit for one in places if isinstance(one, Path) for hit in glob.glob(str(one), recursive=True)}  # noqa: PTH207
    local = [Path(hit) for hit in sorted(hits) if Path(hit).is_file()]
    wild = [one for one in places if isinstance(one, Remote) and set("*[") & set(str(one))]
    plain = [one for one in places if isinstance(one, Remote) and not set("*[") & set(str(one))]
    return [*local, *sorted({*_there(plain), *(hit for one in wild for hit in one.glob())})]


def _there(places: Sequence[Remote]) -> list[Remote]:
    return [one for one, there in zip(places, ahead(Remote.is_file, places, ASKED), strict=True) if there]
