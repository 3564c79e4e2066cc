"""Options of a ``hf:`` URI: text -> values, or an error that says what they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipzoo.errors import ExpertError
from clipzoo.experts.options import parse_names

Options = Mapping[str, str]


def choice(options: Options, name: str, known: Sequence[str]) -> str:
    """The option's value; the first that is known where it is not given."""
    value = options.get(name, known[0])
    if value not in known:
        raise ExpertError(f"?{name}={value}: it is one of {', '.join(known)}")
    return value


def count(options: Options, name: str, default: int) -> int:
    """A number of at least 1."""
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ExpertError(f"?{name}={text}: it is a number, at least 1")
    return int(text)


def share(options: Options, name: str, default: float) -> float:
    """A number from 0 to 1."""
    text = options.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ExpertError(f"?{name}={text}: it is a score, from 0 to 1")
    return value


def ids(text: str, name: str, top: int) -> tuple[int, ...]:
    """Class ids below ``top`` from numbers and ranges, ``0-79,85``, in their order."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and int(end) < top for end in ends):
            raise ExpertError(f"?{name}={text}: {part!r} is no id or range of ids below {top}; write {name}=0-9,12")
        found |= set(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))


def label_space(options: Options) -> tuple[str, ...]:
    """The names of ``classes``: a file with one a line, or the names themselves with commas.

    Raises:
        ExpertError: it is not answered, cannot be read, or names a class twice.
    """
    text = options.get("classes", "")
    path = text.removeprefix("@")
    if not text:
        raise ExpertError(
            "this model finds what it is told to: add ?classes=FILE, one name a line, or ?classes=dog,cat"
        )
    named_file = text[0] == "@" or path.endswith(".txt") or Path(path).expanduser().is_file()
    try:
        names = parse_names(f"@{path}" if named_file else text)
    except (OSError, ValueError) as error:
        raise ExpertError(f"?classes={text}: {error}; name a text file with one name a line") from error
    twice = sorted({name for name in names if [n.lower() for n in names].count(name.lower()) > 1})
    if twice:
        raise ExpertError(f"?classes={text} names {twice[0]!r} twice; a model cannot tell the two apart: remove one")
    return tuple(names)
