"""The connection to a Ray cluster, and what is said when there is none or it ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipzoo.errors import EngineError, brief


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """The module ``ray``, connected; what was not connected before is disconnected at the end.

    Raises:
        EngineError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            f"the engine 'ray' needs Ray ({error}): pip install 'clipzoo[ray]', on every machine"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    if (address or "").startswith("ray://"):
        raise EngineError(
            f"{address} is the address of a Ray client, which does not see the cluster's files: run this on a machine "
            "of the cluster, or by `ray job submit`, without the address"
        )
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address and address not in ("auto", "local"):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray 2.60 raises bare exceptions, too, where one of its processes dies
        with suppress(Exception):  # of what is left of it
            ray.shutdown()
        if address != "local" and isinstance(error, OSError | ValueError | RuntimeError):
            raise EngineError(_no_answer(address, error)) from error
        raise EngineError(_not_started(address, error)) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in this place
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def answering(ray: Any) -> Iterator[None]:
    """Turn what Ray raises when the cluster, or its process on this machine, ends into an `EngineError`."""
    errors = ray.exceptions
    try:
        yield
    except errors.RayTaskError:  # a mistake in the code of a worker
        raise
    except errors.RayError as error:
        raise EngineError(
            f"the Ray cluster does not answer any more: {_said(error)}. {_logs()}; start the cluster again, and run "
            "the same again: what is committed is kept"
        ) from error


def _no_answer(address: str | None, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {address or 'RAY_ADDRESS'}: {error}; start one by `ray start --head` on the "
        "first machine and `ray start --address=HOST:6379` on the others, or take one of this machine alone: "
        "--ray-address local"
    )


def _not_started(address: str | None, error: Exception) -> str:
    where = f"on this machine to join {address}" if address not in (None, "local") else "on this machine"
    return (
        f"Ray did not start {where}: {_said(error)}. One of its own processes (raylet, agent, GCS) ended or did not "
        f"answer in time, often for want of memory, disk space or a free port. {_logs()}; mend that, run `ray stop` "
        "and the same command again, or label without Ray: --engine local"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(error).rstrip('.')}"


def _logs() -> str:
    """Where Ray 2.60 logs: a folder that only it could name for sure is one that it could not make."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    logs = Path(temporary, "ray", "session_latest", "logs")
    return f"Its logs are in {logs} (raylet.out, raylet.err, dashboard_agent.log, gcs_server.out)"
