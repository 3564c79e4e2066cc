"""Local files read by offset, on descriptors cached per process; safe in threads and after a fork."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from pathlib import Path

OPEN_FILES = 64

_State = tuple[int, int, int, int]


def plain(path: str | Path, flags: int) -> int:
    """Open a regular file: opening a pipe would block, and a device may never end.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    number = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return number
    os.close(number)
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def unlinked(path: Path, flags: int) -> int:
    """Open a file as `plain` does, but refuse a link: the folder may be from somebody else.

    Raises:
        OSError: see `plain`, or it is a link.
    """
    try:
        return plain(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            why = f"it is a link to {path.readlink()}, and nothing is written through links: remove it"
            raise OSError(errno.ELOOP, why, str(path)) from error
        raise


class _Descriptor:
    """An open file. It is closed when no thread uses it any more, so eviction never closes it during a read."""

    def __init__(self, path: str) -> None:
        self.number = plain(path, os.O_RDONLY)
        self.state = _state(os.fstat(self.number))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _state(stat: os.stat_result) -> _State:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


_cache: OrderedDict[str, _Descriptor] = OrderedDict()
_lock = threading.Lock()


def _after_fork() -> None:
    # The parent may have held the lock at the fork. Inherited descriptors are dropped.
    global _lock
    _lock = threading.Lock()
    _cache.clear()


os.register_at_fork(after_in_child=_after_fork)


def _descriptor(path: str) -> _Descriptor:
    """Return the open file at ``path``; it is reopened if another file has replaced it."""
    state = _state(os.stat(path))  # noqa: PTH116 – a tenth of the cost of Path.stat, paid in each read
    with _lock:
        descriptor = _cache.pop(path, None)
        if descriptor is None or descriptor.state != state:
            descriptor = _Descriptor(path)
        _cache[path] = descriptor
        if len(_cache) > OPEN_FILES:
            _cache.popitem(last=False)
    return descriptor


def forget(path: Path) -> None:
    """Close the file at ``path``: the disk would keep the bytes of a removed file that is open."""
    with _lock:
        _cache.pop(str(path), None)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """See `files.read_at`."""
    held = _descriptor(str(path))
    data = os.pread(held.number, size, offset)
    while len(data) < size:
        more = os.pread(held.number, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
