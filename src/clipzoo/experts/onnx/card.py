"""The card of a model: its task, its input and its output, which the model's own files do not describe.

The card of an ONNX model is a YAML file in its folder. `torchhub:` adds further fields to `BaseCard`.

    model: u2netp.onnx            # relative to this file; by default this file's name with .onnx
    task: segmentation
    classes: [background, foreground]
    license: Apache-2.0
    input: {size: 320, scale: max, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
    output: {index: 0, kind: probability, activation: minmax, threshold: 0.5}

A card for depth has ``kind`` and ``along`` instead of classes, a card for normals ``output.frame``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from clipzoo.errors import ExpertError
from clipzoo.experts.frames import parse_frame
from clipzoo.experts.options import Options, license_option, validated
from clipzoo.tasks.base import Convention

Triple = tuple[float, float, float]
Layout = Literal["NCHW", "NHWC"]


class Input(Options):
    """Preparation of an image for the model: resize, scale, subtract ``mean``, divide by ``std``.

    ``size`` is (H, W) or one side; None (or "none") keeps the image's size. ``fit`` applies to images of another
    aspect: "stretch" changes the aspect; "letterbox" makes the image as large as possible, centered on the mean color.
    ``scale`` divides by 255, by the image's largest value ("max"), or by 1 ("none"). ``mean`` and ``std`` apply to
    scaled values, in the order of the channels, or are one number for all channels.
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
    def _short_forms(cls, values: object) -> object:
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
            raise ValueError("values are divided by std: no value may be 0")
        if self.fit == "letterbox" and self.size is None:
            raise ValueError("fit: letterbox needs a size: add size, or remove fit")
        return self

    def placement(self, image: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the place of an image (H, W) in the input: top, left, height and width in pixels of the input."""
        height, width = self.size or image
        if self.fit == "stretch":
            return 0, 0, height, width
        scale = min(height / image[0], width / image[1])
        inner_height, inner_width = max(round(image[0] * scale), 1), max(round(image[1] * scale), 1)
        return (height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width


class Output(Options):
    """Conversion of the model's output to a label: select, activate, ``multiply`` and ``add``, resize.

    ``channels`` is the number of leading channels that are used, if others contain something else, such as a
    confidence. ``kind`` is the content of the selected output: logits or probabilities (segmentation), class ``ids``,
    or ``values``. ``threshold`` makes two classes of a single foreground map. With ``resize`` the label has the image's
    size, otherwise the output's.
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


class BaseCard(Options):
    """Fields of every card."""

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
        """Meaning of the labels beyond their task."""
        return Convention(self.classes, self.kind, self.along)

    @property
    def preprocessing(self) -> dict[str, object]:
        """Input and output as plain values.

        Fields that older stores do not have are left out if they have their defaults, so that columns stay the same.
        """
        input_, output = self.input.model_dump(mode="json"), self.output.model_dump(mode="json")
        if input_["fit"] == "stretch":
            del input_["fit"]
        if output["channels"] is None:
            del output["channels"]
        return {"input": input_, "output": output}

    @property
    def scores(self) -> str:
        """``output.kind`` with its default."""
        return self.output.kind or ("logits" if self.task == "segmentation" else "values")

    @model_validator(mode="after")
    def _complete(self) -> BaseCard:
        problems = [*self._segmentation(), *self._depth(), *self._normals()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _segmentation(self) -> list[str]:
        problems = []
        if self.task == "segmentation":
            if len(self.classes) < 2:
                problems.append("segmentation needs classes, the names of ids 0, 1, … (at least two)")
            if self.output.threshold is not None and len(self.classes) != 2:
                problems.append("output.threshold is for two classes, such as [background, foreground]")
            if self.scores == "values":
                problems.append("output.kind of a segmentation must be logits, probability or ids")
        elif self.classes or self.output.threshold is not None or self.scores != "values":
            problems.append(f"classes, output.threshold and output.kind are for segmentation, the task is {self.task}")
        return problems

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
            return ["normals need output.frame, the directions of its channels, such as 'x-right,y-down,z-forward'"]
        if self.task != "normals" and self.output.frame is not None:
            return [f"output.frame is for normals, the task is {self.task}"]
        return []


class OnnxCard(BaseCard):
    """Card of an ONNX model."""

    model: str | None = None


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; PyYAML follows YAML 1.1, in which it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), [*"-+.0123456789"]
)


def parse_yaml(text: str) -> object:
    """Return the value of a YAML text; `yaml.YAMLError` if it is none."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> object:
    """Return the contents of a YAML file.

    Raises:
        ExpertError: it cannot be read.
    """
    try:
        return parse_yaml(path.read_text("utf-8"))
    except OSError as error:
        raise ExpertError(f"cannot read the card {path} ({error.strerror}): correct the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExpertError(f"{path} is not YAML: {error}") from error


def read_card(path: Path) -> tuple[OnnxCard, Path]:
    """Return the card at ``path`` (for an .onnx file, the card with its name) and the path of its model.

    Raises:
        ExpertError: a file is missing, or the card is invalid; the message lists all problems, each with its place.
    """
    card_path = path if path.suffix in (".yaml", ".yml") else _sibling(path)
    card = validated(OnnxCard, read_yaml(card_path), str(card_path))
    model = card_path.parent / (card.model or card_path.with_suffix(".onnx").name)
    if not model.is_file():
        raise ExpertError(f"{card_path} describes {model}, which does not exist: copy it there, or correct model:")
    return card, model


def _sibling(path: Path) -> Path:
    for suffix in (".yaml", ".yml"):
        if path.with_suffix(suffix).is_file():
            return path.with_suffix(suffix)
    if not path.is_file():
        raise ExpertError(f"there is no file {path}: correct the path of the model or its card")
    raise ExpertError(
        f"{path} has no card, and an ONNX file does not state what its numbers mean: write "
        f"{path.with_suffix('.yaml').name} in its folder with task, classes or kind, input and output (docs/experts.md)"
    )
