"""Columns of one task and one meaning as one: ``ensemble:<task>/<slug>,<task>/<slug>,…[?option=value&…]``.

Where experts agree, the label is sure; where they do not, it is unknown (`clipzoo.derived._fusion`). Labels of
different sizes are brought to that of the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipzoo import tasks
from clipzoo.derived import _fusion
from clipzoo.derived.base import DerivedExpert, split_name
from clipzoo.errors import ExpertError
from clipzoo.experts._answers import Parser, answer, number, split
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size, View

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "segmentation": {"agree": "the least share of all columns that must have a pixel's class, by default 0.5"},
    "depth": {"spread": "the largest mean difference from the median, in shares of it, by default 0.25"},
    "normals": {"angle": "the largest mean angle to the mean direction, in degrees, by default 30"},
    "edges": {},
    "detection": {
        "overlap": "from which intersection over union on two boxes are of one object, by default 0.55",
        "experts": "how many columns must have an object, by default more than half",
    },
}
"""Task -> option -> how it is answered. Defaults: half of all; δ1's factor of 1.25; the widest bound that normals are
judged by; the overlap of the paper.
"""

FUSE: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = {
    "segmentation": lambda labels, given: _fusion.vote(labels, given.get("agree", 0.5)),
    "depth": lambda labels, given: _fusion.middle(labels, given.get("spread", 0.25)),
    "normals": lambda labels, given: _fusion.direction(labels, given.get("angle", 30.0)),
    "edges": lambda labels, given: _fusion.mean(labels),
    "detection": lambda labels, given: _fusion.fuse(
        labels, given.get("overlap", 0.55), given.get("experts", len(labels) // 2 + 1)
    ),
}
"""Task -> labels of one size and the URI's answers -> one label."""


def create(name: str) -> Ensemble:
    """The expert of ``<task>/<slug>,<task>/<slug>,…?…``.

    Raises:
        ExpertError: fewer than two columns, or of different tasks, or an option that the task does not have.
    """
    listed, _, query = name.partition("?")
    columns = [part.strip() for part in listed.split(",")]
    found = {split_name(column, "ensemble")[0] for column in columns}
    if len(found) > 1 or not found <= OPTIONS.keys() or len(set(columns)) < max(len(columns), 2):
        raise ExpertError(
            f"ensemble: {listed!r} names columns of {' and '.join(sorted(found))}; give two or more different columns "
            f"of one task, out of {', '.join(OPTIONS)}, with commas"
        )
    (task,) = found
    given = split(query)
    fields = answer(given, {}, OPTIONS[task], PARSERS, "ensemble", task)
    if fields.get("experts", 1) > len(columns):
        raise ExpertError(f"ensemble: experts={fields['experts']}, but there are {len(columns)} columns; ask for fewer")
    return Ensemble(f"ensemble:{name}", task, columns, given, fields)


class Ensemble(DerivedExpert):
    """The labels of several columns as one."""

    def __init__(
        self, uri: str, task: str, reads: Sequence[str], given: Mapping[str, str], fields: Mapping[str, Any]
    ) -> None:
        super().__init__(uri, task, reads, given)
        self.fields = fields

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """That of all of them."""
        for name, convention in zip(self.reads, read, strict=True):
            if convention != read[0]:
                raise ExpertError(
                    f"{self.card.uri}: the labels of {name} mean {convention.to_json()}, those of {self.reads[0]} "
                    f"{read[0].to_json()}; only labels of one meaning can be compared: leave one out"
                )
        return read[0]

    def derive(self, read: Sequence[Any], size: Size) -> Any:
        """One label of the largest one's size."""
        task, sizes = tasks.get(self.card.task), [_size(label) for label in read]
        largest = max(sizes, key=lambda one: one[0] * one[1])
        same = [
            label if own == largest else task.crop_resize(label, View.whole(largest))
            for label, own in zip(read, sizes, strict=True)
        ]
        return FUSE[self.card.task](same, self.fields)


def _size(label: Any) -> Size:
    """(H, W)."""
    height, width = label.size if isinstance(label, Detection) else label.valid.shape
    return height, width


PARSERS: Mapping[str, Parser] = {
    "agree": number("agree", 0, 1),
    "spread": number("spread", 0, 10),
    "angle": number("angle", 0, 180),
    "overlap": number("overlap", 0.01, 1),
    "experts": number("experts", 1, 1000, int),
}
"""Option -> its answer as a field, as in ``_answers.PARSERS``."""
