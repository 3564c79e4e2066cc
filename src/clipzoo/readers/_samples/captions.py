"""Captions of a sample: their fields and their text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from clipzoo.errors import DatasetError, SampleError
from clipzoo.readers._location import Location, with_endings
from clipzoo.readers.base import CAPTION_BYTES, too_large

TEXTS = ("txt", "caption")
"""Extensions of members that are a caption and nothing else; then comes ``json``."""

FIELDS = ("caption", "text")
"""Fields of a ``json`` member that hold a caption."""


@dataclass(frozen=True)
class Captions:
    """The fields that may hold a caption.

    ``a,b`` selects the first field that has text. ``a|b`` keeps all that have text, and training draws one for each
    epoch. Training also draws from the texts of a field that is a list.
    """

    fields: tuple[str, ...] = FIELDS
    every: bool = False
    given: bool = False
    """True if the option ``caption`` names the fields: members of `TEXTS` are then read only if named."""

    required: bool = True
    """If False, the caption of a sample without a valid one is ""."""

    upright: bool = False
    """If True, captions are read from the ``.json``, and its EXIF orientation is applied to the image (`exif`)."""

    @classmethod
    def of(cls, location: Location, default: tuple[str, ...] = FIELDS) -> Captions:
        """Return the captions of the options ``caption`` and ``exif``.

        Raises:
            DatasetError: ``caption`` mixes ``,`` and ``|``, or names nothing; ``exif`` is not ``json``.
        """
        given, exif = location.options.get("caption"), location.options.get("exif")
        if exif not in (None, "json"):
            raise DatasetError(f"{location.text!r}: exif={exif} is not supported; the only value is exif=json")
        upright = exif is not None
        if given is None:
            return cls(default, required=location.captions, upright=upright)
        every = "|" in given
        names = tuple(name.strip() for name in given.split("|" if every else ","))
        if not all(names) or (every and "," in given):
            raise DatasetError(
                f"{location.text!r}: caption={given} is neither a,b (the first that has text) nor a|b (one drawn for "
                "each epoch)"
            )
        return cls(names, every, given=True, required=location.captions, upright=upright)

    @property
    def members(self) -> tuple[str, ...]:
        """The extensions of members that may hold a caption, the one of an entry first (`Entry.caption`)."""
        if self.upright:
            return ("json",)
        if not self.given:
            return (*TEXTS, "json")
        named = [one for name in self.fields for one in with_endings(name.lower(), (*TEXTS, "json"))]
        return tuple(dict.fromkeys(["json", *named] if self.every else [*named, "json"]))

    @property
    def several(self) -> tuple[str, ...]:
        """The fields if the option ``caption`` names more than one, which may be in several members; else none."""
        return self.fields if self.given and len(self.fields) > 1 and not self.upright else ()

    def of_values(self, values: Mapping[str, object]) -> tuple[str, ...]:
        """Return the captions of a sample's fields, white space around them removed; at least one.

        Raises:
            SampleError: captions are required, and no field has text, or a text is not valid Unicode.
        """
        return self._or_none(self._of_values, values)

    def of_member(self, data: bytes, extension: str) -> tuple[str, ...]:
        """Return the captions of a file's bytes.

        Raises:
            SampleError: captions are required, and the file is not UTF-8, not JSON, or has no text.
        """
        return self._or_none(self._of_member, data, extension)

    def _or_none(self, read: Callable[..., tuple[str, ...]], *what: object) -> tuple[str, ...]:
        try:
            return read(*what)
        except SampleError:
            if self.required:
                raise
            return ("",)

    def _of_values(self, values: Mapping[str, object]) -> tuple[str, ...]:
        texts: list[str] = []
        for name in self.fields:
            texts += [text for text in texts_in(values.get(name), name) if text not in texts]
            if texts and not self.every:
                break
        if not texts:
            present = ", ".join(list(values)[:20]) or "no field"
            raise SampleError(
                f"the sample has no caption: there is no text under {' or '.join(self.fields)}, only {present}; name "
                "another field by ?caption=NAME after the location",
                "no-caption",
            )
        return tuple(texts)

    def _of_member(self, data: bytes, extension: str) -> tuple[str, ...]:
        if extension.lower() == "json":
            return self._of_values(parse_json(data))
        if extension.lower().endswith(".json"):  # the option names the member, not a field in it
            return Captions()._of_values(parse_json(data))
        text = _decoded(data, f"the caption ({extension})").strip()
        if not text:
            raise SampleError(f"the caption ({extension}) holds only white space", "no-caption")
        return (text,)


def texts_in(value: object, name: str) -> Iterator[str]:
    """Yield the texts of a string or a list of strings; other values are not captions."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and one.strip():
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise SampleError(f"the caption ({name}) is not UTF-8: {error}", "invalid-text") from error
            if len(one) > CAPTION_BYTES:
                raise too_large(f"caption ({name})", len(one), CAPTION_BYTES).error()
            yield one.strip()


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError(f"{what} is not UTF-8: {error}", "invalid-text") from error


def parse_json(data: bytes) -> Mapping[str, object]:
    """Return the object in a JSON member; `SampleError` if it is no valid JSON."""
    text = _decoded(data, "the json member")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"the json member cannot be parsed: {error}", "invalid-text") from error
    return values if isinstance(values, dict) else {}
