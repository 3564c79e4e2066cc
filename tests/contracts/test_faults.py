"""The laws have teeth: faults of published pipelines, sown into the tasks, break at least one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from laws import LAWS
from PIL import Image
from scene import CASES

from clipzoo import tasks
from clipzoo.errors import LabelError
from clipzoo.tasks import _fcos, maps, png, rle
from clipzoo.tasks.base import Additive, Task
from clipzoo.tasks.depth import DepthTask
from clipzoo.tasks.detection import DetectionMetric, DetectionTask
from clipzoo.tasks.edges import Edges, EdgesTask
from clipzoo.tasks.normals import Normals, NormalsTask
from clipzoo.tasks.segmentation import Segmentation, SegmentationTask
from clipzoo.types import View

FAULTS: dict[str, Task[Any]] = {}


def fault(cls: type[Task[Any]]) -> type[Task[Any]]:
    FAULTS[cls.__name__] = cls()
    return cls


# Geometry ---------------------------------------------------------------------------------------------------


@fault
class NormalsFlippedLikeAPicture(NormalsTask):
    def hflip(self, label: Normals) -> Normals:
        return Normals(maps.mirror(label.vectors), maps.mirror(label.valid))


@fault
class NormalsFlippedInY(NormalsTask):
    def hflip(self, label: Normals) -> Normals:
        seen = super().hflip(label)
        return Normals(seen.vectors * np.float32([[[-1]], [[-1]], [[1]]]), seen.valid)


@fault
class NormalsNotBroughtBackToLengthOne(NormalsTask):
    def crop_resize(self, label: Normals, view: View) -> Normals:
        return Normals(*maps.resample(label.vectors, label.valid, view))


@fault
class NormalsTurnedIntoTheCropsFrame(NormalsTask):
    def crop_resize(self, label: Normals, view: View) -> Normals:
        seen = super().crop_resize(label, view)
        angle = 0.5 * (view.crop[0] + view.crop[2] - 1)
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
        return Normals(np.tensordot(turn, seen.vectors, 1), seen.valid)


@fault
class ValidityNotFlipped(DepthTask):
    def hflip(self, label: Any) -> Any:
        return replace(label, values=maps.mirror(label.values))


@fault
class FlipForgotten(SegmentationTask):
    def hflip(self, label: Any) -> Any:
        return label


@fault
class FlipBeforeCrop(DepthTask):
    def view(self, label: Any, view: View) -> Any:
        return self.crop_resize(self.hflip(label) if view.flip else label, view)


@fault
class HeightAndWidthSwapped(DepthTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        return super().crop_resize(label, view.at((view.size[1], view.size[0])))


@fault
class CropAxesSwapped(SegmentationTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        x0, y0, x1, y1 = view.crop
        return super().crop_resize(label, View((y0, x0, y1, x1), view.size))


class Shifted:
    """A crop that begins one source pixel too far right."""

    def crop_resize(self, label: Any, view: View) -> Any:
        x0, y0, x1, y1 = view.crop
        step = 1 / label.valid.shape[1]
        moved = View((x0 + step, y0, min(x1 + step, 1), y1), view.size)
        return super().crop_resize(label, moved)  # type: ignore[misc]


@fault
class DepthCropOffByOne(Shifted, DepthTask):
    pass


@fault
class IdsCropOffByOne(Shifted, SegmentationTask):
    pass


@fault
class SampledAtCornersNotCenters(SegmentationTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        (H, W), (height, width), (x0, y0, x1, y1) = label.valid.shape, view.size, view.crop
        rows = ((y0 + np.arange(height) / height * (y1 - y0)) * H).astype(int)[:, None]
        columns = ((x0 + np.arange(width) / width * (x1 - x0)) * W).astype(int)
        return replace(label, ids=label.ids[rows, columns], valid=label.valid[rows, columns])


@fault
class IdsInterpolated(SegmentationTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        ids, valid = maps.resample(label.ids[None].astype(np.float32), label.valid, view)
        return replace(label, ids=np.rint(ids[0]).astype(np.uint16), valid=valid)


@fault
class HolesFilledByResampling(DepthTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        everywhere = np.ones_like(label.valid)
        values, _ = maps.resample(label.values[None], everywhere, view)
        return replace(label, values=values[0], valid=np.ones(view.size, bool))


@fault
class HolesAveragedInAsZero(DepthTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        values, _ = maps.resample(label.values[None], np.ones_like(label.valid), view)
        return replace(label, values=values[0], valid=super().crop_resize(label, view).valid)


@fault
class RayTakenForZ(DepthTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        return replace(super().crop_resize(label, view), along="z")


@fault
class ThinEdgesAveragedAway(EdgesTask):
    def crop_resize(self, label: Edges, view: View) -> Edges:
        values, valid = maps.resample(label.values[None], label.valid, view)
        return Edges(values[0], valid)


@fault
class ThinEdgesSteppedOver(EdgesTask):
    def crop_resize(self, label: Edges, view: View) -> Edges:
        return Edges(maps.nearest(label.values, view), maps.nearest(label.valid, view))


@fault
class HolesEatenByTheLargest(EdgesTask):
    def crop_resize(self, label: Edges, view: View) -> Edges:
        values, valid = maps.largest(label.valid.astype(np.float32), np.ones_like(label.valid), view)
        return Edges(super().crop_resize(label, view).values, valid & (values > 0))


@fault
class SidesNotExchangedByTheFlip(DetectionTask):
    def hflip(self, label: Any) -> Any:
        x0, y0, x1, y1 = label.boxes.T
        W = label.size[1]
        return replace(super().hflip(label), boxes=np.stack([W - x0, y0, W - x1, y1], 1))


@fault
class BoxesFlippedAtTheLastPixel(DetectionTask):
    def hflip(self, label: Any) -> Any:
        seen = super().hflip(label)
        return replace(seen, boxes=seen.boxes - np.float32([1, 0, 1, 0]))


@fault
class MasksLeftBehindByTheFlip(DetectionTask):
    def hflip(self, label: Any) -> Any:
        return replace(super().hflip(label), masks=label.masks)


@fault
class BoxesCropOffByOne(DetectionTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        seen = super().crop_resize(label, view)
        return replace(seen, boxes=np.clip(seen.boxes - 1, 0, None))


@fault
class BoxesNotMovedToTheCrop(DetectionTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        return super().crop_resize(label, View.whole(view.size))


@fault
class BoxAxesSwapped(DetectionTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        seen = super().crop_resize(label, view)
        (H, W), swap = view.size, [1, 0, 3, 2]
        return replace(seen, boxes=seen.boxes[:, swap] * np.float32([W / H, H / W, W / H, H / W]))


@fault
class CutOffBoxesKeptWhole(DetectionTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        seen = super().crop_resize(label, view)
        (x0, y0, x1, y1), (H, W) = view.box(label.size), view.size
        boxes = (label.boxes - np.float32([x0, y0, x0, y0])) * np.float32([W / (x1 - x0), H / (y1 - y0)] * 2)
        return replace(label, size=view.size, boxes=boxes) if len(boxes) == len(seen.boxes) else seen


@fault
class SliversKeptAsObjects(DetectionTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        seen = super().crop_resize(label, view)
        return replace(seen, ignored=np.zeros_like(seen.ignored))


@fault
class SliversDropped(DetectionTask):
    def crop_resize(self, label: Any, view: View) -> Any:
        seen = super().crop_resize(label, view)
        return seen.take(~seen.ignored)


# Label ------------------------------------------------------------------------------------------------------


@fault
class EightBitMinMaxDepth(DepthTask):
    def decode(self, data: bytes) -> Any:
        label = super().decode(data)
        known = label.values[label.valid]
        low, span = known.min(initial=9), np.ptp(known) if known.size else 1
        return replace(label, values=(low + np.rint((label.values - low) / span * 255) / 255 * span))


@fault
class UnknownStoredAsZeroMeters(DepthTask):
    def decode(self, data: bytes) -> Any:
        label = super().decode(data)
        return replace(label, valid=np.ones_like(label.valid))


@fault
class UnknownStoredAsBackground(SegmentationTask):
    def encode(self, label: Segmentation) -> bytes:
        return super().encode(replace(label, valid=np.ones_like(label.valid)))


@fault
class UnknownStoredAsNoEdge(EdgesTask):
    def decode(self, data: bytes) -> Edges:
        label = super().decode(data)
        return Edges(label.values, np.ones_like(label.valid))


@fault
class ColorCodedMask(SegmentationTask):
    def encode(self, label: Segmentation) -> bytes:
        return png.write(self.render(label, CASES["segmentation"][0].convention), self.name, {}, 6)


@fault
class CodesFrom0To255(NormalsTask):
    def encode(self, label: Normals) -> bytes:
        codes = ((label.vectors + 1) * 127.5).astype(np.uint8)
        return png.write(np.moveaxis(codes * label.valid, 0, -1), self.name, {}, 6)


@fault
class AnyPictureIsALabel(NormalsTask):
    def decode(self, data: bytes) -> Normals:
        try:
            return super().decode(data)
        except LabelError:
            return Normals(np.zeros((3, 4, 4), np.float32), np.zeros((4, 4), bool))


@fault
class WidthAndHeightTakenForACorner(DetectionTask):
    def decode(self, data: bytes) -> Any:
        label = super().decode(data)
        x, y, w, h = label.boxes.T
        return replace(label, boxes=np.stack([x, y, x + w, y + h], 1))


@fault
class IdsCountedFromOne(DetectionTask):
    def encode(self, label: Any) -> bytes:
        return super().encode(replace(label, ids=label.ids + np.uint16(1)))


@fault
class WholePixelsStored(DetectionTask):
    def encode(self, label: Any) -> bytes:
        return super().encode(replace(label, boxes=np.rint(label.boxes)))


@fault
class IgnoredStoredAsObjects(DetectionTask):
    def encode(self, label: Any) -> bytes:
        return super().encode(replace(label, ignored=np.zeros_like(label.ignored)))


@fault
class MasksTurned(DetectionTask):
    def decode(self, data: bytes) -> Any:
        label = super().decode(data)
        shapes = [rle.decode(text, label.size)[::-1, ::-1] for text in label.masks or ()]
        return replace(label, masks=tuple(map(rle.encode, shapes)) if label.masks else None)


# Learning ---------------------------------------------------------------------------------------------------


@fault
class MaskMultipliedIn(NormalsTask):
    def loss(self, raw: Any, target: Any, convention: Any) -> Any:
        error = 1 - F.cosine_similarity(raw, target["vectors"])
        return (error * target["valid"]).sum() / target["valid"].sum().clamp(min=1)


@fault
class LossNotMasked(DepthTask):
    def loss(self, raw: Any, target: Any, convention: Any) -> Any:
        return super().loss(raw, {**target, "valid": torch.ones_like(target["valid"])}, convention)


@fault
class GraphDetachedWhenNothingIsValid(SegmentationTask):
    def loss(self, raw: Any, target: Any, convention: Any) -> Any:
        return super().loss(raw, target, convention) if target["valid"].any() else torch.zeros(())


@fault
class MeanOfNothing(SegmentationTask):
    def loss(self, raw: Any, target: Any, convention: Any) -> Any:
        return F.cross_entropy(raw, torch.where(target["valid"], target["ids"], -100))


@fault
class ZeroTimesRaw(SegmentationTask):
    def loss(self, raw: Any, target: Any, convention: Any) -> Any:
        return super().loss(raw, target, convention) if target["valid"].any() else raw.sum() * 0


@fault
class RootWithoutEpsilon(DepthTask):
    def loss(self, raw: Any, target: Any, convention: Any) -> Any:
        error = torch.where(target["valid"], raw[:, 0] - self.oracle(target, convention)[:, 0], 0)
        return (error.square().sum() / target["valid"].sum().clamp(min=1)).sqrt()


@fault
class LogLearnedAsMeters(DepthTask):
    def predict(self, raw: Any, convention: Any) -> Any:
        return [replace(x, values=np.log(np.maximum(x.values, 1e-3))) for x in super().predict(raw, convention)]


@fault
class LogitsTakenForProbabilities(EdgesTask):
    def predict(self, raw: Any, convention: Any) -> Any:
        return [replace(x, values=np.log(x.values / (1 - x.values))) for x in super().predict(raw, convention)]


@fault
class EndlessLogits(EdgesTask):
    def oracle(self, target: Any, convention: Any) -> Any:
        values = torch.where(target["valid"], target["values"], 0.5)[:, None]
        return torch.where(values > 0.5, torch.inf, -torch.inf) * target["valid"][:, None]


@fault
class OracleTransposed(SegmentationTask):
    def oracle(self, target: Any, convention: Any) -> Any:
        return super().oracle(target, convention).transpose(2, 3)


@fault
class OracleChannelsReversed(SegmentationTask):
    def oracle(self, target: Any, convention: Any) -> Any:
        return super().oracle(target, convention).flip(1)


@fault
class MissingLabelIsClassZero(SegmentationTask):
    def collate(self, labels: Any, size: Any) -> Any:
        target = super().collate(labels, size)
        missing = torch.tensor([label is None for label in labels])
        return {**target, "valid": target["valid"] | missing[:, None, None]}


@fault
class IgnoredTaughtAsBackground(DetectionTask):
    def collate(self, labels: Any, size: Any) -> Any:
        target = super().collate(labels, size)
        known = torch.tensor([label is not None for label in labels])
        return {**target, "valid": known[:, None, None].expand_as(target["valid"])}


@fault
class AskedForgottenByTheFile(DetectionTask):
    def decode(self, data: bytes) -> Any:
        return replace(super().decode(data), asked=None)


@fault
class AskedForgottenByTheView(DetectionTask):
    def crop_resize(self, label: Any, view: Any) -> Any:
        return replace(super().crop_resize(label, view), asked=None)


@fault
class LargestBoxWins(DetectionTask):
    def collate(self, labels: Any, size: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            areas = _fcos.areas
            patch.setattr(_fcos, "areas", lambda boxes: -areas(boxes))
            return super().collate(labels, size)


@fault
class DistancesInPixels(DetectionTask):
    def collate(self, labels: Any, size: Any) -> Any:
        target = super().collate(labels, size)
        H, W = size
        return {**target, "distances": target["distances"] * torch.tensor([W, H, W, H]).view(1, 4, 1, 1)}


@fault
class GridTransposed(DetectionTask):
    def predict(self, raw: Any, convention: Any) -> Any:
        return [replace(one, boxes=one.boxes[:, [1, 0, 3, 2]]) for one in super().predict(raw, convention)]


@fault
class NothingSuppressed(DetectionTask):
    def predict(self, raw: Any, convention: Any) -> Any:
        every = super().predict(raw, convention)
        return [label.take(np.repeat(np.arange(len(label.ids)), 2)) for label in every]


# Judgment --------------------------------------------------------------------------------------------------


class Averaged(Additive):
    """Shares that are means already, so that small images weigh as much as large ones."""

    def __init__(self, metric: Additive) -> None:
        self.metric, self.measures = metric, metric.measures  # type: ignore[misc]

    def statistics(self, prediction: Any, truth: Any) -> Any:
        share = self.metric.statistics(prediction, truth)
        return share / max(share.sum(), 1)

    def compute(self, total: Any) -> dict[str, float]:
        return self.metric.compute(total)


@fault
class MetricOfMeans(SegmentationTask):
    def metric(self, convention: Any) -> Any:
        return Averaged(super().metric(convention))


@fault
class AnglesOfMeans(NormalsTask):
    def metric(self, convention: Any) -> Any:
        return Averaged(super().metric(convention))


class TruthTakenWhole(Additive):
    def __init__(self, metric: Additive) -> None:
        self.metric, self.measures = metric, metric.measures  # type: ignore[misc]

    def statistics(self, prediction: Any, truth: Any) -> Any:
        return self.metric.statistics(prediction, replace(truth, valid=np.ones_like(truth.valid)))

    def compute(self, total: Any) -> dict[str, float]:
        return self.metric.compute(total)


@fault
class UnknownTruthJudged(SegmentationTask):
    def metric(self, convention: Any) -> Any:
        return TruthTakenWhole(super().metric(convention))


class CrowdsUnknown(DetectionMetric):
    """Judges the regions in which nothing is known as background."""

    def statistics(self, prediction: Any, truth: Any) -> Any:
        return super().statistics(prediction, truth.take(~truth.ignored))


@fault
class IgnoredRegionsCountedAsBackground(DetectionTask):
    def metric(self, convention: Any) -> Any:
        return CrowdsUnknown(len(convention.classes))


class SummedUp(DetectionMetric):
    """Takes the mean over images for the measure of the set."""

    def resampled(self, rows: Any, weights: Any) -> Any:
        each = [super(SummedUp, self).resampled(row[None], np.ones((1, 1))) for row in rows]
        return {name: weights @ np.nan_to_num([one[name][0] for one in each]) / len(rows) for name in self.measures}


@fault
class MeanOfAveragePrecisions(DetectionTask):
    def metric(self, convention: Any) -> Any:
        return SummedUp(len(convention.classes))


@fault
class IgnoredDrawnAsObjects(DetectionTask):
    def render(self, label: Any, convention: Any) -> Any:
        return super().render(replace(label, ignored=np.zeros_like(label.ignored)), convention)


@fault
class UnknownEdgesJudged(EdgesTask):
    def metric(self, convention: Any) -> Any:
        return TruthTakenWhole(super().metric(convention))


@fault
class UnknownDrawn(DepthTask):
    def render(self, label: Any, convention: Any) -> Any:
        return super().render(replace(label, valid=np.ones_like(label.valid)), convention)


@fault
class PictureTurned(NormalsTask):
    def render(self, label: Any, convention: Any) -> Any:
        return np.asarray(Image.fromarray(super().render(label, convention)).rotate(180))


# The trial --------------------------------------------------------------------------------------------------


def broken(task: Task[Any]) -> Iterator[str]:
    """Yield the laws that a task breaks in any of its cases."""
    for law in LAWS:
        if any(_breaks(law, task, case) for case in CASES[task.name]):
            yield law.__name__


def _breaks(law: Callable[..., None], task: Task[Any], case: Any) -> bool:
    try:
        law(task, case)
    except (Exception, pytest.fail.Exception):  # a fault may also crash; Failed is no Exception
        return True
    return False


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(name: str) -> None:
    assert next(broken(FAULTS[name]), None), f"no law notices {name}"


@pytest.mark.parametrize("name", sorted({task.name for task in FAULTS.values()}))
def test_sound_task_breaks_nothing(name: str) -> None:
    assert list(broken(tasks.get(name))) == []
