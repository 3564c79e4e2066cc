"""Whether the true labels of several splits can be compared, said in words."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from clipzoo.errors import PlanError
from clipzoo.tasks.base import Convention


def check_meaning(conventions: Mapping[str, Mapping[str, Convention]]) -> None:
    """Raise `PlanError` unless the true labels of all splits are of the same tasks and mean the same.

    ``conventions`` maps split -> task -> what its labels mean; a split without true labels has no task.
    """
    for (one, mine), (other, theirs) in combinations([pair for pair in conventions.items() if pair[1]], 2):
        for task in dict.fromkeys([*mine, *theirs]):
            if mine.get(task) != theirs.get(task):
                raise PlanError(
                    f"the true labels of {one} and {other} differ in tasks or in what labels mean: "
                    f"{_difference(task, (one, mine.get(task)), (other, theirs.get(task)))}; probes that are fitted on "
                    "one cannot be measured on the other: give all splits columns <task>/truth of the same tasks and "
                    "classes (docs/benchmarks.md), or leave the folder truth/ of one out"
                )


def _difference(task: str, *pair: tuple[str, Convention | None]) -> str:
    (one, mine), (other, theirs) = pair
    if mine is None or theirs is None:
        has, lacks = (other, one) if mine is None else (one, other)
        return f"{has} has true labels of {task}, {lacks} has none"
    if mine.classes == theirs.classes:
        return f"{task} is {_kind(mine)} in {one}, {_kind(theirs)} in {other}"
    if len(mine.classes) != len(theirs.classes):
        return f"{task} has {_names(mine)} in {one}, {_names(theirs)} in {other}"
    at = next(i for i, names in enumerate(zip(mine.classes, theirs.classes, strict=True)) if len({*names}) == 2)
    return f"{task} has other classes: class {at} is {mine.classes[at]} in {one}, {theirs.classes[at]} in {other}"


def _kind(convention: Convention) -> str:
    along = {None: "", "z": ", measured along z", "ray": ", measured along the ray"}[convention.along]
    return f"{convention.kind or 'of no stated kind'}{along}"


def _names(convention: Convention, most: int = 5) -> str:
    shown = ", ".join(convention.classes[:most]) + ", …" * (len(convention.classes) > most)
    return f"{len(convention.classes)} classes ({shown})"
