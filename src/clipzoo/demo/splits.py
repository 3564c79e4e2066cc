"""The splits that ``demo:`` and ``rooms:`` have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clipzoo.demo import render
from clipzoo.locations import Proposals
from clipzoo.tasks.base import Convention

PROPOSALS: Proposals = {
    "model": "demo:clip",
    "experts": ["demo:segmentation", "demo:depth", "demo:normals"],
    "benchmarks": "demo:",
    "epochs": 8.0,
}
"""Answers that ``clipzoo new`` proposes for pictures of rooms."""

_SPLIT = re.compile(r"(?:demo|rooms):(\w+)(?:\?count=\d+)?")


def shares(one: str, other: str) -> bool:
    """Return True if two locations are of one split, whichever of the two schemes each has."""
    first, second = _SPLIT.fullmatch(one), _SPLIT.fullmatch(other)
    return first is not None and second is not None and first[1] == second[1]


def conventions(location: str) -> Mapping[str, Convention]:
    """Return task -> convention of the true labels of a location; empty for splits that have none."""
    match = _SPLIT.fullmatch(location)
    return render.conventions() if match and match[1] in render.WITH_TRUTH else {}
