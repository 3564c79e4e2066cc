"""Batches of a plan: images, tokens and targets, with one view per sample; `clipzoo.data.loading` reads them.

>>> dataset = TrainingSet(plan, reader, labels, viewing)          # doctest: +SKIP
>>> for batch in loader(dataset, batch_size=256, tokenize=student.tokenize):  # doctest: +SKIP
...     batch.images, batch.tokens, batch.targets["depth/demo-depth"]["valid"]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clipzoo import files
from clipzoo.data import _pixels
from clipzoo.data._pixels import Viewing
from clipzoo.data.captions import draw_caption
from clipzoo.data.online import OnlineColumn, Picture
from clipzoo.data.plan import Plan, entry_of
from clipzoo.data.sampling import Position
from clipzoo.errors import ClipzooError, LostError, PlanError, RemoteError, StoreError, shell_word
from clipzoo.experts import ExpertInput
from clipzoo.plugins import hint
from clipzoo.readers.base import Reader
from clipzoo.store import TAR_MARK, Column
from clipzoo.tasks import Task
from clipzoo.tasks import get as get_task
from clipzoo.tasks.base import Target
from clipzoo.types import ImageArray, Size, View, decode_image

CHECK = 60.0
"""Seconds after which a process checks again that the labels of a shard are those of the plan."""


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A column in training: image pixels per target pixel, and the exponent of confidences that weight pixels."""

    column: Column
    stride: int = 2
    confidence_weight: float | None = None

    @property
    def task(self) -> Task[Any]:
        """The column's task; `PluginError` if it is unknown."""
        return get_task(self.column.task)

    @property
    def remedy(self) -> str:
        """Advice where labels cannot be read."""
        store = self.column.path.parent.parent
        return f"Run `clipzoo labels verify {shell_word(store)}`, which names them, and label these shards again"

    def collate(self, labels: Sequence[Any], size: tuple[int, int]) -> Target:
        """Return the target of a batch, with the ``weight`` of each pixel if pixels are weighted."""
        target = self.task.collate(labels, size)
        if not self.confidence_weight:
            return target
        sure = self.task.confidences(labels, size)
        return target if sure is None else {**target, "weight": sure.pow(self.confidence_weight)}


class Skipped(NamedTuple):
    """A sample, or a label of it, that could not be read; the reason of a label begins with the name of its column."""

    shard: str
    key: str
    reason: str


@dataclass
class ViewedSample:
    """One sample with its view applied.

    ``skipped`` is the reason if it could not be read, ``damaged`` maps columns to the reasons of unreadable labels,
    ``lost`` is an error that ends training, and ``picture`` the input of online experts, if there are any.
    """

    key: str
    image: ImageArray | None = None
    caption: str = ""
    labels: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None
    damaged: dict[str, str] = field(default_factory=dict)
    lost: ClipzooError | None = None
    picture: Picture | None = None
    shard: str = ""


@dataclass
class Batch:
    """The data of one training step.

    Attributes:
        images: uint8 [B,H,W,3] RGB.
        tokens: int64 [B,L].
        captions: B strings.
        keys: B keys of the dataset.
        targets: column -> target of its task, with ``valid``, which is False everywhere for a missing label.
        skipped: unreadable samples, which are not among the B, and unreadable labels.
        unreadable: column -> (unreadable labels, labels in the plan); the column "" counts samples.
        lost: the error that ends training, raised by `clipzoo.data.loader`.
        pictures: the inputs of online experts, until these have labeled them.
    """

    images: Tensor
    tokens: Tensor
    captions: list[str]
    targets: dict[str, Target]
    skipped: list[Skipped]
    unreadable: dict[str, tuple[int, int]] = field(default_factory=dict)
    lost: ClipzooError | None = None
    keys: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by the DataLoader."""
        targets = {c: {k: v.pin_memory() for k, v in t.items()} for c, t in self.targets.items()}
        return replace(self, images=self.images.pin_memory(), tokens=self.tokens.pin_memory(), targets=targets)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on ``device``."""
        targets = {c: {k: v.to(device, non_blocking=True) for k, v in t.items()} for c, t in self.targets.items()}
        images, tokens = (t.to(device, non_blocking=True) for t in (self.images, self.tokens))
        return replace(self, images=images, tokens=tokens, targets=targets)


class TrainingSet(Dataset[ViewedSample]):
    """Map-style dataset: position (epoch, row) -> sample with a randomly drawn view.

    Args:
        plan: the samples and the places of their labels.
        reader: the dataset of the plan.
        labels: column name in the plan -> column.
        viewing: parameters of the views.
        seed: views are a pure function of (seed, epoch, row).
        mixture: dataset -> weight, for a plan of several datasets; empty for the order of the plan.
        captions: field -> weight in the draw of a sample's caption; the dataset was opened with these fields.
        online: column name -> column whose labels are predicted for each batch, in the process that iterates.

    Raises:
        PlanError: the dataset was opened without fields of ``captions``, or a column is not in the plan, or its targets
            would have no pixel.
    """

    def __init__(
        self,
        plan: Plan,
        reader: Reader,
        labels: Mapping[str, LabelColumn],
        viewing: Viewing,
        seed: int = 0,
        mixture: Mapping[str, float] | None = None,
        captions: Mapping[str, float] | None = None,
        online: Mapping[str, OnlineColumn] | None = None,
    ) -> None:
        if missing := set(captions or {}) - set(reader.drawn):
            raise PlanError(
                f"captions has {min(missing)!r}, but the dataset was opened without this field. Open it by "
                f"open_dataset(location, fields={sorted(captions or {})})"
            )
        self.captions = dict(captions or {})
        self.plan, self.reader, self.labels, self.mixture = plan, reader, dict(labels), dict(mixture or {})
        self.viewing, self.seed, self.online = viewing, seed, dict(online or {})
        self._check_columns()
        self._watches = {name: _Watch(used.column, plan.tars.get(name, {})) for name, used in self.labels.items()}
        self.threads = max(reader.threads, *(files.threads(used.column.path) for used in labels.values()), 1)

    def _check_columns(self) -> None:
        for name in self.labels:
            if f"{name}:offset" not in self.plan.table.column_names:
                raise PlanError(
                    f"the plan has no column {name!r}; {hint(name, self.plan.coverage())}. Give Plan.build and "
                    "TrainingSet the same names"
                )
        least = min(min(size) for size in self.viewing.sizes or (self.viewing.size,))
        for name, used in self.supervision.items():
            if not 1 <= used.stride <= least:
                raise PlanError(
                    f"{name} has stride={used.stride}, the number of image pixels per target pixel, and the smallest "
                    f"side of an image has {least} pixels. Give 1 to {least}, such as stride=2"
                )

    def __getstate__(self) -> dict[str, object]:
        """Return the state for a worker process, which needs only the names of online columns."""
        return {**vars(self), "online": dict.fromkeys(self.online)}

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def supervision(self) -> dict[str, LabelColumn | OnlineColumn]:
        """All columns by name."""
        return {**self.labels, **self.online}

    def __getitem__(self, position: Position | int) -> ViewedSample:
        """Return one sample.

        Raises:
            LostError: a column's file is missing, or its labels have changed since the plan was made.
            RemoteError: a remote file cannot be reached.
        """
        (sample,) = self.__getitems__([(0, position) if isinstance(position, int) else position])
        if sample.lost:
            raise sample.lost
        return sample

    def __getitems__(self, positions: Sequence[Position]) -> list[ViewedSample]:
        """Return the samples of a batch, or a single one with `ViewedSample.lost`; called by the DataLoader."""
        rows = self.plan.rows([position[1] for position in positions])
        pairs = zip(rows, positions, strict=True)
        try:
            return list(files.map_ahead(lambda pair: self._read(*pair), pairs, self.threads))
        except (LostError, RemoteError) as error:  # torch would add a worker's traceback to the message
            return [ViewedSample("", lost=error)]

    def _read(self, row: Mapping[str, Any], position: Position) -> ViewedSample:
        epoch, index, *step = position
        try:
            sample = self.reader.read(entry_of(row))
            image = decode_image(sample.image)
        except RemoteError:
            raise
        except ClipzooError as error:
            return ViewedSample(row["key"], skipped=str(error), shard=row["shard"])
        rng = np.random.default_rng([self.seed, epoch, index])
        v, whole = self.viewing, image
        size = v.size_of(self.seed, *step) if step else v.size
        view = View.draw(rng, image.shape[:2], size, v.scale, v.ratio, v.flip)
        view, pixels = _pixels.viewed(image, view, v.resampling)
        pixels = _pixels.jittered(pixels, rng, v.jitter)
        viewed = ViewedSample(row["key"], pixels, draw_caption(sample, rng, self.captions), shard=row["shard"])
        if self.online:
            viewed.picture = Picture(ExpertInput(row["key"], whole, sample.caption), view, row["shard"])
        for name in self.labels:
            try:
                viewed.labels[name] = self._label(name, row, view)
            except (LostError, RemoteError):
                raise
            except ClipzooError as error:  # an unreadable label is treated as missing
                viewed.labels[name], viewed.damaged[name] = None, str(error)
        return viewed

    def _label(self, name: str, row: Mapping[str, Any], view: View) -> Any:
        offset = row[f"{name}:offset"]
        if offset is None:
            return None
        source = self.labels[name]
        self._watches[name].check(row["shard"])
        size = row[f"{name}:size"]
        return source.column.view(row["shard"], row["key"], offset, size, view.at(self.target_size(name, view.size)))

    def target_size(self, name: str, size: Size | None = None) -> Size:
        """Return (H, W) of a column's targets in pixels: the images' size divided by the stride, rounded down."""
        H, W = size or self.viewing.size
        stride = self.supervision[name].stride
        return H // stride, W // stride

    def collate(self, samples: Sequence[ViewedSample], tokenize: Callable[[Sequence[str]], Tensor]) -> Batch:
        """Return the samples as a batch, without those that could not be read.

        Args:
            samples: elements of this dataset.
            tokenize: N texts -> int64 [N,L]; N is 0 if no sample could be read.

        Raises:
            LostError, RemoteError: see `__getitem__`.
        """
        return self.finished(self.collated(samples, tokenize))

    def finished(self, batch: Batch) -> Batch:
        """Return the batch with the labels of online columns.

        Raises:
            LostError, RemoteError: see `__getitem__`.
            ExpertError: an online expert cannot be loaded, or fails.
        """
        if batch.lost:
            raise batch.lost
        targets, skipped, unreadable = dict(batch.targets), list(batch.skipped), dict(batch.unreadable)
        H, W = batch.images.shape[1:3]
        for name, column in self.online.items():
            targets[name], reasons = column.targets(batch.pictures, self.target_size(name, (H, W)))
            for index, reason in reasons.items():
                picture = batch.pictures[index]
                skipped.append(Skipped(picture.shard, picture.sample.key, f"{name}: {reason}"))
            unreadable[name] = len(reasons), len(batch.pictures)
        return replace(batch, targets=targets, skipped=skipped, unreadable=unreadable, pictures=[])

    def collated(self, samples: Sequence[ViewedSample], tokenize: Callable[[Sequence[str]], Tensor]) -> Batch:
        """Return the samples as a batch without the labels of online columns, and with `Batch.lost`."""
        lost = next((s.lost for s in samples if s.lost), None)
        usable = [s for s in samples if s.image is not None]
        pixels = [s.image for s in usable if s.image is not None]
        H, W = pixels[0].shape[:2] if pixels else self.viewing.size
        skipped = [Skipped(s.shard, s.key, s.skipped or "") for s in samples if s.image is None]
        skipped += [Skipped(s.shard, s.key, f"{name}: {why}") for s in samples for name, why in s.damaged.items()]
        targets = {
            name: source.collate([s.labels[name] for s in usable], self.target_size(name, (H, W)))
            for name, source in self.labels.items()
        }
        images = np.stack(pixels) if pixels else np.zeros((0, H, W, 3), np.uint8)
        captions = [s.caption for s in usable]
        unreadable = {"": (len(samples) - len(usable), len(samples))} | {
            name: _unreadable(usable, name) for name in targets
        }
        keys = [s.key for s in usable]
        seen = [s.picture for s in usable if s.picture is not None]
        return Batch(
            torch.from_numpy(images), tokenize(captions), captions, targets, skipped, unreadable, lost, keys, seen
        )


class _Watch:
    """Compares a column's shards with the plan: at the first read of a shard, and after a change every `CHECK` seconds.

    Args:
        column: the labels.
        tars: shard -> checksum of its labels in the plan.
    """

    def __init__(self, column: Column, tars: Mapping[str, str]) -> None:
        self.column, self.tars = column, tars
        self._known: dict[str, tuple[float, str]] = {}  # shard -> time of the last check, state of its rows

    def check(self, shard: str) -> None:
        """Raise `LostError` if the shard is missing or its labels have changed, `RemoteError` if it cannot be "
        "reached."""
        at, known = self._known.get(shard, (-math.inf, ""))
        if not self.tars.get(shard) or time.monotonic() - at < CHECK:
            return
        state = files.state(self.column.file(shard, ".parquet"))
        if not state or state != known:
            self._compare(shard)
        self._known[shard] = time.monotonic(), state

    def _compare(self, shard: str) -> None:
        try:
            mark = self.column.marks(shard).get(TAR_MARK)
        except StoreError as error:
            raise LostError(f"{error}. The labels of {self.column.name} cannot be compared with the plan") from error
        if mark != self.tars[shard]:
            raise LostError(
                f"the shard {shard!r} of {self.column.path} has other labels than when the plan was made: the column "
                "was labeled or imported again during training. Restore the labels and rerun the command, or train on "
                "the new labels with another --out"
            )


def _unreadable(usable: Sequence[ViewedSample], name: str) -> tuple[int, int]:
    """Return (unreadable labels of a column, labels in the plan)."""
    damaged = sum(name in s.damaged for s in usable)
    return damaged, damaged + sum(s.labels.get(name) is not None for s in usable)
