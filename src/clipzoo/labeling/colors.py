"""The colors in a folder of masks, compared with known palettes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import palettes
from clipzoo.importers import arrays

MOST = 512
"""Most colors of masks; more occur in photographs, or in masks blended at borders."""


@dataclass(frozen=True, slots=True)
class Survey:
    """``#rrggbb`` -> share of all pixels, in descending order, and advice for the import."""

    shares: dict[str, float]
    advice: str


def survey(folder: Path) -> Survey:
    """Count the colors of every PNG and TIFF in a folder and its subfolders.

    Raises:
        ExpertError: there is no file, one cannot be read, or there are too many colors for masks.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".tif", ".tiff"))
    if not paths:
        why = "has no PNG or TIFF" if folder.is_dir() else "is not a folder"
        raise ExpertError(f"{folder} {why}. Give the folder of the masks")
    counts: Counter[palettes.Color] = Counter()
    for path in paths:
        counts.update(_colors(path))
        if len(counts) > MOST:
            raise ExpertError(
                f"the masks up to {path} have more than {MOST} colors: they are photographs, or were blended at "
                "borders by JPEG or resizing. Give masks with their original colors"
            )
    total = sum(counts.values())
    colors = sorted(counts, key=lambda color: (-counts[color], color))
    shares = {palettes.hexadecimal(color): counts[color] / total for color in colors}
    return Survey(shares, _advice(colors))


def _colors(path: Path) -> dict[palettes.Color, int]:
    """Return color -> number of pixels of a file."""
    try:
        pixels = arrays.read(path, colors=True)
    except SampleError as error:
        raise ExpertError(f"{error}. Move files that are not masks out of the folder") from error
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    values, counts = np.unique(codes, return_counts=True)
    return {(v >> 16, v >> 8 & 255, v & 255): n for v, n in zip(values.tolist(), counts.tolist(), strict=True)}


def _advice(colors: list[palettes.Color]) -> str:
    fitting = palettes.fitting(colors)
    if fitting:
        void = {name: ",".join(map(palettes.hexadecimal, palettes.VOID[name])) or "none" for name in fitting}
        return "\n".join(
            f"all colors are in the palette {name}. If it is the right one: --format files --set task=segmentation "
            f"--set classes=palette:{name} --set void={void[name]}"
            for name in fitting
        )
    if {(0, 0, 0), (255, 255, 255)} < set(colors) and all(r == g == b for r, g, b in colors):
        return (
            "all colors are gray, including black and white. If these are soft masks of two classes: "
            "--format files --set task=segmentation --set classes=background,NAME --set void=none --set threshold=0.5"
        )
    lines = "\n".join(f"  {r} {g} {b} NAME" for r, g, b in colors)
    return (
        f"no known palette ({', '.join(palettes.palettes())}) has these colors. "
        f"Write their names into a file, one class per line, without void colors:\n{lines}\nand use: --format files "
        "--set task=segmentation --set classes=@FILE --set void=#RRGGBB (or void=none)"
    )
