"""Tests that labels keep their contract, and of label spaces: ids, void, names, and predicted classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from clipzoo import tasks
from clipzoo.conformance import geometry
from clipzoo.conformance.pictures import mirrored
from clipzoo.conformance.report import Verdict
from clipzoo.conformance.running import answers, violation
from clipzoo.errors import ExpertError, counted
from clipzoo.experts import Expert, ExpertInput
from clipzoo.tasks.base import unknown
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation

Classified = Segmentation | Detection
"""A label with classes."""

BACKGROUND = frozenset({"background", "__background__", "bg"})

LONE = 0.9
"""Share of pictures with at most one class above which the verdict is a warning."""


def sound(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> Verdict:
    """Test that every label keeps its task's contract; a failure names the probable fault."""
    reasons = [violation(expert, label) for label in labels]
    broken = [reason for reason in reasons if reason]
    if not broken:
        task = tasks.get(expert.card.task)
        if labels and not any(task.valid_share(label) for label in labels):
            seen = f"all pixels of {counted(len(labels), 'label')} are unknown"
            fix = "look at the outputs for NaN: another dtype or precision, or undamaged weights"
            return Verdict("sound", "warn", seen, "the outputs are not finite, or all are masked", fix)
        return Verdict("sound", "pass", f"the contract of {expert.card.task} holds for {counted(len(labels), 'label')}")
    cause, fix = _probable_fault(expert, inputs, labels)
    seen = f"the contract does not hold for {len(broken)} of {counted(len(labels), 'label')}: {broken[0]}"
    return Verdict("sound", "fail", seen, cause, fix)


def _probable_fault(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> tuple[str, str]:
    """Return the probable cause and fix of labels that break their contract."""
    count = len(expert.card.convention.classes)
    seen = np.unique(np.concatenate([_ids(label) for label in labels]))
    beyond = seen[seen >= count]
    if len(beyond) == 1 and beyond[0] in (255, 65535):
        return f"void ({beyond[0]}) is given as a class", "mark these pixels as not valid"
    if len(beyond) and beyond[0] == count and 0 not in seen:
        return "ids start at 1", "subtract 1: ids start at 0 in the order of the classes"
    if len(beyond):
        return "ids are outside of the label space", "name all classes of the model in the convention, in order"
    if expert.card.task == "detection" and (form := _form(expert, inputs, labels)):
        return form
    return "labels break the contract", "see docs/experts.md, and clipzoo tasks"


def _ids(label: object) -> NDArray[np.integer]:
    """Return the valid ids of an object that may not be a correct label."""
    ids = getattr(label, "ids", None)
    if not isinstance(ids, np.ndarray):
        return np.zeros(0, np.int64)
    valid = np.asarray(getattr(label, "valid", None)).astype(np.bool_) if ids.ndim == 2 else np.bool_(True)
    return ids[valid] if valid.shape == ids.shape else ids.ravel()


def _form(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[object]) -> tuple[str, str] | None:
    """Return the fault of the form of boxes and its fix, as detected by mirroring; None if there is none."""
    try:
        others = answers(expert, [mirrored(sample) for sample in inputs])
        faults, outcome = geometry.compare_box_forms(
            cast(Sequence[Detection], labels), cast(Sequence[Detection], others)
        )
    except (ExpertError, AttributeError, IndexError, TypeError, ValueError):
        return None
    if not outcome.best or not outcome.clear:
        return None
    fault = faults[outcome.best - 1]
    return fault.cause, fault.fix


def space(expert: Expert, labels: Sequence[Classified], own: bool) -> Verdict:
    """Test that classes are named, none means 'unknown', and several are predicted; ``own``: on the user's pictures."""
    names = expert.card.convention.classes
    if not names:
        fix = "name the classes in Convention(classes=…)"
        return Verdict("label space", "fail", "the convention names no classes", "no label space", fix)
    seen = _summary(names, labels)
    if named := _badly_named(expert.card.task, names):
        return Verdict("label space", "warn", seen, *named)
    void_ids = unknown(names)
    void = sorted({names[i] for label in labels for i in _used(label) if i in void_ids})
    if void:
        fix = "mark its pixels as not valid and its boxes as ignored"
        return Verdict("label space", "fail", seen, f"{void[0]!r} is given as a class, though it means 'unknown'", fix)
    lone = float(np.mean([len(_used(label)) <= 1 for label in labels]))
    if lone <= LONE or (expert.card.task == "detection" and any(len(_used(label)) for label in labels)):
        return Verdict("label space", "pass", seen)
    fix = "inspect labels of your own pictures: --images"
    return Verdict("label space", "warn" if own else "unsure", seen, "pictures have one class or none", fix)


def _badly_named(task: str, names: Sequence[str]) -> tuple[str, str] | None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        return f"{twice[0]!r} names several classes", "name each class once, or merge them"
    if all(name.upper() == f"LABEL_{i}" for i, name in enumerate(names)):
        return "classes have no names", "set the model's id2label: unnamed classes cannot be combined with others"
    backgrounds = [name for name in names if name.strip().lower() in BACKGROUND]
    if task == "detection" and backgrounds:
        return f"{backgrounds[0]!r} is a class of boxes", "remove it: background is where no box is"
    return None


def _used(label: Classified) -> list[int]:
    ids = label.ids[~label.ignored] if isinstance(label, Detection) else label.ids[label.valid]
    return [int(i) for i in np.unique(ids)]


def _summary(names: Sequence[str], labels: Sequence[Classified]) -> str:
    """Return a summary: the share of known pixels, and the number of pictures of the most frequent classes."""
    counts = np.bincount([i for label in labels for i in _used(label)], minlength=len(names))
    most = [f"{names[i]} in {counts[i]}" for i in np.argsort(-counts, kind="stable")[:5] if counts[i]]
    known = float(np.mean([label.valid.mean() for label in labels]))
    classes = f"{np.count_nonzero(counts)} of {len(names)} classes occur in {counted(len(labels), 'picture')}"
    return f"{classes}{': ' if most else ''}{', '.join(most)}; {known:.0%} of pixels are known"
