"""Postprocessors turn outputs of Hugging Face models into labels; this is their base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import NOT_FINITE
from clipzoo.experts.families.hf import HfFamily
from clipzoo.experts.hf.frame import Frame, frame_of, image_processor_of
from clipzoo.experts.hf.source import Source
from clipzoo.tasks.base import Convention

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import BatchFeature, PreTrainedModel
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor

PREDICTIONS = (
    "logits", "pred_boxes", "pred_masks", "class_queries_logits", "masks_queries_logits", "decoder_class_logits",
    "decoder_coord_logits", "pred_logits", "presence_logits",
)  # fmt: skip
"""Outputs with classes, boxes and masks (transformers 5.24); other outputs may contain infinities as marks."""

Query = tuple[int, ...]
"""Ids of the classes that a detector searches an image for; empty for models without prompts."""


@dataclass(frozen=True)
class Model:
    """Description of a model that is not loaded yet."""

    source: Source
    architecture: str
    family: HfFamily
    config: Mapping[str, object]
    preprocessing: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Hub id or folder, for messages."""
        return self.source.name

    @property
    def options(self) -> Mapping[str, str]:
        """Options of the URI."""
        return self.source.options

    def classes(self) -> tuple[str, ...]:
        """Return the names of ``id2label``, in the order of their ids.

        Raises:
            ExpertError: the ids have gaps.
        """
        default = {"0": "LABEL_0", "1": "LABEL_1"}  # of transformers
        names = cast(Mapping[str, object], self.config.get("id2label") or default)
        ids = [str(i) for i in range(len(names))]
        if sorted(names) != sorted(ids):
            raise ExpertError(
                f"id2label of config.json has the ids {', '.join(names)}. Ids must be 0, 1, … without gaps, since "
                "labels store them as numbers: correct config.json"
            )
        return tuple(str(names[i]) for i in ids)


class Postprocessor(ABC):
    """Conversion of one form of output into labels; made from a `Model`, with the task and convention of the labels."""

    auto: ClassVar[str]
    """Class of transformers that loads the model."""
    auto_processor = "AutoImageProcessor"
    """Class of transformers that loads the processor: another one if the model takes text in addition to images."""
    options: ClassVar[tuple[str, ...]] = ()
    """Options of the URI that apply to this form of output."""
    task: str
    convention: Convention
    settings: Mapping[str, object]
    """Settings that the card records in addition to those of the image processor."""
    single_image = False
    """The processor splits an image into several and mixes up those of a batch, so images are processed one by one."""
    needs_captions = False
    calls: ClassVar[tuple[str, ...]] = ("forward",)
    """Methods of the model that `labels` calls: see `Expert.calls`."""

    def unpads(self, processor: Processor) -> bool:
        """Return true if the library's post-processing removes the padding."""
        return False

    def check(self, processor: Processor) -> None:  # noqa: B027 — most have nothing to check
        """Raise `ExpertError` if the loaded processor does not support the options."""

    def query(self, caption: str) -> Query | None:
        """Return the query of a sample with this caption, or None if the model need not run.

        Samples with the same query are processed as a batch.
        """
        return ()

    def text(self, query: Query, count: int) -> dict[str, object]:
        """Return the processor's arguments in addition to ``count`` images."""
        return {}

    @abstractmethod
    def labels(
        self, model: PreTrainedModel, processor: Processor, pictures: Sequence[Image], query: Query
    ) -> list[object]:
        """Return one label per picture of a batch; all pictures have one size."""


class OnePassPostprocessor(Postprocessor):
    """Conversion for models that run once for a batch of images."""

    def labels(
        self, model: PreTrainedModel, processor: Processor, pictures: Sequence[Image], query: Query
    ) -> list[object]:
        """Return one label per picture of a batch; all pictures have one size."""
        inputs = self.prepare(processor, pictures, query)
        frame = frame_of(processor, inputs, pictures[0], self.unpads(processor))
        outputs = model(**inputs.to(model.device, model.dtype))
        return [self.label(processor, one(outputs, row, len(pictures)), frame, query) for row in range(len(pictures))]

    def prepare(self, processor: Processor, pictures: Sequence[Image], query: Query) -> BatchFeature:
        """Return the model's inputs.

        Raises:
            SampleError: a side would be 0 pixels long, or is taken for the number of channels.
        """
        try:
            return processor(images=list(pictures), return_tensors="pt", **self.text(query, len(pictures)))
        except ValueError as error:
            size = f"{pictures[0].width}×{pictures[0].height}"
            raise SampleError(
                f"the model's {type(processor).__name__} cannot prepare a picture of {size} pixels: {error}"
            ) from error

    @abstractmethod
    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> object:
        """Return the label of the image in ``frame`` from its ``output``, whose tensors have B = 1."""


def post_process(processor: Processor, name: str) -> Callable[..., Any]:
    """Return a function of the image processor, or of the processor that contains it.

    Raises:
        ExpertError: neither has a function of this name.
    """
    for owner in (image_processor_of(processor), processor):
        if hasattr(owner, name):
            function: Callable[..., Any] = getattr(owner, name)
            return function
    raise ExpertError(
        f"the processor {type(processor).__name__} has no {name}(). clipzoo reads outputs of this architecture only "
        "through it: write a python: expert (docs/experts.md)"
    )


def one(outputs: ModelOutput, row: int, count: int) -> ModelOutput:
    """Return the outputs of one image out of ``count``, as float32: this limits the memory of post-processing.

    The layout is image, channel, row, column: SegFormer gives batches with channels last, and PyTorch enlarges such
    maps at a third of the speed.

    Raises:
        SampleError: classes, boxes or masks are not finite. Post-processing makes "no object" or class 0 of them.
    """
    import torch

    tensors = {name: value for name, value in outputs.items() if torch.is_tensor(value)}
    others: dict[str, object] = {}
    if count > 1:
        tensors = {name: value[row : row + 1] for name, value in tensors.items() if value.shape[:1] == (count,)}
    else:
        others = {name: value for name, value in outputs.items() if name not in tensors}
    for name, value in tensors.items():
        tensors[name] = (value.float() if value.is_floating_point() else value).contiguous()
        if name in PREDICTIONS and not _finite(name, tensors[name]):
            raise SampleError(NOT_FINITE.format(f"the model's {name}"))
    return type(outputs)(**others, **tensors)


def _finite(name: str, values: Tensor) -> bool:
    """Return true if all values are finite; of logits the largest, since −∞ is a class that is excluded."""
    if name == "logits":
        values = values.amax(1 if values.ndim == 4 else -1)
    return bool(values.isfinite().all())
