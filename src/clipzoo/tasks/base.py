"""The contract that every task signs: what a label means, everywhere it goes.

A task file opens with a paragraph of convention and exports ``TASK``, an instance of a subclass of `Task`. It has
four parts: label, geometry, learning, judgment. ``tests/contracts`` holds the laws, applied to every file here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clipzoo import losses
from clipzoo.errors import LabelError, PluginError
from clipzoo.losses import InstalledLoss, LossPlugin
from clipzoo.types import ImageArray, View

L = TypeVar("L")
Target = dict[str, Tensor]
"""A batch of labels as tensors, B first; always with a bool ``valid``, false where nothing is known."""

Statistics = NDArray[np.float64]
"""Float64 [S]: all that a metric remembers of one image; zeros if that is nothing."""

Rows = NDArray[np.float64]
"""Float64 [N,S]: statistics of N images; sets are merged by stacking."""


VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored", "unknown", "n/a", ""})
"""Names of classes that mean 'not known'."""


def unknown(classes: Sequence[str]) -> list[int]:
    """Ids of classes whose names are in `VOID`, in any case of letters."""
    return [i for i, name in enumerate(classes) if name.strip().lower() in VOID]


@dataclass(frozen=True, slots=True)
class Convention:
    """What the labels of a column mean beyond their task; part of its manifest.

    ``classes`` is the label space's names by id; ``kind`` and ``along`` tell what a depth value is.
    """

    classes: tuple[str, ...] = ()
    kind: Literal["metric", "affine-depth", "affine-disparity"] | None = None
    along: Literal["z", "ray"] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, empty fields left out."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Convention:
        """The inverse of `to_json`; what is missing is empty or None."""
        return cls(tuple(values.get("classes", ())), values.get("kind"), values.get("along"))


@dataclass(frozen=True, slots=True)
class Measure:
    """How to read a number: which direction is better, and its unit ("" for a score in [0, 1])."""

    direction: Literal["higher", "lower"] = "higher"
    unit: str = ""


class Metric(ABC):
    """A measure over a set of images, from one row of statistics an image."""

    measures: ClassVar[Mapping[str, Measure]]
    """Name -> how to read it; the first is the task's headline."""

    over: ClassVar[str] = ""
    """What they are means over, as results state it: images, pixels of the whole set."""

    @abstractmethod
    def statistics(self, prediction: Any, truth: Any) -> Statistics:
        """Float64 [S] of one image; prediction and truth are labels of one size."""

    @abstractmethod
    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """The measures of R sets, float64 [R] each; NaN where nothing was valid.

        Args:
            rows: [N,S], the statistics of N images.
            weights: [R,N], whole numbers: how often each image is in each set.
        """

    def of(self, rows: Rows) -> dict[str, float]:
        """The measures of the images with these ``rows`` [N,S]; NaN where nothing was valid."""
        return {name: float(one[0]) for name, one in self.resampled(rows, np.ones((1, len(rows)))).items()}


class Additive(Metric):
    """A measure whose statistics add up: R sets are one matrix product."""

    @abstractmethod
    def compute(self, total: Statistics) -> dict[str, float]:
        """The measures of a sum of statistics [S]; NaN where nothing was valid."""

    def resampled(self, rows: Rows, weights: Rows) -> dict[str, NDArray[np.float64]]:
        """The measures of R weighted sums of ``rows`` [N,S], float64 [R] each; ``weights`` is [R,N]."""
        computed = [self.compute(total) for total in weights @ rows]
        return {name: np.array([one[name] for one in computed], np.float64) for name in self.measures}


class Task(ABC, Generic[L]):
    """A kind of label. Stateless; what differs between columns comes as a `Convention`."""

    name: ClassVar[str]
    extension: ClassVar[str] = "png"
    head: ClassVar[str] = "conv"
    title: ClassVar[str] = ""
    """Its name on a page, where that is not ``name``."""

    # Label ---------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, label: L, convention: Convention) -> None:
        """Raise `LabelError` if the label breaks the contract."""

    @abstractmethod
    def encode(self, label: L) -> bytes:
        """The label as a file, without loss beyond the stated quantization."""

    @abstractmethod
    def decode(self, data: bytes) -> L:
        """The inverse of `encode`; `LabelError` on anything else."""

    @abstractmethod
    def valid_share(self, label: L) -> float:
        """The share of the image, in [0, 1], about which the label says something."""

    # Geometry ------------------------------------------------------------------------------------------

    @abstractmethod
    def crop_resize(self, label: L, view: View) -> L:
        """The label of the view's crop at the view's size; the flip is not applied here."""

    @abstractmethod
    def hflip(self, label: L) -> L:
        """The label of the mirrored scene."""

    def view(self, label: L, view: View) -> L:
        """The label [H,W] of the view's size, seen as the view sees the image: crop, resize, then flip."""
        seen = self.crop_resize(label, view)
        return self.hflip(seen) if view.flip else seen

    # Learning ------------------------------------------------------------------------------------------

    def taught(self, label: L) -> L:
        """The label without what `collate` does not read, which need not follow a view."""
        return label

    @abstractmethod
    def channels(self, convention: Convention) -> int:
        """How many channels a prediction needs."""

    @abstractmethod
    def collate(self, labels: Sequence[L | None], size: tuple[int, int]) -> Target:
        """Labels of one ``size`` (H, W) as tensors; a missing one is all invalid."""

    def losses(self, convention: Convention) -> tuple[str, ...]:
        """Files of ``losses/`` that learn such labels, the default first; none where `loss` is its own."""
        return ()

    def offered(self, convention: Convention) -> tuple[str, ...]:
        """What a recipe's column may name: `losses`, then installed ones that say that they learn such labels."""
        own = self.losses(convention)
        others = [name for name in losses.PLUGINS.installed() if name not in own] if own else []
        return (*own, *(name for name in others if self._learned(name, convention)))

    def _learned(self, name: str, convention: Convention) -> bool:
        """Whether an installed loss of this name says that it learns such labels."""
        if name not in losses.PLUGINS.installed():
            return False
        return bool(cast(InstalledLoss, losses.PLUGINS.load(name)).learns(self.name, convention))

    def criterion(self, convention: Convention, name: str | None = None) -> Callable[..., Tensor]:
        """The function of this loss, or of the default one.

        Raises:
            PluginError: the task does not offer it.
        """
        return self._loss_file(convention, name).loss

    def raw_channels(self, convention: Convention, loss: str | None = None) -> int:
        """How many channels a head gives that is trained by this loss: `channels`, then those that the loss adds."""
        extra = getattr(self._loss_file(convention, loss), "EXTRA_CHANNELS", 0) if self.losses(convention) else 0
        return self.channels(convention) + int(extra)

    def _loss_file(self, convention: Convention, name: str | None) -> LossPlugin:
        own = self.losses(convention)
        chosen = name or next(iter(own), "")
        if chosen in own or (own and self._learned(chosen, convention)):
            return losses.PLUGINS.load(chosen)
        what, others = convention.kind or "", " or ".join(self.offered(convention)) or "its own alone"
        raise PluginError(f"{what} {self.name} is not learned by the loss {name!r}; it is by {others}".strip())

    @abstractmethod
    def loss(
        self, raw: Tensor, target: Target, convention: Convention, name: str | None = None, **options: Any
    ) -> Tensor:
        """Scalar loss of a head's raw output; 0 with the graph attached if nothing is valid.

        Args:
            raw: [B,C,H,W] with `raw_channels`.
            target: what `collate` gave.
            convention: that of the column.
            name: one that is `offered`; default the first.
            options: of that loss.
        """

    @abstractmethod
    def predict(self, raw: Tensor, convention: Convention) -> list[L]:
        """Labels of a head's raw output [B,C,H,W], all valid."""

    # Judgment -----------------------------------------------------------------------------------------

    @abstractmethod
    def metric(self, convention: Convention) -> Metric:
        """The measures of this task under a column's convention, the headline first."""

    @abstractmethod
    def oracle(self, target: Target, convention: Convention) -> Tensor:
        """The raw output [B,C,H,W] that is right: what probes regress on and tests compare with."""

    @abstractmethod
    def render(self, label: L, convention: Convention) -> ImageArray:
        """The label as a picture, uint8 H×W×3; what is unknown shows no class or value."""


def require(condition: bool, message: str) -> None:
    """Raise `LabelError` with ``message`` unless ``condition``."""
    if not condition:
        raise LabelError(message)
