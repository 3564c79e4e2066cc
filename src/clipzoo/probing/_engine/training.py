"""Training of a probe on an encoder; it resumes at the same step with the same bits on one CPU thread."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipzoo.benchmarks import Benchmark
from clipzoo.errors import CheckpointError, DivergedError
from clipzoo.evaluation.base import Encoder, frozen
from clipzoo.losses.masked import batch_mean
from clipzoo.probing._engine.detector import DetectorModule
from clipzoo.probing._engine.module import ProbeModule, layers_of
from clipzoo.probing._engine.pictures import Pair, Pictures
from clipzoo.probing.base import Preset, depth_of, fitted, patch_of
from clipzoo.stopping import Interrupted, signals
from clipzoo.tasks.detection import Detection
from clipzoo.training import checkpoint

NAME = "probe.pt"
ADDED = ("long_side", "detector", "metrics")
"""Settings that presets have not always had; left out of digests where they are unused, so that old ones stay valid."""
EVERY_SECONDS = 300.0
"""Seconds between checkpoints."""


@dataclass(frozen=True)
class ProbeJob:
    """One probe.

    Attributes:
        preset: its settings.
        model: the encoder at the size of the preset's crop; stays frozen, unless the preset
            tunes it.
        identity: text that names the model and the benchmark; a checkpoint of another one is refused.
        out: folder of the checkpoint.
        seed: of the weights of the head, the order of pictures and their crops.
        steps: instead of the preset's; None for the preset's.
        step: called with (done, total, loss).
        preprocessing: of the model; a checkpoint that records another one is refused.
    """

    preset: Preset
    model: Encoder
    identity: str
    out: Path
    seed: int = 0
    steps: int | None = None
    step: Callable[[int, int, float], None] = field(default=lambda done, total, loss: None)
    preprocessing: str = ""


def train(job: ProbeJob, benchmark: Benchmark) -> ProbeModule | DetectorModule:
    """Train the probe on the labeled pictures of a benchmark, or resume it; returns it in evaluation mode.

    Raises:
        RecipeError: the benchmark has no truth of the preset's task.
        CheckpointError: the checkpoint is damaged, or of another model, benchmark or preset.
        DivergedError: the loss is not finite.
        Interrupted: SIGINT or SIGTERM arrived; the state is saved first.
    """
    preset, pictures = job.preset, Pictures.of(benchmark, job.preset.task)
    steps = job.steps or preset.length(len(pictures))
    device = _device(job.model)
    module = build(job, pictures).to(device)
    adam = torch.optim.AdamW(module.parameters(), lr=preset.rate, weight_decay=preset.weight_decay)
    start = _resume(job, module, adam, steps)
    crop = preset.crop if preset.detector else fitted(preset.crop, patch_of(job.model))
    module.train()
    written = time.monotonic()
    with signals() as stop:
        for number, batch in enumerate(pictures.batches(preset, crop, job.seed, start, steps), start):
            for group in adam.param_groups:
                group["lr"] = preset.rate * _schedule(number, steps, preset.warmup_steps(steps))
            loss = _batch_loss(job, pictures, module, batch, number)
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            value = loss.item()
            if not math.isfinite(value):
                raise DivergedError(f"the loss of the probe is not finite at step {number}; check the labels")
            job.step(number + 1, steps, value)
            if stop.signal or time.monotonic() - written > EVERY_SECONDS or number + 1 == steps:
                _save(job, module, adam, number + 1)
                written = time.monotonic()
            if stop.signal:
                raise Interrupted(f"stopped by {stop.signal} after step {number + 1}; rerun the command to resume")
    return module.eval()


def _batch_loss(
    job: ProbeJob, pictures: Pictures, module: ProbeModule | DetectorModule, batch: Sequence[Pair], number: int
) -> Tensor:
    """Return the loss of a batch; random numbers of the module depend on seed and step alone."""
    device, labels = _device(job.model), [label for _, label in batch]
    images = torch.from_numpy(np.stack([image for image, _ in batch])).to(device)
    if isinstance(module, DetectorModule):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed((job.seed << 32) + number)
            return module.loss(images, [label for label in labels if isinstance(label, Detection)])
    with frozen(job.model):
        maps = [one.float() for one in job.model.maps(images, layers_of(job.preset, depth_of(job.model)))]
    crop = (images.shape[1], images.shape[2])
    target = {name: value.to(device) for name, value in pictures.task.collate(labels, crop).items()}
    return loss_of(job.preset, pictures, module(maps, crop), target)


def build(job: ProbeJob, pictures: Pictures) -> ProbeModule | DetectorModule:
    """Return the probe with weights drawn from the job's seed."""
    if job.preset.detector:
        with torch.random.fork_rng([]):
            torch.manual_seed(job.seed)
            return DetectorModule(job.preset, pictures.task, pictures.convention, job.model)
    size = fitted(job.preset.crop, patch_of(job.model))
    with frozen(job.model):
        zeros = torch.zeros(1, *size, 3, dtype=torch.uint8, device=_device(job.model))
        channels = [one.shape[1] for one in job.model.maps(zeros, layers_of(job.preset, depth_of(job.model)))]
    with torch.random.fork_rng([]):
        torch.manual_seed(job.seed)
        return ProbeModule(job.preset, pictures.task, pictures.convention, channels)


def loss_of(preset: Preset, pictures: Pictures, raw: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return the preset's loss of raw [B,C,H,W]."""
    convention = pictures.convention
    loss = preset.loss_weight * pictures.task.loss(raw, target, convention, preset.loss, **preset.loss_options)
    if preset.gradient:
        truth = pictures.task.oracle(target, convention)
        loss = loss + preset.gradient * gradient_loss(raw, truth, target["valid"])
    return loss


def gradient_loss(prediction: Tensor, target: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """Return the mean absolute gradient of the difference [B,1,H,W] of two maps, summed over scales of 1, 2, 4, 8.

    Li and Snavely, "MegaDepth" (2018, arXiv 1804.00607), equation 4, of log depth. Only pairs of known pixels count.
    """
    error, total = torch.where(valid, (prediction - target)[:, 0], 0), prediction.new_zeros(())
    for scale in range(scales):
        e, v = (x[:, :: 2**scale, :: 2**scale] for x in (error, valid))
        for a, b, known in (
            (e[:, :, 1:], e[:, :, :-1], v[:, :, 1:] & v[:, :, :-1]), (e[:, 1:], e[:, :-1], v[:, 1:] & v[:, :-1]),
        ):  # fmt: skip
            total = total + batch_mean((a - b).abs(), known)
    return total


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def _device(model: Encoder) -> torch.device:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _digest(job: ProbeJob, steps: int) -> str:
    settings = asdict(job.preset)
    for name in ADDED:
        if not settings[name]:
            del settings[name]
    values = {"preset": settings, "identity": job.identity, "seed": job.seed, "steps": steps}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _save(job: ProbeJob, module: nn.Module, adam: torch.optim.Optimizer, step: int) -> None:
    steps = job.steps or 0
    state = {"step": step, "module": module.state_dict(), "optimizer": adam.state_dict(), "digest": _digest(job, steps)}
    checkpoint.save(job.out / NAME, state | {"preprocessing": job.preprocessing})


def _resume(job: ProbeJob, module: nn.Module, adam: torch.optim.Optimizer, steps: int) -> int:
    """Load the checkpoint, if there is one; return the number of steps done."""
    path = job.out / NAME
    if not path.exists():
        return 0
    state = checkpoint.load(path, needed=["step"])
    same = state.get("preprocessing", job.preprocessing) == job.preprocessing
    if state.get("digest") != _digest(job, job.steps or 0) or not same:
        raise CheckpointError(
            f"{path} is of another model, preprocessing, benchmark, seed or preset. Choose another folder with --out, "
            "or delete it to train this probe from the start"
        )
    module.load_state_dict(state["module"])
    adam.load_state_dict(state["optimizer"])
    return min(int(state["step"]), steps)
