"""Experts created from URIs, and loaded on a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from clipzoo import experts as zoo
from clipzoo import tasks
from clipzoo.errors import ClipzooError, ExpertError
from clipzoo.experts.base import Expert
from clipzoo.labeling._tuning import Tuning
from clipzoo.labeling.local import Work


def create_experts(given: Sequence[str | Expert] | str | Expert, batch_size: int | None) -> list[Expert]:
    """Create experts without loading them.

    Raises:
        ExpertError: there is none, or two would write one column.
    """
    given = [given] if isinstance(given, str | Expert) else given
    if not given:
        raise ExpertError("no expert was given. Name at least one, for example 'demo:segmentation'")
    if batch_size is not None and batch_size < 1:
        raise ExpertError(f"batch_size={batch_size} is not valid. Give 1 or more")
    made = [zoo.create(expert) if isinstance(expert, str) else expert for expert in given]
    names = Counter((expert.card.task, expert.card.slug) for expert in made)
    for (task, slug), count in names.items():
        tasks.get(task)
        if count > 1:
            raise ExpertError(
                f"{count} experts would write the column {task}/{slug}. Give each expert once, and name imported "
                "labels: …&as=NAME"
            )
    return made


def resolve_device(device: str) -> str:
    """Return the device; "auto" becomes "cuda" if available, else "cpu"."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def load_expert(work: Work, device: str, tuning: Tuning, batch_size: int | None) -> None:
    """Load and tune the expert. Any error becomes an `ExpertError`."""
    expert = work.expert
    try:
        expert.load(device)
        tuning.tune(expert, device)
    except ClipzooError:
        raise
    except Exception as error:  # foreign code may raise anything
        raise ExpertError(f"{expert.card.uri} cannot be loaded on {device}: {type(error).__name__}: {error}") from error
    work.device = device
    work.batch_size = batch_size or expert.batch_size  # loading may have set it to 1
