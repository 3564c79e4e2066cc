"""Tests of the kind, sign and axes of depth, normals and edges, on rendered scenes with known truth.

Rendered scenes may be unlike an expert's training data, so no error is judged. Hypotheses about kind, sign and axes are
compared instead, and where none is significantly better the verdict is "unsure".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from clipzoo.conformance.agreement import GRID, correlation, part
from clipzoo.conformance.hypotheses import Fault, compare, to_verdict
from clipzoo.conformance.report import Verdict
from clipzoo.conformance.scenes import Scene
from clipzoo.errors import counted
from clipzoo.experts import ExpertInput
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.types import FloatArray, ImageArray

Doubles = NDArray[np.float64]

MARGIN = 0.1
"""Smaller differences of depth scores (Fisher's z of correlations) count as equal: 1/5 of the unexplained variance."""

GOOD = 2.0
"""Minimum score, a correlation of 0.964, at which z and ray, or disparity and negated depth, can be distinguished."""

LENS = 60.0
"""Assumed field of view of the longer side in degrees, where the camera is unknown."""

TURNABLE = 0.02
"""Smaller differences of mean cosines of normals count as equal."""

UNITS = {"millimeters": 1000.0, "centimeters": 100.0, "kilometers": 0.001}
"""Unit -> units per meter."""


# Depth -----------------------------------------------------------------------------------------------------


def depth(labels: Sequence[Depth], scenes: Sequence[Scene], convention: Convention) -> list[Verdict]:
    """Test the kind, the axis and, of metric depth, the unit of the labels of ``scenes``."""
    fits = [_fits(label, scene) for label, scene in zip(labels, scenes, strict=True)]
    kind = _kind(fits, convention)
    if kind.status == "fail":
        return [kind]
    scale = [_scale(labels, scenes)] if convention.kind == "metric" else []
    return [kind, _shape(fits, convention), *scale]


def _fits(label: Depth, scene: Scene) -> dict[str, float]:
    """Return the fit of a label to z, ray and their inverses, as Fisher's z of correlations."""
    known = np.ones(scene.depth.shape, np.bool_)
    seen = part("depth", label)
    z = part("depth", Depth(scene.depth, known, "metric", "z")).values[seen.valid]
    ray = part("depth", Depth(scene.depth * scene.stretch, known, "metric", "ray")).values[seen.valid]
    values = seen.values[seen.valid]
    if not values.size:
        return dict.fromkeys(("z", "ray", "1/z", "1/ray"), float("nan"))
    truths: dict[str, NDArray[np.floating]] = {"z": z, "ray": ray, "1/z": 1 / z, "1/ray": 1 / ray}
    return {name: float(np.arctanh(np.clip(correlation(values, t), -0.9999, 0.9999))) for name, t in truths.items()}


def _kind(fits: Sequence[dict[str, float]], convention: Convention) -> Verdict:
    """Test that larger values are farther, or nearer for disparity."""
    disparity, metric = convention.kind == "affine-disparity", convention.kind == "metric"
    faults: list[Fault[None]] = []
    if disparity:
        faults.append(Fault("values are depths, not disparities", "state kind: affine-depth, or metric", None))
    else:
        faults.append(Fault("values are disparities, not depths", "state kind: affine-disparity, or invert them", None))
    if not metric:  # metric values are larger than 0
        faults.append(Fault("values are negated", "negate the values", None))
    scores = []
    for fit in fits:
        far, near = max(fit["z"], fit["ray"]), max(fit["1/z"], fit["1/ray"])
        turned = -min(fit["1/z"], fit["1/ray"]) if disparity else -min(fit["z"], fit["ray"])
        scores.append([near, far, turned] if disparity else [far, near, turned])
    rows = [row[: 1 + len(faults)] for row in scores]
    return to_verdict("depth kind", compare(rows, MARGIN), faults, "fit (Fisher's z)")


def _shape(fits: Sequence[dict[str, float]], convention: Convention) -> Verdict:
    """Test that values are measured along the stated line, z or ray, and are not a related quantity."""
    line, inverse = "depth along", convention.kind == "affine-disparity"
    own, along = ("1/" if inverse else ""), convention.along
    faults: list[Fault[str]] = []
    if along is not None:
        other = "ray" if along == "z" else "z"
        names = {"z": "the optical axis (z)", "ray": "the line of sight (ray)"}
        fix = f"state along: {other}, or convert by the camera: ray = z · √(1 + x² + y²)"
        faults.append(Fault(f"depth is measured along {names[other]}, not along {names[along]}", fix, own + other))
    if convention.kind != "metric":
        cause = "values are negated depths, not disparities" if inverse else "values are negated disparities"
        faults.append(Fault(cause, "state the correct kind", "-" + ("" if inverse else "1/") + (along or "z")))
    ways = [own + along] if along else [own + "z", own + "ray"]
    rows = [[max(fit[way] for way in ways), *(_signed(fit, fault.reading) for fault in faults)] for fit in fits]
    outcome = compare(rows, MARGIN)
    if outcome.means.max() < GOOD:
        fits_text = ", ".join(f"{mean:.2f}" for mean in outcome.means)
        seen = f"fits of {fits_text} (Fisher's z) are too low to distinguish {along or 'z'} from similar quantities"
        return Verdict(line, "unsure", f"{seen}; {GOOD:g} is needed")
    return to_verdict(line, outcome, faults, "fit (Fisher's z)")


def _signed(fit: dict[str, float], way: str) -> float:
    return -fit[way[1:]] if way[0] == "-" else fit[way]


def _scale(labels: Sequence[Depth], scenes: Sequence[Scene]) -> Verdict:
    """Test that values can be meters: the rendered rooms are a few meters deep."""
    ratios = []
    for label, scene in zip(labels, scenes, strict=True):
        own, truth = part("depth", label), Depth(scene.depth, np.ones(scene.depth.shape, np.bool_), "metric", "z")
        if own.valid.any():
            ratios.append(float(np.median((own.values / part("depth", truth).values)[own.valid])))
    ratio = float(np.median(ratios)) if ratios else float("nan")
    seen = (
        f"{ratio:.3g} times the true meters (median of {len(ratios)} rendered pictures, whose scale experts must guess)"
    )
    if 0.2 < ratio < 5:
        return Verdict("depth scale", "pass", seen)
    unit = min(UNITS, key=lambda name: abs(np.log(max(ratio, 1e-9) / UNITS[name])))
    if abs(np.log(max(ratio, 1e-9) / UNITS[unit])) < np.log(2.5):
        return Verdict("depth scale", "fail", seen, f"values are {unit}", f"divide by {UNITS[unit]:g}")
    return Verdict("depth scale", "warn", seen, "values are not meters", "find their unit, or state an affine kind")


# Normals ---------------------------------------------------------------------------------------------------


def truth_of(scene: Scene) -> FloatArray:
    """Return the scene's normals [3,h,w] at the size of `GRID`."""
    vectors: FloatArray = part("normals", Normals(scene.normals, np.ones(scene.depth.shape, np.bool_))).vectors
    return vectors


def axes(line: str, labels: Sequence[Normals], truths: Sequence[FloatArray]) -> Verdict:
    """Test the axes of normals against true directions [3,h,w] at the size of `GRID`, 0 where unknown."""
    scores = []
    for label, truth in zip(labels, truths, strict=True):
        seen = part("normals", label)
        both = seen.valid & (np.abs(truth).sum(0) > 0)
        together = truth[:, both] @ seen.vectors[:, both].T / max(int(both.sum()), 1)
        scores.append([float((turn * together).sum()) if both.any() else float("nan") for turn in _TURNS])
    return to_verdict(line, compare(scores, TURNABLE), _FAULTY_AXES, "mean cosine")


def _turns() -> list[Doubles]:
    """Return all signed permutations of axes, contract = turn @ expert, the identity first."""
    turns = [
        np.eye(3)[list(order)].T * np.array(signs)
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    ]
    return [np.asarray(turn, np.float64) for turn in turns]


def _fault(turn: Doubles) -> Fault[Doubles]:
    """Return the fault of an expert whose vectors ``turn`` corrects."""
    ways = (("right", "left"), ("up", "down"), ("toward the viewer", "away from the viewer"))
    rows, signs = np.abs(turn).argmax(0), turn.sum(0)
    channels = [ways[row][int(sign < 0)] for row, sign in zip(rows, signs, strict=True)]
    moved = [i for i in range(3) if rows[i] != i]
    causes = [f"{'xyz'[moved[0]]} and {'xyz'[moved[1]]} are swapped"] if len(moved) == 2 else []
    if len(moved) == 3:
        causes = ["all axes are in other channels"]
    causes += [f"{'xyz'[row]} points {way}" for row, sign, way in zip(rows, signs, channels, strict=True) if sign < 0]
    frame = ",".join(f"{'xyz'[row]}-{way.split()[0]}" for row, way in zip(rows, channels, strict=True))
    return Fault(" and ".join(causes), f"its frame is {frame}: convert it to x-right,y-up,z-toward", turn)


_TURNS = _turns()
_FAULTY_AXES = [_fault(turn) for turn in _TURNS[1:]]


def facing(labels: Sequence[Normals]) -> Verdict:
    """Test that normals face the viewer, as all visible surfaces do; needs no true labels."""
    shares = []
    for label in labels:
        resized = part("normals", label)
        if resized.valid.any():
            shares.append(float((resized.vectors[2, resized.valid] < -0.2).mean()))
    if not shares:
        return Verdict("facing", "unsure", "no picture has known normals")
    share = float(np.mean(shares))
    seen = f"{share:.0%} of the normals of {counted(len(shares), 'picture')} point away from the viewer"
    if share < 0.1:
        return Verdict("facing", "pass", seen)
    cause = "z points away from the viewer" if share > 0.8 else "the third channel is not z toward the viewer"
    fix = "convert to x right, y up, z toward the viewer"
    return Verdict("facing", "fail", f"{seen}, where surfaces are not visible", cause, fix)


# Two experts on the user's own pictures --------------------------------------------------------------------


def normals_with_depth(
    normals: Sequence[Normals], depths: Sequence[Depth], convention: Convention, size: tuple[int, int]
) -> Verdict:
    """Test the axes of normals against normals computed from depth labels of the same pictures of ``size``."""
    verdict = axes("normals with depth", normals, [_from_depth(label, convention, size) for label in depths])
    ambiguous = next(fault.cause for fault in _FAULTY_AXES if np.array_equal(fault.reading, np.diag([-1, -1, 1])))
    if verdict.cause != ambiguous:
        return verdict
    cause = "x and y of the normals are negated, or near and far of the depth are exchanged"
    fix = "check each expert alone: the rendered scenes show which of the two is wrong"
    return Verdict(verdict.line, verdict.status, verdict.seen, cause, fix)


def _from_depth(label: Depth, convention: Convention, size: tuple[int, int]) -> FloatArray:
    """Return normals [3,h,w] of a depth label at the size of `GRID`; of affine kinds, only their signs are right."""
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
    """Return depth up to scale; for affine kinds, the farthest point is set to five times the nearest."""
    if convention.kind == "metric" or not valid.any():
        return np.maximum(values, 1e-3)
    low, high = np.percentile(values[valid], (1, 99))
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(1 / (0.2 + 0.8 * share) if convention.kind == "affine-disparity" else 1 + 4 * share)


# Edges -----------------------------------------------------------------------------------------------------


def edges(labels: Sequence[Edges], inputs: Sequence[ExpertInput]) -> Verdict:
    """Test that edge probabilities are higher where pictures change."""
    faults = [Fault("probabilities are inverted: high where there is no edge", "return 1 − p", None)]
    scores = []
    for label, sample in zip(labels, inputs, strict=True):
        seen, change = part("edges", label), part("edges", _change(sample.image))
        r = correlation(seen.values[seen.valid], change.values[seen.valid]) if seen.valid.any() else float("nan")
        scores.append([r, -r])
    return to_verdict("edge polarity", compare(scores, MARGIN), faults, "correlation with contrast")


def _change(image: ImageArray) -> Edges:
    gray = image.mean(2)
    steps = np.abs(np.diff(gray, axis=0, append=gray[-1:])) + np.abs(np.diff(gray, axis=1, append=gray[:, -1:]))
    return Edges((steps / max(float(steps.max()), 1e-9)).astype(np.float32), np.ones(gray.shape, np.bool_))
