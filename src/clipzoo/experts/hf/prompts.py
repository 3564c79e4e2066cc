"""Open-vocabulary detectors of Hugging Face, whose prompts are the names of a label space.

``prompts=all`` searches every image for all names, ``prompts=caption`` only for names that occur in the sample's
caption: as whole words, singular or plural, the longest name where two overlap ("hot dog" is not "dog").
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.boxes import objects
from clipzoo.experts.hf.boxes import BoxesPostprocessor
from clipzoo.experts.hf.frame import Frame
from clipzoo.experts.hf.options import choice, label_space
from clipzoo.experts.hf.postprocessor import Model, Query, post_process
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

    from clipzoo.experts.hf.frame import Processor


class PromptedPostprocessor(BoxesPostprocessor):
    """Boxes of objects that prompts name."""

    auto = "AutoModelForZeroShotObjectDetection"
    options: ClassVar[tuple[str, ...]] = ("classes", "prompts", "threshold", "floor")
    auto_processor = "AutoProcessor"

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.name = model.name
        prompts = choice(model.options, "prompts", ("all", "caption"))
        self.needs_captions = prompts == "caption"
        self.settings = {**self.settings, "prompts": prompts}
        classes = self.convention.classes
        self.longest_first = sorted(range(len(classes)), key=lambda i: -len(classes[i]))
        self.pattern = _pattern([classes[i] for i in self.longest_first])

    def label_space(self, model: Model) -> tuple[str, ...]:
        """Return the names of ``?classes=``."""
        return label_space(model.options)

    def check(self, processor: Processor) -> None:
        """Raise `ExpertError` if the text of all names is too long for the model."""
        self.check_length(processor, tuple(range(len(self.convention.classes))))

    def query(self, caption: str) -> Query | None:
        """Return the ids of the classes to search for, ascending; None if the caption has none of them."""
        if not self.needs_captions:
            return tuple(range(len(self.convention.classes)))
        groups = {match.lastindex or 0 for match in self.pattern.finditer(caption.lower())}
        return tuple(sorted(self.longest_first[group - 1] for group in groups)) or None

    def without_query(self, size: Size) -> Detection:
        """Return the label of an image that was not searched: the whole frame is an ignored box."""
        return self.with_query((), objects(size, [[0, 0, size[1], size[0]]], [0], [0.0], [True]))

    def with_query(self, query: Query, label: Detection) -> Detection:
        """Return the label with the ids of its query, if queries differ between samples."""
        return replace(label, asked=np.array(query, np.uint16)) if self.needs_captions else label

    def prompts(self, query: Query) -> list[str]:
        """Return the names to search for."""
        return [self.convention.classes[i] for i in query]

    def check_names(self, processor: Processor, query: Query, limit: int) -> None:
        """Raise `ExpertError` if a name has more than ``limit`` tokens."""
        for name in self.prompts(query):
            length = len(processor.tokenizer(name)["input_ids"])
            if length > limit:
                raise ExpertError(
                    f"the name {name!r} has {length} tokens, but {self.name} takes at most {limit}: shorten it in "
                    "?classes="
                )

    @abstractmethod
    def check_length(self, processor: Processor, query: Query) -> None:
        """Raise `ExpertError` if the text of a query is too long for the model."""


class OwlPostprocessor(PromptedPostprocessor):
    """OWL-ViT and OWLv2, which take a text query for each name."""

    def unpads(self, processor: Processor) -> bool:
        """Return true: OWLv2 pads to a square, and its post-processing removes this padding."""
        return True

    def check_length(self, processor: Processor, query: Query) -> None:
        """Raise `ExpertError` if a name is longer than a text query."""
        self.check_names(processor, query, processor.tokenizer.model_max_length)

    def text(self, query: Query, count: int) -> dict[str, object]:
        """Return the names as text queries of each image."""
        return {"text": [self.prompts(query)] * count}

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Detection:
        """Return boxes, each with the class of the text query that fits it best."""
        function = post_process(processor, "post_process_object_detection")
        (result,) = function(output, threshold=self.floor, target_sizes=[frame.size])
        ids = result["labels"].new_tensor(query)[result["labels"]]
        return self.with_query(query, self.detection(frame.size, result["boxes"], ids, result["scores"]))


class OmDetPostprocessor(PromptedPostprocessor):
    """OmDet-Turbo, which takes a text for each name, and one text of all names as the task ("Detect dog, cat.")."""

    def check_length(self, processor: Processor, query: Query) -> None:
        """Raise `ExpertError` if a name is longer than the text of a class; the processor would cut it."""
        self.check_names(processor, query, int(processor.text_kwargs["max_length"]))

    def text(self, query: Query, count: int) -> dict[str, object]:
        """Return the names as classes of each image."""
        return {"text": [self.prompts(query)] * count}

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Detection:
        """Return boxes, after the library's suppression of boxes of one class that overlap."""
        function = post_process(processor, "post_process_grounded_object_detection")
        (result,) = function(output, threshold=self.floor, target_sizes=[frame.canvas])
        ids = result["labels"].new_tensor(query)[result["labels"]]
        return self.with_query(query, self.detection(frame.size, result["boxes"], ids, result["scores"]))


class GroundingPostprocessor(PromptedPostprocessor):
    """Grounding DINO, which takes one text of all names and gives each box a logit for each token of the text.

    The library names a box by all tokens above a threshold, which may be half a name or parts of several
    (github.com/IDEA-Research/GroundingDINO, issues 63 and 85). Here each token belongs to the class whose name contains
    it. A box has the class of its most probable token, and this probability is its score.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.limit = int(str(model.config.get("max_text_len", 256)))

    def check_length(self, processor: Processor, query: Query) -> None:
        """Raise `ExpertError` if all names are used together and are longer than the model's text."""
        length = len(processor.tokenizer(self._joined(query))["input_ids"])
        if length > self.limit and not self.needs_captions:
            raise ExpertError(
                f"the {len(query)} names have {length} tokens together, but {self.name} takes at most {self.limit}: "
                "add ?prompts=caption, or make several columns with fewer names in ?classes="
            )

    def text(self, query: Query, count: int) -> dict[str, object]:
        """Return the names, each with a full stop."""
        return {"text": [self._joined(query)] * count}

    def label(self, processor: Processor, output: ModelOutput, frame: Frame, query: Query) -> Detection:
        """Return boxes, each with the class of its most probable token; tokens outside of names do not count."""
        class_of_token = output.input_ids.new_full(output.logits.shape[-1:], -1)
        classes = self._token_classes(processor, query)[: len(class_of_token)]
        class_of_token[: len(classes)] = class_of_token.new_tensor(classes)
        output.logits = output.logits.masked_fill(class_of_token < 0, -np.inf)
        function = processor.post_process_grounded_object_detection
        (result,) = function(output, threshold=self.floor, target_sizes=[frame.canvas])
        scores, tokens = output.logits[0].sigmoid().max(-1)
        ids = class_of_token[tokens[scores > self.floor]]
        return self.with_query(query, self.detection(frame.size, result["boxes"], ids, result["scores"]))

    def _joined(self, query: Query) -> str:
        return " ".join(f"{name}." for name in self.prompts(query))

    def prompts(self, query: Query) -> list[str]:
        """Return the names in lower case, without characters that separate names."""
        return [" ".join(re.sub(r"[.?]", " ", name).lower().split()) for name in super().prompts(query)]

    def _token_classes(self, processor: Processor, query: Query) -> list[int]:
        """Return the class of each token of the text; -1 for tokens outside of names."""
        text = self._joined(query)
        class_of_character = np.full(len(text) + 1, -1)
        start = 0
        for i, name in zip(query, self.prompts(query), strict=True):
            class_of_character[start : start + len(name)] = i
            start += len(name) + 2  # a full stop and a space
        offsets = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return [int(class_of_character[first]) if end > first else -1 for first, end in offsets]


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Compile an expression that finds names as whole words; earlier names win, and each name is a group."""
    groups = "|".join(f"({_expression(name)})" for name in names)
    return re.compile(rf"(?<!\w)(?:{groups})(?!\w)")


def _expression(name: str) -> str:
    """Return an expression for a name, singular or plural, its words separated by spaces, hyphens or underscores."""
    *first, last = (re.escape(word) for word in re.split(r"[\s_]+", name.lower().strip()))
    forms = f"{last}(?:s|es)?" + (f"|{last[:-1]}ies" if last.endswith("y") else "")
    return r"[\s_-]+".join([*first, f"(?:{forms})"])
