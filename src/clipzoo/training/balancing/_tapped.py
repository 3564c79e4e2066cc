"""Gradients of single terms of the loss at the tapped layers: their norms, and their cosines with one of them.

A tapped map may be a rearranged part of a layer's output, such as the patch tokens of a ViT. The contrastive loss then
depends on the output, but not on the map. Gradients are therefore taken at the output itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from clipzoo.errors import RecipeError
from clipzoo.training.processes import ranks

VIEWS = frozenset({
    "AliasBackward0", "CloneBackward0", "PermuteBackward0", "ReshapeAliasBackward0", "SelectBackward0",
    "SliceBackward0", "SplitBackward0", "SplitWithSizesBackward0", "SqueezeBackward0", "SqueezeBackward1",
    "ToCopyBackward0", "TransposeBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
})  # fmt: skip
"""Nodes of a graph (torch 2.14) that rearrange one tensor or take a part of it."""
TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Measured:
    """Norms of the gradients of terms by name, and their cosines with the contrastive one, without itself."""

    norms: Mapping[str, Tensor]
    cosines: Mapping[str, Tensor]


def outputs(maps: Sequence[Tensor]) -> list[GradientEdge]:
    """Return the outputs of the tapped layers that are trained, of which ``maps`` are rearranged parts.

    Raises:
        RecipeError: no tapped layer is trained.
    """
    edges = [_output(one) for one in maps if one.requires_grad]
    if not edges:
        raise RecipeError(
            "gradients are to be measured at student.layers, but all of these layers are locked and have none. "
            "Raise training.unlocked_image_layers, or remove training.gradients_every and the balancing gradient_norm"
        )
    return edges


def _output(one: Tensor) -> GradientEdge:
    edge = get_gradient_edge(one)
    while edge.node.name() in VIEWS:
        node, number = edge.node.next_functions[0]
        assert node is not None
        edge = GradientEdge(node, number)
    return edge


def measure(maps: Sequence[Tensor], terms: Mapping[str, Tensor], reference: str = "", scale: float = 1.0) -> Measured:
    """Return norms and cosines of the gradients of the whole batch; equal on all processes, which all call this.

    The gradients at all tapped layers count as one vector. The graph is kept.

    Args:
        maps: of this process's part of the batch.
        terms: name -> unweighted term, whose mean over processes is that of the whole batch.
        reference: term with which the others are compared, if it is one of ``terms``.
        scale: factor on the terms in the backward pass, which float16 needs.
    """
    at = outputs(maps)
    zero = torch.zeros((), device=maps[0].device)
    compared = _gradients(terms[reference], at, scale) if reference in terms else []
    sums = []
    for name, term in terms.items():
        own = compared if name == reference else _gradients(term, at, scale)
        sums.append(torch.stack([_product(own, own, zero), _product(own, compared or own, zero)]))
    squares, products = ranks.summed(torch.stack(sums)).T / ranks.world_size() ** 2
    norms = dict(zip(terms, squares.sqrt(), strict=True))
    if reference not in terms:
        return Measured(norms, {})
    lengths = squares.sqrt() * norms[reference]
    cosines = dict(zip(terms, products / lengths.clamp(min=TINY), strict=True))
    return Measured(norms, {name: value for name, value in cosines.items() if name != reference})


def _gradients(term: Tensor, at: Sequence[GradientEdge], scale: float) -> list[Tensor | None]:
    """Return the gradient of a term at each place; None where it does not depend on it."""
    if not term.requires_grad:
        return [None] * len(at)
    found = torch.autograd.grad(scale * term, at, retain_graph=True, allow_unused=True)
    return [None if one is None else one.float() / scale for one in found]


def _product(a: Sequence[Tensor | None], b: Sequence[Tensor | None], zero: Tensor) -> Tensor:
    """Return the scalar product of gradients; ``zero`` if in each pair one is None."""
    parts = [(x * y).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return torch.stack(parts).sum() if parts else zero
