"""Any dense ONNX model: ``onnx:path/model.yaml``, or ``onnx:path/model.onnx`` with its card in the same folder.

`clipzoo.experts.onnx.card` describes the card. Labels have the size of the output, or of the image if the card sets
``resize``; they cover the whole image. ``CLIPZOO_ONNX_THREADS`` sets the number of threads of an operator; by default
it is torch's (``--threads``, ``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from clipzoo.errors import ExpertError
from clipzoo.experts.base import Expert, ExpertCard
from clipzoo.experts.frames import unit_normals
from clipzoo.experts.onnx.card import BaseCard, Input, read_card
from clipzoo.experts.onnx.files import weights_sha256
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import FloatArray, ImageArray, Size

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

log = logging.getLogger(__name__)

_RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

DTYPES: Mapping[str, type[np.number]] = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
}
"""Element type of an input in ONNX Runtime -> type in NumPy."""

INTEGERS = (np.uint8, np.int32, np.int64)

CUDA = "CUDAExecutionProvider"


def create(name: str) -> OnnxExpert:
    """Return the expert of a card or model file, not loaded.

    Raises:
        ExpertError: a file is missing, or the card is invalid.
    """
    return OnnxExpert(Path(name).expanduser(), uri=f"onnx:{name}")


class OnnxExpert(Expert):
    """A model in ONNX Runtime, with the inputs and outputs that its card describes."""

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
        self._session: InferenceSession | None = None
        self._input = self._output = ""
        self._dtype: type[np.number] = np.float32

    def load(self, device: str = "cpu") -> None:
        """Open the session on ``device``; if ONNX Runtime has no provider for it, on the CPU with a warning.

        Raises:
            ExpertError: onnxruntime is not installed, the file is not a model, or the model does not fit its card.
        """
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise ExpertError(
                "onnx: experts need ONNX Runtime, which is not installed: pip install 'clipzoo[onnx]'"
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = _threads()
        options.log_severity_level = 3
        providers = _providers(ort, device)
        try:
            self._session = ort.InferenceSession(str(self.model), options, providers=providers)
        except Exception as error:  # errors of ONNX Runtime have no common base class
            raise ExpertError(f"ONNX Runtime cannot load {self.model}: {error}. Export the model again") from error
        _warn_of_cpu(self._session, providers)
        self._input = _pick("input", self._session.get_inputs(), self.spec.input.name, 0)
        self._output = _pick("output", self._session.get_outputs(), self.spec.output.name, self.spec.output.index)
        node = next(node for node in self._session.get_inputs() if node.name == self._input)
        _check_others(self._session.get_inputs(), self._input, self.model)
        self._dtype = _dtype(node.type, self.spec.input, self.model)
        _check_shape(node.shape, self.spec.input, self.model)
        if node.shape and isinstance(node.shape[0], int):
            if node.shape[0] != 1:
                raise ExpertError(
                    f"{self.model} takes batches of exactly {node.shape[0]} images, but the last batch of a shard may "
                    "be smaller: export it with a dynamic batch axis, or for one image"
                )
            self.batch_size = 1

    def predict(self, images: Sequence[ImageArray]) -> list[object]:
        """Return one label per image; a model with a fixed batch axis runs once per image."""
        if self._session is None:
            raise ExpertError(f"{self.card.uri} is not loaded; call load() first")
        batch = np.stack([prepare(image, self.spec.input) for image in images]).astype(self._dtype, copy=False)
        step = 1 if self.batch_size == 1 else len(batch)
        outputs = np.concatenate([self._run(batch[i : i + step]) for i in range(0, len(batch), step)])
        return [label(output, self.spec, image.shape[:2]) for output, image in zip(outputs, images, strict=True)]

    def _run(self, batch: NDArray[np.number]) -> NDArray[np.number]:
        assert self._session is not None, "`predict` checks that it is loaded"
        output = np.asarray(self._session.run([self._output], {self._input: batch})[0])
        return check_output(output, len(batch), repr(self._output))


def check_output(output: NDArray[np.number], count: int, name: str) -> NDArray[np.number]:
    """Return the output if it is a map for each of ``count`` images.

    Raises:
        ExpertError: it has another shape.
    """
    if output.ndim < 3 or len(output) != count:
        raise ExpertError(
            f"the output {name} has the shape {list(output.shape)} for {count} images, but labels need a map "
            "[B,C,H,W], [B,H,W,C] or [B,H,W]: choose another output with output.index or output.name"
        )
    return output


def _threads() -> int:
    import torch

    text = os.environ.get("CLIPZOO_ONNX_THREADS") or str(torch.get_num_threads())
    if not text.isdigit():
        raise ExpertError(
            f"CLIPZOO_ONNX_THREADS={text!r} is not a number of threads: set it to 1, 2, … or to 0, with which ONNX "
            "Runtime chooses"
        )
    return int(text)


def _providers(ort: ModuleType, device: str) -> list[object]:
    if device.startswith("cuda"):
        if CUDA in ort.get_available_providers():
            number = int(device.partition(":")[2] or 0)
            return [(CUDA, {"device_id": number}), "CPUExecutionProvider"]
        log.warning("onnxruntime has no CUDA provider: running on the CPU. For CUDA, pip install onnxruntime-gpu")
    return ["CPUExecutionProvider"]


def _warn_of_cpu(session: InferenceSession, wanted: Sequence[object]) -> None:
    """Warn if CUDA was asked for, and ONNX Runtime could not load it and uses the CPU instead."""
    if len(wanted) > 1 and CUDA not in session.get_providers():
        log.warning(
            "onnxruntime cannot load its CUDA provider: running on the CPU. Usually CUDA or cuDNN is missing, or of "
            "another version than this onnxruntime-gpu was built for. Install them with it: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', or use --device cpu"
        )


def _pick(what: str, nodes: Sequence[NodeArg], name: str | None, index: int) -> str:
    names = [str(node.name) for node in nodes]
    if name is not None and name in names:
        return name
    if name is None and index < len(names):
        return names[index]
    raise ExpertError(
        f"the model has no {what} {name if name is not None else index!r}: correct {what} in the card to one of "
        f"{', '.join(names)}"
    )


def _check_others(nodes: Sequence[NodeArg], image: str, model: Path) -> None:
    """Raise `ExpertError` if a model needs inputs in addition to the image."""
    needed = [str(node.name) for node in nodes if node.name != image and not node.type.startswith("optional")]
    if needed:
        raise ExpertError(
            f"{model} needs {', '.join(needed)} in addition to {image}, but clipzoo gives only an image: export it "
            "with these inputs as constants"
        )


def _dtype(type_name: str, spec: Input, model: Path) -> type[np.number]:
    """Return the NumPy type of an input with the type ``type_name`` in ONNX Runtime.

    Raises:
        ExpertError: pixels cannot have this type, or it is an integer type and the card asks for fractions.
    """
    name = type_name.removeprefix("tensor(").removesuffix(")")
    if name not in DTYPES:
        raise ExpertError(
            f"{model} takes {type_name}, but clipzoo gives images only as {', '.join(DTYPES)}: export the model with "
            "an input of float32 (a quantized model dequantizes inside)"
        )
    if DTYPES[name] in INTEGERS and (spec.scale, spec.mean, spec.std) != ("none", (0.0,) * 3, (1.0,) * 3):
        raise ExpertError(
            f"{model} takes {name}, pixels from 0 to 255, but its card scales them with scale: {spec.scale}, mean "
            f"{list(spec.mean)} and std {list(spec.std)}: set scale: none in the card's input, and remove mean and std"
        )
    return DTYPES[name]


def _check_shape(shape: Sequence[object], spec: Input, model: Path) -> None:
    """Raise `ExpertError` if the input of a model has another shape than the card says.

    ``shape`` has names or None for axes of any length; it is empty if the model does not state it.
    """
    if not shape:
        return
    if len(shape) != 4:
        raise ExpertError(
            f"{model} takes {list(shape)}, but images are given as [B,3,H,W] or [B,H,W,3]: name another input in the "
            "card"
        )
    if spec.layout == "NHWC":
        channels, sides, fix = shape[3], shape[1:3], "set layout: NCHW in the card's input"
        other_channels = shape[1]
    else:
        channels, sides, fix = shape[1], shape[2:], "set layout: NHWC in the card's input"
        other_channels = shape[3]
    if isinstance(channels, int) and channels != 3:
        if other_channels != 3:
            fix = "name another input in the card"
        raise ExpertError(f"{model} takes {list(shape)}, but its card says {spec.layout}: {fix}")
    fixed = [side if isinstance(side, int) else None for side in sides]
    if any(side is not None and side != size for side, size in zip(fixed, spec.size or (None, None), strict=True)):
        stated = f"size {list(spec.size)}" if spec.size else "no size"
        needed = [side or "any" for side in fixed]
        raise ExpertError(
            f"{model} takes {list(shape)}, but its card says {stated}: set size: {needed} in the card's input"
        )


def prepare(image: ImageArray, spec: Input) -> FloatArray:
    """Convert an image, uint8 H×W×3 RGB, to float32 [3,H,W] (or [H,W,3]) as the card's input says."""
    top, left, height, width = spec.placement((image.shape[0], image.shape[1]))
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), _RESAMPLE[spec.resample]))
    values = image.astype(np.float32)
    if spec.channels == "bgr":
        values = values[..., ::-1]
    divisor = {"255": 255.0, "none": 1.0, "max": max(float(values.max()), 1e-6)}[spec.scale]
    values = _float32((values / divisor - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32))
    if spec.size is not None and spec.size != (height, width):
        bottom, right = spec.size[0] - top - height, spec.size[1] - left - width
        values = np.pad(values, ((top, bottom), (left, right), (0, 0)))  # 0 is the mean color
    return np.ascontiguousarray(values.transpose(2, 0, 1) if spec.layout == "NCHW" else values)


# Labels ----------------------------------------------------------------------------------------------------


def label(raw: NDArray[np.number], card: BaseCard, size: Size) -> Segmentation | Depth | Normals:
    """Return the label of one image from its raw output; ``size`` is (H, W) of the image."""
    maps = _without_padding(_maps(raw, card), card, size)
    if card.scores == "ids":
        return _class_ids(maps, card, size)
    values = _activate(maps.astype(np.float32), card)
    if card.task != "segmentation":
        values = values * np.float32(card.output.multiply) + np.float32(card.output.add)
    if card.output.resize:
        values = np.stack([_resize(channel, size) for channel in values])
    convert: dict[str, Callable[[FloatArray, BaseCard], Segmentation | Depth | Normals]] = {
        "segmentation": _segmentation,
        "depth": _depth,
        "normals": _normals,
    }
    return convert[card.task](values, card)


def _maps(raw: NDArray[np.number], card: BaseCard) -> NDArray[np.number]:
    """Convert an output [H,W], [C,H,W] or [H,W,C] to [C,H,W].

    Raises:
        ExpertError: it is no map, or it has not the channels of depth, normals or class ids.
    """
    if raw.ndim not in (2, 3):
        raise ExpertError(
            f"the output of one image has the shape {list(raw.shape)}, but labels need a map [C,H,W], [H,W,C] or "
            "[H,W]: choose another output with output.index or output.name"
        )
    layout = card.output.layout or card.input.layout
    maps = raw[None] if raw.ndim == 2 else raw.transpose(2, 0, 1) if layout == "NHWC" else raw
    maps = maps[: card.output.channels]
    needed = 3 if card.task == "normals" else 1 if card.task == "depth" or card.scores == "ids" else len(maps)
    if len(maps) == needed:
        return maps
    what = "depth has" if card.task == "depth" else "normals have" if card.task == "normals" else "class ids have"
    other = ("NHWC", raw.shape[-1]) if layout == "NCHW" else ("NCHW", raw.shape[0])
    fix = "choose another output with output.index"
    if raw.ndim == 3 and other[1] == needed:
        fix = f"set output.layout: {other[0]}"
    elif len(maps) > needed:
        fix += f", or set output.channels: {needed} to use the first of them"
    raise ExpertError(
        f"the number of channels of the output {list(raw.shape)} is {len(maps)}, but {what} {needed}: {fix}"
    )


def _without_padding(maps: NDArray[np.number], card: BaseCard, size: tuple[int, int]) -> NDArray[np.number]:
    """Return the part of the maps that shows the image, if it was letterboxed."""
    if card.input.fit == "stretch" or card.input.size is None:
        return maps
    top, left, height, width = card.input.placement(size)
    y, x = maps.shape[1] / card.input.size[0], maps.shape[2] / card.input.size[1]
    first_row, first_column = round(top * y), round(left * x)
    last_row = max(round((top + height) * y), first_row + 1)
    last_column = max(round((left + width) * x), first_column + 1)
    return maps[:, first_row:last_row, first_column:last_column]


def _activate(maps: FloatArray, card: BaseCard) -> FloatArray:
    default = "none"
    if card.scores == "logits":
        default = "sigmoid" if len(maps) == 1 else "softmax"
    activation = card.output.activation or default
    if activation == "sigmoid":
        return _float32(0.5 * (1.0 + np.tanh(0.5 * maps)))  # exp overflows
    if activation == "softmax":
        powers = np.exp(maps - maps.max(0))
        return _float32(powers / powers.sum(0))
    if activation == "minmax":
        finite = np.isfinite(maps)
        known = maps[finite] if finite.any() else np.zeros(1, np.float32)
        low, high = known.min(), known.max()
        return _float32(np.where(finite, (maps - low) / max(float(high - low), 1e-12), np.nan))
    return maps


def _float32(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float32)


def _resize(channel: FloatArray, size: tuple[int, int]) -> FloatArray:
    return np.array(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _segmentation(maps: FloatArray, card: BaseCard) -> Segmentation:
    """Convert scores in [0, 1] to the best class, with its mean score as confidence; unknown where not finite."""
    valid = np.asarray(np.isfinite(maps).all(0))
    maps = np.where(valid, maps, np.float32(0))
    if len(maps) == 1 and len(card.classes) == 2:
        maps = np.concatenate([1 - maps, maps])
    if len(maps) != len(card.classes):
        raise ExpertError(
            f"the output has {len(maps)} channels for {len(card.classes)} classes: list all classes in the card, in "
            "the order of the channels, or choose another output"
        )
    ids = maps.argmax(0) if card.output.threshold is None else maps[1] > card.output.threshold
    best = np.take_along_axis(maps, ids[None].astype(np.int64), 0)[0][valid]
    confidence = float(np.clip(best.mean(), 0, 1)) if best.size else None
    return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid, confidence)


def _class_ids(maps: NDArray[np.number], card: BaseCard, size: tuple[int, int]) -> Segmentation:
    """Convert class ids to a label; unknown where an id is outside the label space."""
    values = maps[0].astype(np.float64)
    within = (values > -1) & (values < len(card.classes))  # False for NaN, which no integer stands for
    ids = np.rint(np.where(within, values, -1)).astype(np.int64)
    if card.output.resize:
        image = Image.fromarray(ids.astype(np.int32))
        ids = np.array(image.resize((size[1], size[0]), Image.Resampling.NEAREST))
    valid = (ids >= 0) & (ids < len(card.classes))
    return Segmentation(np.where(valid, ids, 0).astype(np.uint16), valid)


def _depth(maps: FloatArray, card: BaseCard) -> Depth:
    """Convert the only channel to depth; unknown where it is not finite, or metric and not positive."""
    assert card.kind is not None, "the card was validated"
    values = maps[0]
    valid = np.isfinite(values)
    if card.kind == "metric":
        valid &= np.where(valid, values, 0) > 0
    return Depth(np.where(valid, values, 0).astype(np.float32), valid, card.kind, card.along)


def _normals(maps: FloatArray, card: BaseCard) -> Normals:
    """Convert three channels to unit vectors in clipzoo's frame; unknown where a vector has no length."""
    assert card.output.frame is not None, "the card was validated"
    return unit_normals(maps, card.output.frame)
