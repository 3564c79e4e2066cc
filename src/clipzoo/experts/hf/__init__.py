"""Labels and features of Hugging Face transformers: ``hf:<folder or hub id>[@revision][?options]``.

The model's own processor prepares images and resizes outputs to the image, so a label is the result of its
post-processing. It always covers the whole image: no image is cropped, and padding is removed. ``FAMILIES`` states what
the labels of each family mean, with a public source. Options of all families: ``dtype`` (float32, float16, bfloat16),
``batch_size``, ``trust_remote_code=1`` (run the model's own code). docs/experts.md lists the options of each family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl

from PIL import Image

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import Expert, ExpertCard, ExpertInput
from clipzoo.experts.families.hf import FAMILIES, HEADS, Form, family_of
from clipzoo.experts.hf.boundaries import BoundariesPostprocessor
from clipzoo.experts.hf.boxes import BoxesPostprocessor
from clipzoo.experts.hf.concepts import ConceptsPostprocessor
from clipzoo.experts.hf.depth import DepthPostprocessor
from clipzoo.experts.hf.features import FeaturesPostprocessor
from clipzoo.experts.hf.frame import disable_center_crop
from clipzoo.experts.hf.instances import InstancesPostprocessor
from clipzoo.experts.hf.masks import MasksPostprocessor, SemanticPostprocessor
from clipzoo.experts.hf.normals import NormalsPostprocessor
from clipzoo.experts.hf.options import choice, count
from clipzoo.experts.hf.postprocessor import Model, Postprocessor, Query
from clipzoo.experts.hf.prompts import (
    GroundingPostprocessor,
    OmDetPostprocessor,
    OwlPostprocessor,
    PromptedPostprocessor,
)
from clipzoo.experts.hf.source import Source, resolve
from clipzoo.progress import no_bars
from clipzoo.types import ImageArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from clipzoo.experts.hf.frame import Processor

__all__ = ["FAMILIES", "HfExpert", "create"]

POSTPROCESSORS: Mapping[Form, type[Postprocessor]] = {
    "depth": DepthPostprocessor,
    "normals": NormalsPostprocessor,
    "semantic": SemanticPostprocessor,
    "masks": MasksPostprocessor,
    "boxes": BoxesPostprocessor,
    "instances": InstancesPostprocessor,
    "owl": OwlPostprocessor,
    "grounding": GroundingPostprocessor,
    "omdet": OmDetPostprocessor,
    "concepts": ConceptsPostprocessor,
    "boundaries": BoundariesPostprocessor,
    "features": FeaturesPostprocessor,
}
"""Form of a family's outputs -> its postprocessor."""

COMMON = ("dtype", "batch_size", "trust_remote_code")
OPTIONS = tuple(dict.fromkeys([*(name for kind in POSTPROCESSORS.values() for name in kind.options), *COMMON]))
"""Options of all families, each once."""

DTYPES = ("float32", "float16", "bfloat16")

OF_SIZE = re.compile(r"\bsizes?\b", re.I)
"""Part of torch's messages about maps that are too small for a padding or kernel, or that do not fit each other."""

UNUSED = re.compile(r"fusion_stage\.layers\.0\.residual_layer1\.")
"""Weights of DPT that are never used; published checkpoints do not contain them."""


def create(name: str) -> HfExpert:
    """Return the expert of a folder or hub id; its files are downloaded, its weights are not loaded yet.

    Raises:
        ExpertError: the model is not available or of no known family, or neither its files nor the URI state what its
            outputs mean.
    """
    return HfExpert(resolve(name, OPTIONS, code="trust_remote_code"), uri=f"hf:{name}")


def runs_code(name: str) -> bool:
    """Return true if the URI allows the model's own code to run."""
    return dict(parse_qsl(name.partition("?")[2])).get("trust_remote_code", "0") != "0"


class HfExpert(Expert):
    """A transformers model with its processor."""

    def __init__(self, source: Source, uri: str) -> None:
        options = source.options
        self.source = source
        self.trusted = choice(options, "trust_remote_code", ("0", "1")) == "1"
        self.dtype = choice(options, "dtype", DTYPES)
        self.batch_size = count(options, "batch_size", 8)
        self.postprocessor = _postprocessor(source)
        self.needs_sample = self.postprocessor.needs_captions
        self.calls = self.postprocessor.calls
        preprocessing = {
            **source.preprocessing,
            "do_center_crop": False,
            **self.postprocessor.settings,
            "dtype": self.dtype,
        }
        if self.trusted:
            preprocessing["trust_remote_code"] = True
        self.card = ExpertCard(
            uri,
            self.postprocessor.task,
            self.postprocessor.convention,
            source.license,
            source.revision,
            source.weights_sha256(),
            preprocessing,
            files_sha256="" if self.trusted else source.files_sha256(),  # code may be in other repositories
        )
        self._model: PreTrainedModel | None = None
        self._processor: Processor | None = None

    def load(self, device: str = "cpu") -> None:
        """Load processor and weights; no file is downloaded.

        Raises:
            ExpertError: transformers cannot load the folder, weights are missing, or prompts are too long.
        """
        import torch
        import transformers

        arguments = {"trust_remote_code": self.trusted, "local_files_only": True}
        try:
            with no_bars():
                self._processor = self._load_processor(transformers, arguments)
                model, loaded = getattr(transformers, self.postprocessor.auto).from_pretrained(
                    self.source.folder, use_safetensors=True, output_loading_info=True, **arguments
                )
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            fix = ". Add ?trust_remote_code=1 if you trust its code" if "trust_remote_code" in str(error) else ""
            raise ExpertError(f"transformers cannot load {self.card.uri}: {error}{fix}") from error
        missing = sorted(key for key in loaded["missing_keys"] if not UNUSED.search(key))
        if missing:
            raise ExpertError(
                f"{self.card.uri}: {len(missing)} weights are missing, such as {missing[0]}, and would be random. This "
                f"may be a backbone without the head of {type(model).__name__}: use a model that was fine-tuned with it"
            )
        disable_center_crop(self._processor)
        self.postprocessor.check(self._processor)
        self._model = model.to(device, getattr(torch, self.dtype)).eval()

    @property
    def module(self) -> PreTrainedModel | None:
        """The model, to which labeling applies precision and memory layout; None before `load`."""
        return self._model

    def _load_processor(self, transformers: ModuleType, arguments: Mapping[str, bool]) -> Processor:
        # class_info_file: OneFormer's names for training, which would be downloaded from another repository of the hub
        conditioned = isinstance(self.postprocessor, MasksPostprocessor) and self.postprocessor.task_conditioned
        info = {"class_info_file": ""} if conditioned else {}
        loader = getattr(transformers, self.postprocessor.auto_processor)
        return loader.from_pretrained(self.source.folder, **info, **arguments)

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return one label per image, of the image's size; all images have one size."""
        if self.needs_sample:
            raise ExpertError(f"{self.card.uri} takes its prompts from captions: call predict_inputs(inputs)")
        return self.predict_inputs([ExpertInput("", image) for image in images])

    def predict_inputs(self, inputs: Sequence[ExpertInput]) -> list[object]:
        """Return one label per sample; samples with the same query are processed as a batch.

        Raises:
            SampleError: images of this size do not fit the model, or its outputs are not finite.
        """
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        queries = [self.postprocessor.query(sample.caption) for sample in inputs]
        labels: list[object] = [None] * len(inputs)
        for query in dict.fromkeys(queries):
            rows = [row for row, other in enumerate(queries) if other == query]
            batches = [[row] for row in rows] if self.postprocessor.single_image else [rows]
            for batch in batches:
                results = self._labels([inputs[row].image for row in batch], query)
                for row, label in zip(batch, results, strict=True):
                    labels[row] = label
        return labels

    def _labels(self, images: Sequence[ImageArray], query: Query | None) -> list[object]:
        import torch

        assert self._model is not None, "`predict_inputs` checks that it is loaded"
        assert self._processor is not None
        postprocessor = self.postprocessor
        if query is None:
            assert isinstance(postprocessor, PromptedPostprocessor)  # only prompts can be missing
            return [postprocessor.without_query((image.shape[0], image.shape[1])) for image in images]
        pictures = [Image.fromarray(image) for image in images]
        try:
            with torch.inference_mode():
                return postprocessor.labels(self._model, self._processor, pictures, query)
        except RuntimeError as error:
            if type(error) is not RuntimeError or not OF_SIZE.search(str(error)):
                raise  # subclasses are errors of the device and of memory
            size = f"{pictures[0].width}×{pictures[0].height}"
            raise SampleError(f"the model cannot process a picture of {size} pixels: {error}") from error


def _postprocessor(source: Source) -> Postprocessor:
    """Return the postprocessor of a model, by its family."""
    config, preprocessing = source.config, source.preprocessing
    architectures = cast(Sequence[object], config.get("architectures") or ["none"])
    architecture = str(architectures[0])
    heads = HEADS.get(architecture, {})
    if heads:
        architecture = _head(source, architecture, heads)
    family = family_of(architecture, source.name, {**preprocessing, **config})
    postprocessor = POSTPROCESSORS[family.form]
    known = (*(["task"] if heads else []), *postprocessor.options, *COMMON)
    wrong = sorted(set(source.options) - set(known))
    if wrong:
        raise ExpertError(
            f"?{wrong[0]}= does not apply to {source.name}, a model of the family {family.name}: remove it. Options of "
            f"this family: {', '.join(known)}"
        )
    return postprocessor(Model(source, architecture, family, config, preprocessing))  # type: ignore[call-arg]


def _head(source: Source, architecture: str, heads: Mapping[str, str]) -> str:
    """Return the architecture of the task in the URI, for a model with heads for several tasks."""
    task = source.options.get("task", "")
    if task not in heads:
        given = f"?task={task} is none of them" if task else "choose one"
        raise ExpertError(
            f"{source.name} is a {architecture}, which predicts labels of {', '.join(heads)}: {given}, such as "
            f"?task={next(iter(heads))}"
        )
    return heads[task]
