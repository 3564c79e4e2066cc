"""Tests of prediction itself: determinism, independence of the batch, any picture size, memory and throughput."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from clipzoo import tasks
from clipzoo.conformance.agreement import TOLERANCE, difference
from clipzoo.conformance.report import Verdict
from clipzoo.errors import ExpertError, LabelError, counted
from clipzoo.experts import Expert, ExpertInput
from clipzoo.types import ImageArray, View

SIZES = (
    (1, 1), (5, 7), (1, 40), (40, 1), (33, 47), (32, 640), (640, 32), (16, 4000), (4000, 16), (480, 640),
    (1000, 1500), (2000, 3000), (3000, 4000),
)  # fmt: skip
"""Picture sizes (H, W) that occur in datasets, from small to large."""

SMALL = 10_000
"""Cost is assumed constant below this number of pixels."""

SINGLE = 3
"""Number of pictures predicted one at a time, for comparison with their batch."""


def predict(expert: Expert, inputs: Sequence[ExpertInput]) -> list[object]:
    """Return a sound label for each of ``inputs``, whose images have one size, in batches of the expert's batch size.

    Raises:
        ExpertError: as of `answers`, or a label breaks the contract of its task.
    """
    labels = answers(expert, inputs)
    for label in labels:
        if reason := violation(expert, label):
            raise ExpertError(f"a label breaks the contract of {expert.card.task}: {reason}")
    return labels


def answers(expert: Expert, inputs: Sequence[ExpertInput]) -> list[object]:
    """Return what an expert predicts for each of ``inputs``, without looking at it; see `predict`.

    Raises:
        ExpertError: the expert raised an error, or returned a wrong number of labels.
    """
    results: list[object] = []
    for start in range(0, len(inputs), expert.batch_size):
        batch = inputs[start : start + expert.batch_size]
        try:
            labels = list(expert.predict_inputs(batch))
        except Exception as error:  # an expert is third-party code
            raise ExpertError(f"it raised {type(error).__name__}: {error}") from error
        if len(labels) != len(batch):
            seen = f"{counted(len(labels), 'label')} for {counted(len(batch), 'image')}"
            raise ExpertError(f"it returned {seen}; it must return one each")
        results += labels
    return results


def violation(expert: Expert, label: object) -> str:
    """Return the reason why a label breaks the contract of its task; "" if it does not."""
    task = tasks.get(expert.card.task)
    try:
        task.check(label, expert.card.convention)
        task.encode(label)
    except LabelError as error:
        return str(error)
    except (AttributeError, TypeError, ValueError) as error:  # raised by a task for an object that is not its label
        return f"a {type(label).__name__} is not a label of {task.name}: {error}"
    return ""


def determinism(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> Verdict:
    """Test that ``inputs``, predicted again in the same batches, get the same bytes as ``labels``."""
    line, task = "determinism", expert.card.task
    encode = tasks.get(task).encode
    again = predict(expert, inputs)
    other = [(a, b) for a, b in zip(labels, again, strict=True) if encode(a) != encode(b)]
    pictures = counted(len(labels), "picture")
    if not other:
        return Verdict(line, "pass", f"{pictures} predicted twice: equal bytes")
    seen = f"different bytes in a second prediction of {len(other)} of {pictures}"
    tolerance, unit = TOLERANCE.get(task, (0.0, ""))
    if tolerance and (far := max(difference(task, a, b) for a, b in other)) <= tolerance:
        seen += f", difference at most {far:.2g} ({unit})"
        fix = "for equal bytes in every run, use deterministic kernels"
        return Verdict(line, "warn", seen, "labels differ by rounding", fix)
    fix = "call model.eval() (dropout), and seed or remove all other random operations"
    return Verdict(line, "fail", seen, "labels are random", fix)


def batch_is_single(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> Verdict:
    """Test that single pictures get the same labels as in their batches."""
    line, task = "batch = single", expert.card.task
    if expert.batch_size == 1:
        return Verdict(line, "not applicable", "the expert's batch size is 1")
    if task not in TOLERANCE:
        return Verdict(line, "not applicable", f"no similarity measure exists for labels of {task}")
    count = min(SINGLE, len(inputs))
    far = max(difference(task, labels[i], predict(expert, [inputs[i]])[0]) for i in range(count))
    tolerance, unit = TOLERANCE[task]
    seen = f"difference at most {far:.2g}, tolerance {tolerance:g} ({unit}), {counted(count, 'picture')}"
    if far <= tolerance:
        return Verdict(line, "pass", seen)
    fix = "call model.eval() (batch statistics), and pad or normalize each picture separately"
    return Verdict(line, "fail", seen, "a picture's label depends on its batch", fix)


# Sizes -----------------------------------------------------------------------------------------------------


def sizes(expert: Expert, image: ImageArray, seconds: float) -> Verdict:
    """Test pictures of all `SIZES`; sizes that would exceed ``seconds`` in total or 1/4 of free memory are skipped."""
    failed: dict[str, str] = {}
    skipped: list[str] = []
    ordinary, spent, cost = False, 0.0, Cost(0.0, 0, 1)
    for size in SIZES:
        name, ratio = f"{size[0]}×{size[1]}", max(1.0, size[0] * size[1] / max(cost.pixels, SMALL))
        if spent + cost.seconds * ratio > seconds or cost.bytes * ratio > _available() / 4:
            skipped.append(name)
            continue
        shown = ExpertInput(name, View.whole(size).image(image))
        with Meter(size[0] * size[1]) as meter:
            reason = _trial(expert, shown)
        cost, spent = meter.cost, spent + meter.cost.seconds
        if reason:
            failed[name] = reason
            ordinary |= min(size) >= 32 and max(size) <= 1500 and max(size) <= 4 * min(size)
    tried = f"{len(SIZES) - len(skipped)} sizes from 1×1, in {spent:.0f} s"
    left = f"; skipped because of time or memory: {', '.join(skipped)}" if skipped else ""
    if not failed:
        return Verdict("sizes", "pass", f"{tried}, all valid{left}")
    examples = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:3])
    seen = f"{tried}, {len(failed)} without a label ({examples}){left}"
    fix = "resize such pictures in the expert; until then they are stored as failures with this reason"
    return Verdict("sizes", "fail" if ordinary else "warn", seen, f"no label for pictures of {', '.join(failed)}", fix)


def _trial(expert: Expert, shown: ExpertInput) -> str:
    """Return the reason why the expert has no valid label for a picture; "" if it has one."""
    try:
        (label,) = answers(expert, [shown])
    except ExpertError as error:
        return str(error)[:200]
    return violation(expert, label)[:200]


# Cost ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds and peak memory in bytes, above the level before, for a number of ``pixels``."""

    seconds: float
    bytes: int
    pixels: int


class Meter:
    """Measures the `Cost` of a block: memory of tensors on a GPU, else memory of the process."""

    def __init__(self, pixels: int, device: str = "cpu") -> None:
        self.pixels, self.device, self.cuda = pixels, device, device.startswith("cuda")
        self.cost = Cost(0.0, 0, pixels)

    def __enter__(self) -> Meter:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device) if self.cuda else _resident()
        self._peak, self._over = self._before, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        spent = time.perf_counter() - self._began
        self._over.set()
        self._thread.join()
        peak = torch.cuda.max_memory_allocated(self.device) if self.cuda else max(self._peak, _resident())
        self.cost = Cost(spent, max(peak - self._before, 0), self.pixels)

    def _watch(self) -> None:
        while not self.cuda and not self._over.wait(0.005):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    """Return the memory of this process in bytes; its peak where the system does not report the current value."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _available() -> float:
    """Return the free memory in bytes; infinite where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")


def costs(expert: Expert, inputs: Sequence[ExpertInput], device: str, seconds: float) -> list[Verdict]:
    """Measure memory per image and images per second, at the expert's batch size or one that takes ``seconds``."""
    with Meter(1) as one:
        answers(expert, inputs[:1])
    count = max(1, min(expert.batch_size, int(seconds / max(one.cost.seconds, 1e-6))))
    batch = [inputs[i % len(inputs)] for i in range(count)]
    H, W = inputs[0].image.shape[:2]
    with Meter(H * W * count, device) as meter:
        answers(expert, batch)
    at = f"in a batch of {count} at {H}×{W} on {device}"
    if count < expert.batch_size:
        at += f" (its batch of {expert.batch_size} would take longer than {seconds:g} s)"
    return [
        Verdict("memory", "pass", f"{meter.cost.bytes / count / 1e6:.1f} MB per image at the peak, {at}"),
        Verdict("throughput", "pass", f"{count / meter.cost.seconds:.1f} images/s, {at}"),
    ]
