"""Palettes of color-coded masks: Pascal VOC, Cityscapes, and white on black.

ADE20K is missing: in its palette, road and skyscraper have one color, (140, 140, 140), so that colors do not determine
its classes. Its annotations are ids (``classes=@names.txt&void=0&first=1``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

Color = tuple[int, int, int]

_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_CITYSCAPES: Mapping[str, Color] = {
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180),
    "person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100),
    "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
}  # fmt: skip
"""The 19 classes that are evaluated."""

VOID: Mapping[str, tuple[Color, ...]] = {
    "binary": (),
    "voc": ((224, 224, 192),),
    "cityscapes": (
        (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
        (150, 120, 90), (0, 0, 90), (0, 0, 110),
    ),
}  # fmt: skip
"""Palette -> colors of void; in Cityscapes, of the classes that are not evaluated."""


@cache
def palettes() -> Mapping[str, Mapping[str, Color]]:
    """Return palette -> class -> color, in the order of ids."""
    return {
        "binary": {"background": (0, 0, 0), "foreground": (255, 255, 255)},
        "voc": {name: _bits(i) for i, name in enumerate(_VOC)},
        "cityscapes": _CITYSCAPES,
    }


def palette(text: str) -> Mapping[str, Color]:
    """Return the palette of a text such as ``palette:voc``; `ValueError` if it is unknown."""
    name = text.removeprefix("palette:")
    if name not in palettes():
        raise ValueError(f"there is no palette {name!r}; there are: {', '.join(palettes())}")
    return palettes()[name]


def fitting(colors: Iterable[Color]) -> list[str]:
    """Return the palettes that have all ``colors``, at least two of them as classes."""
    distinct = set(colors)
    return [
        name for name, known in palettes().items()
        if distinct <= {*known.values(), *VOID[name]} and len(distinct & set(known.values())) > 1
    ]  # fmt: skip


def hexadecimal(color: Color) -> str:
    """Return a color as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _bits(number: int) -> Color:
    """Return Pascal VOC's color of an id: its bits, three at a time, as the highest bits of the channels."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return color[0], color[1], color[2]
