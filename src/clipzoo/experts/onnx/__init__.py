"""Any dense ONNX model: ``onnx:path/model.yaml``, or ``onnx:path/model.onnx`` with its card beside it.

What the card says is in `clipzoo.experts.onnx.card`. Labels have the output's size unless the card asks for the
image's; both cover the whole image, since images are squashed to the input's size. Threads within an operator are
set by ``CLIPZOO_ONNX_THREADS``, else they are as many as torch uses (``--threads``, ``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.experts.frames import parse_frame
from clipzoo.experts.onnx.card import Described, Input, read_card
from clipzoo.experts.onnx.files import weights_sha256
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import FloatArray, ImageArray

log = logging.getLogger(__name__)

_RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


DTYPES = {
    "float": np.float32, "float16": np.float16, "double": np.float64, "uint8": np.uint8, "int32": np.int32,
    "int64": np.int64,
}  # fmt: skip
"""What ONNX Runtime calls an input's type -> numpy's."""

WHOLE = (np.uint8, np.int32, np.int64)


def create(name: str) -> OnnxExpert:
    """The expert of a card or model file.

    Raises:
        ExpertError: a file is missing or the card is wrong.
    """
    return OnnxExpert(Path(name).expanduser(), uri=f"onnx:{name}")


class OnnxExpert(Expert):
    """A model run by ONNX Runtime as its card says."""

    def __init__(self, path: Path, uri: str) -> None:
        self.spec, self.model = read_card(path)
        self.batch_size = self.spec.batch_size
        self.card = ExpertCard(
            uri=uri,
            task=self.spec.task,
            convention=self.spec.convention,
            license=self.spec.license,
            revision=self.spec.revision,
            weights_sha256=weights_sha256(self.model),
            preprocessing=self.spec.preprocessing,
        )
        self._session: Any = None
        self._input = self._output = ""
        self._dtype: Any = np.float32

    def load(self, device: str = "cpu") -> None:
        """Open the session on ``device``: on the CPU if ONNX Runtime has no provider for it, with a warning.

        Raises:
            ExpertError: onnxruntime is not installed, or the file is no model that fits its card.
        """
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise ExpertError("onnx: experts need ONNX Runtime; pip install 'clipzoo[onnx]'") from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(self.model), options, providers=_providers(ort, device))
        except Exception as error:  # its errors share no base class
            raise ExpertError(f"ONNX Runtime cannot load {self.model}: {error}") from error
        self._input = _pick("input", self._session.get_inputs(), self.spec.input.name, 0)
        self._output = _pick("output", self._session.get_outputs(), self.spec.output.name, self.spec.output.index)
        node = next(i for i in self._session.get_inputs() if i.name == self._input)
        self._dtype, shape = _dtype(node.type, self.spec.input, self.model), node.shape
        _fit(shape, self.spec.input, self.model)
        if shape and isinstance(shape[0], int):
            if shape[0] != 1:
                raise ExpertError(
                    f"{self.model} takes {shape[0]} images at a time, no fewer; export it with a dynamic batch axis, "
                    "or for one image"
                )
            self.batch_size = 1

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        """One label an image; a model whose batch axis is fixed gets them one by one."""
        if self._session is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        batch = np.stack([prepare(image, self.spec.input) for image in images]).astype(self._dtype, copy=False)
        step = self.batch_size if self.batch_size == 1 else len(batch)
        parts = [self._run(batch[i : i + step]) for i in range(0, len(batch), step)]
        raw = np.concatenate(parts)
        return [label(output, self.spec, image.shape[:2]) for output, image in zip(raw, images, strict=True)]

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        output = np.asarray(self._session.run([self._output], {self._input: batch})[0])
        return checked(output, len(batch), repr(self._output))


def checked(output: NDArray[Any], count: int, name: str) -> NDArray[Any]:
    """The output itself, if it is a map for each of ``count`` images; else `ExpertError`."""
    if output.ndim < 3 or len(output) != count:
        raise ExpertError(
            f"the output {name} has the shape {list(output.shape)} for {count} images; a map [B,C,H,W], [B,H,W,C] or "
            "[B,H,W] is expected: choose another by output.index or output.name"
        )
    return output


def _threads() -> int:
    import torch

    text = os.environ.get("CLIPZOO_ONNX_THREADS") or str(torch.get_num_threads())
    if not text.isdigit():
        raise ExpertError(
            f"CLIPZOO_ONNX_THREADS={text!r} is no number of threads; set it to 1, 2, … or 0 to let it choose"
        )
    return int(text)


def _providers(ort: Any, device: str) -> list[Any]:
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" in ort.get_available_providers():
            number = int(device.partition(":")[2] or 0)
            return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]
        log.warning("this onnxruntime has no CUDA provider: running on the CPU; pip install onnxruntime-gpu for CUDA")
    return ["CPUExecutionProvider"]


def _pick(what: str, nodes: Sequence[Any], name: str | None, index: int) -> str:
    names = [str(node.name) for node in nodes]
    if name is not None and name in names:
        return name
    if name is None and index < len(names):
        return names[index]
    raise ExpertError(f"the model has no {what} {name if name is not None else index!r}; it has: {', '.join(names)}")


def _dtype(told: str, spec: Input, model: Path) -> Any:
    """The numpy type of an input that ONNX Runtime calls ``told``.

    Raises:
        ExpertError: it is none that pixels can have, or one of whole numbers for which the card has fractions.
    """
    name = told.removeprefix("tensor(").removesuffix(")")
    if name not in DTYPES:
        raise ExpertError(
            f"{model} takes {told}, and pictures can be given as {', '.join(DTYPES)}: export it with an input of "
            "float32 (a quantized model dequantizes inside)"
        )
    if DTYPES[name] in WHOLE and (spec.scale, spec.mean, spec.std) != ("none", (0.0,) * 3, (1.0,) * 3):
        raise ExpertError(
            f"{model} takes {name}, pixels from 0 to 255 as they are, but its card scales them by {spec.scale!r}, mean "
            f"{list(spec.mean)} and std {list(spec.std)}: write scale: none into the card's input, without mean and std"
        )
    return DTYPES[name]


def _fit(shape: Sequence[Any], spec: Input, model: Path) -> None:
    """Raise `ExpertError` if a model's input of this shape, names or None where a side is free, is not the card's."""
    last = spec.layout == "NHWC"
    if not shape:  # the model does not say
        return
    if len(shape) != 4:
        raise ExpertError(f"{model} takes {list(shape)}; pictures are given as [B,3,H,W] or [B,H,W,3]: name another")
    other = shape[1 if last else 3]
    sides, channels = (tuple(shape[1:3]), shape[3]) if last else (tuple(shape[2:]), shape[1])
    if isinstance(channels, int) and channels != 3:
        fix = (
            f"write layout: {'NCHW' if last else 'NHWC'} into the card's input" if other == 3 else "name another input"
        )
        raise ExpertError(f"{model} takes {list(shape)}, but its card says {spec.layout}: {fix}")
    fixed = [side if isinstance(side, int) else None for side in sides]
    if any(a is not None and a != b for a, b in zip(fixed, spec.size or (None, None), strict=True)):
        seen = f"size {list(spec.size)}" if spec.size else "no size"
        wanted = [side or "any" for side in fixed]
        raise ExpertError(
            f"{model} takes {list(shape)}, but its card says {seen}: write size: {wanted} into the card's input"
        )


def prepare(image: ImageArray, spec: Input) -> FloatArray:
    """uint8 H×W×3 RGB -> float32 [3,H,W] (or [H,W,3]) as the card's input says."""
    top, left, height, width = spec.inner((image.shape[0], image.shape[1]))
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), _RESAMPLE[spec.resample]))
    values = image.astype(np.float32)
    if spec.channels == "bgr":
        values = values[..., ::-1]
    divisor = {"255": 255.0, "none": 1.0, "max": max(float(values.max()), 1e-6)}[spec.scale]
    values = _float32((values / divisor - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32))
    if spec.size is not None and spec.size != (height, width):
        below, right = spec.size[0] - top - height, spec.size[1] - left - width
        values = np.pad(values, ((top, below), (left, right), (0, 0)))  # 0 is the mean color
    return np.ascontiguousarray(values.transpose(2, 0, 1) if spec.layout == "NCHW" else values)


# Labels ----------------------------------------------------------------------------------------------------


def label(raw: NDArray[Any], card: Described, size: tuple[int, int]) -> Any:
    """One image's raw output -> its label; ``size`` is the image's (H, W)."""
    maps = _inner(_maps(raw, card), card, size)
    if card.scores == "ids":
        return _class_ids(maps, card, size)
    maps = _activate(maps.astype(np.float32), card)
    if card.task != "segmentation":
        maps = maps * np.float32(card.output.multiply) + np.float32(card.output.add)
    if card.output.resize:
        maps = np.stack([_resize(channel, size) for channel in maps])
    make = {"segmentation": _segmentation, "depth": _depth, "normals": _normals}[card.task]
    return make(maps, card)


def _maps(raw: NDArray[Any], card: Described) -> NDArray[Any]:
    """[H,W], [C,H,W] or [H,W,C] -> [C,H,W]."""
    if raw.ndim == 2:
        return raw[None]
    if raw.ndim != 3:
        raise ExpertError(
            f"an image's output has the shape {list(raw.shape)}; a map [C,H,W], [H,W,C] or [H,W] is expected"
        )
    last = (card.output.layout or card.input.layout) == "NHWC"
    return (raw.transpose(2, 0, 1) if last else raw)[: card.output.channels]


def _inner(maps: NDArray[Any], card: Described, size: tuple[int, int]) -> NDArray[Any]:
    """The part of the maps that shows the image, where it was letterboxed."""
    if card.input.fit == "stretch" or card.input.size is None:
        return maps
    top, left, height, width = card.input.inner(size)
    y, x = maps.shape[1] / card.input.size[0], maps.shape[2] / card.input.size[1]
    rows = slice(round(top * y), max(round((top + height) * y), round(top * y) + 1))
    return maps[:, rows, round(left * x) : max(round((left + width) * x), round(left * x) + 1)]


def _activate(maps: FloatArray, card: Described) -> FloatArray:
    by_default = {"logits": "sigmoid" if len(maps) == 1 else "softmax"}.get(card.scores, "none")
    how = card.output.activation or by_default
    if how == "sigmoid":
        return _float32(0.5 * (1.0 + np.tanh(0.5 * maps)))  # exp would overflow
    if how == "softmax":
        powers = np.exp(maps - maps.max(0))
        return _float32(powers / powers.sum(0))
    if how == "minmax":
        low, high = maps.min(), maps.max()
        return _float32((maps - low) / max(float(high - low), 1e-12))
    return maps


def _float32(values: Any) -> FloatArray:
    return np.asarray(values, dtype=np.float32)


def _resize(channel: FloatArray, size: tuple[int, int]) -> FloatArray:
    return np.array(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _segmentation(maps: FloatArray, card: Described) -> Segmentation:
    """Scores in [0, 1] -> the best class, its mean score as confidence; unknown where not finite."""
    valid = np.asarray(np.isfinite(maps).all(0))
    maps = np.where(valid, maps, np.float32(0))
    if len(maps) == 1 and len(card.classes) == 2:
        maps = np.concatenate([1 - maps, maps])
    if len(maps) != len(card.classes):
        raise ExpertError(
            f"the output has {len(maps)} channels for {len(card.classes)} classes; name them all, in their order, or "
            "choose another output"
        )
    ids = maps.argmax(0) if card.output.threshold is None else maps[1] > card.output.threshold
    best = np.take_along_axis(maps, ids[None].astype(np.int64), 0)[0][valid]
    confidence = float(np.clip(best.mean(), 0, 1)) if best.size else None
    return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid, confidence)


def _class_ids(maps: NDArray[Any], card: Described, size: tuple[int, int]) -> Segmentation:
    """Class ids as they are; unknown where outside the label space."""
    ids = np.rint(maps[0]).astype(np.int64)
    if card.output.resize:
        image = Image.fromarray(ids.astype(np.int32))
        ids = np.array(image.resize((size[1], size[0]), Image.Resampling.NEAREST))
    valid = (ids >= 0) & (ids < len(card.classes))
    return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid)


def _depth(maps: FloatArray, card: Described) -> Depth:
    """The first channel; unknown where not finite, or not positive though metric."""
    assert card.kind is not None, "the card was validated"
    values = maps[0]
    valid = np.isfinite(values)
    if card.kind == "metric":
        valid &= np.where(valid, values, 0) > 0
    return Depth(np.where(valid, values, 0).astype(np.float32), valid, card.kind, card.along)


def _normals(maps: FloatArray, card: Described) -> Normals:
    """Three channels turned into our frame and brought to length 1; unknown where they have none."""
    assert card.output.frame is not None, "the card was validated"
    if len(maps) != 3:
        raise ExpertError(f"the output has {len(maps)} channels, normals have 3; choose another by output.index")
    vectors = np.tensordot(parse_frame(card.output.frame), np.nan_to_num(maps, posinf=0, neginf=0), 1)
    lengths = np.linalg.norm(vectors, axis=0)
    valid = np.isfinite(maps).all(0) & (lengths > 1e-6)
    unit = vectors / np.where(valid, lengths, 1)
    return Normals(np.where(valid, unit, 0).astype(np.float32), valid)
