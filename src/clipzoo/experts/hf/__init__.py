"""Depth, segmentation and detection of Hugging Face transformers: ``hf:<folder or hub id>[@revision][?options]``.

Images are prepared and outputs brought to the image's size by the model's own processor, so a label is what its
post-processing gives, but always of the whole image: none is cropped, and padding is cut off. ``FAMILIES`` tells what
each family's labels are and who says so. Options of all: ``dtype`` (float32, float16, bfloat16), ``batch_size``,
``trust_remote_code=1`` (run the model's own code); the others depend on the family, and stand in docs/experts.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput
from clipzoo.experts.hf import source as _hf_source
from clipzoo.experts.hf.boxes import BoxesReading
from clipzoo.experts.hf.depth import DepthReading
from clipzoo.experts.hf.families import FAMILIES, Form, family_of
from clipzoo.experts.hf.frame import frame_of, show_all
from clipzoo.experts.hf.masks import MasksReading, SemanticReading
from clipzoo.experts.hf.options import choice, count
from clipzoo.experts.hf.prompts import GroundingReading, OwlReading, PromptsReading
from clipzoo.experts.hf.reading import Model, Reading
from clipzoo.experts.hf.source import Source
from clipzoo.progress import no_bars
from clipzoo.types import ImageArray

__all__ = ["FAMILIES", "HfExpert", "create"]

READINGS: Mapping[Form, type[Reading]] = {
    "depth": DepthReading,
    "semantic": SemanticReading,
    "masks": MasksReading,
    "boxes": BoxesReading,
    "owl": OwlReading,
    "grounding": GroundingReading,
}
"""Form of a family's outputs -> what reads them."""

COMMON = ("dtype", "batch_size", "trust_remote_code")
OPTIONS = tuple(dict.fromkeys([*(name for reading in READINGS.values() for name in reading.options), *COMMON]))
DTYPES = ("float32", "float16", "bfloat16")

UNUSED = re.compile(r"fusion_stage\.layers\.0\.residual_layer1\.")
"""Weights that DPT has but never uses, and published checkpoints leave out."""


def create(name: str) -> HfExpert:
    """The expert of a folder or hub id; its files are fetched, its weights not yet loaded.

    Raises:
        ExpertError: not at hand, of no family, or its files and the URI leave open what its outputs mean.
    """
    return HfExpert(_hf_source.find(name, OPTIONS, code="trust_remote_code"), uri=f"hf:{name}")


def runs_code(name: str) -> bool:
    """Whether the URI lets the model's own code run."""
    return dict(parse_qsl(name.partition("?")[2])).get("trust_remote_code", "0") != "0"


class HfExpert(Expert):
    """A transformers model with its processor."""

    def __init__(self, source: Source, uri: str) -> None:
        options = source.options
        self.source, self.trusted = source, choice(options, "trust_remote_code", ("0", "1")) == "1"
        self.dtype, self.batch_size = choice(options, "dtype", DTYPES), count(options, "batch_size", 8)
        self.reading = _reading(source)
        self.needs_sample = self.reading.needs_caption
        preprocessing = {**source.preprocessing, "do_center_crop": False, **self.reading.settings, "dtype": self.dtype}
        if self.trusted:
            preprocessing["trust_remote_code"] = True
        self.card = ExpertCard(
            uri,
            self.reading.task,
            self.reading.convention,
            source.license,
            source.revision,
            source.weights_sha256(),
            preprocessing,
        )
        self._model: Any = None
        self._processor: Any = None

    def load(self, device: str = "cpu") -> None:
        """Load processor and weights; no file is fetched.

        Raises:
            ExpertError: transformers cannot load the folder, it lacks some of the weights, or prompts are too long.
        """
        import torch
        import transformers

        place: dict[str, Any] = {"trust_remote_code": self.trusted, "local_files_only": True}
        try:
            with no_bars():
                self._processor = self._load_processor(transformers, place)
                model, loaded = getattr(transformers, self.reading.auto).from_pretrained(
                    self.source.folder, use_safetensors=True, output_loading_info=True, **place
                )
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            fix = "" if "trust_remote_code" not in str(error) else "; add ?trust_remote_code=1 if you trust its code"
            raise ExpertError(f"transformers cannot load {self.card.uri}: {error}{fix}") from error
        if missing := [key for key in loaded["missing_keys"] if not UNUSED.search(key)]:
            raise ExpertError(
                f"{self.card.uri} lacks {len(missing)} of its weights, {sorted(missing)[0]} the first: they would be "
                f"random; is this a backbone without the head of {type(model).__name__}? Name a model fine-tuned for it"
            )
        show_all(self._processor)
        self.reading.check(self._processor)
        self._model = model.to(device, getattr(torch, self.dtype)).eval()

    @property
    def module(self) -> Any:
        """The model, for precision and layout of labeling; None before `load`."""
        return self._model

    def _load_processor(self, transformers: Any, place: dict[str, Any]) -> Any:
        if not self.reading.words:
            return transformers.AutoImageProcessor.from_pretrained(self.source.folder, **place)
        # class_info_file: OneFormer's names for training, which would be fetched from another place of the hub
        info = {"class_info_file": ""} if isinstance(self.reading, MasksReading) else {}
        return transformers.AutoProcessor.from_pretrained(self.source.folder, **info, **place)

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One label an image, of the image's size; all of one size, as a batch."""
        if self.needs_sample:
            raise ExpertError(f"{self.card.uri} takes its prompts from captions; call predict_inputs(inputs)")
        return self.predict_inputs([ExpertInput("", image) for image in images])

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[Any]:
        """As `predict`; samples that are asked for the same things go as a batch.

        Raises:
            SampleError: the model's processor cannot prepare images of this size.
        """
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        asked = [self.reading.asked(sample.caption) for sample in inputs]
        labels: list[Any] = [None] * len(inputs)
        for what in dict.fromkeys(asked):
            rows = [row for row, own in enumerate(asked) if own == what]
            for part in [[row] for row in rows] if self.reading.one_by_one else [rows]:
                found = self._labels([inputs[row].image for row in part], what)
                for row, label in zip(part, found, strict=True):
                    labels[row] = label
        return labels

    def _labels(self, images: Sequence[ImageArray], asked: tuple[int, ...] | None) -> list[Any]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if asked is None:
            assert isinstance(self.reading, PromptsReading)  # the others ask for the same of every image
            return [self.reading.nothing(size) for size in sizes]
        import torch

        pictures, text = [Image.fromarray(image) for image in images], self.reading.text(asked, len(images))
        try:
            inputs = self._processor(images=pictures, return_tensors="pt", **text)
        except ValueError as error:  # sides that it would make 0 long, or whose aspect it takes for something else
            (H, W), name = sizes[0], type(self._processor).__name__
            raise SampleError(f"the model's {name} cannot prepare a picture of {W}×{H} pixels: {error}") from error
        with torch.inference_mode():
            frame = frame_of(self._processor, inputs, pictures[0], self.reading.unpads(self._processor))
            outputs = self._model(**inputs.to(self._model.device, self._model.dtype))
            return [
                self.reading.label(self._processor, _one(outputs, row, len(images)), frame, asked)
                for row in range(len(images))
            ]


def _reading(source: Source) -> Reading:
    """What reads the outputs of a model, by its family."""
    config, preprocessing = source.config, source.preprocessing
    architecture = str((config.get("architectures") or ["none"])[0])
    family = family_of(architecture, source.name, {**preprocessing, **config})
    reading = READINGS[family.form]
    known = (*reading.options, *COMMON)
    if wrong := sorted(set(source.options) - set(known)):
        raise ExpertError(
            f"?{wrong[0]}= does not concern {source.name}, a model of the family {family.name}; its options are "
            f"{', '.join(known)}"
        )
    return reading(Model(source, architecture, family, config, preprocessing))  # type: ignore[call-arg]


def _one(outputs: Any, row: int, count: int) -> Any:
    """The outputs of one image out of ``count``, as float32: post-processing them alone bounds its memory.

    Laid out image, channel, row, column: SegFormer gives batches with channels last, whose maps PyTorch enlarges at a
    third of the speed.
    """
    import torch

    tensors = {name: value for name, value in outputs.items() if torch.is_tensor(value)}
    if count > 1:
        tensors = {name: value[row : row + 1] for name, value in tensors.items() if value.shape[:1] == (count,)}
    others = {} if count > 1 else {name: value for name, value in outputs.items() if name not in tensors}
    floats = {name: (v.float() if v.is_floating_point() else v).contiguous() for name, v in tensors.items()}
    return type(outputs)(**others, **floats)
