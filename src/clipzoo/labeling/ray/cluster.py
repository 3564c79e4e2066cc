"""The connection to a Ray cluster, and its errors."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from clipzoo.errors import EngineError, brief


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Yield the module ``ray``, connected; a new connection is closed at the end.

    Raises:
        EngineError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            f"the engine 'ray' needs Ray ({error}). Install it on every machine: pip install 'clipzoo[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    if (named := address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise EngineError(
            f"{named} is the address of a Ray client, which has no access to the cluster's files. Run this on a "
            "machine of the cluster, or with `ray job submit`, without the address (--ray-address or RAY_ADDRESS)"
        )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address and address not in ("auto", "local"):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself retries for minutes
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray 2.60 raises bare exceptions if one of its processes dies
        with suppress(Exception):  # parts of Ray may be missing
            ray.shutdown()
        if address != "local" and isinstance(error, OSError | ValueError | RuntimeError):
            raise EngineError(_no_answer(address, error)) from error
        raise EngineError(_not_started(address, error)) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray 2.60 replaces the handler
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def answering(ray: ModuleType) -> Iterator[None]:
    """Turn Ray's errors about a cluster, or a local process of it, that has ended into `EngineError`."""
    errors = ray.exceptions
    try:
        yield
    except errors.RayTaskError:  # an error in the code of a worker
        raise
    except errors.RayError as error:
        raise EngineError(
            f"the Ray cluster does not answer anymore: {_text(error)}. {_logs()}. Start the cluster again and rerun "
            "the command: committed shards are kept"
        ) from error


def _no_answer(address: str | None, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {address or 'RAY_ADDRESS'}: {error}. Start one with `ray start --head` on the "
        "first machine and `ray start --address=HOST:6379` on the others, or use only this machine: "
        "--ray-address local"
    )


def _not_started(address: str | None, error: Exception) -> str:
    where = f"on this machine to join {address}" if address not in (None, "local") else "on this machine"
    return (
        f"Ray did not start {where}: {_text(error)}. One of its processes (raylet, agent, GCS) ended or did not "
        f"answer in time, often because memory, disk space or a free port is missing. {_logs()}. Fix this, run "
        "`ray stop` and rerun the command, or label without Ray: --engine local"
    )


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(error).rstrip('.')}"


def _logs() -> str:
    """Return where Ray 2.60 writes its logs by default."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    logs = Path(temporary, "ray", "session_latest", "logs")
    return f"Its logs are in {logs} (raylet.out, raylet.err, dashboard_agent.log, gcs_server.out)"
