"""Temporary copies of remote files on the local disk, and the folder that contains them."""

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
"""Bytes per request of a download, and concurrent requests; their product is the memory that a download takes."""

_PREFIX = "clipzoo-"
_copies: dict[Remote, Path] = {}


def copy_of(remote: Remote) -> Path | None:
    """Return the copy that this process keeps of a file, if any."""
    return _copies.get(remote)


@contextmanager
def cached(remote: Remote) -> Iterator[None]:
    """Keep a copy of the file during the block; functions of `files` read from it."""
    if remote in _copies:
        yield
        return
    copy = keep_cached(remote)
    try:
        yield
    finally:
        _copies.pop(remote, None)
        copy.unlink(missing_ok=True)
        _local.forget(copy)


def keep_cached(remote: Remote) -> Path:
    """Download the file, and keep the copy until the process ends."""
    if remote not in _copies:
        _copies[remote] = _download(remote)
    return _copies[remote]


def _download(remote: Remote) -> Path:
    size, path = remote.size(), scratch(remote.name)
    try:
        with path.open("wb") as file, ThreadPoolExecutor(STREAMS) as pool:

            def part(offset: int) -> int:
                return os.pwrite(file.fileno(), remote.read(offset, PART), offset)

            written = sum(pool.map(part, range(0, size, PART)))
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise RemoteError(
                f"the copy of {remote} ({size} bytes) cannot be stored in {path.parent} ({error.strerror}): free "
                "space, or set TMPDIR to a folder with enough space"
            ) from error
        raise
    if written != size:
        path.unlink()
        raise RemoteError(
            f"{remote} has {size} bytes and gave {written}, so it is still being written: rerun the command when it "
            "is complete"
        )
    return path


def scratch(name: str) -> Path:
    """Create an empty file of this process, which is removed at the latest when the process ends."""
    number, path = tempfile.mkstemp(dir=_folder(os.getpid()), suffix=f"-{name[-64:]}")
    os.close(number)
    return Path(path)


@cache
def _folder(pid: int) -> Path:
    """Create the folder of process ``pid``, locked until the process ends; folders of dead processes are removed."""
    base = Path(tempfile.gettempdir())
    for lock in base.glob(f"{_PREFIX}*/.held"):
        _sweep(lock)
    hidden = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
    fcntl.flock(os.open(hidden / ".held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC), fcntl.LOCK_EX)  # open until the end
    folder = hidden.rename(hidden.with_name(hidden.name[1:]))  # other processes find it only after it is locked
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == pid else None)
    return folder


def _sweep(lock: Path) -> None:
    with suppress(OSError):
        if lock.parent.lstat().st_uid != os.getuid():
            return  # another user's may be a pipe, which would block forever
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
