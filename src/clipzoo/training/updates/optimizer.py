"""AdamW with one learning rate per part and layer of the student, and the schedule of the rates."""

from __future__ import annotations

import math

import torch

from clipzoo.errors import RecipeError
from clipzoo.models import Student, layers
from clipzoo.recipe import TrainingRecipe
from clipzoo.training.job import Job
from clipzoo.training.updates import locking

EMBEDDINGS = ("embedding", "pos_embed", "cls_token", "reg_token", "latent", "relative_position_bias")
"""Parts of the names of embeddings in OpenCLIP and timm."""

Named = list[tuple[str, torch.nn.Parameter]]


def freeze(student: Student, job: Job) -> None:
    """Lock the parameters that are not trained, before the student is distributed over processes.

    Args:
        student: its `parameter_groups` name the parts.
        job: a part of rate 0 is frozen.

    Raises:
        RecipeError: layers are to be locked that the student does not have, or nothing is left to be trained.
    """
    settings = job.settings
    for part, named in student.parameter_groups().items():
        for name, parameter in named:
            parameter.requires_grad_(job.rates[part] > 0 and name not in student.fixed)
    locking.lock(student, "image", settings.unlocked_image_layers)
    locking.lock(student, "text", settings.unlocked_text_layers)
    if job.labels_alone:
        locking.lock_unused(student, [name for name in student.specs if job.loss_weights.get(name, 1.0) > 0])
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise RecipeError(
            "nothing would be trained: the student has no heads that learn, and both of its towers and logit_scale are "
            "locked. Set training.unlocked_image_layers to null or at least 1, set training.text_factor above 0, or "
            "remove clip-ft from arms if it is trained"
        )


def build(student: Student, job: Job) -> torch.optim.AdamW:
    """Return AdamW over the parameters that `freeze` left trained.

    Gains, biases, scalars and embeddings never decay.

    Raises:
        RecipeError: layers are to have their own rates, but those of the student are not known.
    """
    settings = job.settings
    groups = []
    for part, named in student.parameter_groups().items():
        trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        for factor, members in _by_layer(student, part, trained, settings.layer_decay).items():
            for decays, decay in ((True, settings.weight_decay), (False, 0.0)):
                chosen = [parameter for name, parameter in members if _decays(name, parameter) is decays]
                groups.append({"params": chosen, "weight_decay": decay, "peak": job.rates[part] * factor})
    fused = True if student.mean.is_cuda else None  # one kernel for all tensors of a group
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=settings.betas, eps=settings.eps, fused=fused
    )


def _by_layer(student: Student, part: str, named: Named, layer_decay: float) -> dict[float, Named]:
    """Return factor on the learning rate -> parameters of a part: ``layer_decay`` per layer below the last one."""
    if layer_decay == 1 or part == "heads" or not named:
        return {1.0: named}
    depths = layers.depths(student, part)
    last = max(depths.values())
    groups: dict[float, Named] = {}
    for name, parameter in named:
        groups.setdefault(layer_decay ** (last - depths.get(name, last)), []).append((name, parameter))
    return groups


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    gain = parameter.ndim < 2 or parameter.numel() == parameter.shape[0]  # (C, 1, 1): layer scales of FastViT
    return not gain and not any(part in name for part in EMBEDDINGS)


def set_rates(
    adam: torch.optim.Optimizer, step: int, steps: int, settings: TrainingRecipe, lowered: float = 1.0
) -> float:
    """Set the learning rates of a step; return their factor on the peak rates, which includes ``lowered``."""
    factor = schedule(step, steps, settings.warmup)
    if settings.schedule == "constant":
        factor = constant(step, steps, settings.warmup, settings.cooldown)
    factor *= lowered
    for group in adam.param_groups:
        group["lr"] = group["peak"] * factor
    return factor


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the peak rate at ``step`` of ``steps``.

    It rises linearly over the share ``warmup`` of the steps, then falls to 0 as half a cosine.
    """
    first = max(round(steps * warmup), 1)
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(steps - first, 1)))


def constant(step: int, steps: int, warmup: float, cooldown: float) -> float:
    """Return the factor on the peak rate of a constant schedule.

    It rises linearly over the share ``warmup``, is 1, then falls linearly over the share ``cooldown`` to 0, which the
    step after the last one would have.
    """
    first, last = max(round(steps * warmup), 1), round(steps * cooldown)
    rising, falling = (step + 1) / first, (steps - step) / last if last else 1.0
    return min(rising, falling, 1.0)
