"""AdamW with one learning rate per part of the student, and the schedule of the rates."""

from __future__ import annotations

import math

import torch

from clipzoo.models import Student
from clipzoo.training.job import Job

EMBEDDINGS = ("embedding", "pos_embed", "cls_token", "reg_token", "latent")
"""Parts of the names of embeddings in OpenCLIP and timm."""


def freeze(student: Student, job: Job) -> None:
    """Freeze the student's parts of rate 0, and train the others. Done before it is distributed over processes."""
    for part, named in student.parameter_groups().items():
        for _, parameter in named:
            parameter.requires_grad_(job.rates[part] > 0)


def build(student: Student, rates: dict[str, float], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the student's parts.

    Args:
        student: its `parameter_groups` name the parts.
        rates: part -> peak learning rate; a part of rate 0 is frozen.
        weight_decay: for matrices and larger; gains, biases, scalars and embeddings never decay.
    """
    groups = []
    for part, named in student.parameter_groups().items():
        for _, parameter in named:
            parameter.requires_grad_(rates[part] > 0)
        if not named or rates[part] == 0:
            continue
        for decays, decay in ((True, weight_decay), (False, 0.0)):
            chosen = [parameter for name, parameter in named if _decays(name, parameter) is decays]
            groups.append({"params": chosen, "weight_decay": decay, "peak": rates[part]})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(0.9, 0.98), eps=1e-6)


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not any(part in name for part in EMBEDDINGS)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the peak rate at ``step`` of ``steps``.

    It rises linearly over the share ``warmup`` of the steps, then falls to 0 as half a cosine.
    """
    first = max(round(steps * warmup), 1)
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(steps - first, 1)))
