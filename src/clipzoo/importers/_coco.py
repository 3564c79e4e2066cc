"""COCO's JSON: images, categories and annotations, and the image of each sample."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import parse_qs, unquote, urlsplit

from clipzoo import files
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import sha256
from clipzoo.files import Place
from clipzoo.importers._boxes import MATCH
from clipzoo.importers._reading.pattern import Pattern
from clipzoo.importers.base import Notes
from clipzoo.types import MAX_PIXELS, Size

MAX_BYTES = 4 * 2**30
"""Most bytes of a file, which is held in memory."""

MATCHED = f"{MATCH}, or id (the image's id in the file, with or without leading zeros)"
RENAME = "other names of categories by their ids, as 2:chair-2,7:lamp; where two categories have one name"
ALL = "all"
"""The value of ``classes`` that stands for every category of the file, in the order of their ids."""


@dataclass(frozen=True)
class Picture:
    """An image of the file."""

    id: int | str
    size: Size
    absent: tuple[int | str, ...] | None = None
    """Ids of categories that were searched for and not found, if the file states it (LVIS). All others are unknown."""
    partly: tuple[int | str, ...] = ()
    """Ids of categories whose objects are not all in the file."""


class Ids:
    """Ids of a file, also found if they are written as another type: 7, 7.0, "7" and "007"."""

    def __init__(self, known: Iterable[int | str]) -> None:
        self.known = set(known)
        alike: dict[str, list[int | str]] = defaultdict(list)
        for one in self.known:
            alike[plain(one)].append(one)
        self._alike = {text: ids[0] for text, ids in alike.items() if len(ids) == 1}

    def find(self, value: object, notes: Notes, what: str) -> int | str | None:
        """Return the id of the file that equals a value; None without one. An id of another type is noted."""
        if isinstance(value, int | str) and not isinstance(value, bool) and value in self.known:
            return value
        if not _is_id(value) or plain(value) not in self._alike:
            return None
        found = self._alike[plain(value)]
        notes.take(f"repaired: {what} written as another type than the id", f"{value!r} for {found!r}")
        return found


def plain(value: object) -> str:
    """Return an id as text, without decimals and leading zeros of whole numbers."""
    text = str(value).strip().removesuffix(".0")
    return str(int(text)) if text.isascii() and text.isdecimal() else text


def _is_id(value: object) -> bool:
    whole = isinstance(value, float) and value.is_integer()
    return whole or (isinstance(value, int | str) and not isinstance(value, bool))


@dataclass(frozen=True)
class Annotated:
    """The contents of a file."""

    path: Place
    sha256: str
    match: str
    categories: Mapping[int | str, str]
    """Id -> name, in the order of ids."""
    pictures: Mapping[str, Picture]
    """By the names that `name` returns for keys."""
    annotations: Mapping[int | str, list[dict[str, object]]]
    """Image id -> its annotations."""
    ids: Ids
    """Of categories."""
    stems: frozenset[str]
    """Of file names, if these are matched as a whole."""
    pattern: Pattern | None = None
    notes: Notes = field(default_factory=Notes)

    def name(self, key: str) -> str:
        """Return the name of the picture of a sample."""
        key = key if self.pattern is None else self.pattern(key) or ""
        stem = key.rpartition("/")[2]
        if self.match == "id":
            return plain(stem)
        return key if self.match == "key" else stem

    def picture(self, key: str) -> Picture:
        """Return the picture of a sample; `SampleError` if there is none, or its size is not in the file."""
        found = self.pictures.get(self.name(key))
        if found is None:
            hint = self.hint([key])
            raise SampleError(
                f"no annotation: {self.path} has no image whose {self.match} is {self.name(key)!r}"
                + (f"; {hint}" if hint else ""),
                "no-label",
            )
        H, W = found.size
        if not 0 < H * W <= MAX_PIXELS:
            raise SampleError(
                f"the file does not tell the image's width and height, or more than {MAX_PIXELS} pixels: image "
                f"{found.id!r} of {self.path}"
            )
        return found

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        found = [key for key in keys if self.name(key).rpartition("/")[2] in self.stems]
        return f"match=stem finds {found[0]!r}: the file's names have other folders, or are addresses" if found else ""

    def category(self, annotation: Mapping[str, object]) -> str:
        """Return the name of an annotation's category; `SampleError` if the file does not have it."""
        number = annotation.get("category_id")
        found = self.ids.find(number, self.notes, "category_id")
        if found is None:
            raise SampleError(f"an unknown category: {number!r} is none of the file's categories")
        return self.categories[found]


def read(path: Place, match: str, rename: Mapping[str, str], pattern: Pattern | None) -> Annotated:
    """Read a file; for the options see `MATCHED`, `RENAME` and `Pattern`.

    Raises:
        ExpertError: the file cannot be read, is not of this form, or its ids or names are not unique.
    """
    values, notes = _parsed(path), Notes()
    images, categories = (_records(values, name, path) for name in ("images", "categories"))
    _once((_id(image) for image in images), "two images have the id", path)
    _once((category["id"] for category in categories), "two categories have the id", path)
    named = _named(categories, rename, path)
    names = [_name(image, match, path) for image in images]
    more = "" if match == "id" else "; by match=key or match=id they may differ"
    _once(names, f"two images have the {match}", path, more)
    return Annotated(
        path,
        sha256(path),
        match,
        named,
        {name: _picture(image) for name, image in zip(names, images, strict=True)},
        _by_image(_records(values, "annotations", path, "image_id"), Ids(_id(image) for image in images), path, notes),
        Ids(named),
        frozenset(_stem(str(image["file_name"])) for image in images) if match == "key" else frozenset(),
        pattern,
        notes,
    )


def parse_rename(text: str) -> dict[str, str]:
    """Return id as `plain` text -> name; `ValueError` if the text is not of the form of `RENAME`."""
    parts = [one.partition(":") for one in text.split(",")]
    if not all(number.strip() and name.strip() for number, _, name in parts):
        raise ValueError("an id and a name are needed, with a colon between")
    return {plain(number): name.strip() for number, _, name in parts}


def _named(categories: Sequence[Mapping[str, object]], rename: Mapping[str, str], path: Place) -> dict[int | str, str]:
    """Return id -> name of every category, in the order of ids; `ExpertError` if names are not unique."""
    names = {_id(category): str(category.get("name")) for category in categories}
    ordered = sorted(names, key=lambda number: (str(type(number)), number))
    named = {number: rename.get(plain(number), names[number]) for number in ordered}
    unknown = rename.keys() - {plain(number) for number in named}
    if unknown:
        raise ExpertError(f"rename: {path} has no category of the id {min(unknown)}; it has {_some(named)}")
    name, count = next(iter(Counter(named.values()).most_common(1)), ("", 0))
    if count > 1:
        same = [number for number, one in named.items() if one == name]
        raise ExpertError(
            f"{path}: two categories are called {name!r}, of the ids {', '.join(map(str, same))}, so names do not tell "
            f"them apart: rename={same[1]}:{name}-2 gives one another name"
        )
    return named


def _id(record: Mapping[str, object]) -> int | str:
    """Return the id of an entry that `_records` has checked."""
    return cast(int | str, record["id"])


def _some(values: Iterable[object]) -> str:
    shown = list(map(str, values))
    return ", ".join(shown[:10]) + (", …" if len(shown) > 10 else "")


def _by_image(
    annotations: Iterable[dict[str, object]], ids: Ids, path: Place, notes: Notes
) -> dict[int | str, list[dict[str, object]]]:
    """Return image id -> its annotations."""
    found: dict[int | str, list[dict[str, object]]] = defaultdict(list)
    strange = []
    for annotation in annotations:
        number = ids.find(annotation["image_id"], notes, "image_id")
        if number is None:
            strange.append(annotation["image_id"])
        else:
            found[number].append(annotation)
    if strange:
        raise ExpertError(
            f"{path}: {len(strange)} annotations have an image_id, as {strange[0]!r}, that is of no image in it, or of "
            "two: remove these annotations, or fix their ids"
        )
    return dict(found)


def _parsed(path: Place) -> dict[str, object]:
    try:
        if files.size(path) > MAX_BYTES:
            raise ExpertError(f"{path} has more than {MAX_BYTES} bytes and would be held in memory; split it")
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ExpertError(f"cannot read {path} as JSON: {error}; check the path, or fetch the file again") from error
    if not isinstance(values, dict):
        raise ExpertError(f"{path} is no COCO JSON: an object with images, annotations and categories")
    return values


def _records(values: Mapping[str, object], name: str, path: Place, key: str = "id") -> list[dict[str, object]]:
    found = values.get(name)
    if not isinstance(found, list):
        have = ", ".join(list(values)[:8]) or "nothing"
        raise ExpertError(f"{path} is no COCO JSON: it has no list {name!r}, but {have}")
    for one in found:
        if not _is_id(one.get(key) if isinstance(one, dict) else None):
            raise ExpertError(f"{path}: an entry of {name!r} has no {key} that is a number or text: {str(one)[:80]}")
        if key == "id" and isinstance(one["id"], float):
            one["id"] = int(one["id"])
    return found


def _once(values: Iterable[object], what: str, path: Place, more: str = "") -> None:
    value, count = next(iter(Counter(values).most_common(1)), (None, 0))
    if count > 1:
        raise ExpertError(f"{path}: {what} {value!r}, so it does not tell them apart; fix the file{more}")


def _name(image: Mapping[str, object], match: str, path: Place) -> str:
    if match == "id":
        return plain(image["id"])
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise ExpertError(f"{path}: the image {image['id']!r} has no file_name; match=id goes by ids")
    if match == "stem":
        return _stem(name)
    folder, slash, last = name.replace("\\", "/").rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def _stem(name: str) -> str:
    """Return the file name of a path or address, without extension. Label Studio writes the path after ``?d=``."""
    if "://" in name or "/?d=" in name:
        address = urlsplit(name)
        name = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.rpartition(".")[0] or last


def _picture(image: Mapping[str, object]) -> Picture:
    absent, partly = (
        tuple(i for i in ids if isinstance(i, int | str)) if isinstance(ids, list) else None
        for ids in (image.get("neg_category_ids"), image.get("not_exhaustive_category_ids"))
    )
    return Picture(_id(image), _size(image), absent, partly or ())


def _size(image: Mapping[str, object]) -> Size:
    """Return (H, W); zeros if they are not in the file."""
    H, W = image.get("height"), image.get("width")
    return (H, W) if isinstance(H, int) and isinstance(W, int) and min(H, W) > 0 else (0, 0)
