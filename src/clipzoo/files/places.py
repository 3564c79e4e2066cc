"""Files wherever they lie: the one place that knows a disk from a network.

A `Place` is a `pathlib.Path` or the address of a file or folder behind a network; both can be joined by ``/``, asked
``is_file()``, opened for reading, and so on. What differs between them is here.
"""

from __future__ import annotations

import filecmp
import glob
import io
import os
import re
import shutil
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar
from uuid import uuid4

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
    here = _here(path)
    if isinstance(here, Path):
        try:
            return _local.read_at(here, offset, size)
        except FileNotFoundError:
            if isinstance(path, Path):
                raise
            here = path  # another thread has just given the copy up
    return here.read(offset, size)


def _here(path: Place) -> Place:
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
    here = _here(path)
    return io.FileIO(here) if isinstance(here, Path) else RemoteFile(here)


def opened(path: Place) -> BinaryIO:
    """The file, to be read from anywhere."""
    return io.BufferedReader(raw(path))


def arrow(path: Place) -> Path | BinaryIO:
    """What pyarrow reads."""
    return path if isinstance(path, Path) else opened(path)


def size(path: Place) -> int:
    """Bytes of a file; OSError if it is not there."""
    here = _here(path)
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


# Write -----------------------------------------------------------------------------------------------------


class Draft:
    """A file while it is written; ``path``, on this machine, is where to.

    `settle` makes it appear at ``target``, whole or not at all; `drop` leaves nothing behind. Writers of one file at a
    time have a ``mark`` each.
    """

    def __init__(self, target: Place, mark: str = "") -> None:
        self.target = target
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path = target.with_name(f"{target.name}{mark}.tmp")
        else:
            self.path = _near.scratch(target.name)

    def settle(self) -> None:
        """The file is at its place for good: contents, then name, have reached the disk, or the store has it all."""
        if isinstance(self.target, Remote):
            self.target.upload(self.path)
            self.drop()
            return
        _sync(self.path)
        self.path.replace(self.target)
        _sync(self.target.parent)

    def drop(self) -> None:
        """Remove what is left of it."""
        self.path.unlink(missing_ok=True)


def drop_drafts(folder: Place, but: str) -> None:
    """Remove the drafts that dead writers left below ``folder``, except of the file of one name."""
    for name in below(folder, ".tmp"):
        if not name.startswith(f"{but}."):
            (folder / name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that appears at ``path`` when the block ends: whole or not at all; folders are made.

    It has the rights of any new file of this process (its umask), though a library may write files that nobody else
    can read, as safetensors does since 0.8.
    """
    draft = Draft(path, f".{uuid4().hex[:8]}")
    try:
        draft.path.touch()
        rights = draft.path.stat().st_mode
        yield draft.path
        if draft.path.stat().st_mode != rights:
            draft.path.chmod(stat.S_IMODE(rights))
        draft.settle()
    finally:
        draft.drop()


def write(path: Place, data: bytes) -> None:
    """Replace a small file, whole or not at all; folders are made."""
    if isinstance(path, Remote):
        path.write(data)
        return
    with whole(path) as beside:
        beside.write_bytes(data)


def append(path: Place, line: bytes) -> None:
    """Add a line, or several, to a small file; one torn by a crash is closed first.

    A store has no way to add: it gets all anew.
    """
    if isinstance(path, Remote):
        path.write((path.read_bytes() if path.is_file() else b"") + line + b"\n")
        return
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")


def bring(source: Place, target: Place) -> None:
    """The file at another place, too, whole or not at all: a hard link where the disk allows it, else a copy."""
    if isinstance(source, Remote) and isinstance(target, Remote) and source.protocol == target.protocol:
        target.copy(source)
        return
    with near(source):
        path = _here(source)
        assert isinstance(path, Path)
        if isinstance(target, Remote):
            target.upload(path)
            return
        draft = Draft(target)
        for old in (target, draft.path):  # of a run that was killed; a link renamed to itself would stay
            old.unlink(missing_ok=True)
        try:
            os.link(path, draft.path)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, draft.path)
        draft.settle()


def same(one: Place, other: Place) -> bool:
    """Whether both files are there, and equal."""
    if not (one.is_file() and other.is_file()) or size(one) != size(other):
        return False
    if isinstance(one, Path) and isinstance(other, Path):
        return filecmp.cmp(one, other, shallow=False)
    step = _near.PART
    return all(read_at(one, at, step) == read_at(other, at, step) for at in range(0, size(one), step))


def discard(folder: Place, root: Place, last: str) -> None:
    """Remove a folder below ``root`` for good.

    On a disk it is gone at once: killed while it deletes, this leaves ``root/.removed-…``. In a store it goes file by
    file, shards' marks first and the file ``last`` last: stopped in between, less of it is left.
    """
    if isinstance(folder, Remote):
        names = sorted(folder.below(), key=lambda name: (name == last, not name.endswith(".parquet")))
        for name in names:
            if name != ".lock":  # its holder's
                (folder / name).unlink(missing_ok=True)
        return
    assert isinstance(root, Path)
    aside = Path(tempfile.mkdtemp(prefix=".removed-", dir=root))
    (aside / folder.parent.name).mkdir()  # deeper than columns lie, so that it is none
    folder.rename(aside / folder.parent.name / folder.name)
    shutil.rmtree(aside)
    with suppress(OSError):  # another column of the task is there
        folder.parent.rmdir()
