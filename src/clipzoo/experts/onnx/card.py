"""The card of a model whose files do not say what goes in, what comes out, and what it means.

For an ONNX file it is a YAML beside it; other zoos (`torchhub:`) add fields of their own to `Described`:

    model: u2netp.onnx            # beside this file; left out: this file's name with .onnx
    task: segmentation
    classes: [background, foreground]
    license: Apache-2.0
    input: {size: 320, scale: max, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    output: {index: 0, kind: probability, activation: minmax, threshold: 0.5}

A depth model has ``kind`` and ``along`` in place of classes, a normals model ``output.frame``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from clipzoo.errors import ExpertError
from clipzoo.experts.frames import parse_frame
from clipzoo.experts.options import Options, license_option, validated
from clipzoo.tasks.base import Convention

Triple = tuple[float, float, float]
Layout = Literal["NCHW", "NHWC"]


class Input(Options):
    """How an image becomes the model's input: resize, scale, subtract ``mean``, divide by ``std``.

    ``size`` is (H, W) or one side; None (or "none") leaves images as they are. ``fit`` says how an image of another
    aspect fills it: "stretch", or "letterbox": as large as it goes, in the middle of the mean color. ``scale``
    divides by 255, by the image's own largest value ("max"), or by 1 ("none"); ``mean`` and ``std`` are in scaled
    units and the channels' order, or one number for all.
    """

    name: str | None = None
    size: tuple[int, int] | None = None
    fit: Literal["stretch", "letterbox"] = "stretch"
    layout: Layout = "NCHW"
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: Literal["255", "max", "none"] = "255"
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = dict(values)
            if isinstance(values.get("size"), int):
                values["size"] = (values["size"], values["size"])
            elif values.get("size") == "none":
                values["size"] = None
            for name in ("mean", "std"):
                if isinstance(values.get(name), int | float):
                    values[name] = (values[name],) * 3
            if isinstance(values.get("scale"), int):
                values["scale"] = str(values["scale"])
        return values

    @model_validator(mode="after")
    def _positive(self) -> Input:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {list(self.size)} must be at least [1, 1] (height, width)")
        if 0 in self.std:
            raise ValueError("std divides: no value may be 0")
        if self.fit == "letterbox" and self.size is None:
            raise ValueError("fit: letterbox needs a size to fit into")
        return self

    def inner(self, image: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where an image of this (H, W) stands in the input: top, left, height, width, in pixels of the input."""
        height, width = self.size or image
        if self.fit == "stretch":
            return 0, 0, height, width
        scale = min(height / image[0], width / image[1])
        inner = max(round(image[0] * scale), 1), max(round(image[1] * scale), 1)
        return (height - inner[0]) // 2, (width - inner[1]) // 2, *inner


class Output(Options):
    """How the model's output becomes a label: pick, activate, ``multiply`` and ``add``, resize.

    ``channels`` takes the first so many alone, where others hold something else, such as a confidence. ``kind`` says
    what the chosen output holds: logits or probabilities (segmentation), class ``ids``, or plain ``values``.
    ``threshold`` turns a single foreground map into two classes. With ``resize`` the label has the image's size,
    otherwise the output's.
    """

    index: int = Field(default=0, ge=0)
    name: str | None = None
    channels: int | None = Field(default=None, ge=1)
    layout: Layout | None = None
    kind: Literal["logits", "probability", "ids", "values"] | None = None
    activation: Literal["none", "sigmoid", "softmax", "minmax"] | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    multiply: float = 1.0
    add: float = 0.0
    frame: str | None = None
    resize: bool = False

    @model_validator(mode="after")
    def _frame_is_one(self) -> Output:
        if self.frame is not None:
            parse_frame(self.frame)
        return self


class Described(Options):
    """What every card says."""

    task: Literal["segmentation", "depth", "normals"]
    classes: tuple[str, ...] = ()
    kind: Literal["metric", "affine-depth", "affine-disparity"] | None = None
    along: Literal["z", "ray"] | None = None
    license: str = license_option("the license of the weights")
    revision: str = ""
    batch_size: int = Field(default=8, ge=1)
    input: Input = Input()
    output: Output = Output()

    @property
    def convention(self) -> Convention:
        """What the labels mean beyond their task."""
        return Convention(self.classes, self.kind, self.along)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Input and output as plain values; fields younger than stores only where they are not left as they were."""
        told = {"input": self.input.model_dump(mode="json"), "output": self.output.model_dump(mode="json")}
        for part, name, usual in (("input", "fit", "stretch"), ("output", "channels", None)):
            if told[part][name] == usual:
                del told[part][name]
        return told

    @property
    def scores(self) -> str:
        """``output.kind`` with its default."""
        return self.output.kind or ("logits" if self.task == "segmentation" else "values")

    @model_validator(mode="after")
    def _complete(self) -> Described:
        found = [*self._segmentation(), *self._depth(), *self._normals()]
        if found:
            raise ValueError("; ".join(found))
        return self

    def _segmentation(self) -> list[str]:
        wrong = []
        if self.task == "segmentation":
            if len(self.classes) < 2:
                wrong.append("segmentation needs classes, the names of ids 0, 1, … (at least two)")
            if self.output.threshold is not None and len(self.classes) != 2:
                wrong.append("output.threshold is for two classes, [background, foreground]")
            if self.scores == "values":
                wrong.append("output.kind of a segmentation is logits, probability or ids")
        elif self.classes or self.output.threshold is not None or self.scores != "values":
            wrong.append(f"classes, output.threshold and output.kind are for segmentation, the task is {self.task}")
        return wrong

    def _depth(self) -> list[str]:
        if self.task != "depth":
            return [f"kind and along are for depth, the task is {self.task}"] if self.kind or self.along else []
        if self.kind is None:
            return ["depth needs kind: metric, affine-depth or affine-disparity (nearer is larger)"]
        if self.kind == "metric" and self.along is None:
            return ["metric depth needs along: z (optical axis) or ray (line of sight)"]
        return []

    def _normals(self) -> list[str]:
        if self.task == "normals" and self.output.frame is None:
            return ["normals need output.frame, what the channels point to, such as 'x-right,y-down,z-forward'"]
        if self.task != "normals" and self.output.frame is not None:
            return [f"output.frame is for normals, the task is {self.task}"]
        return []


class Card(Described):
    """An ONNX model's card, complete."""

    model: str | None = None


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; `ExpertError` if it cannot be read."""
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ExpertError(f"cannot read the card {path} ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExpertError(f"{path} is not YAML: {error}") from error


def read_card(path: Path) -> tuple[Card, Path]:
    """The card at ``path`` (or beside it, for an .onnx file) and the path of its model.

    Raises:
        ExpertError: a file is missing, or the card is wrong; all findings at once, each with its place.
    """
    card_path = path if path.suffix in (".yaml", ".yml") else _sibling(path)
    card = validated(Card, read_yaml(card_path), str(card_path))
    model = card_path.parent / (card.model or card_path.with_suffix(".onnx").name)
    if not model.is_file():
        raise ExpertError(f"{card_path} describes {model}, which is not there; put it there, or set model: in the card")
    return card, model


def _sibling(path: Path) -> Path:
    for suffix in (".yaml", ".yml"):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    raise ExpertError(
        f"{path} has no card: an ONNX file does not say what its numbers mean; write {path.with_suffix('.yaml').name} "
        "beside it with task, classes or kind, input and output"
    )
