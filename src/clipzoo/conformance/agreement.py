"""Similarity of two labels of one task, and the difference that rounding may cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from clipzoo import tasks
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.features import Features
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray, FloatArray, View

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

GRID = (48, 48)
"""The size at which maps are compared."""

L = TypeVar("L")
Maps = TypeVar("Maps", bound="DataclassInstance")
Crop = tuple[float, float, float, float]
WHOLE: Crop = (0.0, 0.0, 1.0, 1.0)


def part(task: str, label: L, crop: Crop = WHOLE) -> L:
    """Return a label's ``crop`` (x0, y0, x1, y1 as fractions of its frame), resized to `GRID`."""
    return cast(L, tasks.get(task).crop_resize(label, View(crop, GRID)))


class _Known(Protocol):
    """A label of any task."""

    @property
    def valid(self) -> BoolArray:
        """Bool [H,W], false where the label is unknown."""


def agreement(task: str, a: object, b: object) -> float:
    """Return the similarity of two labels of one size: 1 if equal, about 0 if unrelated, NaN if both are empty.

    Cohen's kappa for segmentation, correlation for depth and edges, mean cosine for normals, and for boxes the mean
    overlap with the best match of the same class, weighted by scores.
    """
    return _AGREE[task](a, b)


def difference(task: str, a: object, b: object) -> float:
    """Return the difference of two labels of one picture in the unit of `TOLERANCE`; infinite if their sizes differ."""
    if task != "detection" and cast(_Known, a).valid.shape != cast(_Known, b).valid.shape:
        return float("inf")
    return _DIFFER[task](a, b)


TOLERANCE: Mapping[str, tuple[float, str]] = {
    "segmentation": (0.005, "share of pixels with another class"),
    "detection": (0.02, "1 − mean overlap of boxes"),
    "depth": (0.005, "99th percentile of differences, as a share of the label's range"),
    "normals": (1.0, "degrees, 99th percentile"),
    "features": (2.0, "degrees, 99th percentile"),
    "edges": (0.01, "99th percentile of differences in probability"),
}
"""Task -> the largest difference that rounding may cause between batches, and its unit."""

SCORE_TOLERANCE = 0.01
"""The largest change of a score that rounding may cause."""


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return Pearson's correlation of two arrays [N]; NaN if one of them is constant."""
    a, b = a.astype(np.float64) - a.mean(dtype=np.float64), b.astype(np.float64) - b.mean(dtype=np.float64)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-12 else float("nan")


def upside_down(label: Maps) -> Maps:
    """Return a label of maps with its rows reversed; channels of normals are unchanged."""
    maps = {f.name: getattr(label, f.name) for f in fields(label)}
    return replace(label, **{k: v[..., ::-1, :].copy() for k, v in maps.items() if isinstance(v, np.ndarray)})


def overlap(a: Detection, b: Detection) -> float:
    """Return the mean overlap of each box with its best match in the other label, weighted by scores; NaN if empty."""
    a, b = a.take(~a.ignored), b.take(~b.ignored)
    if not len(a.ids) and not len(b.ids):
        return float("nan")
    return 0.5 * (_weighted(_best_overlaps(a, b), a.scores) + _weighted(_best_overlaps(b, a), b.scores))


def _best_overlaps(a: Detection, b: Detection) -> NDArray[np.float64]:
    """Return the largest overlap of each box of ``a`` with a box of its class in ``b``, [N]; 0 if there is none."""
    overlaps = box_iou(torch.from_numpy(a.shares), torch.from_numpy(b.shares)).numpy()
    return np.asarray((np.clip(np.nan_to_num(overlaps), 0, 1) * (a.ids[:, None] == b.ids)).max(1, initial=0))


def _weighted(values: NDArray[np.float64], weights: FloatArray) -> float:
    return float((values * weights).sum() / max(float(weights.sum()), 1e-9))


def _kappa(a: Segmentation, b: Segmentation) -> float:
    """Return Cohen's kappa of the classes where both are known; NaN if both have only one and the same class."""
    both = a.valid & b.valid
    first, second = a.ids[both].astype(np.int64), b.ids[both].astype(np.int64)
    if not first.size:
        return float("nan")
    top = int(max(first.max(), second.max())) + 1
    chance = float((np.bincount(first, minlength=top) * np.bincount(second, minlength=top)).sum()) / first.size**2
    return float((np.mean(first == second) - chance) / (1 - chance)) if chance < 0.999 else float("nan")


def _values(a: Depth | Edges, b: Depth | Edges) -> float:
    both = a.valid & b.valid
    return correlation(a.values[both], b.values[both]) if both.any() else float("nan")


def _cosine(a: Normals, b: Normals) -> float:
    both = a.valid & b.valid
    return float((a.vectors * b.vectors).sum(0)[both].mean()) if both.any() else float("nan")


def _centered_cosine(a: Features, b: Features) -> float:
    """Return the mean cosine after subtraction of each label's mean vector, which all positions share."""
    both = a.valid & b.valid
    p, q = (label.vectors[:, both].astype(np.float64) for label in (a, b))
    if p.shape[1] < 2:
        return float("nan")
    return correlation((p - p.mean(1, keepdims=True)).ravel(), (q - q.mean(1, keepdims=True)).ravel())


_AGREE: Mapping[str, Callable[..., float]] = {
    "segmentation": _kappa, "detection": overlap, "depth": _values, "normals": _cosine, "edges": _values,
    "features": _centered_cosine,
}  # fmt: skip


def _classes_differ(a: Segmentation, b: Segmentation) -> float:
    return float(np.mean((a.ids != b.ids) | (a.valid != b.valid)))


def _boxes_differ(a: Detection, b: Detection) -> float:
    return 0.5 * (_unmatched(a, b) + _unmatched(b, a))


def _unmatched(a: Detection, b: Detection) -> float:
    """Return 1 − the mean overlap of the boxes of ``a`` with those of ``b``, weighted by scores.

    Rounding can move scores across a threshold. So a box may match an ignored box of ``b``, and an unmatched box is
    left out if its score is within `SCORE_TOLERANCE` of the smallest score and is not that of a true box (1).
    """
    least = min(label.scores[~label.ignored].min(initial=1) for label in (a, b))
    a = a.take(~a.ignored)
    overlaps = _best_overlaps(a, b)
    counted = (overlaps >= 0.5) | (a.scores > least + SCORE_TOLERANCE) | (a.scores == 1)
    return 1 - _weighted(overlaps[counted], a.scores[counted]) if counted.any() else 0.0


def _values_differ(a: Depth | Edges, b: Depth | Edges, spread: float | None = None) -> float:
    both = a.valid & b.valid
    if np.mean(a.valid != b.valid) > 0.01:
        return float("inf")
    if not both.any():
        return 0.0
    values = a.values[both]
    spread = spread or max(float(np.ptp(values)), 1e-3 * float(np.abs(values).mean()), 1e-9)
    return float(np.percentile(np.abs(values - b.values[both]), 99)) / spread


def _angles_differ(a: Normals | Features, b: Normals | Features) -> float:
    both = a.valid & b.valid
    if np.mean(a.valid != b.valid) > 0.01:
        return float("inf")
    chords = np.linalg.norm((a.vectors - b.vectors)[:, both], axis=0)
    return float(np.percentile(np.degrees(2 * np.arcsin(np.clip(chords / 2, 0, 1))), 99)) if chords.size else 0.0


_DIFFER: Mapping[str, Callable[..., float]] = {
    "segmentation": _classes_differ,
    "detection": _boxes_differ,
    "depth": _values_differ,
    "normals": _angles_differ,
    "features": _angles_differ,
    "edges": lambda a, b: _values_differ(a, b, 1.0),
}
