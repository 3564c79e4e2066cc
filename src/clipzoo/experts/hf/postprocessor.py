"""Postprocessors turn outputs of Hugging Face models into labels; this is their base class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

from clipzoo.errors import ExpertError
from clipzoo.experts.families.hf import HfFamily
from clipzoo.experts.hf.frame import Frame, image_processor_of
from clipzoo.experts.hf.source import Source
from clipzoo.tasks.base import Convention

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor

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
    """Auto class of transformers that loads the model."""
    options: ClassVar[tuple[str, ...]] = ()
    """Options of the URI that apply to this form of output."""
    task: str
    convention: Convention
    settings: Mapping[str, object]
    """Settings that the card records in addition to those of the image processor."""
    takes_text = False
    """The model takes text in addition to images."""
    single_image = False
    """The processor splits an image into several and mixes up those of a batch, so images are processed one by one."""
    needs_captions = False

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
