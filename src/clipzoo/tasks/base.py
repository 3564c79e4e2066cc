"""The contract of a task: the meaning of its labels in storage, augmentation, training and evaluation.

A task file starts with its convention and exports ``TASK``, an instance of a subclass of `Task`. It has four parts:
label, geometry, learning, judgment. ``tests/contracts`` tests the contract for every task.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from clipzoo.errors import LabelError, PluginError
from clipzoo.types import ImageArray, View

if TYPE_CHECKING:  # the table of a store needs no PyTorch, whose import takes seconds
    from _typeshed import DataclassInstance
    from torch import Tensor

    from clipzoo.losses import InstalledLoss, LossPlugin

L = TypeVar("L")
Target = dict[str, "Tensor"]
"""A batch of labels as tensors, B first; always with a bool ``valid``, false where the label is unknown."""

Statistics = NDArray[np.float64]
"""Float64 [S]: the statistics of one image for a metric; zeros if nothing was valid."""

Rows = NDArray[np.float64]
"""Float64 [N,S]: statistics of N images; sets are merged by concatenation."""


VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "n/a", ""})
"""Class names that mean 'unknown'."""


def unknown(classes: Sequence[str]) -> list[int]:
    """Return the ids of classes whose names are in `VOID`, ignoring case."""
    return [i for i, name in enumerate(classes) if name.strip().lower() in VOID]


@dataclass(frozen=True, slots=True)
class Convention:
    """Meaning of a column's labels beyond their task; part of its manifest.

    ``classes`` are the names of the label space by id; ``kind`` and ``along`` define the meaning of depth values;
    ``channels`` is the length of feature vectors, 0 for other tasks.
    """

    classes: tuple[str, ...] = ()
    kind: Literal["metric", "affine-depth", "affine-disparity"] | None = None
    along: Literal["z", "ray"] | None = None
    channels: int = 0

    def to_json(self) -> dict[str, object]:
        """Return JSON values without empty fields."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Convention:
        """Return the convention of the values of `to_json`; missing fields are empty or None."""
        classes = tuple(values.get("classes", ()))
        return cls(classes, values.get("kind"), values.get("along"), int(values.get("channels", 0)))


@dataclass(frozen=True, slots=True)
class Mark:
    """An entry of the legend of a rendered label.

    ``color`` is RGB, 0 to 255; ``at`` is the position (x, y) of the text on the picture in normalized coordinates, None
    for an entry of the legend alone.
    """

    text: str
    color: tuple[int, int, int]
    at: tuple[float, float] | None = None

    @classmethod
    def of(cls, text: str, color: ImageArray, at: tuple[float, float] | None = None) -> Mark:
        """Return the mark of a color uint8 [3]."""
        red, green, blue = map(int, color)
        return cls(text, (red, green, blue), at)


@dataclass(frozen=True, slots=True)
class Measure:
    """Direction and unit of a measure; the unit is "" for a score in [0, 1].

    ``range`` has the smallest and largest possible value: by default 0 and 1 for scores of which higher ones are
    better, else any. Intervals do not leave it.
    """

    direction: Literal["higher", "lower"] = "higher"
    unit: str = ""
    range: tuple[float, float] | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and largest possible value."""
        score = self.direction == "higher" and not self.unit
        return self.range or ((0.0, 1.0) if score else (-math.inf, math.inf))


class Metric(ABC):
    """Measures over a set of images, computed from one row of statistics per image."""

    measures: ClassVar[Mapping[str, Measure]]
    """Name -> direction and unit; the first is the task's main measure."""

    over: ClassVar[str] = ""
    """Elements that the measures average over, as stated in results: images, pixels of the whole set."""

    @abstractmethod
    def statistics(self, prediction: Any, truth: Any) -> Statistics:
        """Return float64 [S] of one image; prediction and truth are labels of one size."""

    @abstractmethod
    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """Return the measures of R sets, float64 [R] each; NaN where nothing was valid.

        Args:
            rows: [N,S], the statistics of N images.
            weights: [R,N], whole numbers: the count of each image in each set.
        """

    def of(self, rows: Rows) -> dict[str, float]:
        """Return the measures of the images with ``rows`` [N,S]; NaN where nothing was valid."""
        return {name: float(values[0]) for name, values in self.resampled(rows, np.ones((1, len(rows)))).items()}


class Additive(Metric):
    """Measures whose statistics are additive: R sets are one matrix product."""

    @abstractmethod
    def compute(self, total: Statistics) -> dict[str, float]:
        """Return the measures of a sum of statistics [S]; NaN where nothing was valid."""

    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """Return the measures of R weighted sums of ``rows`` [N,S], float64 [R] each; ``weights`` is [R,N]."""
        computed = [self.compute(total) for total in weights @ rows]
        return {name: np.array([one[name] for one in computed], np.float64) for name in self.measures}


class Task(ABC, Generic[L]):
    """A kind of label. Stateless: differences between columns are passed as a `Convention`."""

    name: ClassVar[str]
    extension: ClassVar[str] = "png"
    head: ClassVar[str] = "conv"
    title: ClassVar[str] = ""
    """Name in reports, if different from ``name``."""

    # Label ---------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, label: L, convention: Convention) -> None:
        """Raise `LabelError` if the label breaks the contract."""

    @abstractmethod
    def encode(self, label: L) -> bytes:
        """Encode the label as a file, without loss except for the stated quantization."""

    def encode_as(self, label: L, codec: str) -> bytes:
        """Encode the label by the codec of a column; tasks with one codec ignore its name."""
        return self.encode(label)

    @abstractmethod
    def decode(self, data: bytes) -> L:
        """Decode a file written by `encode`; raise `LabelError` for any other data."""

    @abstractmethod
    def valid_share(self, label: L) -> float:
        """Return the share of the image, in [0, 1], where the label is known."""

    # Geometry ------------------------------------------------------------------------------------------

    @abstractmethod
    def crop_resize(self, label: L, view: View) -> L:
        """Return the label of the view's crop at the view's size, without its flip."""

    @abstractmethod
    def hflip(self, label: L) -> L:
        """Return the label of the mirrored scene."""

    def view(self, label: L, view: View) -> L:
        """Apply a view to the label: crop, resize, then flip."""
        resized = self.crop_resize(label, view)
        return self.hflip(resized) if view.flip else resized

    def read(self, data: bytes, view: View) -> L:
        """Return the label of a file as `decode`, `taught` and `view` do, by a shorter way where a task has one.

        ``data`` may be the first `levels.HEAD` bytes of a file; `levels.ShortError` is raised if they are not enough.
        """
        return self.view(self.taught(self.decode(data)), view)

    # Learning ------------------------------------------------------------------------------------------

    def taught(self, label: L) -> L:
        """Return the label without parts that `collate` does not use, which then need not be augmented."""
        return label

    @abstractmethod
    def channels(self, convention: Convention) -> int:
        """Return the number of channels of a prediction."""

    @abstractmethod
    def collate(self, labels: Sequence[L | None], size: tuple[int, int]) -> Target:
        """Return labels of one ``size`` (H, W) as a batch of tensors; None gives an entirely invalid label."""

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Return the names of built-in losses for such labels, the default first; none if `loss` is built in."""
        return ()

    def offered(self, convention: Convention) -> tuple[str, ...]:
        """Return the losses that a recipe may choose: `losses`, then installed ones for such labels."""
        from clipzoo import losses

        built_in = self.losses(convention)
        if not built_in:
            return ()
        others = [name for name in losses.PLUGINS.installed() if name not in built_in]
        return (*built_in, *(name for name in others if self._learned(name, convention)))

    def _learned(self, name: str, convention: Convention) -> bool:
        """Return True if an installed loss of this name learns such labels."""
        from clipzoo import losses

        if name not in losses.PLUGINS.installed():
            return False
        return bool(cast("InstalledLoss", losses.PLUGINS.load(name)).learns(self.name, convention))

    def criterion(self, convention: Convention, name: str | None = None) -> Callable[..., Tensor]:
        """Return the function of a loss, by default the first.

        Raises:
            PluginError: the loss is not available for such labels.
        """
        return self._loss_file(convention, name).loss

    def confidences(self, labels: Sequence[L | None], size: tuple[int, int]) -> Tensor | None:
        """Return the confidence of each pixel of a batch, float32 [B,*size] or [B,1,1]; None if labels have none.

        It is 1 for labels without a confidence, and any value where a label is unknown.
        """
        return None

    def weighs(self, convention: Convention, loss: str | None = None) -> bool:
        """Return True if `loss` applies a weight per pixel, ``target["weight"]``."""
        return False

    def trims(self, convention: Convention, loss: str | None = None) -> bool:
        """Return True if `loss` has an option ``trim``, the share of an image's pixels that it leaves out."""
        return False

    def raw_channels(self, convention: Convention, loss: str | None = None) -> int:
        """Return the number of channels of a head trained by a loss: `channels` plus those that the loss adds."""
        extra = getattr(self._loss_file(convention, loss), "EXTRA_CHANNELS", 0) if self.losses(convention) else 0
        return self.channels(convention) + int(extra)

    def _loss_file(self, convention: Convention, name: str | None) -> LossPlugin:
        from clipzoo import losses

        built_in = self.losses(convention)
        chosen = name or next(iter(built_in), "")
        if chosen in built_in or (built_in and self._learned(chosen, convention)):
            return losses.PLUGINS.load(chosen)
        labels = f"{convention.kind or ''} {self.name}".strip()
        choices = " or ".join(self.offered(convention))
        fix = f"choose {choices}" if choices else "omit the loss: this task has only its built-in one"
        raise PluginError(f"the loss {name!r} does not support {labels} labels; {fix}")

    @abstractmethod
    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: object
    ) -> Tensor:
        """Return the scalar loss of a head's raw output; 0 with the graph attached if nothing is valid.

        Args:
            raw: [B,C,H,W] with `raw_channels`.
            target: the result of `collate`.
            convention: the convention of the column.
            name: one of `offered`; default: the first.
            options: options of the loss.
        """

    @abstractmethod
    def predict(self, raw: Tensor, convention: Convention) -> list[L]:
        """Return the labels of a head's raw output [B,C,H,W], valid everywhere."""

    def unknown(self, size: tuple[int, int], convention: Convention) -> L:
        """Return a label of ``size`` (H, W) that is unknown everywhere; by default one with a field ``valid``."""
        raw = self.oracle(self.collate([None], size), convention)
        (label,) = self.predict(raw, convention)
        return cast("L", replace(cast("DataclassInstance", label), valid=np.zeros(size, np.bool_)))

    # Judgment -----------------------------------------------------------------------------------------

    @abstractmethod
    def metric(self, convention: Convention) -> Metric:
        """Return the metric for a column's convention."""

    def metrics(self, convention: Convention) -> Mapping[str, Metric]:
        """Return the metrics of other protocols by name, which are reported as ``<task>_<name>``; none by default."""
        return {}

    @abstractmethod
    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """Return the correct raw output [B,C,H,W]: the regression target of probes and the reference of tests."""

    @abstractmethod
    def render(self, label: L, convention: Convention) -> ImageArray:
        """Render the label as a picture, uint8 H×W×3; unknown pixels show no class or value."""

    def legend(self, label: L, convention: Convention) -> Sequence[Mark]:
        """Return the meaning of the colors of `render`, the most important first; none by default."""
        return ()


class MapTask(Task[L]):
    """A task whose losses are files of ``clipzoo/losses/``."""

    @abstractmethod
    def truth(self, target: Target, convention: Convention) -> Tensor:
        """Return the argument ``target`` of the losses; any value where not valid."""

    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: Any
    ) -> Tensor:
        """Return a loss of the folder, with ``target["weight"]`` if there is one; ``trim`` may be an option."""
        from clipzoo import losses

        file, truth = self._loss_file(convention, name), self.truth(target, convention)
        return losses.evaluate(file, raw, truth, target["valid"], target.get("weight"), **options)

    def weighs(self, convention: Convention, loss: str | None = None) -> bool:
        """Return True if the loss has values per pixel."""
        return hasattr(self._loss_file(convention, loss), "pixels")

    def trims(self, convention: Convention, loss: str | None = None) -> bool:
        """Return True if the loss has values per pixel, or an option ``trim``."""
        return self.weighs(convention, loss) or "trim" in signature(self.criterion(convention, loss)).parameters


def require(condition: bool, message: str) -> None:
    """Raise `LabelError` with ``message`` unless ``condition``."""
    if not condition:
        raise LabelError(message)
