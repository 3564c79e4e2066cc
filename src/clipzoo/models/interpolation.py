"""Interpolation of the weights of two students: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from clipzoo.errors import CheckpointError
from clipzoo.models.student import Student


@torch.no_grad()
def interpolated(start: Student, end: Student, alpha: float) -> Student:
    """Return a new student whose CLIP model has the weights (1 − α) · start + α · end.

    Everything that is a floating-point number is interpolated: weights, ``logit_scale``, and the means and variances of
    batch norms. Counters are those of the end, and so are the heads, which were trained on the features of the end.

    Args:
        start: the student before training; its heads are ignored.
        end: the trained student.
        alpha: 0 gives the start's weights, 1 the end's, exactly.

    Raises:
        CheckpointError: the two CLIP models have other tensors.
    """
    first, last = start.clip.state_dict(), end.clip.state_dict()
    _check_equal_shapes(first, last)
    student = copy.deepcopy(end)
    for name, value in student.clip.state_dict().items():  # shares its memory with the student
        if value.is_floating_point():
            value.copy_(torch.lerp(first[name].to(value), last[name], alpha))
    return student


def _check_equal_shapes(first: Mapping[str, Tensor], last: Mapping[str, Tensor]) -> None:
    names = [*first, *(name for name in last if name not in first)]
    differing = [name for name in names if _shape(first, name) != _shape(last, name)]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"the students cannot be interpolated: {len(differing)} of {len(names)} tensors of their CLIP models "
            f"differ in shape, such as {name} ({_shape(first, name)} in the start, {_shape(last, name)} in the end). "
            "Give the student before training and the one trained from it"
        )


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return "×".join(map(str, state[name].shape)) or "one number" if name in state else "missing"
