"""How the outputs of Hugging Face models become labels: what each form of output has to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clipzoo.errors import ExpertError
from clipzoo.experts.hf.families import HfFamily
from clipzoo.experts.hf.source import Source
from clipzoo.tasks.base import Convention

Size = tuple[int, int]
"""(H, W)."""


@dataclass(frozen=True)
class Model:
    """What is known of a model before it is loaded."""

    source: Source
    architecture: str
    family: HfFamily
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Hub id or folder, for messages."""
        return self.source.name

    @property
    def options(self) -> Mapping[str, str]:
        """Of the URI."""
        return self.source.options

    def classes(self) -> tuple[str, ...]:
        """The names of ``id2label``; `ExpertError` if its ids have gaps."""
        names = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers takes without it
        ids = [str(i) for i in range(len(names))]
        if sorted(names) != sorted(ids):
            raise ExpertError(
                f"id2label of config.json names the ids {', '.join(names)}; they must run from 0 without gaps: mend it"
            )
        return tuple(str(names[i]) for i in ids)


class Reading(ABC):
    """One form of output: made from a `Model`, it knows task and convention, and reads one image's outputs."""

    auto: ClassVar[str]
    """The class of transformers that loads the model."""
    options: ClassVar[tuple[str, ...]] = ()
    """Options of the URI that concern this form."""
    task: str
    convention: Convention
    settings: Mapping[str, Any]
    """What the card says beside the image processor's settings."""
    words = False
    """The model reads text, too."""
    one_by_one = False
    """The processor makes several pictures of an image, and of several images a mixture."""
    needs_caption = False

    def check(self, processor: Any) -> None:  # noqa: B027 — most have nothing to check
        """Raise `ExpertError` if the loaded processor cannot do what is asked of it."""

    def asked(self, caption: str) -> tuple[int, ...] | None:
        """What a sample with this caption is asked for; samples that are asked the same go together.

        None: nothing, and the model is not run.
        """
        return ()

    def text(self, asked: tuple[int, ...], count: int) -> dict[str, Any]:
        """What the processor takes beside ``count`` images."""
        return {}

    @abstractmethod
    def label(self, processor: Any, output: Any, size: Size, asked: tuple[int, ...]) -> Any:
        """The label of one image of ``size`` from its ``output``, whose tensors have B = 1."""


def images_of(processor: Any) -> Any:
    """The part of a processor that prepares images; itself if it does nothing else."""
    return getattr(processor, "image_processor", processor)


def show_all(processor: Any) -> None:
    """Have the model shown the whole of each image, since a label covers it.

    Raises:
        ExpertError: images are padded after they were resized, so that it is not known where they end.
    """
    own = images_of(processor)
    if getattr(own, "do_center_crop", False):
        own.do_center_crop = False
    if (divisor := _divisor(own)) > 1 and own.do_resize and (own.ensure_multiple_of or 1) % divisor:
        raise ExpertError(
            f"the {type(own).__name__} resizes to multiples of {own.ensure_multiple_of} and then pads to multiples of "
            f"{divisor}; give ensure_multiple_of in preprocessor_config.json the value of size_divisor"
        )


def _divisor(own: Any) -> int:
    """What processors of DPT's kind pad sides to a multiple of; 1 of others, whose post-processing undoes padding."""
    return int(getattr(own, "size_divisor", None) or 1) if hasattr(own, "ensure_multiple_of") and own.do_pad else 1


def shown(processor: Any, size: Size) -> tuple[Size, tuple[slice, slice]]:
    """The size of what a model was shown of an image of ``size``, and rows and columns of the image in it.

    Half of the padding, rounded down, stands above and left (transformers, models/dpt/image_processing_dpt.py).
    """
    own = images_of(processor)
    (H, W), divisor = size, 1 if getattr(own, "do_resize", True) else _divisor(own)  # see `show_all` of resized images
    below, right = -H % divisor, -W % divisor
    rows, columns = slice(below // 2, below // 2 + H), slice(right // 2, right // 2 + W)
    return (H + below, W + right), (rows, columns)


def post(processor: Any, name: str) -> Callable[..., Any]:
    """A function of the image processor, or of the whole one; `ExpertError` if neither has it."""
    for place in (images_of(processor), processor):
        if hasattr(place, name):
            function: Callable[..., Any] = getattr(place, name)
            return function
    raise ExpertError(
        f"the processor, a {type(processor).__name__}, has no {name}(): this architecture's outputs cannot be read; "
        "write a python: expert for it (docs/experts.md)"
    )
