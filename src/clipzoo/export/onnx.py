"""Export to ONNX: the image tower, the text tower and each head, for ONNX Runtime alone.

The graphs take pixels and token ids; normalization, and the decoding of a head's output, are part of them. They are
written by PyTorch's TorchScript exporter, which needs only ``onnx``; its successor needs ``onnxscript``, too.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize

from clipzoo import files
from clipzoo.export._decoding import DECODERS
from clipzoo.export._tokenizer import standalone
from clipzoo.export.base import Source, compared, logits_of, on_probabilities, refused, transform_of
from clipzoo.heads import Maps, layers, resize
from clipzoo.models import HeadSpec, Student
from clipzoo.tasks import get as get_task
from clipzoo.types import ImageArray

LIBRARY = "onnx"
LIMIT = 1e-4
OPSET = 17
LARGEST = 2_000_000_000
"""Bytes: an ONNX file is one message of Protocol Buffers, which ends at 2 GiB."""
IMAGE, TEXT, TOKENIZER, PREPROCESS = "image.onnx", "text.onnx", "tokenizer.json", "preprocess.json"

USAGE = """```python
import numpy as np
import onnxruntime
from PIL import {imported}
from tokenizers import Tokenizer

{{folder}}
image, text = (onnxruntime.InferenceSession(folder + name) for name in ("/image.onnx", "/text.onnx"))
picture = Image.open("picture.jpg").convert("RGB")
picture = {resized}
(pictures,) = image.run(None, {{"images": np.asarray(picture)[None]}})
tokens = np.array([one.ids for one in Tokenizer.from_file(folder + "/tokenizer.json").encode_batch(["a chair"])])
(texts,) = text.run(None, {{"tokens": tokens}})
print(pictures @ texts.T)
```

`images` is uint8 [batch, {height}, {width}, 3], RGB; `tokens` is int64 [batch, {length}]. Both embeddings have unit
length. The batch size is free. Opset {opset}. {resize}

{probabilities}
{heads}"""


def check(source: Source) -> None:
    """Refuse without ``onnx`` and ``onnxruntime``, above 2 GB, and heads of tasks without a decoder."""
    student = source.student
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise refused("onnx", f"{' and '.join(missing)} is not installed", "Run `pip install 'clipzoo[onnx-export]'`")
    for name, module in (("image", student.clip.visual), ("whole", student.clip)):
        size = sum(parameter.numel() * 4 for parameter in module.parameters())
        if size > LARGEST:
            raise refused("onnx", f"its {name} model has {size / 1e9:.1f} GB, and an ONNX file holds 2 GB")
    standalone(student, "onnx")
    others = [spec.task for spec in student.specs.values() if spec.task not in DECODERS]
    if source.heads and others:
        raise refused("onnx", f"no decoder for the task {others[0]} is known", "Omit --heads")


def write(source: Source, folder: Path) -> str:
    """Write a graph for each tower and head, the tokenizer, and the preprocessing and numbers of logits as JSON."""
    student = source.student
    height, width = student.image_size
    images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    tokens = student.tokenize(["a picture", "a"])
    _write_graph(_Image(student), images, folder / IMAGE, ["images"], ["embeddings"])
    _write_graph(_Text(student), tokens, folder / TEXT, ["tokens"], ["embeddings"])
    files.write(folder / TOKENIZER, standalone(student, "onnx").to_str().encode())
    heads: dict[str, _Graph] = {}
    for column in student.specs if source.heads else ():
        head = _Head(student, column)
        with torch.no_grad():
            names = list(head.decoded(images))
        _write_graph(head, images, folder / file_of(column), ["images"], names)
        heads[column] = {
            "file": file_of(column), "outputs": names, "convention": head.spec.convention.to_json()
        }  # fmt: skip
    described = {
        **student.preprocess_cfg, "size": [height, width], "opset": OPSET, **logits_of(student), "heads": heads,
    }  # fmt: skip
    files.write(folder / PREPROCESS, (json.dumps(described, indent=2) + "\n").encode())
    return _usage(student, tokens.shape[1], heads)


def file_of(column: str) -> str:
    """Return the file name of a head."""
    return f"head-{column.replace('/', '-')}.onnx"


class _Graph(TypedDict):
    """The graph of a head, as `PREPROCESS` describes it."""

    file: str
    outputs: list[str]
    convention: dict[str, object]


class _Image(nn.Module):
    """Pixels uint8 [B,H,W,3] -> embeddings of unit length."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        return self.student.encode_image(images)


class _Text(nn.Module):
    """Token ids [B,L] -> embeddings of unit length."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.clip = student.clip

    def forward(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.clip.encode_text(tokens, normalize=True)
        return embeddings


class _Head(nn.Module):
    """Pixels uint8 [B,H,W,3] -> the decoded values of a column."""

    def __init__(self, student: Student, column: str) -> None:
        super().__init__()
        self.student, self.spec = student, student.specs[column]
        self.head = student.heads[column.replace(".", "_")]

    def decoded(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return name -> values at the student's size."""
        raw = resize(self.head(Maps(self.student.maps(images))), self.student.image_size)
        return DECODERS[self.spec.task](raw[:, : channels(self.spec)], self.spec.convention)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.decoded(images).values())


def channels(spec: HeadSpec) -> int:
    """Return the channels of a head's raw output that its prediction uses."""
    return get_task(spec.task).channels(spec.convention)


def _write_graph(module: nn.Module, example: Tensor, path: Path, inputs: list[str], outputs: list[str]) -> None:
    module.eval()
    axes = {name: {0: "batch"} for name in [*inputs, *outputs]}
    with files.atomic(path) as beside, _exportable(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that the exporter is old, and that shapes become constants
        module(example)  # fills the constants
        torch.onnx.export(
            module, (example,), str(beside), dynamo=False, opset_version=OPSET, input_names=inputs,
            output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip


@contextmanager
def _exportable() -> Iterator[None]:
    """Make the weights of `heads.resize` constants of the graph, and expand attention: opset 17 has neither."""
    fast = torch.backends.mha.get_fastpath_enabled()
    compute, known = layers._weights, dict[tuple[int, int], Tensor]()

    def weights(before: int, after: int, like: Tensor) -> Tensor:
        key = int(before), int(after)
        if key not in known:
            known[key] = compute(*key, like).detach()
        return known[key]

    layers._weights = weights
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        layers._weights = compute


def _usage(student: Student, length: int, heads: Mapping[str, _Graph]) -> str:
    height, width = student.image_size
    imported, resized, about = _resizing(student)
    listed = [f"- `{one['file']}`: {', '.join(one['outputs'])} of {column}" for column, one in heads.items()]
    return USAGE.format(
        imported=imported,
        resized=resized,
        height=height,
        width=width,
        length=length,
        opset=OPSET,
        resize=about,
        probabilities=on_probabilities(student, "(pictures @ texts.T)", PREPROCESS),
        heads="\nThe graphs of heads take `images`, too:\n\n" + "\n".join(listed) + "\n" if listed else "",
    )


def _resizing(student: Student) -> tuple[str, str, str]:
    """Return the names that the snippet imports from Pillow, its resizing, and a sentence on it."""
    (height, width), config = student.image_size, student.preprocess_cfg
    kind = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"  # OpenCLIP has no others
    how, filled = f"({width}, {height}), Image.Resampling.{kind.upper()}", (config.get("fill_color", 0),) * 3
    mode = config["resize_mode"]
    if mode == "squash":
        return "Image", f"picture.resize({how})", f"Images are resized to this size with Pillow, {kind}."
    if mode == "longest":
        about = f"Images are resized with Pillow, {kind}, until they fit into this size, and padded."
        return "Image, ImageOps", f"ImageOps.pad(picture, {how}, {filled})", about
    about = f"Images are cropped to their center in the aspect of this size, and resized with Pillow, {kind}."
    return "Image, ImageOps", f"ImageOps.fit(picture, {how})", about


def compare(source: Source, folder: Path) -> dict[str, object]:
    """Compare the graphs, run by ONNX Runtime, with the student.

    Returns:
        the values of `compared`; ``opset``; ``heads``: column -> the largest difference of a value, divided by one plus
        its magnitude, and for class ids the share that differs.

    Raises:
        CheckpointError: the values of a head differ by more than `LIMIT`.
    """
    from tokenizers import Tokenizer

    student = source.student
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    prepare = _pixels(student)
    image, text = (_session(folder / name, of) for name, of in ((IMAGE, "images"), (TEXT, "tokens")))
    parity = compared(
        source,
        lambda images: torch.from_numpy(np.stack([prepare(one) for one in images])),
        lambda pixels: image(pixels)[0],
        lambda texts: torch.tensor([one.ids for one in tokenizer.encode_batch(list(texts))]),
        lambda ids: text(ids)[0],
        ("onnxruntime",),
        lambda pixels: pixels.permute(0, 3, 1, 2).float(),
    )
    columns = list(student.specs) if source.heads else []
    heads = {column: _compare_head(source, column, folder) for column in columns}
    worst = max((value for each in heads.values() for value in each.values()), default=0.0)
    if worst > LIMIT:
        raise refused(
            "onnx", f"the graph of a head computes other values, by up to {worst:.2g}: {heads}", "Omit --heads"
        )
    return {**parity, "opset": OPSET, "heads": heads}


def _pixels(student: Student) -> Callable[[ImageArray], ImageArray]:
    """Return OpenCLIP's transform up to the pixels, which Pillow computes."""
    steps = transform_of(student).transforms  # type: ignore[attr-defined]
    resizing = Compose([step for step in steps if not isinstance(step, Normalize)])

    def prepare(image: ImageArray) -> ImageArray:
        pixels = resizing(Image.fromarray(image))
        array: ImageArray = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        return array

    return prepare


def _session(path: Path, name: str) -> Callable[[Tensor], list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda values: [torch.from_numpy(one) for one in session.run(None, {name: values.numpy()})]


@torch.no_grad()
def _compare_head(source: Source, column: str, folder: Path) -> dict[str, float]:
    views = torch.from_numpy(np.stack(source.views))
    mine = _Head(source.student, column).eval().decoded(views)
    theirs = _session(folder / file_of(column), "images")(views)
    return {name: _relative(a, b) for (name, a), b in zip(mine.items(), theirs, strict=True)}


def _relative(mine: Tensor, theirs: Tensor) -> float:
    if not mine.is_floating_point():
        return (mine != theirs).float().mean().item()
    return ((mine - theirs).abs() / (1 + mine.abs())).max().item()
