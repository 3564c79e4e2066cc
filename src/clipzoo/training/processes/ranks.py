"""The processes of a training: their group, and what they tell each other. Only the main one writes files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from clipzoo.errors import ClipzooError, RankError, RecipeError, brief
from clipzoo.training.processes.watch import Watch, watching

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""Longest wait for the main process, which may label and measure for days while the others have nothing to do."""

_state: dict[str, Any] = {}
"""``control``: a gloo group on the CPU whose operations wait for `PATIENCE`; ``watch``: a `Watch`."""


def launched() -> int:
    """Return the number of processes that a launcher such as torchrun started, by its environment; else 1."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdecimal() else 1


def is_launched() -> bool:
    """Return True in a process that a launcher such as torchrun started, of one process too."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def rank() -> int:
    """Return the rank of this process; 0 without torch.distributed."""
    return distributed.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 without torch.distributed."""
    return distributed.get_world_size() if _initialized() else 1


def is_main() -> bool:
    """Return True in the process that writes records, checkpoints and results."""
    return rank() == 0


def check_joined() -> None:
    """Raise `RecipeError` if a launcher started several processes and they did not join."""
    if launched() > 1 and not _initialized():
        raise RecipeError(
            f"WORLD_SIZE is {launched()} in the environment: a launcher such as torchrun started {launched()} "
            "processes, and they have not joined, so that each would repeat the whole run. Start `python -m clipzoo` "
            "with the launcher, wrap the call in `with clipzoo.training.joined(device):`, or unset WORLD_SIZE"
        )


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that a launcher started, in the block; without a launcher, do nothing.

    Args:
        device: ``cpu`` or ``cuda``.

    Yields:
        the device of this process: ``cuda:<local rank>`` for ``cuda``.

    Raises:
        RecipeError: this machine has fewer GPUs than processes.
        RankError: another process ended. Other processes than the main one end without a message.
    """
    if launched() == 1 or _initialized():
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = _own_gpu()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    _state["control"] = distributed.new_group(backend="gloo", timeout=PATIENCE)
    _state["watch"] = watch = watching(rank(), world_size(), share)
    try:
        yield device
    except Exception as error:
        _raise_cause(watch, error)
        fail(brief(error))
        raise
    wait()
    watch.close()
    _state.clear()
    distributed.destroy_process_group()


def _own_gpu() -> str:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    check_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)))
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def check_gpus(count: int) -> None:
    """Raise `RecipeError` if this machine has fewer GPUs than ``count`` processes."""
    available = torch.cuda.device_count()
    if count > available:
        raise RecipeError(
            f"this machine has {available} GPUs, too few for {count} processes: start one process per GPU, or add "
            "--device cpu"
        )


def _raise_cause(watch: Watch, error: Exception) -> None:
    """Raise `RankError` if the error follows from the end of another process; others than the main one just end.

    Connections that break are a RuntimeError of torch.
    """
    if isinstance(error, RuntimeError) and not isinstance(error, ClipzooError) and watch.ended.wait(5):
        if not is_main():
            raise SystemExit(2) from error
        raise RankError(watch.cause) from error


def fail(text: str) -> None:
    """Tell the main process why this one is about to end; it shows the first such text."""
    if "watch" in _state:
        _state["watch"].tell(text)


def wait() -> None:
    """Wait until all processes are here, for up to `PATIENCE`."""
    if world_size() > 1:
        distributed.barrier(_state["control"])


def announce(message: Any) -> None:
    """Send a plain value from the main process to all others, which call `receive`."""
    if world_size() > 1:
        distributed.broadcast_object_list([message], 0, _state["control"])


def receive() -> Any:
    """Return the next message of the main process."""
    message: list[Any] = [None]
    distributed.broadcast_object_list(message, 0, _state["control"])
    return message[0]


def agreed(value: T) -> T:
    """Return the plain value of the main process; every process must call this."""
    if is_main():
        announce(value)
        return value
    received: T = receive()
    return received


def control() -> distributed.ProcessGroup:
    """Return the group of all processes for values on the CPU, whose operations wait for `PATIENCE`."""
    group: distributed.ProcessGroup = _state["control"]
    return group


def send(value: Tensor, rank: int) -> None:
    """Send a tensor on the CPU to another process, which calls `received`."""
    distributed.send(value, rank, _state["control"])


def received(value: Tensor, rank: int) -> Tensor:
    """Fill a tensor of the right shape with that which another process sends."""
    distributed.recv(value, rank, _state["control"])
    return value


def share(value: T) -> list[T]:
    """Return the plain values of all processes, by rank; every process must call this."""
    values = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(values, value, _state.get("control"))
    return values


def numbers(values: Sequence[int]) -> list[list[int]]:
    """Return the integers of all processes, by rank; all processes give equally many."""
    if world_size() == 1:
        return [list(values)]
    own = torch.tensor(values, dtype=torch.int64)
    gathered = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(gathered, own, _state["control"])
    return [one.tolist() for one in gathered]


def summed(value: Tensor, largest: bool = False) -> Tensor:
    """Return the sum (or the largest) of a tensor over all processes, without gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(value, distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM)
    return value


class Summed(torch.autograd.Function):
    """The sum of a tensor over all processes. The gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Return the sum."""
        return summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        return summed(gradients[0])


class Gathered(torch.autograd.Function):
    """Rows [N,D] of all processes, by rank, from this one's [n,D]. The gradient is the sum of theirs, [n,D]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows; ``counts`` are the n of all processes, which may differ."""
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the sum of all processes' gradients of this one's rows."""
        first = sum(ctx.counts[: rank()])
        return summed(gradients[0])[first : first + ctx.counts[rank()]], None


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
