"""The predictions of students on pictures: overlays of heads and prompts, and probabilities of prompts; HTML or PNG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipzoo import files, tasks
from clipzoo.errors import CheckpointError, ImageError
from clipzoo.files import AnyPath
from clipzoo.models import dense
from clipzoo.models.loaded import Loaded
from clipzoo.models.segments import Segments
from clipzoo.pages import _html, words
from clipzoo.pages.pictures import data_uri, overlay
from clipzoo.pages.predictions import _sheet
from clipzoo.tasks import Convention, Mark
from clipzoo.tasks.depth import turbo
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray

SIDE = 480
"""The longer side of an overlay, in pixels."""

ENDINGS = (".html", ".htm", ".png")
"""Endings of files that `Predictions.save` writes."""

FRAME = '<iframe sandbox srcdoc="{}" title="predictions" style="width:100%;height:46rem;border:0"></iframe>'
"""The page in a notebook, whose styles stay apart."""

HEAT, SEGMENTS = "cosine", "most similar prompt"
"""Columns of overlays that are computed from prompts."""


@dataclass(frozen=True)
class Overlay:
    """The prediction of a head over its picture, uint8 H×W×3, with the legend of its colors.

    ``label`` is the prediction itself, None for heat maps.
    """

    model: str
    title: str
    column: str
    image: ImageArray
    legend: Sequence[Mark]
    label: object = None

    @property
    def prompted(self) -> bool:
        """True if it shows prompts rather than a head."""
        return self.column in (HEAT, SEGMENTS)

    @property
    def uri(self) -> str:
        """The overlay as a data URI."""
        return data_uri(self.image, photo=True, side=SIDE)

    @property
    def scale(self) -> bool:
        """True if the legend is a scale of colors."""
        return any(not mark.text for mark in self.legend) or self.title == "depth"


@dataclass(frozen=True)
class Predicted:
    """A picture with the overlays of all heads, and prompt -> probability of each model."""

    name: str
    image: ImageArray
    overlays: Sequence[Overlay] = ()
    probabilities: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.image, photo=True, side=SIDE)

    @property
    def heads(self) -> list[Overlay]:
        """The overlays of heads."""
        return [one for one in self.overlays if not one.prompted]

    @property
    def prompted(self) -> list[Overlay]:
        """The overlays of prompts."""
        return [one for one in self.overlays if one.prompted]


@dataclass(frozen=True)
class Predictions:
    """The predictions of one student, or of two side by side; notebooks show them as a page.

    Attributes:
        source: the student or run.
        models: names of the models.
        notes: sentences about the models.
        pictures: with their predictions.
        failures: (name, reason) of pictures that cannot be read.
        independent: True if the probabilities of the prompts are independent of each other (SigLIP).
    """

    source: str
    models: Sequence[str]
    pictures: Sequence[Predicted]
    failures: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    independent: bool = False

    def html(self) -> bytes:
        """Return the page, a self-contained HTML file as UTF-8."""
        return _html.render("predictions.html", title="Predictions", shown=self)

    def save(self, path: AnyPath) -> Path:
        """Write the page (``.html``) or a contact sheet (``.png``), and return its path.

        Raises:
            ImageError: the path has another ending.
            OSError: the disk refuses it.
        """
        out = check_ending(path)
        files.write_output(out, _sheet.png(self) if out.suffix.lower() == ".png" else self.html())
        return out

    def _repr_html_(self) -> str:
        return FRAME.format(html.escape(self.html().decode()))


def heads_html(picture: Predicted, models: Sequence[str]) -> str:
    """Return the figures of all heads as HTML without styles."""
    return _html.macro("predicted.html", "figures", picture, picture.heads, models)


def prompts_html(picture: Predicted, models: Sequence[str], independent: bool) -> str:
    """Return the probabilities and figures of the prompts as HTML without styles."""
    table = _html.macro("predicted.html", "probabilities", picture, models, independent)
    return table + _html.macro("predicted.html", "figures", picture, picture.prompted, models)


def check_ending(path: AnyPath) -> Path:
    """Return the path of a file to write; raise `ImageError` unless its ending is one of `ENDINGS`."""
    out = files.local(path, "the predictions")
    if out.suffix.lower() not in ENDINGS:
        raise ImageError(
            f"--out {out} does not end in {', '.join(ENDINGS)}, which name the formats. Give a file such as "
            f"{out.with_suffix('.html')} (a page) or {out.with_suffix('.png')} (a contact sheet)"
        )
    return out


def predict(name: str, image: ImageArray, models: Mapping[str, Loaded], prompts: Sequence[str]) -> Predicted:
    """Return the predictions of models (name -> model) on one picture; see `Predicted`.

    Heads see the picture at `SIDE` pixels, or at the size of their model if that is larger.
    """
    overlays = []
    for model, loaded in models.items():
        if loaded.columns:
            small = _reduced(image, max(SIDE, *loaded.student.image_size))
            overlays += [_overlay(model, loaded, column, small, one) for column, (one,) in
                         loaded.predict_all([small]).items()]  # fmt: skip
    overlays.sort(key=lambda one: one.column)  # stable: models of one column stay in order
    overlays += _of_prompts(_reduced(image, SIDE), models, prompts)
    probabilities = {model: loaded.probabilities([image], prompts)[0].tolist() for model, loaded in models.items()}
    table = {prompt: [values[i] for values in probabilities.values()] for i, prompt in enumerate(prompts)}
    return Predicted(name, _enlarged(_reduced(image, SIDE)), overlays, table)


def _overlay(model: str, loaded: Loaded, column: str, image: ImageArray, label: object) -> Overlay:
    spec = loaded.student.specs[column]
    task = tasks.get(spec.task)
    drawn = overlay(image, task.render(label, spec.convention), side=SIDE, clear=True)
    legend = task.legend(label, spec.convention)
    return Overlay(model, words.group_name(spec.task), column, _named(_enlarged(drawn), legend), legend, label)


def _of_prompts(image: ImageArray, models: Mapping[str, Loaded], prompts: Sequence[str]) -> list[Overlay]:
    """Return the heat map of each prompt and the open-vocabulary segmentation of each model that `locates`."""
    able = {model: loaded for model, loaded in models.items() if prompts and locates(loaded)}
    found = {model: loaded.segment(image, prompts, ["{c}"]) for model, loaded in able.items()}
    heat = [_heat_map(image, model, prompt, one) for prompt in prompts for model, one in found.items()]
    return heat + [_segments(image, model, one) for model, one in found.items() if len(prompts) > 1]


def _heat_map(image: ImageArray, model: str, prompt: str, found: Segments) -> Overlay:
    """Return the cosines of a prompt, blue for the lowest of the picture and red for the highest."""
    values = found.similarities[found.names.index(prompt)]
    scale = turbo(np.linspace(0, 1, 7, dtype=np.float32))
    marks = [Mark.of("", color) for color in scale[1:-1]]
    legend = [Mark.of(f"{values.min():.2f}", scale[0]), *marks, Mark.of(f"{values.max():.2f}", scale[-1])]
    drawn = overlay(image, found.heat_map(prompt), side=SIDE, clear=True)
    return Overlay(model, prompt, HEAT, _enlarged(drawn), legend)


def _segments(image: ImageArray, model: str, found: Segments) -> Overlay:
    """Return the most similar prompt of each pixel."""
    task, convention = tasks.get("segmentation"), Convention(classes=found.names)
    label = Segmentation(found.ids, np.ones(found.ids.shape, np.bool_))
    drawn = overlay(image, task.render(label, convention), side=SIDE, clear=True)
    return Overlay(model, "segmentation by prompts", SEGMENTS, _enlarged(drawn), task.legend(label, convention), label)


def locates(loaded: Loaded) -> bool:
    """Return True if the vision tower of a model has embeddings of its patches, as heat maps need."""
    try:
        dense.check(loaded.model.visual, dense.DEFAULT)
    except CheckpointError:
        return False
    return True


def _reduced(image: ImageArray, side: int) -> ImageArray:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _enlarged(image: ImageArray) -> ImageArray:
    """Return a picture whose longer side has at least `SIDE` pixels."""
    factor = max(1.0, SIDE / max(image.shape))
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _named(image: ImageArray, legend: Sequence[Mark]) -> ImageArray:
    """Return a picture with the texts of marks that have a position, without those that would cover another."""
    picture = Image.fromarray(image)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(20)
    drawn: list[tuple[float, float, float, float]] = []
    for mark in legend:
        if mark.at is None:
            continue
        width, height = pen.textlength(mark.text, font) + 8, 25
        x = max(0, min(mark.at[0] * picture.width, picture.width - width))
        y = max(0, min(mark.at[1] * picture.height, picture.height - height))
        if any(x < right and left < x + width and y < low and top < y + height for left, top, right, low in drawn):
            continue
        drawn.append((x, y, x + width, y + height))
        pen.rectangle(drawn[-1], fill=mark.color)
        dark = np.dot(mark.color, (0.3, 0.6, 0.1)) < 110
        pen.text((x + 4, y + 1), mark.text, "white" if dark else "black", font)
    return np.asarray(picture)
