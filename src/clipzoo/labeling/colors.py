"""Which colors a folder of masks has, and whether they are those of a known palette."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import _palettes
from clipzoo.importers import files

MOST = 512
"""Masks with more colors are photographs, or blended at their borders."""


@dataclass(frozen=True, slots=True)
class Survey:
    """``#rrggbb`` -> its share of all pixels, the commonest first, equals by their values; and what to answer."""

    shares: dict[str, float]
    advice: str


def survey(folder: Path) -> Survey:
    """Look at every PNG and TIFF in a folder and below it.

    Raises:
        ExpertError: there is none, one cannot be read, or they have too many colors to be masks.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".tif", ".tiff"))
    if not paths:
        raise ExpertError(f"{folder} has no PNG or TIFF; name the folder of the masks")
    counts: Counter[_palettes.Color] = Counter()
    for path in paths:
        counts.update(_colors(path))
        if len(counts) > MOST:
            raise ExpertError(
                f"the masks up to {path} have more than {MOST} colors: they are photographs, or blended at borders by "
                "JPEG or resizing; masks need the colors that they were drawn in"
            )
    total = sum(counts.values())
    colors = sorted(counts, key=lambda color: (-counts[color], color))
    shares = {_palettes.hexadecimal(color): counts[color] / total for color in colors}
    return Survey(shares, _advice(colors))


def _colors(path: Path) -> dict[_palettes.Color, int]:
    """Color -> pixels, of one file."""
    try:
        pixels = files.read(path, colors=True)
    except SampleError as error:
        raise ExpertError(f"{error}; move away what is no mask") from error
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    values, counts = np.unique(codes, return_counts=True)
    return {(v >> 16, v >> 8 & 255, v & 255): n for v, n in zip(values.tolist(), counts.tolist(), strict=True)}


def _advice(colors: list[_palettes.Color]) -> str:
    fitting = _palettes.fitting(colors)
    if fitting:
        void = {name: ",".join(map(_palettes.hexadecimal, _palettes.VOID[name])) or "none" for name in fitting}
        return "\n".join(
            f"every color is one of palette {name}; if they are meant so: --format files --set task=segmentation "
            f"--set classes=palette:{name} --set void={void[name]}"
            for name in fitting
        )
    if {(0, 0, 0), (255, 255, 255)} < set(colors) and all(r == g == b for r, g, b in colors):
        return (
            "every color is a gray, and black and white are among them; if these are soft masks of two classes: "
            "--format files --set task=segmentation --set classes=background,NAME --set void=none --set threshold=0.5"
        )
    lines = "\n".join(f"  {r} {g} {b} NAME" for r, g, b in colors)
    return (
        f"no known palette ({', '.join(_palettes.palettes())}) has these colors, so their names are yours to say: "
        f"write them into a file, a class a line, leaving out what is void:\n{lines}\nand give: --format files --set "
        "task=segmentation --set classes=@FILE --set void=#RRGGBB (or void=none)"
    )
