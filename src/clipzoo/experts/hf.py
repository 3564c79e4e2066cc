"""Depth and semantic segmentation of Hugging Face transformers: ``hf:<folder or hub id>[@revision][?options]``.

Images are prepared and outputs brought to the image's size by the model's own processor, so a label is what
``transformers.pipeline`` gives. Options: ``kind`` and ``along`` (what a depth model's values are, where its files do
not say), ``dtype`` (float32, float16, bfloat16), ``batch_size``, ``trust_remote_code=1`` (run the model's own code).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from PIL import Image

from clipzoo.errors import ExpertError
from clipzoo.experts import _hf_source
from clipzoo.experts._hf_source import Source
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Depth, Kind
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray

OPTIONS = ("kind", "along", "dtype", "batch_size", "trust_remote_code")
DTYPES = ("float32", "float16", "bfloat16")
AUTO = {
    "ForDepthEstimation": ("depth", "AutoModelForDepthEstimation"),
    "ForSemanticSegmentation": ("segmentation", "AutoModelForSemanticSegmentation"),
    "Mask2FormerForUniversalSegmentation": ("segmentation", "AutoModelForUniversalSegmentation"),
    "MaskFormerForInstanceSegmentation": ("segmentation", "AutoModelForUniversalSegmentation"),
    "OneFormerForUniversalSegmentation": ("segmentation", "AutoModelForUniversalSegmentation"),
}
"""The end of an architecture's name -> (task, the class of transformers that loads it)."""

VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored"})
"""Names of classes that mean 'not known'."""

UNUSED = re.compile(r"fusion_stage\.layers\.0\.residual_layer1\.")
"""Weights that DPT has but never uses, and published checkpoints leave out."""


def create(name: str) -> HfExpert:
    """The expert of a folder or hub id; its files are fetched, its weights not yet loaded.

    Raises:
        ExpertError: not at hand, not an architecture that gives depth or classes, or a depth whose kind is unknown.
    """
    return HfExpert(_hf_source.find(name, OPTIONS, code="trust_remote_code"), uri=f"hf:{name}")


class HfExpert(Expert):
    """A transformers model with its processor."""

    def __init__(self, source: Source, uri: str) -> None:
        config, options = source.config, source.options
        self.source, self.trusted = source, _choice(options, "trust_remote_code", ("0", "1")) == "1"
        self.dtype = _choice(options, "dtype", DTYPES)
        self.batch_size = _count(options.get("batch_size", "8"))
        self.architecture = str((config.get("architectures") or ["none"])[0])
        task, self.auto = _task(self.architecture, uri)
        convention = _depth_convention(config, self.architecture, options, uri) if task == "depth" else _classes(config)
        preprocessing = {**source.preprocessing, "dtype": self.dtype}
        if self.trusted:
            preprocessing["trust_remote_code"] = True
        self.card = ExpertCard(
            uri, task, convention, source.licence, source.revision, source.weights_sha256(), preprocessing
        )
        self._prompt = {"task_inputs": "semantic"} if self.architecture.startswith("OneFormer") else {}
        self._model: Any = None
        self._processor: Any = None
        self._void = [i for i, name in enumerate(convention.classes) if name.strip().lower() in VOID]

    def load(self, device: str = "cpu") -> None:
        """Load processor and weights; no file is fetched.

        Raises:
            ExpertError: transformers cannot load the folder, or it lacks some of the weights.
        """
        import torch
        import transformers

        place: dict[str, Any] = {"trust_remote_code": self.trusted, "local_files_only": True}
        try:
            if self._prompt:  # class_info_file, names for training, would be fetched from another place of the hub
                self._processor = transformers.AutoProcessor.from_pretrained(
                    self.source.folder, class_info_file=None, **place
                )
            else:
                self._processor = transformers.AutoImageProcessor.from_pretrained(self.source.folder, **place)
            model, loaded = getattr(transformers, self.auto).from_pretrained(
                self.source.folder, use_safetensors=True, output_loading_info=True, **place
            )
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            fix = "" if "trust_remote_code" not in str(error) else "; add ?trust_remote_code=1 if you trust its code"
            raise ExpertError(f"transformers cannot load {self.card.uri}: {error}{fix}") from error
        if missing := [key for key in loaded["missing_keys"] if not UNUSED.search(key)]:
            raise ExpertError(
                f"{self.card.uri} lacks {len(missing)} of its weights, {sorted(missing)[0]} the first: they would be "
                f"random; is this a backbone without the head of {self.architecture}? Name a model fine-tuned for it"
            )
        self._model = model.to(device, getattr(torch, self.dtype)).eval()

    @property
    def module(self) -> Any:
        """The model, for precision and layout of labelling; None before `load`."""
        return self._model

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One label an image, of the image's size; all of one size, as a batch."""
        if self._model is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        import torch

        prompt = {name: [text] * len(images) for name, text in self._prompt.items()}
        inputs = self._processor(images=[Image.fromarray(image) for image in images], return_tensors="pt", **prompt)
        with torch.inference_mode():
            outputs = self._model(**inputs.to(self._model.device, self._model.dtype))
        for name, value in outputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                outputs[name] = value.float()
        sizes = [image.shape[:2] for image in images]
        return self._depths(outputs, sizes) if self.card.task == "depth" else self._segmentations(outputs, sizes)

    def _depths(self, outputs: Any, sizes: list[tuple[int, int]]) -> list[Depth]:
        """Unknown where not finite, or not positive though metric."""
        kind, along = self.card.convention.kind, self.card.convention.along
        assert kind is not None, "the card was checked"
        labels = []
        for found in self._post("post_process_depth_estimation")(outputs, sizes):
            values = found["predicted_depth"].float().cpu().numpy()
            valid = np.isfinite(values)
            if kind == "metric":
                valid &= np.where(valid, values, 0) > 0
            labels.append(Depth(np.where(valid, values, 0).astype(np.float32), valid, kind, along))
        return labels

    def _segmentations(self, outputs: Any, sizes: list[tuple[int, int]]) -> list[Segmentation]:
        """The best class; unknown where that is a class of `VOID`.

        The confidence is the mean over pixels of the best class's probability; None where masks vote.
        """
        maps = self._post("post_process_semantic_segmentation")(outputs, target_sizes=sizes)
        logits = outputs.get("logits")
        sure = [None] * len(maps) if logits is None else logits.softmax(1).amax(1).mean((1, 2)).tolist()
        labels = []
        for found, confidence in zip(maps, sure, strict=True):
            ids = found.cpu().numpy().astype(np.uint16)
            labels.append(Segmentation(ids, ~np.isin(ids, self._void), confidence))
        return labels

    def _post(self, name: str) -> Callable[..., Any]:
        if not hasattr(self._processor, name):
            raise ExpertError(
                f"the processor of {self.card.uri}, {type(self._processor).__name__}, has no {name}(): this "
                "architecture's outputs cannot be read; write a python: expert for it (docs/experts.md)"
            )
        function: Callable[..., Any] = getattr(self._processor, name)
        return function


# What the files say ------------------------------------------------------------------------------------------


def _task(architecture: str, uri: str) -> tuple[str, str]:
    for end, found in AUTO.items():
        if architecture.endswith(end):
            return found
    raise ExpertError(
        f"{uri} is a {architecture}, which gives neither depth nor classes of pixels; architectures that do end with "
        f"{', '.join(AUTO)}"
    )


def _classes(config: Mapping[str, Any]) -> Convention:
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # what transformers takes where it says nothing
    ids = [str(i) for i in range(len(names))]
    if sorted(names) != sorted(ids):
        raise ExpertError(
            f"id2label of config.json names the ids {', '.join(names)}; they must run from 0 without gaps: mend it"
        )
    return Convention(tuple(str(names[i]) for i in ids))


def _depth_convention(config: Mapping[str, Any], architecture: str, options: Mapping[str, str], uri: str) -> Convention:
    kind = options.get("kind") or _kind(config, architecture, uri)
    if kind not in get_args(Kind):
        known = ", ".join(get_args(Kind))
        seen = f"?kind={kind} is none of them" if kind else f"the files of a {architecture} do not say which"
        raise ExpertError(
            f"what are the depths of {uri}: {known}? {seen}; see its model card and add ?kind=metric (metres) or "
            "?kind=affine-disparity (relative, nearer is larger) to the URI"
        )
    along = _choice(options, "along", get_args(Along))
    return Convention((), kind, along)  # type: ignore[arg-type]


def _kind(config: Mapping[str, Any], architecture: str, uri: str) -> Kind | None:
    """What an architecture predicts, or its config says it does; None where one class serves several kinds.

    DPT is MiDaS's relative disparity in Intel's checkpoints, and metres in those fine-tuned on NYU or KITTI, with
    configs that do not differ. Every one of these takes z for depth.
    """
    if architecture in ("ZoeDepthForDepthEstimation", "GLPNForDepthEstimation"):
        return "metric"
    if architecture == "DepthAnythingForDepthEstimation":
        return "metric" if config.get("depth_estimation_type", "relative") == "metric" else "affine-disparity"
    if re.match(r"hf:Intel/dpt-(?!.*(nyu|kitti))", uri):
        return "affine-disparity"
    return None


# The URI's options -------------------------------------------------------------------------------------------


def _choice(options: Mapping[str, str], name: str, known: Sequence[str]) -> str:
    """The option's value; the first that is known where it is not given."""
    value = options.get(name, known[0])
    if value not in known:
        raise ExpertError(f"?{name}={value}: it is one of {', '.join(known)}")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ExpertError(f"?batch_size={text}: it is a number of images, at least 1")
    return int(text)
