"""Copies of remote files on this machine's disk, while they are needed; and the folder that they lie in."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from clipzoo.errors import RemoteError
from clipzoo.files import _local
from clipzoo.files._remote import Remote

PART, STREAMS = 2**23, 4
"""Bytes of one request of a download, and how many run at once: so much memory it takes."""

_PREFIX = "clipzoo-"
_copies: dict[Remote, Path] = {}


def copy_of(where: Remote) -> Path | None:
    """The copy that this process keeps, if it does."""
    return _copies.get(where)


@contextmanager
def near(where: Remote) -> Iterator[None]:
    """Keep a copy of the file while the block lasts: `files` reads from it."""
    if where in _copies:
        yield
        return
    copy = keep(where)
    try:
        yield
    finally:
        _copies.pop(where, None)
        copy.unlink(missing_ok=True)
        _local.forget(copy)


def keep(where: Remote) -> Path:
    """Fetch the file whole, for as long as the process lasts."""
    if where not in _copies:
        _copies[where] = _fetched(where)
    return _copies[where]


def _fetched(where: Remote) -> Path:
    size, path = where.size(), scratch(where.name)
    try:
        with path.open("wb") as file, ThreadPoolExecutor(STREAMS) as pool:

            def part(at: int) -> int:
                return os.pwrite(file.fileno(), where.read(at, PART), at)

            got = sum(pool.map(part, range(0, size, PART)))
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise RemoteError(
                f"{where} has {size} bytes, and a copy cannot be kept in {path.parent} ({error.strerror}): make room, "
                "or set TMPDIR to a folder that has it"
            ) from error
        raise
    if got != size:
        path.unlink()
        raise RemoteError(f"{where} has {size} bytes and gave {got}: it is being written; run again when it is whole")
    return path


def scratch(name: str) -> Path:
    """A new, empty file of this process; gone with the process at the latest."""
    number, path = tempfile.mkstemp(dir=_folder(os.getpid()), suffix=f"-{name[-64:]}")
    os.close(number)
    return Path(path)


@cache
def _folder(pid: int) -> Path:
    """The folder of process ``pid``'s files, held by a lock that ends with it; those of dead processes are removed."""
    base = Path(tempfile.gettempdir())
    for held in base.glob(f"{_PREFIX}*/.held"):
        _sweep(held)
    hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
    fcntl.flock(os.open(hidden / ".held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), fcntl.LOCK_EX)  # open to the end
    folder = hidden.rename(hidden.with_name(hidden.name[1:]))  # seen from now on, by the lock only
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == pid else None)
    return folder


def _sweep(held: Path) -> None:
    with suppress(OSError):
        if held.parent.lstat().st_uid != os.getuid():
            return  # another user's may be a pipe, which would block for ever
        with held.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(held.parent, ignore_errors=True)
