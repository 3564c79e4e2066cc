"""Layout of a tar: the split of member names into key and field, and the fields of the image and the caption.

By default a key ends at the first dot, the image is ``jpg``, ``png`` …, the caption ``txt``, ``caption`` or ``json``.
If this gives no sample at all, the layout is inferred: the image and the caption of a sample are the members with the
longest common stem, and their fields are the most common remainders of the names.
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
"""Fields without a known ending that hold images or captions; preferred among several candidates."""

_LABELS = {"seg", "mask", "depth", "normal", "normals", "edge", "edges", "label", "labels"}
"""Fields of label maps: if captions are required, they are read as the image only if an option names them."""

LEAST = 0.1
"""The share of images that must have a sample in an inferred layout."""


@dataclass(frozen=True)
class Layout:
    """The meaning of member names.

    Attributes:
        image, caption, key: the options that give this layout; "" for the default.
        images, captions: fields of images and of captions, the preferred one first.
        required: True if a sample needs a caption.
        metadata: True if captions are rows of a table in the tar (`metadata`).
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
        """Return the layout of the options ``image``, ``caption`` and ``key``.

        Raises:
            DatasetError: an option has an invalid value.
        """
        image, key = location.options.get("image", ""), location.options.get("key", "")
        if key not in ("", FIRST, LAST):
            raise DatasetError(f"{location.text!r}: key={key} is neither {FIRST} nor {LAST}")
        layout = cls(key=key, captions=captions.members, required=captions.required)
        return layout.with_image(image) if image else layout

    def with_image(self, image: str) -> Layout:
        """Return the layout whose image is one of these fields, with a known ending or without."""
        names = [name.strip().strip(".").lower() for name in image.split(",")]
        return replace(self, image=image, images=tuple(f for name in names for f in with_endings(name, IMAGES)))

    def with_caption(self, caption: str) -> Layout:
        """Return the layout whose caption is this field, with a known ending or without."""
        return replace(self, caption=caption, captions=with_endings(caption, CAPTIONS))

    @property
    def options(self) -> dict[str, str]:
        """The location options that give this layout."""
        named = {"image": self.image, "caption": self.caption, "key": self.key if self.key == LAST else ""}
        return {name: value for name, value in named.items() if value}

    def split(self, name: str) -> tuple[str, str] | None:
        """Return (key, field in lower case) of a member's name; None if it has no extension or is hidden."""
        folder, slash, last = name.rpartition("/")
        stem, _, field = last.partition(".")
        if not stem or not field:
            return None
        if self.key != LAST:
            return folder + slash + stem, field.lower()
        return _parted(name, (*self.images, *self.captions)) or _parted(name, (name.rpartition(".")[2].lower(),))

    def whole(self, fields: Iterable[str]) -> bool:
        """Return True if these fields make a complete sample."""
        return bool(self.first("images", fields)) and (not self.required or bool(self.first("captions", fields)))

    def describe(self, part: str) -> str:
        """Return the fields of ``images`` or ``captions`` in words; a field without ending covers all its endings."""
        fields = getattr(self, part)
        listed = [field for field in fields if field.rpartition(".")[0] not in fields]
        return (", " if part == "images" else " or ").join(listed)

    def first(self, part: str, fields: Iterable[str]) -> str:
        """Return the preferred field of ``images`` or ``captions`` among those of a sample, or ""."""
        return next((field for field in getattr(self, part) if field in fields), "")


def decide(layout: Layout, names: Iterable[str]) -> tuple[Layout | None, bool]:
    """Return (the layout of a shard, True if it has members).

    The layout is the given one if it yields a sample, else one inferred from the names of the members, else None.
    """
    read: list[str] = []
    if _complete(layout, _recorded(names, read)):
        return layout, True
    last = replace(layout, key=LAST)
    if not layout.key and (layout.required or layout.image) and _complete(last, read):
        return last, True
    if not layout.image and any(map(metadata.names, read)):
        return replace(last, metadata=True), True
    return inferred(layout, read), bool(read)


def inferred(layout: Layout, names: Sequence[str], labels: bool = False) -> Layout | None:
    """Return the layout in which the image and caption of a sample share the longest stem, or None.

    Args:
        layout: its named fields are kept.
        names: the members of a shard, or of one sample.
        labels: allow label maps (`_LABELS`) as the image.
    """
    images = _stems_and_fields(names, layout.images if layout.image else (*IMAGES, *_WORDS["image"]))
    known = layout.captions if layout.captions != CAPTIONS else (*CAPTIONS, *_WORDS["caption"])
    captions = _stems_and_fields(names, known)
    if not labels and layout.required:
        images = [(stem, field) for stem, field in images if stem.rpartition(".")[2].lower() not in _LABELS]
    if captions or layout.required:
        image, caption = _fields(images, captions, "image"), _fields(captions, images, "caption")
    else:
        image, caption = _shared(images), ""
    guess = layout.with_image(image) if image and not layout.image else layout
    guess = guess.with_caption(caption) if caption and layout.captions == CAPTIONS else guess
    for key in [guess.key] if guess.key else ["", LAST]:
        candidate = replace(guess, key=key)
        if _complete(candidate, names, max(1, int(LEAST * len(images)))):
            return candidate
    return None


def stems(name: str) -> Iterator[str]:
    """Yield a name, then the name without its last dotted part, and so on."""
    yield name
    while "." in name.rpartition("/")[2].lstrip("."):
        name = name.rpartition(".")[0]
        yield name


def _recorded(names: Iterable[str], read: list[str]) -> Iterator[str]:
    for name in names:
        read.append(name)
        yield name


def _complete(layout: Layout, names: Iterable[str], least: int = 1) -> bool:
    """Return True if the names give at least ``least`` complete samples; reads no more names than necessary."""
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
    """Return (stem, field) for the longest of ``fields`` that the name ends with; None if there is none."""
    lower = name.lower()
    ends = [field for field in fields if lower.endswith(f".{field}")]
    field = max(ends, key=len, default="")
    stem = name[: -len(field) - 1] if field else ""
    return (stem, field) if stem.rpartition("/")[2].strip(".") else None


def _stems_and_fields(names: Iterable[str], fields: Sequence[str]) -> list[tuple[str, str]]:
    """Return (stem, field) of the members that have one of these fields."""
    return [pair for name in names if _NAME.fullmatch(name) and (pair := _parted(name, fields))]


def _fields(these: Sequence[tuple[str, str]], those: Sequence[tuple[str, str]], part: str) -> str:
    """Return the most common remainder of names after their longest stem shared with ``those``.

    It is "" if the remainder is a known ending only.
    """
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
    """Return the field that most images without captions have between the first dot and their ending, or ""."""
    middles = [whole[len(list(stems(whole))[-1]) + 1 :].lower() for whole, _ in images]
    (middle, count), *_ = Counter(middles).most_common(1) or [("", 0)]
    return middle if 2 * count > len(images) else ""
