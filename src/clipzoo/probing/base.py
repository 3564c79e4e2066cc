"""The settings of a trained probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clipzoo.errors import CheckpointError
from clipzoo.evaluation.base import Encoder
from clipzoo.types import Size

FOUR = "four"
"""Four layers at equal distances, the last one included."""


@dataclass(frozen=True)
class Bins:
    """Depth as a mean over bins: ``count`` depths from ``low`` to ``high`` meters at equal distances.

    The weights of the bins are ReLU outputs + 0.1, normalized (Bhat et al., AdaBins, arXiv 2011.14141, with fixed bins;
    the norm is that of DINOv2's depth heads).
    """

    count: int = 256
    low: float = 1e-3
    high: float = 10.0


@dataclass(frozen=True)
class Detector:
    """A detector of torchvision on a simple feature pyramid (Li et al., ViTDet, arXiv 2203.16527, section 3).

    Attributes:
        kind: ``fcos`` (boxes) or ``mask-rcnn`` (boxes and masks; the truth must have masks).
        width: channels of the pyramid; a multiple of 32 for ``fcos``.
        tuned: train the encoder, too, instead of keeping it frozen.
    """

    kind: Literal["fcos", "mask-rcnn"]
    width: int = 256
    tuned: bool = False


@dataclass(frozen=True)
class Preset:
    """A protocol: how pictures are cropped, what is trained, and how it is tested.

    Attributes:
        task: the task whose truth it needs.
        version: is raised when numbers may change.
        source: where the settings were published; differences are in `deviations`.
        crop: (H, W) of the pictures in training; sides are rounded down to multiples of the tower's patch.
        batch: pictures per step.
        steps: number of steps, or None for `epochs`.
        epochs: passes over the probe benchmark, if `steps` is None.
        rate: peak learning rate of AdamW.
        weight_decay: of AdamW.
        warmup: steps of linear warm-up; a share of all steps if it is below 1. Then a cosine to 0.
        head: a head of `clipzoo.heads`, or ``linear`` for one 1×1 convolution.
        head_options: options of the head.
        layers: tapped layers, or `FOUR`.
        norm: apply the tower's final norm to the maps.
        batch_norm: normalize maps over the batch before a linear head.
        short_side: range of the random length of the shorter side in training, in pixels; None for the center crop.
        long_side: the same for the longer side, instead of `short_side`.
        flip: probability of a horizontal flip in training.
        loss: a loss of the task; None for its default.
        loss_options: options of the loss.
        loss_weight: factor on the loss.
        gradient: weight of the gradient loss (depth).
        bins: depth as a mean over bins.
        test: ``slide`` (windows of the crop over a picture whose shorter side is `test_short`, each `stride` apart),
            ``whole`` (the whole picture at `test_size`), ``center`` (the center crop) or ``pad`` (the whole picture in
            its aspect, in the upper left corner of the crop).
        stride: of sliding windows, in pixels.
        test_short: shorter side of pictures that are tested in windows.
        test_size: (H, W) of pictures that are tested as a whole; None for the crop.
        flip_average: average the outputs for the picture and its mirror image.
        aligned: report depth after scale-and-shift alignment, too.
        deviations: differences from the source, in sentences.
        detector: instead of a head, for detection.
        metrics: further metrics of the task that are reported (`Task.metrics`).
    """

    task: str
    source: str
    crop: Size
    batch: int
    rate: float
    weight_decay: float
    warmup: float
    steps: int | None = None
    epochs: float | None = None
    version: int = 1
    head: str = "linear"
    head_options: Mapping[str, object] = field(default_factory=dict)
    layers: tuple[int, ...] | str = (-1,)
    norm: bool = False
    batch_norm: bool = False
    short_side: Size | None = None
    flip: float = 0.5
    loss: str | None = None
    loss_options: Mapping[str, object] = field(default_factory=dict)
    loss_weight: float = 1.0
    gradient: float = 0.0
    bins: Bins | None = None
    test: Literal["slide", "whole", "center", "pad"] = "whole"
    stride: Size = (0, 0)
    test_short: int = 0
    test_size: Size | None = None
    flip_average: bool = False
    aligned: bool = False
    deviations: tuple[str, ...] = ()
    long_side: Size | None = None
    detector: Detector | None = None
    metrics: tuple[str, ...] = ()

    def length(self, pictures: int) -> int:
        """Return the number of steps on a benchmark of so many pictures."""
        return self.steps or max(round((self.epochs or 0) * pictures / self.batch), 1)

    def warmup_steps(self, steps: int) -> int:
        """Return the steps of the warm-up of a training of ``steps``."""
        return max(round(self.warmup * steps if self.warmup < 1 else min(self.warmup, steps)), 1)


def fitted(size: Size, patch: int) -> Size:
    """Return a size with its sides rounded down to multiples of ``patch``."""
    return max(size[0] // patch, 1) * patch, max(size[1] // patch, 1) * patch


def patch_of(model: Encoder) -> int:
    """Return the pixels that sides of inputs are multiples of."""
    return int(getattr(model, "patch", 1))


def depth_of(model: Encoder) -> int:
    """Return the number of layers of a model."""
    depth = getattr(model, "depth", None)
    if depth is None:
        raise CheckpointError(f"{type(model).__name__} has no attribute depth, the number of its layers")
    return int(depth)
