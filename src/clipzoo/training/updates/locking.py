"""Parameters that are not trained: of locked layers, of frozen parts, and those that no loss depends on."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from clipzoo.errors import RecipeError
from clipzoo.models import Student, layers

SCALES = ("clip.logit_scale", "clip.logit_bias")
"""Parameters of the contrastive loss that belong to no layer."""


def lock(student: Student, part: str, unlocked: int | None) -> None:
    """Lock all layers of a tower but the last ones. Their batch norms keep their statistics (`Student.train`).

    Args:
        student: changed in place.
        part: ``image`` or ``text``.
        unlocked: number of last layers that are trained; None locks nothing.

    Raises:
        RecipeError: the tower has fewer layers, or its layers are not known.
    """
    for name in locked(student, part, unlocked):
        student.get_parameter(name).requires_grad_(False)


def locked(student: Student, part: str, unlocked: int | None) -> list[str]:
    """Return the parameters that `lock` locks; arguments and errors are the same, and nothing is changed."""
    if unlocked is None:
        return []
    if unlocked == 0:
        return [name for name, _ in student.parameter_groups()[part] if name not in SCALES]
    depths = layers.depths(student, part)
    count = max(depths.values()) + 1
    if unlocked > count:
        raise RecipeError(
            f"training.unlocked_{part}_layers is {unlocked}, but the {part} tower has {count} layers: give at most "
            f"{count}, or null to train all of them"
        )
    return [name for name, depth in depths.items() if depth < count - unlocked]


def lock_unused(student: Student, columns: Iterable[str]) -> None:
    """Lock the parameters of image tower and heads that the predictions of ``columns`` do not depend on.

    Without a contrastive loss these are the embedding's projection, for example. Their gradients would be 0, and weight
    decay would shrink them.
    """
    named = [(n, p) for part in ("image", "heads") for n, p in student.parameter_groups()[part] if p.requires_grad]
    if not named:
        return
    training = student.training
    student.eval()  # does not change the statistics of batch norm
    blank = torch.zeros(1, *student.image_size, 3, dtype=torch.uint8, device=student.mean.device)
    predictions = student(blank)["predictions"]
    total = torch.stack([predictions[column].float().sum() for column in columns]).sum()
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    student.train(training)
    for (_, parameter), gradient in zip(named, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
