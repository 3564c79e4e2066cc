"""The predictions of students on pictures: overlays of heads and prompts, and probabilities of prompts; HTML or PNG."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipzoo import files, tasks
from clipzoo.errors import CheckpointError, ImageError
from clipzoo.files import AnyPath
from clipzoo.models import dense
from clipzoo.models.loaded import Loaded
from clipzoo.pages import _html, words
from clipzoo.pages.pictures import data_uri, overlay
from clipzoo.pages.predictions import _sheet
from clipzoo.tasks import Mark
from clipzoo.tasks.depth import turbo
from clipzoo.types import ImageArray

SIDE = 480
"""The longer side of an overlay, in pixels."""

ENDINGS = (".html", ".htm", ".png")
"""Endings of files that `Predictions.save` writes."""

FRAME = '<iframe sandbox srcdoc="{}" title="predictions" style="width:100%;height:46rem;border:0"></iframe>'
"""The page in a notebook, whose styles stay apart."""


@dataclass(frozen=True)
class Overlay:
    """The prediction of a head over its picture, uint8 H×W×3, with the legend of its colors."""

    model: str
    title: str
    column: str
    image: ImageArray
    legend: Sequence[Mark]

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
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_output(out, _sheet.png(self) if out.suffix.lower() == ".png" else self.html())
        return out

    def _repr_html_(self) -> str:
        return FRAME.format(html.escape(self.html().decode()))


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
    overlays += [heat for prompt in prompts for heat in _heat_maps(image, models, prompt)]
    probabilities = {model: loaded.probabilities([image], prompts)[0].tolist() for model, loaded in models.items()}
    table = {prompt: [values[i] for values in probabilities.values()] for i, prompt in enumerate(prompts)}
    return Predicted(name, _enlarged(_reduced(image, SIDE)), overlays, table)


def _overlay(model: str, loaded: Loaded, column: str, image: ImageArray, label: object) -> Overlay:
    spec = loaded.student.specs[column]
    task = tasks.get(spec.task)
    drawn = overlay(image, task.render(label, spec.convention), side=SIDE, clear=True)
    legend = task.legend(label, spec.convention)
    return Overlay(model, words.group_name(spec.task), column, _named(_enlarged(drawn), legend), legend)


def _heat_maps(image: ImageArray, models: Mapping[str, Loaded], prompt: str) -> Iterator[Overlay]:
    """Yield the heat map of a prompt of each model whose vision tower has embeddings of its patches."""
    small = _reduced(image, SIDE)
    for model, loaded in models.items():
        if locates(loaded):
            found = loaded.segment(small, [prompt], ["{c}"])
            low, high = float(found.similarities.min()), float(found.similarities.max())
            scale = turbo(np.linspace(0, 1, 7, dtype=np.float32))
            marks = [Mark.of("", color) for color in scale[1:-1]]
            legend = [Mark.of(f"{low:.2f}", scale[0]), *marks, Mark.of(f"{high:.2f}", scale[-1])]
            drawn = overlay(small, found.heat_map(prompt), side=SIDE, clear=True)
            yield Overlay(model, prompt, "cosine", _enlarged(drawn), legend)


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
