"""One writer at a time.

On a disk: an advisory lock, which the kernel frees when its holder dies. In a store: an object that names its holder,
made on condition that there is none. It is renewed every minute; one whose holder was a process of this machine that is
gone, or that was not renewed for a quarter of an hour, counts no more.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipzoo.errors import ClipzooError, RemoteError
from clipzoo.files import _local
from clipzoo.files._remote import Remote
from clipzoo.files.places import Place

RENEWED, STALE = 60.0, 900.0
"""Seconds between signs of life, and after which a holder without one counts as dead. Stores refuse clocks that are
further off than that."""


@contextmanager
def alone(folder: Place, error: type[ClipzooError], why: str) -> Iterator[None]:
    """Hold ``folder/.lock`` while the block lasts; raise ``error`` at once if another process holds it.

    Args:
        folder: exists.
        error: raised with the holder, ``why``, and what to do.
        why: what two holders would do to each other.
    """
    if isinstance(folder, Remote):
        with _marked(folder, error, why):
            yield
    else:
        with _locked(folder, error, why):
            yield


@contextmanager
def idle(folder: Place, error: type[ClipzooError], why: str) -> Iterator[None]:
    """Raise ``error`` at once if a process holds ``folder/.lock``; none may take it while the block lasts.

    Nothing is written, so that a folder will do that can only be read: where nobody has ever locked it, nobody is kept
    from it, and in a store the lock is looked at once.
    """
    path = folder / ".lock"
    if isinstance(path, Remote):
        holder = _holder(path)
        if holder and not _is_dead(holder):
            raise error(_in_use(path.parent, path, holder, why))
        yield
        return
    try:
        number = _local.own(path, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    except OSError as refused:
        raise error(f"cannot read {path} ({refused.strerror}), which says whether {folder} is in use") from refused
    with os.fdopen(number, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise error(_held(folder, file.read().decode("utf-8", "replace"), why)) from held
        except OSError:  # a file system without locks, which nobody can hold
            pass
        yield


def _held(folder: Place, holder: str, why: str) -> str:
    who = holder.strip() or "unknown"
    return f"{folder} is in use by process {who}: {why}; wait for it, or give another output folder"


@contextmanager
def _locked(folder: Path, error: type[ClipzooError], why: str) -> Iterator[None]:
    path = folder / ".lock"
    try:
        number = _local.own(path, os.O_RDWR | os.O_CREAT)
    except OSError as refused:
        how = "" if refused.errno in (errno.ELOOP, errno.EINVAL) else "; make room or give rights"
        raise error(f"cannot write {path}: {refused.strerror}{how}") from refused
    with os.fdopen(number, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            raise error(_held(folder, file.read(), why)) from held
        except OSError as refused:
            raise error(
                f"the file system of {folder} has no locks (flock: {refused.strerror}), without which {why}; mount it "
                "with them (Lustre: -o flock), or give an output folder elsewhere"
            ) from refused
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _marked(folder: Remote, error: type[ClipzooError], why: str) -> Iterator[None]:
    path, mine = folder / ".lock", {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    mine["machine"] = _machine()
    holder = _holder(path)
    if holder and not _is_dead(holder):
        raise error(_in_use(folder, path, holder, why))
    if holder and _holder(path) == holder:  # else another one has just taken it over
        path.unlink(missing_ok=True)
    with suppress(FileExistsError):  # another's, or one's own, if the answer to a first try was lost
        path.write(_sign(mine), new=True)
    holder = _holder(path)
    if holder.get("token") != mine["token"]:
        raise error(_in_use(folder, path, holder, why))
    over = threading.Event()
    beat = threading.Thread(target=_renew, args=(path, mine, over), daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join()
        with suppress(RemoteError):  # then it ends by itself
            if _holder(path).get("token") == mine["token"]:
                path.unlink(missing_ok=True)


def _renew(path: Remote, mine: Mapping[str, Any], over: threading.Event) -> None:
    while not over.wait(RENEWED):
        with suppress(RemoteError, OSError):  # a sign may fail; a quarter of an hour of them may not
            if _holder(path).get("token") == mine["token"]:
                path.write(_sign(mine))


def _sign(mine: Mapping[str, Any]) -> bytes:
    return json.dumps({**mine, "time": time.time()}, sort_keys=True).encode() + b"\n"


def _holder(path: Remote) -> dict[str, Any]:
    """What the lock says; empty if there is none, and one that nobody can read never ends by itself."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"time": float("inf")}


def _is_dead(holder: Mapping[str, Any]) -> bool:
    if time.time() - float(holder.get("time", 0.0)) > STALE:
        return True
    return holder.get("machine") == _machine() and not Path(f"/proc/{holder.get('pid')}").exists()


def _machine() -> str:
    """What tells this machine since its last start, and this space of process numbers, from any other.

    Where the system does not say, a word of its own each time: then only age tells that a holder is dead.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return uuid.uuid4().hex


def _in_use(folder: Remote, path: Remote, holder: Mapping[str, Any], why: str) -> str:
    seconds = max(0.0, time.time() - float(holder.get("time", 0.0)))
    return (
        f"{folder} is in use by process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}, "
        f"last sign of life {seconds:.0f} s ago: {why}; wait for it, or give another output folder. Of a run that is "
        f"dead the lock ends {STALE / 60:.0f} minutes after that; if you know that it is dead, remove {path}"
    )
