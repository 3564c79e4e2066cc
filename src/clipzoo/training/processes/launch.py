"""Starting the processes of a training on this machine, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

PATIENCE = "100"
"""Seconds from a signal to the end of processes that still write a checkpoint: 30 otherwise. An argument of
`LaunchConfig` has the same effect, but earlier releases than torch 2.14 may not have it."""


def _first(error: ChildFailedError) -> tuple[int, int]:
    """Return rank and exit code of the process that failed first.

    Of several in one second, it is one that was killed from outside: the others end because of that.
    """
    rank, failure = min(
        error.failures.items(), key=lambda one: (one[1].timestamp, one[1].exitcode != -signal.SIGKILL, one[0])
    )
    return rank, int(failure.exitcode)


def launch(count: int, arguments: Sequence[str]) -> tuple[int, str]:
    """Run ``clipzoo`` on ``count`` processes of this machine; return 0, or the exit code of the first that failed.

    The text is a cause that the processes could not show, else "".

    They share standard output and error, where only the main process writes. A signal is passed on to them.

    Args:
        count: number of processes.
        arguments: of the command line.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", PATIENCE)
    logging.disable(logging.CRITICAL)  # elastic repeats what the processes print
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=f"clipzoo-{os.getpid()}", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,  # a full name need not resolve
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "clipzoo", *arguments)
    except ChildFailedError as error:
        rank, code = _first(error)
        killed = f"rank 0 was killed by signal {-code}. Rerun the command, which resumes from the last checkpoint"
        return (code, "") if code > 0 else (128 - code, killed if rank == 0 else "")
    except SignalException as error:
        return 128 + int(error.sigval), ""
    return 0, ""
