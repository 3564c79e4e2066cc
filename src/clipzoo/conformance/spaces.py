"""Whether labels are sound, and label spaces sane: ids, void, names, and classes that come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipzoo.conformance import geometry
from clipzoo.conformance.card import Verdict
from clipzoo.conformance.pictures import mirrored
from clipzoo.conformance.running import ask, unsound
from clipzoo.errors import ExpertError
from clipzoo.experts import Expert, ExpertInput
from clipzoo.tasks.base import unknown

BACKGROUND = frozenset({"background", "__background__", "bg"})

LONE = 0.9
"""The share of pictures with one class only from which on a look is wanted."""


def sound(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any]) -> Verdict:
    """Whether every label keeps its task's contract; if not, what it would keep it as."""
    reasons = [unsound(expert, label) for label in labels]
    broken = [reason for reason in reasons if reason]
    if not broken:
        return Verdict("sound", "pass", f"{len(labels)} labels keep the contract of {expert.card.task}")
    cause, fix = _why(expert, inputs, labels)
    return Verdict("sound", "fail", f"{len(broken)} of {len(labels)} labels do not: {broken[0]}", cause, fix)


def _why(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any]) -> tuple[str, str]:
    """What is probably wrong with unsound labels, and the fix."""
    count = len(expert.card.convention.classes)
    seen = np.unique(np.concatenate([_ids(label) for label in labels]))
    beyond = seen[seen >= count]
    if len(beyond) == 1 and beyond[0] in (255, 65535):
        return f"void ({beyond[0]}) is given as a class", "mark these pixels as not valid"
    if len(beyond) and beyond[0] == count and 0 not in seen:
        return "ids count from 1", "subtract 1: ids count from 0 in the order of the classes"
    if len(beyond):
        return "ids lie outside of the label space", "name all classes of the model in the convention, in their order"
    if expert.card.task == "detection" and (form := _form(expert, inputs, labels)):
        return form
    return "labels break the contract", "see docs/experts.md, and clipzoo tasks"


def _ids(label: Any) -> NDArray[Any]:
    """All ids of what may be a label, but for those that it says are not valid."""
    ids = getattr(label, "ids", None)
    if not isinstance(ids, np.ndarray):
        return np.zeros(0, np.int64)
    valid = np.asarray(getattr(label, "valid", None)).astype(np.bool_) if ids.ndim == 2 else np.bool_(True)
    return ids[valid] if valid.shape == ids.shape else ids.ravel()


def _form(expert: Expert, inputs: Sequence[ExpertInput], labels: Sequence[Any]) -> tuple[str, str] | None:
    """The form of boxes that mirroring tells."""
    try:
        wrongs, outcome = geometry.readings(labels, ask(expert, [mirrored(sample) for sample in inputs]))
    except (ExpertError, AttributeError, IndexError, TypeError, ValueError):
        return None
    if not outcome.best or not outcome.clear:
        return None
    wrong = wrongs[outcome.best - 1]
    return wrong.cause, wrong.fix


def space(expert: Expert, labels: Sequence[Any], own: bool) -> Verdict:
    """Whether classes are named, none of them means 'unknown', and several come; ``own``: on the user's pictures."""
    names = expert.card.convention.classes
    if not names:
        return Verdict(
            "label space", "fail", "it names no classes", "no label space", "name them in Convention(classes=…)"
        )
    seen = _seen(names, labels)
    if named := _badly_named(expert.card.task, names):
        return Verdict("label space", "warn", seen, *named)
    nothing = unknown(names)
    void = sorted({names[i] for label in labels for i in _used(label) if i in nothing})
    if void:
        fix = "mark its pixels as not valid, its boxes as ignored"
        return Verdict("label space", "fail", seen, f"{void[0]!r} is given as a class, though it means 'unknown'", fix)
    lone = float(np.mean([len(_used(label)) <= 1 for label in labels]))
    if lone <= LONE or (expert.card.task == "detection" and any(len(_used(label)) for label in labels)):
        return Verdict("label space", "pass", seen)
    cause = "pictures have one class or none"
    return Verdict(
        "label space", "warn" if own else "unsure", seen, cause, "look at labels of your own pictures: --images"
    )


def _badly_named(task: str, names: Sequence[str]) -> tuple[str, str] | None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        return f"{twice[0]!r} names several classes", "name each class once, or merge them"
    if all(name.upper() == f"LABEL_{i}" for i, name in enumerate(names)):
        return "classes have no names", "give the model's own id2label: labels that nobody can name mix with nothing"
    if task == "detection" and (found := [name for name in names if name.strip().lower() in BACKGROUND]):
        return f"{found[0]!r} is a class of boxes", "leave it out: background is where no box is"
    return None


def _used(label: Any) -> list[int]:
    ids = label.ids[label.valid] if label.ids.ndim == 2 else label.ids[~label.ignored]
    return [int(i) for i in np.unique(ids)]


def _seen(names: Sequence[str], labels: Sequence[Any]) -> str:
    """How much is known, and which classes come in how many pictures, the most frequent first."""
    counts = np.bincount([i for label in labels for i in _used(label)], minlength=len(names))
    most = [f"{names[i]} in {counts[i]}" for i in np.argsort(-counts, kind="stable")[:5] if counts[i]]
    known = float(np.mean([label.valid.mean() for label in labels]))
    classes = f"{np.count_nonzero(counts)} of {len(names)} classes come in {len(labels)} pictures"
    return f"{classes}{': ' if most else ''}{', '.join(most)}; {known:.0%} of pixels are known"
