"""How the names of a tar's members are read: where a key ends, and which fields are the image and the caption.

By default a key ends at the first dot, the image is ``jpg``, ``png`` …, the caption ``txt``, ``caption`` or ``json``.
Where this gives no sample at all, the layout is inferred: the image and the caption of a sample are those with the
longest common stem, and what follows it in most names are their fields.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from clipzoo.errors import DatasetError
from clipzoo.readers._location import IMAGES, Location, with_endings
from clipzoo.readers._samples.captions import TEXTS, Captions
from clipzoo.readers.webdataset import metadata

FIRST, LAST = "first-dot", "last-dot"
CAPTIONS = (*TEXTS, "json")

_NAME = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]+)", re.DOTALL)
_WORDS = {
    "image": ("image", "img", "input", "picture", "photo"),
    "caption": ("cap", "text", "captions", "prompt", "title", "alt", "description", "sentence"),
}
"""Fields without a known ending that hold images or captions; the likelier ones of several, too."""

_LABELS = {"seg", "mask", "depth", "normal", "normals", "edge", "edges", "label", "labels"}
"""Fields of pictures that are no photos: where captions are required they are not taken for the image unasked."""

LEAST = 0.1
"""An inferred layout gives a sample for this share of the images, or it is none."""


@dataclass(frozen=True)
class Layout:
    """What a member's name tells.

    Attributes:
        image, caption, key: the options that give this layout; "" for the default.
        images, captions: fields of images and of captions, the preferred one first.
        required: whether a sample needs a caption.
        metadata: captions are rows of a table in the tar (`metadata`).
    """

    image: str = ""
    caption: str = ""
    key: str = ""
    images: tuple[str, ...] = IMAGES
    captions: tuple[str, ...] = CAPTIONS
    required: bool = True
    metadata: bool = False

    @classmethod
    def of(cls, location: Location, captions: Captions) -> Layout:
        """The layout of the options ``image``, ``caption`` and ``key``.

        Raises:
            DatasetError: one of them has no such value.
        """
        image, key = location.options.get("image", ""), location.options.get("key", "")
        if key not in ("", FIRST, LAST):
            raise DatasetError(f"{location.text!r}: key={key} is neither {FIRST} nor {LAST}, where a key may end")
        layout = cls(key=key, captions=captions.members, required=captions.required)
        return layout.with_image(image) if image else layout

    def with_image(self, image: str) -> Layout:
        """The image is one of these fields, with a known ending or without."""
        names = [name.strip().strip(".").lower() for name in image.split(",")]
        return replace(self, image=image, images=tuple(f for name in names for f in with_endings(name, IMAGES)))

    def with_caption(self, caption: str) -> Layout:
        """The caption is this field, with a known ending or without."""
        return replace(self, caption=caption, captions=with_endings(caption, CAPTIONS))

    @property
    def options(self) -> dict[str, str]:
        """Those that give this layout."""
        named = {"image": self.image, "caption": self.caption, "key": self.key if self.key == LAST else ""}
        return {name: value for name, value in named.items() if value}

    def split(self, name: str) -> tuple[str, str] | None:
        """(key, field in lower case) of a member's name; None if it has no extension, or is hidden."""
        match = _NAME.fullmatch(name)
        if match is None or self.key != LAST:
            return (match[1], match[2].lower()) if match else None
        return _parted(name, (*self.images, *self.captions)) or _parted(name, (name.rpartition(".")[2].lower(),))

    def whole(self, fields: Iterable[str]) -> bool:
        """Whether a sample of these fields has what it needs."""
        return bool(self.first("images", fields)) and (not self.required or bool(self.first("captions", fields)))

    def told(self, part: str) -> str:
        """The fields of ``images`` or ``captions`` in words, those without endings for those with every ending."""
        fields = getattr(self, part)
        listed = [field for field in fields if field.rpartition(".")[0] not in fields]
        return (", " if part == "images" else " or ").join(listed)

    def first(self, part: str, fields: Iterable[str]) -> str:
        """The preferred field of ``images`` or ``captions`` among those of a sample, or ""."""
        return next((field for field in getattr(self, part) if field in fields), "")


def decide(layout: Layout, names: Iterable[str]) -> tuple[Layout | None, bool]:
    """(the layout of a shard, whether it has members).

    As the options say, else as the names of its members tell; None if no sample comes out.
    """
    read: list[str] = []
    if _complete(layout, _noted(names, read)):
        return layout, True
    last = replace(layout, key=LAST)
    if not layout.key and (layout.required or layout.image) and _complete(last, read):
        return last, True
    if not layout.image and any(map(metadata.names, read)):
        return replace(last, metadata=True), True
    return inferred(layout, read), bool(read)


def inferred(layout: Layout, names: Sequence[str], labels: bool = False) -> Layout | None:
    """The layout with which image and caption of a sample share the longest stem, if any does.

    Args:
        layout: what it names is kept.
        names: the members of a shard, or of one sample.
        labels: pictures called as label maps may be the image.
    """
    images = _found(names, layout.images if layout.image else (*IMAGES, *_WORDS["image"]))
    known = layout.captions if layout.captions != CAPTIONS else (*CAPTIONS, *_WORDS["caption"])
    captions = _found(names, known)
    if not labels and layout.required:
        images = [(stem, field) for stem, field in images if stem.rpartition(".")[2].lower() not in _LABELS]
    if captions or layout.required:
        image, caption = _fields(images, captions, "image"), _fields(captions, images, "caption")
    else:
        image, caption = _shared(images), ""
    told = layout.with_image(image) if image and not layout.image else layout
    told = told.with_caption(caption) if caption and layout.captions == CAPTIONS else told
    for key in [told.key] if told.key else ["", LAST]:
        found = replace(told, key=key)
        if _complete(found, names, max(1, int(LEAST * len(images)))):
            return found
    return None


def stems(name: str) -> Iterator[str]:
    """A name, and what is left of it without its last dotted part, and so on; the longest first."""
    yield name
    while "." in name.rpartition("/")[2].lstrip("."):
        name = name.rpartition(".")[0]
        yield name


def _noted(names: Iterable[str], read: list[str]) -> Iterator[str]:
    for name in names:
        read.append(name)
        yield name


def _complete(layout: Layout, names: Iterable[str], least: int = 1) -> bool:
    """Whether so many samples come out; no more names are taken than that needs."""
    fields: dict[str, set[str]] = {}
    whole: set[str] = set()
    for key, field in filter(None, map(layout.split, names)):
        fields.setdefault(key, set()).add(field)
        if key not in whole and layout.whole(fields[key]):
            whole.add(key)
            if len(whole) >= least:
                return True
    return False


def _parted(name: str, fields: Sequence[str]) -> tuple[str, str] | None:
    """(what stands before the field, the longest field that the name ends with); None if there is none."""
    lower = name.lower()
    ends = [field for field in fields if lower.endswith(f".{field}")]
    field = max(ends, key=len, default="")
    stem = name[: -len(field) - 1] if field else ""
    return (stem, field) if stem.rpartition("/")[2].strip(".") else None


def _found(names: Iterable[str], fields: Sequence[str]) -> list[tuple[str, str]]:
    """(stem, field) of the members that have one of these fields."""
    return [pair for name in names if _NAME.fullmatch(name) and (pair := _parted(name, fields))]


def _fields(these: Sequence[tuple[str, str]], those: Sequence[tuple[str, str]], part: str) -> str:
    """What most often follows the longest stem that one of these shares with one of those; "" for a known ending."""
    known = IMAGES if part == "image" else CAPTIONS
    shared = {stem for whole, _ in those for stem in stems(whole)}
    counts: Counter[tuple[str, str]] = Counter()
    for whole, field in these:
        stem = next((stem for stem in stems(whole) if stem in shared), None)
        if stem is not None:
            counts[whole[len(stem) + 1 :].lower(), field] += 1
    names: Counter[str] = Counter()
    ranks: dict[str, tuple[int, int, int, str]] = {}
    for (middle, field), count in counts.items():
        name = middle if field in known else ".".join(filter(None, (middle, field)))
        names[name] += count
        word = 0 if name.rpartition(".")[2] in ("", *_WORDS[part]) else 1
        rank = (word, known.index(field) if field in known else len(known), len(name), name)
        ranks[name] = min(rank, ranks.get(name, rank))
    return min(names, key=lambda name: (-names[name], ranks[name]), default="")


def _shared(images: Sequence[tuple[str, str]]) -> str:
    """The field that most images without captions have between the first dot and their ending, or ""."""
    middles = [whole[len(list(stems(whole))[-1]) + 1 :].lower() for whole, _ in images]
    (middle, count), *_ = Counter(middles).most_common(1) or [("", 0)]
    return middle if 2 * count > len(images) else ""
