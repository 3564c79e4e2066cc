"""Which colours a folder of masks has, and whether they are those of a known palette."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import _palettes
from clipzoo.importers import files

MOST = 512
"""Masks with more colours are photographs, or blended at their borders."""


@dataclass(frozen=True, slots=True)
class Survey:
    """``#rrggbb`` -> its share of all pixels, the commonest first, equals by their values; and what to answer."""

    shares: dict[str, float]
    advice: str


def survey(folder: Path) -> Survey:
    """Look at every PNG and TIFF in a folder and below it.

    Raises:
        ExpertError: there is none, one cannot be read, or they have too many colours to be masks.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".tif", ".tiff"))
    if not paths:
        raise ExpertError(f"{folder} has no PNG or TIFF; name the folder of the masks")
    counts: Counter[_palettes.Colour] = Counter()
    for path in paths:
        counts.update(_colours(path))
        if len(counts) > MOST:
            raise ExpertError(
                f"the masks up to {path} have more than {MOST} colours: they are photographs, or blended at borders by "
                "JPEG or resizing; masks need the colours that they were drawn in"
            )
    total = sum(counts.values())
    colours = sorted(counts, key=lambda colour: (-counts[colour], colour))
    shares = {_palettes.hexadecimal(colour): counts[colour] / total for colour in colours}
    return Survey(shares, _advice(colours))


def _colours(path: Path) -> dict[_palettes.Colour, int]:
    """Colour -> pixels, of one file."""
    try:
        pixels = files.read(path, colours=True)
    except SampleError as error:
        raise ExpertError(f"{error}; move away what is no mask") from error
    codes = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    values, counts = np.unique(codes, return_counts=True)
    return {(v >> 16, v >> 8 & 255, v & 255): n for v, n in zip(values.tolist(), counts.tolist(), strict=True)}


def _advice(colours: list[_palettes.Colour]) -> str:
    fitting = _palettes.fitting(colours)
    if fitting:
        void = {name: ",".join(map(_palettes.hexadecimal, _palettes.VOID[name])) or "none" for name in fitting}
        return "\n".join(
            f"every colour is one of palette {name}; if they are meant so: --format files --set task=segmentation "
            f"--set classes=palette:{name} --set void={void[name]}"
            for name in fitting
        )
    lines = "\n".join(f"  {r} {g} {b} NAME" for r, g, b in colours)
    return (
        f"no known palette ({', '.join(_palettes.palettes())}) has these colours, so their names are yours to say: "
        f"write them into a file, a class a line, leaving out what is void:\n{lines}\nand give: --format files --set "
        "task=segmentation --set classes=@FILE --set void=#RRGGBB (or void=none)"
    )
