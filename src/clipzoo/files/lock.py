"""Locks of folders: one writer at a time.

On a disk, the lock is an advisory one, which the kernel frees when its holder dies. In an object store, it is an object
that names its holder, created only if there is none, and renewed every minute. It expires if its holder was a process
of this machine that no longer exists, or if it was not renewed for 15 minutes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict, cast

from clipzoo.errors import ClipzooError, RemoteError
from clipzoo.files import _local
from clipzoo.files._remote import Remote
from clipzoo.files.places import Place

RENEWED, STALE = 60.0, 900.0
"""Seconds between renewals, and seconds without renewal after which a lock expires. Stores refuse requests of machines
whose clocks differ by more than that."""


@contextmanager
def locked(folder: Place, error: type[ClipzooError], why: str) -> Iterator[None]:
    """Hold ``folder/.lock`` during the block; raise ``error`` immediately if another process holds it.

    Args:
        folder: an existing folder.
        error: raised with the holder, ``why``, and the fix.
        why: a clause on what two holders would do.
    """
    if isinstance(folder, Remote):
        with _locked_in_store(folder, error, why):
            yield
    else:
        with _locked_on_disk(folder, error, why):
            yield


@contextmanager
def unlocked(folder: Place, error: type[ClipzooError], why: str) -> Iterator[None]:
    """Raise ``error`` immediately if a process holds ``folder/.lock``; no process can take it during the block.

    Nothing is written, so a read-only folder is possible. A folder that was never locked is not protected during the
    block, and in an object store the lock is only checked once.
    """
    path = folder / ".lock"
    if isinstance(path, Remote):
        holder = _holder(path)
        if holder and not _is_dead(holder):
            raise error(_in_use(path.parent, path, holder, why))
        yield
        return
    try:
        number = _local.unlinked(path, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    except OSError as refused:
        raise error(f"cannot read {path} ({refused.strerror}), which shows if {folder} is in use") from refused
    with os.fdopen(number, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise error(_held(folder, file.read().decode("utf-8", "replace"), why)) from held
        except OSError:  # a file system without locks
            pass
        yield


def _held(folder: Place, holder: str, why: str) -> str:
    process = holder.strip() or "unknown"
    return f"{folder} is in use by process {process}: {why}; wait for it, or give another output folder"


@contextmanager
def _locked_on_disk(folder: Path, error: type[ClipzooError], why: str) -> Iterator[None]:
    path = folder / ".lock"
    try:
        number = _local.unlinked(path, os.O_RDWR | os.O_CREAT)
    except OSError as refused:
        fix = "" if refused.errno in (errno.ELOOP, errno.EINVAL) else "; free space, or change the permissions"
        raise error(f"cannot write {path}: {refused.strerror}{fix}") from refused
    with os.fdopen(number, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise error(_held(folder, file.read(), why)) from held
        except OSError as refused:
            raise error(
                f"the file system of {folder} has no locks (flock: {refused.strerror}), and without a lock {why}; "
                "mount it with locks (Lustre: -o flock), or give an output folder on another file system"
            ) from refused
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}")  # of another machine, if the disk is shared
        file.flush()
        yield


@contextmanager
def _locked_in_store(folder: Remote, error: type[ClipzooError], why: str) -> Iterator[None]:
    path = folder / ".lock"
    mine: _Record = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    mine["machine"] = _machine()
    holder = _holder(path)
    if holder and not _is_dead(holder):
        raise error(_in_use(folder, path, holder, why))
    if holder and _holder(path) == holder:  # otherwise another process has just taken it over
        path.unlink(missing_ok=True)
    with suppress(FileExistsError):  # of another process, or of this one if the answer to its first request was lost
        path.write(_record(mine), new=True)
    holder = _holder(path)
    if holder.get("token") != mine["token"]:
        raise error(_in_use(folder, path, holder, why))
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path, mine, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(RemoteError):  # the lock expires then
            if _holder(path).get("token") == mine["token"]:
                path.unlink(missing_ok=True)


class _Record(TypedDict, total=False):
    """The content of a lock."""

    token: str
    machine: str
    host: str
    pid: int
    time: float


def _renew(path: Remote, mine: _Record, ended: threading.Event) -> None:
    while not ended.wait(RENEWED):
        with suppress(RemoteError, OSError):  # single renewals may fail
            if _holder(path).get("token") == mine["token"]:
                path.write(_record(mine))


def _record(mine: _Record) -> bytes:
    return json.dumps({**mine, "time": time.time()}, sort_keys=True).encode() + b"\n"


def _holder(path: Remote) -> _Record:
    """Return the record of the lock, empty if there is no lock. An unreadable lock never expires."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        record = None
    readable = isinstance(record, dict) and isinstance(record.get("time", 0), int | float)
    return cast(_Record, record) if readable else {"time": float("inf")}


def _is_dead(holder: _Record) -> bool:
    if time.time() - float(holder.get("time", 0.0)) > STALE:
        return True
    return holder.get("machine") == _machine() and not Path(f"/proc/{holder.get('pid')}").exists()


def _machine() -> str:
    """Return an identifier of this machine since its last start, and of its namespace of process ids.

    If the system provides none, it is random at each call, so that locks expire only by age.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return uuid.uuid4().hex


def _in_use(folder: Remote, path: Remote, holder: _Record, why: str) -> str:
    seconds = max(0.0, time.time() - float(holder.get("time", 0.0)))
    return (
        f"{folder} is in use by process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}, "
        f"which renewed its lock {seconds:.0f} s ago: {why}; wait for it, or give another output folder. The lock of a "
        f"dead run expires {STALE / 60:.0f} minutes after its last renewal; if you are sure that it is dead, remove "
        f"{path}"
    )
