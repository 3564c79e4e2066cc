"""Calls of experts in which an error of one image is an error of that image alone, not of its batch."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from clipzoo.errors import ClipzooError, DeviceError, LabelError, RemoteError, brief
from clipzoo.tasks import Task
from clipzoo.tasks.base import Convention

T = TypeVar("T")

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|failed to allocate memory", re.IGNORECASE)
"""Messages of torch's CPU allocator and ONNX Runtime, which have no exception class for this."""


def one_each(
    predict: Callable[[Sequence[T]], Sequence[object]],
    batch: Sequence[T],
    device: str,
    most: Callable[[], int | None] = lambda: None,
    shrink: Callable[[int], object] = lambda size: None,
) -> list[object]:
    """Return the labels of a batch, with an exception for each label that could not be made.

    If memory runs out, the batch is halved. After any other error, images are labeled one by one.

    Args:
        predict: returns one label per element of a batch.
        batch: images, or samples, of one size.
        device: of the expert.
        most: the largest number of elements of a call; None for no limit.
        shrink: is called with the new size of batches if memory runs out.

    Raises:
        DeviceError: the GPU has failed.
        RemoteError: a network failure, which is not a failure of an image.
    """
    limit = most()
    size = len(batch) if limit is None else min(len(batch), limit)
    if size == len(batch):
        try:
            return _predicted(predict, batch)
        except RemoteError:
            raise
        except Exception as error:  # foreign code may raise anything
            if lost := device_lost(device):  # every later image would fail, whatever it shows
                raise DeviceError(
                    f"the GPU of this process has failed ({lost}), so that every later image would fail too. Rerun the "
                    "command: finished work is kept, and work that was interrupted is done again"
                ) from error
            if size == 1:
                return [error.with_traceback(None)]  # its frames would keep images and tensors alive
            full = out_of_memory(error)
        size = size // 2 if full else 1  # after the frames of the failed call are released
        if full:
            release()
            shrink(size)
    parts = [batch[i : i + size] for i in range(0, len(batch), size)]
    return [label for part in parts for label in one_each(predict, part, device, most, shrink)]


def _predicted(predict: Callable[[Sequence[T]], Sequence[object]], batch: Sequence[T]) -> list[object]:
    labels = list(predict(batch))
    if len(labels) != len(batch):
        raise ValueError(f"predict returned {len(labels)} labels for {len(batch)} images; it must return one per image")
    return labels


def check_label(task: Task[object], label: object, convention: Convention) -> None:
    """Raise `LabelError` if an object is no label of a task, or one that breaks its contract."""
    try:
        task.check(label, convention)
    except LabelError:
        raise
    except (AttributeError, TypeError, ValueError) as error:  # raised by a task for an object that is not its label
        raise LabelError(f"a {type(label).__name__} is not a label of {task.name}: {error}") from error


def reason(error: Exception) -> str:
    """Return why there is no label; an exception of another library is named."""
    return str(error) if isinstance(error, ClipzooError) else f"{type(error).__name__}: {brief(error)}"


def out_of_memory(error: BaseException) -> bool:
    """Return True if an expert failed because the device or the machine is out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(_NO_MEMORY.search(str(error)))


def device_lost(device: str) -> str:
    """Return why this process cannot use its GPU anymore; "" if it can, or if it uses none.

    ``device`` is that of an expert; for one on the CPU, torch's current GPU is asked.
    After a failed assertion in a kernel or a memory error (ECC), CUDA fails in every later call of the process.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch 2.14
        return ""
    try:
        torch.cuda.synchronize(device if device.startswith("cuda") else None)
    except RuntimeError as error:
        return brief(error)
    return ""


def release() -> None:
    """Free unused memory."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing without CUDA
