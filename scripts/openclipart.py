"""OpenClipart drawings: caption, series, rendered image, true foreground and outline. Used by `build_openclipart`.

The caption is the title, keywords and description of the SVG. The image is the drawing, cropped to its content, on a
square page with a soft gradient; the name seeds size, position and colors. (On white pages a threshold on the pixels
nearly gives the mask, so a measurement of features would mean little.) The truth is the alpha channel of the drawing:
foreground above 90 %, background below 10 %, unknown in between. Its outline is an edge; the page has no edges.
"""

from __future__ import annotations

import hashlib
import io
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cairosvg
import numpy as np
from defusedxml import ElementTree
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from clipzoo.tasks.edges import Edges
from clipzoo.tasks.segmentation import Segmentation

SIDE = 160  # of a picture, in pixels
BAND = 4  # pixels on both sides of an outline where an edge beside it would be taken for it at 48×48
SECONDS = 30  # of processor time a drawing may take
LARGE = 25
LEFT_OUT = frozenset({"computer", "shapes", "signs_and_symbols", "special", "unsorted"})
JUNK = re.compile(r"hash\(|@|http")
FILLER = frozenset({"and", "clipart", "for", "nicu", "buculei", "simple", "svg", "the", "with"})
SHARES = {"test": 26, "validation": 14, "probe": 20}  # percent of the series that are not large
Alpha = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Drawing:
    """What is kept: the path below the package's folder, and the texts."""

    path: str
    title: str
    caption: str

    @property
    def key(self) -> str:
        """The path as a sample's key."""
        return re.sub(r"[^\w/-]+", "_", self.path.removesuffix(".svg"), flags=re.ASCII)


# Text ------------------------------------------------------------------------------------------------------


def read(path: str, svg: bytes) -> Drawing | str:
    """The drawing with its texts, or the reason why it is left out."""
    if path.split("/")[0] in LEFT_OUT:
        return "folder left out"
    try:
        title, keywords, description = texts(svg)
    except (ElementTree.ParseError, ValueError):
        return "not XML"
    if JUNK.search(" ".join((title, *keywords, description))):
        return "text with 'hash(', '@' or 'http'"
    if not title:
        return "no title"
    parts = [title, ", ".join(keywords), description if description.lower() != title.lower() else ""]
    return Drawing(path, title, ". ".join(part for part in parts if part))


def texts(svg: bytes) -> tuple[str, list[str], str]:
    """Title, keywords and description from the SVG's metadata; empty where there are none."""
    found: dict[str, list[str]] = {"title": [], "description": [], "li": []}
    root = ElementTree.fromstring(svg, forbid_entities=False)  # Illustrator's own; cairosvg refuses them anyway
    for work in (e for e in root.iter() if str(e.tag).endswith("}Work")):
        for child in work:
            for e in child.iter() if str(child.tag).endswith("}subject") else [child]:
                found.setdefault(str(e.tag).rpartition("}")[2], []).append(" ".join((e.text or "").split()))
    title, description = (next((t for t in found[name] if t), "") for name in ("title", "description"))
    return title, [word for word in found["li"] if word], description


def words(text: str) -> list[str]:
    """Words that tell series apart: letters only, no color variants' marks, no filler."""
    return [word for word in re.split(r"[^a-z]+", text.lower()) if len(word) > 2 and word not in FILLER]


def series(drawings: Sequence[Drawing]) -> list[list[Drawing]]:
    """Groups that share a title, or a folder and the first word of the name, directly or by others."""
    parent: dict[tuple[str, ...], tuple[str, ...]] = {}

    def root(node: tuple[str, ...]) -> tuple[str, ...]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for d in drawings:
        folder, _, name = d.path.rpartition("/")
        marks = [("title", *words(d.title)), ("name", folder, *words(name)[:1])]
        for mark in (mark for mark, least in zip(marks, (2, 3), strict=True) if len(mark) >= least):
            parent[root(("path", d.path))] = root(mark)
    groups: dict[tuple[str, ...], list[Drawing]] = {}
    for d in drawings:
        groups.setdefault(root(("path", d.path)), []).append(d)
    return list(groups.values())


def split_of(group: Sequence[Drawing]) -> str:
    """The split of a series, from the hash of its first path."""
    if len(group) > LARGE:
        return "captioned"
    draw = int(hashlib.sha256(min(d.path for d in group).encode()).hexdigest(), 16) % 100
    for split, share in SHARES.items():
        if draw < share:
            return split
        draw -= share
    return "captioned"


# Pictures --------------------------------------------------------------------------------------------------


def render(svg: bytes, side: int = SIDE) -> Image.Image:
    """The drawing cut to what it covers, RGBA, its longer side ``side``; `ValueError` if it is empty."""
    width = 4 * side
    for _ in range(2):
        image = Image.open(io.BytesIO(cairosvg.svg2png(bytestring=svg, output_width=width))).convert("RGBA")
        box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 25)).getbbox()
        if box is None:
            raise ValueError("it draws nothing")
        longer = max(box[2] - box[0], box[3] - box[1])
        if longer >= side:
            break
        width = min(width * 2 * side // longer, 4096)  # a small thing on a large page: again, larger
    scale = side / longer
    size = [max(1, round((box[i + 2] - box[i]) * scale)) for i in (0, 1)]
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS, box=box)


def compose(drawing: Image.Image, key: str) -> tuple[Image.Image, Alpha]:
    """The drawing on a page, 60 % to 95 % of its side, and its alpha there, uint8 [H,W]; both drawn from the key."""
    rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    scale = SIDE * rng.uniform(0.6, 0.95) / max(drawing.size)
    width, height = (max(1, round(length * scale)) for length in drawing.size)
    at = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
    layer = Image.new("RGBA", (SIDE, SIDE))
    layer.paste(drawing.resize((width, height), Image.Resampling.LANCZOS), at)
    picture = Image.alpha_composite(page(rng), layer).convert("RGB")
    return picture, np.asarray(layer)[..., 3]


def page(rng: np.random.Generator) -> Image.Image:
    """A soft gradient between two colors that are rarely dark, in any direction."""
    colors, angle = rng.uniform(90, 255, (2, 3)), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    along = np.clip((x * np.cos(angle) + y * np.sin(angle) + 1) / 2, 0, 1)[..., None]
    return Image.fromarray(np.rint(colors[0] * (1 - along) + colors[1] * along).astype(np.uint8)).convert("RGBA")


def truth(alpha: Alpha, box_share: float = 0.95) -> Segmentation | None:
    """Foreground 1, background 0, unknown between 10 % and 90 %; None if the drawing fills its box."""
    opaque = alpha > 0.9 * 255
    rows, columns = (np.flatnonzero((alpha > 25).any(axis)) for axis in (1, 0))
    if not len(rows) or opaque[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > box_share:
        return None
    return Segmentation(opaque.astype(np.uint16), opaque | (alpha < 0.1 * 255))


def outline(alpha: Alpha) -> Edges | None:
    """1 where a drawing ends, 0 on the page; None as for `truth`.

    What lies deeper in the drawing than `BAND` is unknown: an edge may be there or not. So are soft ends.
    """
    if truth(alpha) is None:
        return None
    opaque, clear = (Image.fromarray(np.uint8(255 * part)) for part in (alpha > 0.9 * 255, alpha < 0.1 * 255))
    near_page, near_drawing = (_grown(part, 2) for part in (clear, opaque))
    ends = (alpha >= 128) & _grown(Image.fromarray(np.uint8(255 * (alpha < 128))), 1) & near_page & near_drawing
    band = _grown(Image.fromarray(np.uint8(255 * ends)), BAND)
    return Edges(ends.astype(np.float32), ends | (alpha < 0.1 * 255) | band)


def _grown(part: Image.Image, steps: int) -> Mask:
    """Bool [H,W]: where a 0/255 picture is within so many pixels of 255."""
    return np.asarray(part.filter(ImageFilter.MaxFilter(2 * steps + 1))) > 0


def draw(job: tuple[Path, Path]) -> str | None:
    """Render one SVG into the cache; the reason if it cannot be rendered."""
    source, target = job
    if target.exists():
        return None

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s of processor time")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        image = render(source.read_bytes())
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target.with_suffix(".tmp"), "PNG")
        target.with_suffix(".tmp").replace(target)
    except Exception as error:  # cairosvg raises almost anything on a damaged drawing
        return f"cannot be drawn: {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None
