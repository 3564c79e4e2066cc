"""Checkpoints: the complete state of a training, written so that a kill at any moment leaves a whole file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from clipzoo import files
from clipzoo.errors import CheckpointError, brief
from clipzoo.training.job import Job
from clipzoo.training.processes import exchange, ranks, shards
from clipzoo.training.processes.sharding import Sharding

NAME = "checkpoint.pt"
FIELDS: dict[str, type] = {"step": int, "student": dict, "optimizer": dict, "rng": torch.Tensor}
"""Required fields; the others are optional."""
PACKAGES = ("clipzoo", "torch", "open_clip_torch", "timm", "transformers")
"""Packages whose versions are recorded."""


class Stateful(Protocol):
    """An object with a state that a checkpoint keeps."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore the state."""


class Checkpoints:
    """The checkpoint of one training, and the time since it was written; ``parts`` are saved with it by name.

    Args:
        job: its folder holds the file.
        sharding, adam: student and optimizer, which are parts of every checkpoint.
        parts: name -> further part, such as the average of the weights.
    """

    def __init__(
        self, job: Job, sharding: Sharding, adam: torch.optim.Optimizer, parts: Mapping[str, Stateful] | None = None
    ) -> None:
        self.job, self.sharding, self.adam, self.parts = job, sharding, adam, dict(parts or {})
        self.path = job.out / NAME
        self._written = time.monotonic()

    def due(self, step: int) -> bool:
        """Return True if ``checkpoint_every`` steps or ``checkpoint_minutes`` have passed, or ``step`` is kept."""
        settings = self.job.settings
        waited = time.monotonic() - self._written
        return step % settings.checkpoint_every == 0 or self._kept(step) or waited > 60 * settings.checkpoint_minutes

    def _kept(self, step: int) -> bool:
        return self.job.settings.keep_every is not None and step % self.job.settings.keep_every == 0

    def write(self, step: int, path: Path | None = None) -> None:
        """Write the state after ``step`` updates, by default as the checkpoint; all processes call this.

        The main process writes it, except shards of FSDP2, which each process writes itself.
        """
        states = self.sharding.state(self.adam) | {name: part.state_dict() for name, part in self.parts.items()}
        if self.sharding.mode == "fsdp2":
            states = shards.write(self.job.out, states, step)
        random = exchange.random_states(self.sharding.device)
        self._written = self._written if path else time.monotonic()
        if not ranks.is_main():
            return
        binding = self.job.binding
        about = {"settings": binding, "digest": digest(binding), "versions": versions()}
        save(path or self.path, {"step": step, **random, **about, **states})
        if path is None and self._kept(step):
            keep(self.path, step)
        prune(self.job.out)

    def resume(self) -> int:
        """Load the state that an earlier process wrote, else seed the random state; return the number of steps done.

        Raises:
            CheckpointError: the file is damaged, it belongs to another training, or processes find different files.
        """
        done = 0
        if self.path.exists():
            done = self.restore(self.path)
        else:
            exchange.seed(self.job.seed)
        steps = [found for (found,) in ranks.numbers([done])]
        if len(set(steps)) > 1:
            other = next(rank for rank, found in enumerate(steps) if found != steps[0])
            raise CheckpointError(
                f"rank 0 resumes {self.path} after step {steps[0]}, but rank {other} after step {steps[other]}: the "
                "folder is not the same on all machines, or one of them still sees an older file. Put it on a file "
                "system that all machines share, and rerun the command"
            )
        return done

    def restore(self, path: Path) -> int:
        """Load a state that `write` wrote, and return its number of steps; `CheckpointError` as in `resume`."""
        state = load(path, lazily=ranks.world_size() > 1)
        _check_settings(path, state.get("settings", {}), self.job.binding)
        with _fitting(path):
            state = shards.fill(path, state, self.sharding.reference(self.adam))
            for name, part in self.parts.items():
                part.load_state_dict(state.get(name, {}))
            self.sharding.load(self.adam, state)
            exchange.restore_random(state, self.job.seed, self.sharding.device)
        if state["step"] > self.job.steps:
            raise CheckpointError(
                f"{path} was written after {state['step']} steps, and this training has {self.job.steps}: it "
                "belongs to another training. Delete it to restart this training"
            )
        return int(state["step"])


def keep(path: Path, step: int) -> None:
    """Keep the checkpoint of ``step`` as ``checkpoint-000400.pt``: as a second name of the file, else as a copy."""
    kept = path.with_name(f"checkpoint-{step:06d}.pt")
    with files.atomic(kept, exclusive=True) as draft:
        draft.unlink(missing_ok=True)
        try:
            os.link(path, draft)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, draft)


def prune(out: Path) -> None:
    """Delete the shards in the folder of a training that no checkpoint in it names."""
    if any(out.glob(f"{shards.PREFIX}*")):
        shards.prune(out, {load(path, lazily=True, needed=["step"]).get(shards.FIELD) for path in out.glob("*.pt")})


def consolidate(path: Path, out: Path) -> int:
    """Write a checkpoint with shards as one file, in the format of one process; return its number of steps.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or ``out`` exists.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist. Only an unfinished training has a checkpoint: give the path of a .pt file, the "
            "folder of a training (arms/<arm>/<seed>), or a run folder with --arm and --seed"
        )
    if out.exists():
        raise CheckpointError(f"{out} exists, and nothing is overwritten. Choose another --out, or delete it")
    state = shards.fill(path, load(path))
    out.parent.mkdir(parents=True, exist_ok=True)
    save(out, state)
    return int(state["step"])


def versions() -> dict[str, str]:
    """Return package -> version of the software that can change a training's bits."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def digest(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _check_settings(path: Path, written: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` if settings that a resumed training depends on have changed."""
    changed = [name for name in written if name in present and written[name] != present[name]]
    if changed:
        lines = "\n".join(f"  training.{name}: {written[name]}, not {present[name]}" for name in changed)
        raise CheckpointError(
            f"{path} was written with other settings. It has\n{lines}\n"
            "Restore these settings, choose another folder with --out, or delete it to restart this training"
        )


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a temporary file, sync it and rename it to ``path``.

    Raises:
        OSError: the disk refuses it; no partial file remains.
    """
    try:
        with files.atomic(path, exclusive=True) as draft, draft.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch's, at the end of a file that the disk has refused
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: Path, lazily: bool = False, needed: Sequence[str] = tuple(FIELDS)) -> dict[str, Any]:
    """Return the tensors and plain values of a checkpoint; nothing in the file is executed.

    Args:
        path: file that `save` wrote.
        lazily: leave the tensors on the disk until they are used.
        needed: required fields.

    Raises:
        CheckpointError: the file is damaged, or it is not a checkpoint.
    """
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({brief(error)}): it is damaged or truncated. Delete it to restart "
            "this training"
        ) from error
    missing = [name for name in needed if not (isinstance(state, dict) and isinstance(state.get(name), FIELDS[name]))]
    if missing:
        raise CheckpointError(
            f"{path} is not a checkpoint of clipzoo: {', '.join(missing)} missing. Delete it to restart this training"
        )
    fields: dict[str, Any] = state
    return fields


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Raise `CheckpointError` where torch fails to load a checkpoint's state into another model."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} belongs to another model or to other heads, or an earlier clipzoo wrote it ({brief(error)}). "
            "Restore the recipe and the version that it was trained with, choose another folder with --out, or delete "
            "it to restart this training"
        ) from error


def step(path: Path) -> int:
    """Return the number of steps of a checkpoint, 0 if there is none. Its tensors are not read."""
    return int(load(path, lazily=True, needed=["step"])["step"]) if path.exists() else 0
