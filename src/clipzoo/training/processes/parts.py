"""Gradients of a batch that several processes share, or that is computed in chunks.

Chunks are those of cached contrastive accumulation (Gao et al., "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup", 2021, arXiv 2101.06983): features of all chunks are computed without graph, the contrastive loss
of the whole batch gives their gradients, and each chunk is computed again with its graph and the losses of its labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clipzoo.data import Batch
from clipzoo.errors import DatasetError
from clipzoo.recipe import TrainingRecipe
from clipzoo.training import precision
from clipzoo.training.balancing import Balancer
from clipzoo.training.objectives import ContrastiveObjective, Objective
from clipzoo.training.processes import ranks
from clipzoo.training.processes.pairs import INPUTS
from clipzoo.training.processes.sharding import Sharding, tensors
from clipzoo.training.processes.whole import Weighing, split, totals

States = tuple[Tensor, Tensor | None]
"""Random states of the CPU and of the GPU of this process."""


class Parts:
    """Computes terms and gradients of a batch in parts.

    Args:
        sharding: the student.
        objectives: terms of the loss, with fixed weights.
        settings: precision and number of chunks.
        balancer: weights of the terms; it has begun the step.

    Attributes:
        factor: by which all gradients are multiplied, as a scaler of float16 needs it.
    """

    def __init__(
        self, sharding: Sharding, objectives: Sequence[Objective], settings: TrainingRecipe, balancer: Balancer
    ) -> None:
        self.sharding, self.objectives, self.settings = sharding, list(objectives), settings
        self.balancer = balancer
        self.factor = 1.0

    def gradients(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Add the gradients of the whole batch to the student's; return its unweighted terms, equal on all processes.

        Raises:
            DatasetError: a process has no readable sample.
        """
        counts = [count for (count,) in ranks.numbers([len(batch.captions)])]
        if not min(counts):
            raise DatasetError(_none(step, counts))
        mean = sum(counts) / len(counts)
        if self.settings.accumulate == 1:
            values = self._chunk(batch, Weighing({}, counts[ranks.rank()] / mean), self.objectives, {})
        else:
            values = self._chunks(split(batch, min(self.settings.accumulate, *counts)), mean)
        return self._averaged(values)

    def _chunks(self, chunks: Sequence[Batch], mean: float) -> dict[str, Tensor]:
        """Compute the gradients chunk by chunk; ``mean`` is the number of samples of a process."""
        known = totals(self.objectives, chunks)
        weighing = [Weighing(known, len(chunk.captions) / mean) for chunk in chunks]
        contrastive = next(one for one in self.objectives if isinstance(one, ContrastiveObjective))
        others = [one for one in self.objectives if not isinstance(one, ContrastiveObjective)]
        values: dict[str, Tensor] = {}
        before = [_random(self.sharding.device)]
        cached: list[dict[str, Tensor]] = [{} for _ in chunks]
        ahead = others if self.balancer.uses_losses else []
        passed = []
        if ahead or contrastive.weight:
            passed = [self._ahead(*one, ahead, before) for one in zip(chunks, weighing, strict=True)]
        if contrastive.weight:
            values[contrastive.name], cached = _cached(contrastive, [features for features, _ in passed])
        self.balancer.weigh(_added([terms for _, terms in passed]))
        for number, (chunk, gradients) in enumerate(zip(chunks, cached, strict=True)):
            if number < len(before) - 1:
                _set_random(before[number], self.sharding.device)
            with self.sharding.accumulating(last=number == len(chunks) - 1):
                found = self._chunk(chunk, weighing[number], others, gradients)
            values = _added([values, found])
        return values

    @torch.no_grad()
    def _ahead(
        self, chunk: Batch, weighing: Weighing, objectives: Sequence[Objective], before: list[States]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the inputs of the contrastive loss, and the terms of ``objectives``, without graph.

        The random state after the pass is added to ``before``.
        """
        outputs = self._forward(chunk)
        before.append(_random(self.sharding.device))
        features = {name: outputs[name].float() for name in INPUTS if name in outputs}
        return features, {one.name: weighing.term(one, outputs, chunk) for one in objectives}

    def _chunk(
        self, chunk: Batch, weighing: Weighing, objectives: Sequence[Objective], cached: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add the gradients of a chunk: of its ``objectives``, and the ``cached`` ones of its outputs.

        Every output takes part, since DDP and FSDP2 wait for the gradient of each parameter.
        """
        outputs = self._forward(chunk)
        values = {one.name: weighing.term(one, outputs, chunk) for one in objectives}
        if self.settings.accumulate == 1:
            self.balancer.weigh(values, outputs.get("maps", ()), self.factor)
        roots: list[Tensor] = [self.balancer.total(objectives, values)] if values else []
        gradients: list[Tensor] = [torch.ones_like(root) for root in roots]
        named = {id(outputs[name]): gradient for name, gradient in cached.items()}
        for output in tensors(outputs):
            if output.requires_grad:
                roots.append(output)
                gradients.append(named.get(id(output), torch.zeros_like(output)).to(output.dtype))
        torch.autograd.backward(roots, [self.factor * gradient for gradient in gradients])
        return {name: value.detach() for name, value in values.items()}

    def _forward(self, chunk: Batch) -> dict[str, Any]:
        with precision.autocast(self.settings.precision, chunk.images.device):
            outputs: dict[str, Any] = self.sharding.forward(chunk.images, chunk.tokens)
        return outputs

    def _averaged(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean over processes of the terms, in the order of the objectives; 0 for those of weight 0."""
        names = [one.name for one in self.objectives]
        own = [values.get(name, torch.zeros((), device=self.sharding.device)).float() for name in names]
        return dict(zip(names, ranks.summed(torch.stack(own)) / ranks.world_size(), strict=True))


def _cached(
    objective: ContrastiveObjective, features: Sequence[Mapping[str, Tensor]]
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Return the contrastive loss of all chunks, and the weighted gradients of each chunk's outputs.

    The scale and the bias are the same in all chunks; the last one gets their gradient.
    """
    sizes = [len(one["image_features"]) for one in features]
    leaves = {
        name: torch.cat([one[name] for one in features]) if name.endswith("features") else value
        for name, value in features[0].items()
    }
    leaves = {name: value.detach().clone().requires_grad_() for name, value in leaves.items()}
    value = Weighing({}, 1.0).term(objective, leaves, None)  # type: ignore[arg-type]
    torch.autograd.backward([objective.weight * value])
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    per_sample = {name: torch.split(one, sizes) for name, one in gradients.items() if name.endswith("features")}
    chunks = [{name: parts[i] for name, parts in per_sample.items()} for i in range(len(sizes))]
    chunks[-1] |= {name: one for name, one in gradients.items() if name not in per_sample}
    return value.detach(), chunks


def _added(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sums of terms by name."""
    sums: dict[str, Tensor] = {}
    for part in parts:
        sums |= {name: sums.get(name, 0) + value for name, value in part.items()}
    return sums


def _random(device: torch.device) -> States:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random(states: States, device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)


def _none(step: int, counts: Sequence[int]) -> str:
    return (
        f"step {step}: none of the samples of rank {counts.index(0)} can be read. Restore the dataset, or raise "
        "training.batch_size, and rerun the command"
    )
