"""Caption fields by name: fields of a table, members of a sample, and fields of its ``.json``.

Training draws among fields by their probabilities (``training.captions`` of a recipe); other uses read one caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from clipzoo.errors import SampleError
from clipzoo.readers._location import with_endings
from clipzoo.readers._samples.captions import TEXTS, Captions, parse_json, texts_in

JSON = "json"
ENDINGS = (*TEXTS, JSON)

Fields = dict[str, tuple[str, ...]]
"""Field -> its texts, at least one each."""


def of_values(values: Mapping[str, object], names: Iterable[str] | None = None) -> Fields:
    """Return the fields ``names`` of a row or JSON object that have valid text; all such fields by default."""
    return {name: texts for name in (values if names is None else names) if (texts := _valid(values.get(name), name))}


def member_of(name: str, members: Iterable[str]) -> str:
    """Return the member that holds a field: one of its name, with a known ending or without, else ``json``, else ""."""
    known = set(members)
    return next((one for one in (*with_endings(name.lower(), ENDINGS), JSON) if one in known), "")


def of_members(data: Mapping[str, bytes], names: Iterable[str] | None = None) -> Fields:
    """Return the fields ``names`` that have valid text, of a sample's members: name in lower case -> bytes."""
    values = _of_json(data[JSON]) if JSON in data else {}
    if names is None:
        own = [member for member in data if member != JSON]
        names = dict.fromkeys(
            [*(m if m in TEXTS else m.removesuffix("." + m.rpartition(".")[2]) for m in own), *values]
        )
    found: Fields = {}
    for name in names:
        member = member_of(name, data)
        texts = _valid(values.get(name), name) if member in (JSON, "") else _of_member(data[member], member)
        found |= {name: texts} if texts else {}
    return found


def captions_of(captions: Captions, data: Mapping[str, bytes], member: str) -> tuple[str, ...]:
    """Return the captions of a sample's members: name in lower case -> bytes; ``member`` is that of the entry.

    Raises:
        SampleError: captions are required, and no member has text.
    """
    found = of_members(data, captions.several) if captions.several and len(data) > 1 else {}
    if not found:
        return captions.of_member(data[member], member)
    texts = tuple(dict.fromkeys(text for texts in found.values() for text in texts))
    return texts if captions.every else next(iter(found.values()))


def is_text(member: str) -> bool:
    """Return True if a member, in lower case, may hold captions."""
    return member.rpartition(".")[2] in ENDINGS


def caption_or_field(caption: Callable[[], tuple[str, ...]], fields: Fields) -> tuple[str, ...]:
    """Return the sample's captions; without a valid one, those of its first field.

    Raises:
        SampleError: it has neither.
    """
    try:
        return caption()
    except SampleError:
        if not fields:
            raise
        return next(iter(fields.values()))


def _valid(value: object, name: str) -> tuple[str, ...]:
    try:
        return tuple(texts_in(value, name))
    except SampleError:
        return ()


def _of_member(data: bytes, member: str) -> tuple[str, ...]:
    try:
        return Captions().of_member(data, member)
    except SampleError:
        return ()


def _of_json(data: bytes) -> Mapping[str, object]:
    try:
        return parse_json(data)
    except SampleError:
        return {}
