"""COCO's JSON: images, categories, annotations, and which sample is which image."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipzoo import files
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts._boxes import MATCH
from clipzoo.experts.base import sha256
from clipzoo.files import Place
from clipzoo.types import MAX_PIXELS, Size

MAX_BYTES = 4 * 2**30
"""A larger file is not read: it is held in memory."""

MATCHES = ("key", "stem", "id")
MATCHED = f"{MATCH}, or id (the image's id in the file, with or without leading zeros)"
ALL = "all"
"""The answer to ``classes`` that means every category of the file, in the order of their ids."""


@dataclass(frozen=True)
class Picture:
    """An image of the file."""

    id: int | str
    size: Size
    absent: tuple[int | str, ...] | None = None
    """Ids of categories that it was searched for in vain, where the file tells (LVIS); of others nobody knows."""
    partly: tuple[int | str, ...] = ()
    """Ids of categories of which not all objects are in the file."""


@dataclass(frozen=True)
class Annotated:
    """A file, taken apart."""

    path: Place
    sha256: str
    match: str
    categories: Mapping[int | str, str]
    """Id -> name, in the order of ids."""
    pictures: Mapping[str, Picture]
    """By what `name` makes of a sample's key."""
    annotations: Mapping[int | str, list[dict[str, Any]]]
    """Image id -> its annotations."""

    def name(self, key: str) -> str:
        """What the picture of a sample is called."""
        stem = key.rpartition("/")[2]
        if self.match == "id":
            return str(int(stem)) if stem.isascii() and stem.isdecimal() else stem
        return key if self.match == "key" else stem

    def picture(self, key: str) -> Picture:
        """The picture of a sample; `SampleError` if there is none, or the file does not tell its size."""
        found = self.pictures.get(self.name(key))
        if found is None:
            raise SampleError(f"no annotation: {self.path} has no image whose {self.match} is {self.name(key)!r}")
        H, W = found.size
        if not 0 < H * W <= MAX_PIXELS:
            raise SampleError(
                f"the file does not tell the image's width and height, or more than {MAX_PIXELS} pixels: image "
                f"{found.id!r} of {self.path}"
            )
        return found

    def category(self, annotation: Mapping[str, Any]) -> str:
        """The name of an annotation's category; `SampleError` if it is none of the file's."""
        number = annotation.get("category_id")
        if not isinstance(number, int | str) or number not in self.categories:
            raise SampleError(f"an unknown category: {number!r} is none of the file's categories")
        return self.categories[number]


def read(path: Place, match: str) -> Annotated:
    """Read a file.

    Raises:
        ExpertError: it cannot be read, is not of this form, or its ids or names do not tell its images apart.
    """
    values = _parsed(path)
    images, categories = (_records(values, name, path) for name in ("images", "categories"))
    _once((image["id"] for image in images), "two images have the id", path)
    _once((category["id"] for category in categories), "two categories have the id", path)
    _once((str(category.get("name")) for category in categories), "two categories are called", path)
    names = [_name(image, match, path) for image in images]
    more = "" if match == "id" else "; by match=key or match=id they may differ"
    _once(names, f"two images have the {match}", path, more)
    annotations: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in _records(values, "annotations", path, "image_id"):
        annotations[annotation["image_id"]].append(annotation)
    strange = annotations.keys() - {image["id"] for image in images}
    if strange:
        raise ExpertError(
            f"{path}: {len(strange)} ids of annotations, as {next(iter(strange))!r}, are of no image in it; a number "
            "and a text are two ids: write both alike, or remove these annotations"
        )
    return Annotated(
        path,
        sha256(path),
        match,
        {c["id"]: str(c.get("name")) for c in sorted(categories, key=lambda c: (str(type(c["id"])), c["id"]))},
        {name: _picture(image) for name, image in zip(names, images, strict=True)},
        dict(annotations),
    )


def _parsed(path: Place) -> dict[str, Any]:
    try:
        if files.size(path) > MAX_BYTES:
            raise ExpertError(f"{path} has more than {MAX_BYTES} bytes and would be held in memory; split it")
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ExpertError(f"cannot read {path} as JSON: {error}; check the path, or fetch the file again") from error
    if not isinstance(values, dict):
        raise ExpertError(f"{path} is no COCO JSON: an object with images, annotations and categories")
    return values


def _records(values: Mapping[str, Any], name: str, path: Place, key: str = "id") -> list[dict[str, Any]]:
    found = values.get(name)
    if not isinstance(found, list):
        have = ", ".join(list(values)[:8]) or "nothing"
        raise ExpertError(f"{path} is no COCO JSON: it has no list {name!r}, but {have}")
    for one in found:
        number = one.get(key) if isinstance(one, dict) else None
        if not isinstance(number, int | str) or isinstance(number, bool):
            raise ExpertError(f"{path}: an entry of {name!r} has no {key} that is a number or text: {str(one)[:80]}")
    return found


def _once(values: Iterable[Any], what: str, path: Place, more: str = "") -> None:
    value, count = next(iter(Counter(values).most_common(1)), (None, 0))
    if count > 1:
        raise ExpertError(f"{path}: {what} {value!r}, so it does not tell them apart; mend the file{more}")


def _name(image: Mapping[str, Any], match: str, path: Place) -> str:
    if match == "id":
        return str(image["id"])
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise ExpertError(f"{path}: the image {image['id']!r} has no file_name; match=id goes by ids")
    whole = name.replace("\\", "/")
    folder, slash, last = whole.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return folder + slash + stem if match == "key" else stem


def _picture(image: Mapping[str, Any]) -> Picture:
    absent, partly = (
        tuple(i for i in ids if isinstance(i, int | str)) if isinstance(ids, list) else None
        for ids in (image.get("neg_category_ids"), image.get("not_exhaustive_category_ids"))
    )
    return Picture(image["id"], _size(image), absent, partly or ())


def _size(image: Mapping[str, Any]) -> Size:
    """(H, W); zeros if they are not told."""
    H, W = image.get("height"), image.get("width")
    return (H, W) if isinstance(H, int) and isinstance(W, int) and min(H, W) > 0 else (0, 0)
