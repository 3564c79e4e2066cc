"""Fusion of several labels of one image, in which agreement becomes confidence; one function per task.

All labels have one size and one convention, and are of the same image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import SampleError
from clipzoo.tasks import rle
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection, overlaps
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import SHORTEST, Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import BoolArray

Doubles = NDArray[np.float64]


def vote(labels: Sequence[Segmentation], agree: float) -> Segmentation:
    """Return the class that most labels have at a pixel; its confidence is the share of all labels that have it.

    Unknown where two classes have equally many votes, or fewer than ``agree`` of all labels have the best one. A label
    does not vote where it is unknown. The label's confidence is the mean over its known pixels.
    """
    ids, known = np.stack([label.ids for label in labels]), np.stack([label.valid for label in labels])
    votes = np.stack([((ids == own) & known).sum(0) * seen for own, seen in zip(ids, known, strict=True)])
    best = votes.argmax(0)[None]
    most, chosen = np.take_along_axis(votes, best, 0)[0], np.take_along_axis(ids, best, 0)[0]
    tie = ((votes == most) & (ids != chosen)).any(0)
    share = most / len(labels)
    valid = (most > 0) & ~tie & (share >= agree)
    return Segmentation(chosen, valid, float(share[valid].mean()) if valid.any() else None)


def middle(labels: Sequence[Depth], spread: float) -> Depth:
    """Return the median depth where most labels are known and close together.

    Labels of an affine kind have a scale and a shift each: they are shifted and scaled to median 0 and mean absolute
    deviation 1 over the pixels that are known in all of them (Ranftl et al. 2020, arXiv 1907.01341, section 5).

    Args:
        labels: of one kind, along one line.
        spread: the largest mean absolute difference from the median of a known pixel: for metric depth in shares of the
            median, for affine kinds in mean absolute deviations.

    Raises:
        SampleError: an affine label is flat, or no pixel is known to all.
    """
    kind, known = labels[0].kind, np.stack([label.valid for label in labels])
    values = np.stack([label.values.astype(np.float64) for label in labels])
    if kind != "metric":
        values = np.stack([_aligned(one, np.asarray(known.all(0))) for one in values])
    enough = _most(known)
    values = np.where(known & enough, values, np.nan)
    values[:, ~enough] = 0
    median = np.nanmedian(values, 0)
    unit = np.maximum(median, 1e-9) if kind == "metric" else 1.0
    valid = enough & (np.nanmean(np.abs(values - median), 0) / unit <= spread)
    return Depth(np.where(valid, median, 0).astype(np.float32), valid, kind, labels[0].along)


def _aligned(values: Doubles, known: BoolArray) -> Doubles:
    if not known.any():
        raise SampleError("the experts have no known pixel in common, so their depths cannot be brought to one scale")
    shifted = values - np.median(values[known])
    scale = np.abs(shifted[known]).mean()
    if scale < 1e-9:
        raise SampleError("an expert's depth is flat, so that it cannot be brought to the others' scale")
    return np.asarray(shifted / scale)


def direction(labels: Sequence[Normals], angle: float) -> Normals:
    """Return the mean direction: the sum of unit vectors, normalized (Mardia and Jupp, "Directional Statistics", 2000,
    section 9.2), where most labels are known and their mean angle to it is at most ``angle`` degrees.
    """
    known = np.stack([label.valid for label in labels])
    vectors = np.stack([label.vectors for label in labels]).astype(np.float64)  # 0 where unknown
    total = vectors.sum(0)
    length = np.linalg.norm(total, axis=0)
    clear = _most(known) & (length > SHORTEST)
    mean = np.where(clear, total / np.where(clear, length, 1), 0)
    apart = np.degrees(np.arccos(np.clip((vectors * mean).sum(1), -1, 1)))
    valid = clear & (np.where(known, apart, 0).sum(0) <= angle * known.sum(0))
    return Normals(np.where(valid, mean, 0).astype(np.float32), valid)


def mean(labels: Sequence[Edges]) -> Edges:
    """Return the mean probability of an edge where most labels are known."""
    known = np.stack([label.valid for label in labels])
    total = np.stack([label.values for label in labels]).sum(0, dtype=np.float64)  # 0 where unknown
    return Edges((total / np.maximum(known.sum(0), 1)).clip(0, 1).astype(np.float32), _most(known))


def _most(known: BoolArray) -> BoolArray:
    """Return where more than half of the labels are known: [N,H,W] -> [H,W]."""
    return np.asarray(2 * known.sum(0) > len(known))


# Boxes -----------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """Boxes of one object: their rows, at most one per label, and the fused box."""

    rows: list[int]
    box: Doubles


def fuse(labels: Sequence[Detection], overlap: float, experts: int) -> Detection:
    """Fuse weighted boxes (Solovyev, Wang and Gabruseva 2021, arXiv 1910.13302), one box per expert in a cluster.

    In descending order of scores, each box joins the cluster of its class whose fused box it overlaps most, by
    ``overlap`` or more, and that has no box of its expert yet; otherwise it begins a cluster. A fused box is the mean
    of its boxes weighted by their scores; its score is their mean times the share of experts that have it (the paper's
    rescaling). A cluster of fewer than ``experts`` is ignored: it is unknown if an object is there. Boxes that a label
    ignores are ignored as well, except where an object of the class was found. If all labels have masks, the mask of a
    cluster is true where most of its masks are. The classes that were searched for are those of every label.
    """
    pile = joined(labels)
    owner = np.repeat(np.arange(len(labels)), [len(label.ids) for label in labels])
    clusters = _clusters(pile, owner, overlap)
    none = pile.take(slice(0, 0))
    asked = [label.asked for label in labels if label.asked is not None]
    fused = joined([none, *(_fused_box(pile.take(c.rows), c.box, len(labels), experts) for c in clusters)])
    sure, doubtful = fused.take(~fused.ignored), joined([fused.take(fused.ignored), pile.take(pile.ignored)])
    same = _iou(doubtful.boxes, sure.boxes) * (doubtful.ids[:, None] == sure.ids)
    whole = joined([sure, doubtful.take(same.max(1, initial=0) < overlap)])
    return replace(whole, asked=reduce(np.intersect1d, asked)) if asked else whole


def joined(labels: Sequence[Detection]) -> Detection:
    """Return the objects of several labels in one frame; with masks if every object has one."""
    masks = [label.masks if len(label.ids) else () for label in labels]
    boxes, ids, scores, ignored = (np.concatenate([getattr(label, name) for label in labels]) for name in ARRAYS)
    texts = tuple(text for own in masks for text in own or (None,) * (own is None))
    whole = None if None in texts else texts
    return Detection(labels[0].size, boxes, ids, scores, ignored, whole)


def _clusters(pile: Detection, owner: NDArray[np.intp], overlap: float) -> list[Cluster]:
    """Return clusters of the boxes that are not ignored; ``owner`` [N] is the label of each box."""
    N, members = len(owner), list[list[int]]()
    boxes, ids = np.zeros((N, 4)), np.zeros(N, pile.ids.dtype)  # of each cluster
    taken = np.zeros((N, int(owner.max(initial=0)) + 1), np.bool_)  # a cluster has a box of a label
    for row in np.argsort(-pile.scores, kind="stable").tolist():
        if pile.ignored[row]:
            continue
        count = len(members)
        free = np.flatnonzero((ids[:count] == pile.ids[row]) & ~taken[:count, owner[row]])
        near = _iou(pile.boxes[[row]], boxes[free])[0]
        if near.max(initial=0) >= overlap:
            place = int(free[near.argmax()])
            rows = members[place]
            rows.append(row)
            weights = np.maximum(pile.scores[rows].astype(np.float64), 1e-6)
            boxes[place] = np.average(pile.boxes[rows], axis=0, weights=weights)
        else:
            place = count
            members.append([row])
            boxes[place], ids[place] = pile.boxes[row], pile.ids[row]
        taken[place, owner[row]] = True
    return [Cluster(rows, box) for rows, box in zip(members, boxes, strict=False)]


def _fused_box(members: Detection, box: Doubles, count: int, experts: int) -> Detection:
    """Return the members of a cluster as one object; ``count`` is the number of labels."""
    masks = None
    if members.masks is not None:
        pixels = np.stack([rle.decode(text, members.size) for text in members.masks if text is not None])
        masks = (rle.encode(_most(pixels)),)
    score = members.scores.sum(dtype=np.float64) / count
    return Detection(
        members.size,
        box[None].astype(np.float32),
        members.ids[:1],
        np.array([score], np.float32),
        np.array([len(members.ids) < experts]),
        masks,
    )


def _iou(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> Doubles:
    """Return the intersection over union [N,M] of xyxy boxes."""
    nothing = np.zeros(len(others), np.bool_)
    return overlaps(boxes.astype(np.float64), others.astype(np.float64), nothing)


ARRAYS = ("boxes", "ids", "scores", "ignored")
"""Fields of `Detection` with one row per object."""
