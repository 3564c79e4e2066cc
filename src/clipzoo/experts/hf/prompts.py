"""Open-vocabulary detectors of Hugging Face: the names of a label space are their prompts.

``prompts=all`` asks for every name in every image, ``prompts=caption`` only for those that occur in the sample's own
caption: whole words, singular or plural, the longest name where two overlap ("hot dog" is no dog).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from clipzoo.errors import ExpertError
from clipzoo.experts.boxes import objects
from clipzoo.experts.hf.boxes import BoxesReading
from clipzoo.experts.hf.frame import Frame, Size
from clipzoo.experts.hf.options import choice, label_space
from clipzoo.experts.hf.reading import Model, post
from clipzoo.tasks.detection import Detection


class PromptsReading(BoxesReading):
    """Boxes of what a text names."""

    auto = "AutoModelForZeroShotObjectDetection"
    options: ClassVar[tuple[str, ...]] = ("classes", "prompts", "threshold", "floor")
    words = True

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.name = model.name
        prompts = choice(model.options, "prompts", ("all", "caption"))
        self.needs_caption = prompts == "caption"
        self.settings = {**self.settings, "prompts": prompts}
        classes = self.convention.classes
        self.order = sorted(range(len(classes)), key=lambda i: -len(classes[i]))
        self.occurs = _pattern([classes[i] for i in self.order])

    def label_space(self, model: Model) -> tuple[str, ...]:
        """The names that the URI gives."""
        return label_space(model.options)

    def check(self, processor: Any) -> None:
        """Raise `ExpertError` if the names are too long a text."""
        self.fit(processor, tuple(range(len(self.convention.classes))))

    def asked(self, caption: str) -> tuple[int, ...] | None:
        """Ids of the classes that are asked for, in their order; None if the caption has none of them."""
        if not self.needs_caption:
            return tuple(range(len(self.convention.classes)))
        groups = {match.lastindex or 0 for match in self.occurs.finditer(caption.lower())}
        return tuple(sorted(self.order[group - 1] for group in groups)) or None

    def nothing(self, size: Size) -> Detection:
        """Nothing was asked, so nothing is known, not even of places: the whole frame is ignored."""
        return self.told((), objects(size, [[0, 0, size[1], size[0]]], [0], [0.0], [True]))

    def told(self, asked: tuple[int, ...], label: Detection) -> Detection:
        """The label, which says what was asked for if that differs."""
        return replace(label, asked=np.array(asked, np.uint16)) if self.needs_caption else label

    def prompts(self, asked: tuple[int, ...]) -> list[str]:
        """The names that are asked for."""
        return [self.convention.classes[i] for i in asked]

    @abstractmethod
    def fit(self, processor: Any, asked: tuple[int, ...]) -> None:
        """Raise `ExpertError` if the model cannot read so long a text."""


class OwlReading(PromptsReading):
    """OWL-ViT and OWLv2: a query a name."""

    def unpads(self, processor: Any) -> bool:
        """OWLv2's boxes are of a padded square, and its post-processing knows that."""
        return True

    def fit(self, processor: Any, asked: tuple[int, ...]) -> None:
        """Each name has to fit into a query."""
        limit = processor.tokenizer.model_max_length
        for name in self.prompts(asked):
            if (length := len(processor.tokenizer(name)["input_ids"])) > limit:
                raise ExpertError(
                    f"the name {name!r} has {length} tokens, and {self.name} reads {limit}: shorten it in ?classes="
                )

    def text(self, asked: tuple[int, ...], count: int) -> dict[str, Any]:
        """The names, as queries of each image."""
        return {"text": [self.prompts(asked)] * count}

    def label(self, processor: Any, output: Any, frame: Frame, asked: tuple[int, ...]) -> Detection:
        """A box has the name whose query fits it best."""
        function = post(processor, "post_process_object_detection")
        (found,) = function(output, threshold=self.floor, target_sizes=[frame.size])
        ids = found["labels"].new_tensor(asked)[found["labels"]]
        return self.told(asked, self.detection(frame.size, found["boxes"], ids, found["scores"]))


class GroundingReading(PromptsReading):
    """Grounding DINO: one text of all names, and for each box a logit for each token of it.

    The library names a box by the tokens that are sure enough, which may be half a name or parts of several
    (github.com/IDEA-Research/GroundingDINO, issues 63 and 85). Here each token belongs to the class whose name it is
    part of, by its place in the text, and a box is of the class of its surest token, whose probability is its score.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.limit = int(model.config.get("max_text_len", 256))

    def fit(self, processor: Any, asked: tuple[int, ...]) -> None:
        """All names together have to fit, if they are asked together."""
        length = len(processor.tokenizer(self._joined(asked))["input_ids"])
        if length > self.limit and not self.needs_caption:
            raise ExpertError(
                f"the {len(asked)} names have {length} tokens together, and {self.name} reads {self.limit}: use "
                "?prompts=caption, or make several columns with fewer ?classes= each"
            )

    def text(self, asked: tuple[int, ...], count: int) -> dict[str, Any]:
        """The names with full stops."""
        return {"text": [self._joined(asked)] * count}

    def label(self, processor: Any, output: Any, frame: Frame, asked: tuple[int, ...]) -> Detection:
        """A box has the class of its surest token; tokens that are of no name do not count."""
        owners = output.input_ids.new_full(output.logits.shape[-1:], -1)
        told = self._owners(processor, asked)[: len(owners)]
        owners[: len(told)] = owners.new_tensor(told)
        output.logits = output.logits.masked_fill(owners < 0, -np.inf)
        function = processor.post_process_grounded_object_detection
        (found,) = function(output, threshold=self.floor, target_sizes=[frame.shown])
        scores, tokens = output.logits[0].sigmoid().max(-1)
        ids = owners[tokens[scores > self.floor]]
        return self.told(asked, self.detection(frame.size, found["boxes"], ids, found["scores"]))

    def _joined(self, asked: tuple[int, ...]) -> str:
        return " ".join(f"{name}." for name in self.prompts(asked))

    def prompts(self, asked: tuple[int, ...]) -> list[str]:
        """Lower-case names without the stops that would part them."""
        return [" ".join(re.sub(r"[.?]", " ", name).lower().split()) for name in super().prompts(asked)]

    def _owners(self, processor: Any, asked: tuple[int, ...]) -> list[int]:
        """The class of each token of the text; -1 for those of none."""
        places = processor.tokenizer(self._joined(asked), return_offsets_mapping=True)["offset_mapping"]
        owner = np.full(len(self._joined(asked)) + 1, -1)
        start = 0
        for i, name in zip(asked, self.prompts(asked), strict=True):
            owner[start : start + len(name)] = i
            start += len(name) + 2
        return [int(owner[first]) if last > first else -1 for first, last in places]


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Finds names as whole words, of those that begin alike the first one; each in a group."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(f'({_forms(name)})' for name in names)})(?!\w)")


def _forms(name: str) -> str:
    """A name in the singular and the plural, its words parted by spaces, hyphens or underscores."""
    *first, last = (re.escape(word) for word in re.split(r"[\s_]+", name.lower().strip()))
    many = f"{last}(?:s|es)?" + (f"|{last[:-1]}ies" if last.endswith("y") else "")
    return r"[\s_-]+".join([*first, f"(?:{many})"])
