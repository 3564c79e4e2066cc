"""Several columns of one task and one convention as one: ``ensemble:<task>/<slug>,<task>/<slug>,…[?option=value&…]``.

Where experts disagree, the label is unknown (`clipzoo.derived._fusion`). Labels of different sizes are resized to the
largest size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from clipzoo import tasks
from clipzoo.derived import _fusion
from clipzoo.derived.base import DerivedExpert, split_name
from clipzoo.errors import ExpertError
from clipzoo.experts.options import Options, Share, parse, split
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import Size, View

Label = Segmentation | Depth | Normals | Edges | Detection


class Fusion(Options):
    """Options of one task, and the fusion of its labels."""

    @abstractmethod
    def fuse(self, labels: Sequence[Any]) -> object:
        """Return several labels of one size as one."""


class SegmentationFusion(Fusion):
    """See `_fusion.vote`."""

    agree: Share = Field(
        0.5, description="the least share of all columns that must have a pixel's class, by default 0.5"
    )

    def fuse(self, labels: Sequence[Segmentation]) -> Segmentation:
        """Return the majority."""
        return _fusion.vote(labels, self.agree)


class DepthFusion(Fusion):
    """See `_fusion.middle`. The default is the factor of δ1."""

    spread: Annotated[float, Field(ge=0, le=10)] = Field(
        0.25, description="the largest mean difference from the median, in shares of it, by default 0.25"
    )

    def fuse(self, labels: Sequence[Depth]) -> Depth:
        """Return the median."""
        return _fusion.middle(labels, self.spread)


class NormalsFusion(Fusion):
    """See `_fusion.direction`. The default is the largest threshold of the metrics of normals."""

    angle: Annotated[float, Field(ge=0, le=180)] = Field(
        30.0, description="the largest mean angle to the mean direction, in degrees, by default 30"
    )

    def fuse(self, labels: Sequence[Normals]) -> Normals:
        """Return the mean direction."""
        return _fusion.direction(labels, self.angle)


class EdgesFusion(Fusion):
    """See `_fusion.mean`."""

    def fuse(self, labels: Sequence[Edges]) -> Edges:
        """Return the mean."""
        return _fusion.mean(labels)


class DetectionFusion(Fusion):
    """See `_fusion.fuse`. The default of ``overlap`` is that of the paper."""

    overlap: Annotated[float, Field(ge=0.01, le=1)] = Field(
        0.55, description="the intersection over union from which on two boxes are of one object, by default 0.55"
    )
    experts: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="the number of columns that must have an object, by default more than half"
    )

    def fuse(self, labels: Sequence[Detection]) -> Detection:
        """Return weighted boxes."""
        least = len(labels) // 2 + 1 if self.experts is None else self.experts
        return _fusion.fuse(labels, self.overlap, least)


FUSIONS: Mapping[str, type[Fusion]] = {
    "segmentation": SegmentationFusion,
    "depth": DepthFusion,
    "normals": NormalsFusion,
    "edges": EdgesFusion,
    "detection": DetectionFusion,
}
"""Task -> options and fusion."""


def create(name: str) -> Ensemble:
    """Return the expert of ``<task>/<slug>,<task>/<slug>,…?…``.

    Raises:
        ExpertError: fewer than two columns, columns of different tasks, or wrong options.
    """
    listed, _, query = name.partition("?")
    columns = [part.strip() for part in listed.split(",")]
    tasks_named = {split_name(column, "ensemble")[0] for column in columns}
    if len(tasks_named) > 1 or not tasks_named <= FUSIONS.keys() or len(set(columns)) < max(len(columns), 2):
        raise ExpertError(
            f"ensemble: {listed!r} names columns of {' and '.join(sorted(tasks_named))}; name two or more columns "
            f"of one of the tasks {', '.join(FUSIONS)}, with commas"
        )
    (task,) = tasks_named
    given = split(query)
    fusion = parse(FUSIONS[task], given, "ensemble", f"labels of {task}")
    if isinstance(fusion, DetectionFusion) and (fusion.experts or 1) > len(columns):
        raise ExpertError(f"ensemble: experts={fusion.experts}, but there are {len(columns)} columns; reduce experts=")
    return Ensemble(f"ensemble:{name}", task, columns, given, fusion)


class Ensemble(DerivedExpert[Label]):
    """The labels of several columns as one."""

    def __init__(self, uri: str, task: str, reads: Sequence[str], given: Mapping[str, str], fusion: Fusion) -> None:
        super().__init__(uri, task, reads, given)
        self.fusion = fusion

    def meaning(self, read: Sequence[Convention]) -> Convention:
        """Return the convention of all columns; `ExpertError` if they differ."""
        for name, convention in zip(self.reads, read, strict=True):
            if convention != read[0]:
                raise ExpertError(
                    f"{self.card.uri}: the convention of {name} is {convention.to_json()}, that of {self.reads[0]} is "
                    f"{read[0].to_json()}; only labels of one convention can be fused: remove one"
                )
        return read[0]

    def derive(self, read: Sequence[Label], size: Size) -> object:
        """Return one label of the largest label's size."""
        task, sizes = tasks.get(self.card.task), [_size(label) for label in read]
        largest = max(sizes, key=lambda one: one[0] * one[1])
        same = [
            label if own == largest else task.crop_resize(label, View.whole(largest))
            for label, own in zip(read, sizes, strict=True)
        ]
        return self.fusion.fuse(same)


def _size(label: Label) -> Size:
    """Return (H, W)."""
    height, width = label.size if isinstance(label, Detection) else label.valid.shape
    return height, width
