"""The comparison of the conventions of true labels between splits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from clipzoo.errors import PlanError, counted
from clipzoo.tasks.base import Convention


def check_meaning(conventions: Mapping[str, Mapping[str, Convention]]) -> None:
    """Raise `PlanError` unless the true labels of all splits have the same tasks and conventions.

    ``conventions`` maps split -> task -> convention; splits without true labels are ignored.
    """
    labeled = [split for split, by_task in conventions.items() if by_task]
    for one, other in combinations(labeled, 2):
        for task in dict.fromkeys([*conventions[one], *conventions[other]]):
            first, second = conventions[one].get(task), conventions[other].get(task)
            if first != second:
                raise PlanError(
                    f"the true labels of {one} and {other} differ: {_difference(task, one, first, other, second)}. "
                    "Probes fitted on one cannot be measured on the other. Give all splits columns <task>/truth of the "
                    "same tasks and classes (docs/benchmarks.md), or remove truth/ of one split"
                )


def _difference(task: str, one: str, first: Convention | None, other: str, second: Convention | None) -> str:
    if first is None:
        return f"{other} has true labels of {task}, {one} has none"
    if second is None:
        return f"{one} has true labels of {task}, {other} has none"
    if first.classes == second.classes:
        return f"{task} is {_kind(first)} in {one}, {_kind(second)} in {other}"
    if len(first.classes) != len(second.classes):
        return f"{task} has {_names(first)} in {one}, {_names(second)} in {other}"
    pairs = enumerate(zip(first.classes, second.classes, strict=True))
    index = next(i for i, (a, b) in pairs if a != b)
    classes = f"class {index} is {first.classes[index]} in {one}, {second.classes[index]} in {other}"
    return f"{task} has other classes: {classes}"


def describe(convention: Convention) -> str:
    """Return a convention as text: its classes, or its kind."""
    return _names(convention) if convention.classes else _kind(convention)


def _kind(convention: Convention) -> str:
    along = {None: "", "z": ", measured along z", "ray": ", measured along the ray"}[convention.along]
    return f"{convention.kind or 'of no stated kind'}{along}"


def _names(convention: Convention, most: int = 5) -> str:
    shown = ", ".join(convention.classes[:most]) + ", …" * (len(convention.classes) > most)
    return f"{counted(len(convention.classes), 'class', 'classes')} ({shown})"
