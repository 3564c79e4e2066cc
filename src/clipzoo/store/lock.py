"""One writer at a time, on one machine: an advisory lock that the kernel frees when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipzoo.errors import ClipzooError


@contextmanager
def alone(folder: Path, error: type[ClipzooError], why: str) -> Iterator[None]:
    """Hold ``folder/.lock`` while the block lasts; raise ``error`` at once if another process holds it.

    Args:
        folder: exists.
        error: raised with the holder's process number, ``why``, and what to do.
        why: what two holders would do to each other.
    """
    path = folder / ".lock"
    try:
        opened = path.open("a+")
    except OSError as refused:
        raise error(f"cannot write {path}: {refused.strerror}; make room or give rights") from refused
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            file.seek(0)
            raise error(
                f"{folder} is in use by process {file.read().strip() or 'unknown'}: {why}; wait for it, or give "
                f"another output folder ({held.strerror})"
            ) from held
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
