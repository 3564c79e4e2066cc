"""What the numbers of depth, normals and edges mean, held against rendered scenes whose truth is known.

An expert knows pictures like those it was trained on, and rendered ones may be foreign to it. So no error is measured:
hypotheses about kind, sign and axes compete for its answers, and where none is clearly better the verdict is "unsure".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzoo.conformance.agreement import GRID, correlation, part
from clipzoo.conformance.card import Verdict
from clipzoo.conformance.hypotheses import Wrong, contest, judged
from clipzoo.conformance.scenes import Scene
from clipzoo.experts import ExpertInput
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.types import FloatArray, ImageArray

Doubles = NDArray[np.float64]

MARGIN = 0.1
"""Scores of depth (z of Fisher's correlations) that differ by less are equal: a fifth of the unexplained variance."""

GOOD = 2.0
"""The least score, a correlation of 0.964, at which depth is told from what is nearly depth."""

LENS = 60.0
"""Degrees that the longer side of pictures is taken to see, where their cameras are unknown."""

TURNABLE = 0.02
"""Mean cosines of normals that differ by less are equal."""

UNITS = {"millimeters": 1000.0, "centimeters": 100.0, "kilometers": 0.001}
"""Unit -> how many make a meter."""


# Depth -----------------------------------------------------------------------------------------------------


def depth(labels: Sequence[Any], scenes: Sequence[Scene], convention: Convention) -> list[Verdict]:
    """Kind, axis and, where metric, unit of the labels of ``scenes``."""
    fits = [_fits(label, scene) for label, scene in zip(labels, scenes, strict=True)]
    kind = _kind(fits, convention)
    if kind.status == "fail":
        return [kind]
    scale = [_scale(labels, scenes)] if convention.kind == "metric" else []
    return [kind, _shape(fits, convention), *scale]


def _fits(label: Any, scene: Scene) -> dict[str, float]:
    """How well the label fits each of z, ray and their inverses, as Fisher's z of correlations."""
    known = np.ones(scene.depth.shape, np.bool_)
    seen = part("depth", label)
    z = part("depth", Depth(scene.depth, known, "metric", "z")).values[seen.valid]
    ray = part("depth", Depth(scene.depth * scene.stretch, known, "metric", "ray")).values[seen.valid]
    values = seen.values[seen.valid]
    if not values.size:
        return dict.fromkeys(("z", "ray", "1/z", "1/ray"), float("nan"))
    truths = {"z": z, "ray": ray, "1/z": 1 / z, "1/ray": 1 / ray}
    return {name: float(np.arctanh(np.clip(correlation(values, t), -0.9999, 0.9999))) for name, t in truths.items()}


def _kind(fits: Sequence[dict[str, float]], convention: Convention) -> Verdict:
    """Whether larger means farther, or nearer, as the convention says; and if not, what the values are instead."""
    disparity, metric = convention.kind == "affine-disparity", convention.kind == "metric"
    wrongs: list[Wrong[None]] = []
    if disparity:
        wrongs.append(Wrong("values are depths, not disparities", "state kind: affine-depth, or metric", None))
    else:
        wrongs.append(Wrong("values are disparities, not depths", "state kind: affine-disparity, or invert them", None))
    if not metric:  # metric values are larger than 0
        wrongs.append(Wrong("values have their sign turned", "negate the values", None))
    scores = []
    for fit in fits:
        far, near = max(fit["z"], fit["ray"]), max(fit["1/z"], fit["1/ray"])
        turned = -min(fit["1/z"], fit["1/ray"]) if disparity else -min(fit["z"], fit["ray"])
        scores.append([near, far, turned] if disparity else [far, near, turned])
    rows = [row[: 1 + len(wrongs)] for row in scores]
    return judged("depth kind", contest(rows, MARGIN), wrongs, "fit (Fisher's z)")


def _shape(fits: Sequence[dict[str, float]], convention: Convention) -> Verdict:
    """Whether values run along z or the ray, and are not what else rises or falls with them."""
    line, inverse = "depth along", convention.kind == "affine-disparity"
    own, along = ("1/" if inverse else ""), convention.along
    wrongs: list[Wrong[str]] = []
    if along is not None:
        other = "ray" if along == "z" else "z"
        names = {"z": "the optical axis (z)", "ray": "the line of sight (ray)"}
        fix = f"state along: {other}, or convert by the camera: ray = z · √(1 + x² + y²)"
        wrongs.append(Wrong(f"depth runs along {names[other]}, not along {names[along]}", fix, own + other))
    if convention.kind != "metric":
        what = (
            "values are depths with their sign turned, not disparities" if inverse else "values are negated disparities"
        )
        wrongs.append(Wrong(what, "state the kind that they are of", "-" + ("" if inverse else "1/") + (along or "z")))
    ways = [own + along] if along else [own + "z", own + "ray"]
    rows = [[max(fit[way] for way in ways), *(_signed(fit, wrong.how) for wrong in wrongs)] for fit in fits]
    outcome = contest(rows, MARGIN)
    if outcome.means.max() < GOOD:
        seen = f"fits of {', '.join(f'{x:.2f}' for x in outcome.means)} (Fisher's z) are too rough to tell"
        return Verdict(line, "unsure", f"{seen} {along or 'z'} from its likes; {GOOD:g} would do")
    return judged(line, outcome, wrongs, "fit (Fisher's z)")


def _signed(fit: dict[str, float], way: str) -> float:
    return -fit[way[1:]] if way[0] == "-" else fit[way]


def _scale(labels: Sequence[Any], scenes: Sequence[Scene]) -> Verdict:
    """Whether values can be meters: the rendered rooms are a few meters deep."""
    ratios = []
    for label, scene in zip(labels, scenes, strict=True):
        seen, truth = part("depth", label), Depth(scene.depth, np.ones(scene.depth.shape, np.bool_), "metric", "z")
        if seen.valid.any():
            ratios.append(float(np.median((seen.values / part("depth", truth).values)[seen.valid])))
    ratio = float(np.median(ratios)) if ratios else float("nan")
    seen = (
        f"{ratio:.3g} of the true meters in the middle of {len(ratios)} pictures, whose sizes are a guess for experts"
    )
    if 0.2 < ratio < 5:
        return Verdict("depth scale", "pass", seen)
    unit = min(UNITS, key=lambda name: abs(np.log(max(ratio, 1e-9) / UNITS[name])))
    if abs(np.log(max(ratio, 1e-9) / UNITS[unit])) < np.log(2.5):
        return Verdict("depth scale", "fail", seen, f"values are {unit}", f"divide by {UNITS[unit]:g}")
    return Verdict("depth scale", "warn", seen, "values are no meters", "find their unit, or state an affine kind")


# Normals ---------------------------------------------------------------------------------------------------


def truth_of(scene: Scene) -> FloatArray:
    """The scene's normals at `GRID`'s size, [3,h,w]."""
    vectors: FloatArray = part("normals", Normals(scene.normals, np.ones(scene.depth.shape, np.bool_))).vectors
    return vectors


def axes(line: str, labels: Sequence[Any], truths: Sequence[FloatArray]) -> Verdict:
    """Which channel of normals points where, held against directions [3,h,w] of `GRID`'s size, 0 where unknown."""
    scores = []
    for label, truth in zip(labels, truths, strict=True):
        seen = part("normals", label)
        both = seen.valid & (np.abs(truth).sum(0) > 0)
        together = truth[:, both] @ seen.vectors[:, both].T / max(int(both.sum()), 1)
        scores.append([float((turn * together).sum()) if both.any() else float("nan") for turn in _TURNS])
    return judged(line, contest(scores, TURNABLE), _WRONG_AXES, "mean cosine")


def _turns() -> list[Doubles]:
    """All signed permutations of axes, ours = turn @ theirs, the identity first."""
    turns = [
        np.eye(3)[list(order)].T * np.array(signs)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    return [np.asarray(turn, np.float64) for turn in turns]


def _told(turn: Doubles) -> Wrong[Doubles]:
    """What is wrong with an expert whose vectors have to be turned so, in words, and its frame."""
    ways = (("right", "left"), ("up", "down"), ("toward the viewer", "away from the viewer"))
    rows, signs = np.abs(turn).argmax(0), turn.sum(0)
    channels = [ways[row][int(sign < 0)] for row, sign in zip(rows, signs, strict=True)]
    moved = [i for i in range(3) if rows[i] != i]
    told = [f"{'xyz'[moved[0]]} and {'xyz'[moved[1]]} are swapped"] if len(moved) == 2 else []
    if len(moved) == 3:
        told = ["all axes stand in other channels"]
    told += [f"{'xyz'[row]} points {way}" for row, sign, way in zip(rows, signs, channels, strict=True) if sign < 0]
    frame = ",".join(f"{'xyz'[row]}-{way.split()[0]}" for row, way in zip(rows, channels, strict=True))
    return Wrong(" and ".join(told), f"its frame is {frame}: convert it to x-right,y-up,z-toward", turn)


_TURNS = _turns()
_WRONG_AXES = [_told(turn) for turn in _TURNS[1:]]


def facing(labels: Sequence[Any]) -> Verdict:
    """Whether normals face the viewer, as what is seen must: it needs no truth, only the user's own pictures."""
    shares = [
        float((seen.vectors[2, seen.valid] < -0.2).mean())
        for seen in (part("normals", x) for x in labels)
        if seen.valid.any()
    ]
    if not shares:
        return Verdict("facing", "unsure", "no normal is known in any picture")
    share = float(np.mean(shares))
    seen = f"{share:.0%} of the normals of {len(shares)} pictures point away from the viewer"
    if share < 0.1:
        return Verdict("facing", "pass", seen)
    cause = "z points away from the viewer" if share > 0.8 else "the third channel is not z toward the viewer"
    return Verdict(
        "facing", "fail", f"{seen}; such surfaces cannot be seen", cause, "convert to x right, y up, z toward"
    )


# Two experts on the user's own pictures --------------------------------------------------------------------


def together(normals: Sequence[Any], depths: Sequence[Any], convention: Convention, size: tuple[int, int]) -> Verdict:
    """Whether normals agree, axis by axis, with those that follow from the depth of the same pictures of ``size``."""
    found = axes("normals with depth", normals, [_from_depth(label, convention, size) for label in depths])
    both = next(wrong.cause for wrong in _WRONG_AXES if np.array_equal(wrong.how, np.diag([-1, -1, 1])))
    if found.cause != both:
        return found
    cause = "x and y of the normals are turned, or near and far of the depth are exchanged"
    fix = "check each of the two alone: the rendered scenes tell which of them it is"
    return Verdict(found.line, found.status, found.seen, cause, fix)


def _from_depth(label: Any, convention: Convention, size: tuple[int, int]) -> FloatArray:
    """Normals [3,h,w] of a depth label, of `GRID`'s size; those of affine kinds have the right signs alone."""
    seen, (h, w) = part("depth", label), GRID
    tangent = np.tan(np.radians(LENS) / 2) / max(size)
    x = ((np.arange(w) + 0.5) * 2 / w - 1) * tangent * size[1]
    y = (1 - (np.arange(h) + 0.5) * 2 / h)[:, None] * tangent * size[0]
    far = _meters(seen.values.astype(np.float64), seen.valid, convention)
    far = far / np.sqrt(1 + x**2 + y**2) if convention.along == "ray" else far
    points = np.stack([x * far, y * far, -far])
    across = np.cross(np.gradient(points, axis=2), -np.gradient(points, axis=1), axis=0)
    across *= -np.sign((across * points).sum(0))  # toward the camera
    across /= np.maximum(np.linalg.norm(across, axis=0), 1e-12)
    return np.asarray(across * seen.valid, np.float32)


def _meters(values: Doubles, valid: NDArray[np.bool_], convention: Convention) -> Doubles:
    """Depth up to a scale; of affine kinds, the farthest is five times as far as the nearest."""
    if convention.kind == "metric" or not valid.any():
        return np.maximum(values, 1e-3)
    low, high = np.percentile(values[valid], (1, 99))
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(1 / (0.2 + 0.8 * share) if convention.kind == "affine-disparity" else 1 + 4 * share)


# Edges -----------------------------------------------------------------------------------------------------


def edges(labels: Sequence[Any], inputs: Sequence[ExpertInput]) -> Verdict:
    """Whether edges are likely where pictures change, rather than where they do not."""
    wrongs = [Wrong("probabilities are inverted: they are those of no edge", "give 1 − p", None)]
    scores = []
    for label, sample in zip(labels, inputs, strict=True):
        seen, change = part("edges", label), part("edges", _change(sample.image))
        r = correlation(seen.values[seen.valid], change.values[seen.valid]) if seen.valid.any() else float("nan")
        scores.append([r, -r])
    return judged("edge polarity", contest(scores, MARGIN), wrongs, "correlation with contrast")


def _change(image: ImageArray) -> Edges:
    gray = image.mean(2)
    steps = np.abs(np.diff(gray, axis=0, append=gray[-1:])) + np.abs(np.diff(gray, axis=1, append=gray[:, -1:]))
    return Edges((steps / max(float(steps.max()), 1e-9)).astype(np.float32), np.ones(gray.shape, np.bool_))
