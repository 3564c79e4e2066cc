"""A contact sheet of predictions: a row per picture, a cell per overlay, as PNG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from clipzoo.tasks import Mark
from clipzoo.types import ImageArray

if TYPE_CHECKING:
    from clipzoo.pages.predictions import Predictions

CELL, GAP, LINE, SIZE = 320, 16, 20, 14
"""Width of a cell, space around it, height of a line and of its letters, in pixels."""

LINES, WIDE = 9, 44
"""Lines below a picture, and characters in a line."""

PAPER, INK = (251, 250, 248), (28, 33, 38)

Cell = tuple[str, ImageArray, Sequence[Mark]]
"""Title, picture and lines with their colors."""


def png(shown: Predictions) -> bytes:
    """Return the contact sheet of predictions as a PNG file."""
    strips = [_strip(row) for row in _rows(shown)]
    if shown.failures:
        strips.append(_failures(shown.failures, max(one.width for one in strips)))
    width, height = max(one.width for one in strips), sum(one.height for one in strips)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = 0
    for one in strips:
        sheet.paste(one, (0, top))
        top += one.height
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _rows(shown: Predictions) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    several = len(shown.models) > 1
    for picture in shown.pictures:
        heads: list[Cell] = [
            (f"{one.title}{f', {one.model}' if several else ''}", one.image, one.legend) for one in picture.overlays
        ]
        marks = [
            Mark(f"{prompt}{f', {model}' if several else ''}: {value:.1%}", INK)
            for prompt, values in picture.probabilities.items()
            for model, value in zip(shown.models, values, strict=True)
        ]
        rows.append([(picture.name, picture.image, marks), *heads])
    return rows


def _failures(failures: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """Return a strip with the pictures that cannot be read."""
    lines = [line for name, reason in failures for line in textwrap.wrap(f"{name}: {reason}", width // 8)]
    strip = Image.new("RGB", (width, (len(lines) + 1) * LINE + 2 * GAP), PAPER)
    text = "\n".join(["Pictures that cannot be read:", *lines])
    ImageDraw.Draw(strip).multiline_text((GAP, GAP), text, INK, ImageFont.load_default(SIZE))
    return strip


def _strip(cells: Sequence[Cell]) -> Image.Image:
    """Return cells side by side."""
    tall = max(image.shape[0] * CELL // image.shape[1] for _, image, _ in cells)
    below = max(len(_lines(marks)) for _, _, marks in cells)
    strip = Image.new("RGB", (GAP + len(cells) * (CELL + GAP), tall + (below + 1) * LINE + 2 * GAP), PAPER)
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(SIZE)
    for number, (title, image, marks) in enumerate(cells):
        x, y = GAP + number * (CELL + GAP), GAP
        pen.text((x, y), textwrap.shorten(title, WIDE, placeholder="…"), INK, font)
        strip.paste(Image.fromarray(image).resize((CELL, image.shape[0] * CELL // image.shape[1])), (x, y + LINE))
        for i, (text, color) in enumerate(_lines(marks)):
            at = y + LINE + tall + 6 + i * LINE
            pen.rectangle((x, at + 2, x + 12, at + 14), fill=color, outline=INK if color == (255, 255, 255) else None)
            pen.text((x + 18, at), text, INK, font)
    return strip


def _lines(marks: Sequence[Mark]) -> list[tuple[str, tuple[int, int, int]]]:
    lines = [(textwrap.shorten(mark.text or " ", WIDE, placeholder="…"), mark.color) for mark in marks]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], (f"and {len(lines) - LINES + 1} more", PAPER)]
