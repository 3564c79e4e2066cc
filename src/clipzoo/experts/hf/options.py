"""Parsers of the options of a ``hf:`` URI."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from clipzoo.errors import ExpertError
from clipzoo.experts.options import parse_names
from clipzoo.types import Size

Options = Mapping[str, str]


def choice(options: Options, name: str, known: Sequence[str]) -> str:
    """Return the value of an option; by default the first of ``known``."""
    value = options.get(name, known[0])
    if value not in known:
        raise ExpertError(f"?{name}={value}: the value must be one of {', '.join(known)}")
    return value


def count(options: Options, name: str, default: int) -> int:
    """Return the value of an option that is a whole number, at least 1."""
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ExpertError(f"?{name}={text}: the value must be a whole number, at least 1")
    return int(text)


def sides(options: Options, name: str) -> Size:
    """Return the value of an option that is a size, ``224``, or ``224x336`` (H×W)."""
    texts = options[name].lower().split("x")
    if len(texts) > 2 or not all(text.isascii() and text.isdigit() and 1 <= int(text) <= 8192 for text in texts):
        raise ExpertError(f"?{name}={options[name]}: write the size of the input, such as 224, or 224x336 (H×W)")
    return int(texts[0]), int(texts[-1])


def share(options: Options, name: str, default: float) -> float:
    """Return the value of an option that is a score from 0 to 1."""
    text = options.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ExpertError(f"?{name}={text}: the value must be a score from 0 to 1")
    return value


def ids(text: str, name: str, top: int) -> tuple[int, ...]:
    """Parse class ids below ``top``, numbers and ranges such as ``0-79,85``; the result is sorted."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        valid = all(end.isascii() and end.isdigit() and int(end) < top for end in ends)
        if not valid or int(ends[0]) > int(ends[1]):
            raise ExpertError(
                f"?{name}={text}: {part!r} is no id or range of ids below {top}. Write ids and ranges, such as "
                f"{name}=0-9,12"
            )
        found |= set(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))


def label_space(options: Options) -> tuple[str, ...]:
    """Return the names of ``classes``: a file with one name per line, or names separated by commas.

    Raises:
        ExpertError: the option is missing, its file cannot be read, or a class is named twice.
    """
    text = options.get("classes", "")
    path = text.removeprefix("@")
    if not text:
        raise ExpertError(
            "this model searches for the classes that you name: add ?classes=FILE (one name per line), or names such "
            "as ?classes=dog,cat"
        )
    exists = os.path.isfile(os.path.expanduser(path))  # noqa: PTH111, PTH113 — Path fails if many names are a long path
    named_file = text[0] == "@" or path.endswith(".txt") or exists
    try:
        names = parse_names(f"@{path}" if named_file else text)
    except (OSError, ValueError) as error:
        raise ExpertError(
            f"?classes={text}: {error}. Give a text file with one name per line, or names separated by commas"
        ) from error
    twice = sorted({name for name in names if [n.lower() for n in names].count(name.lower()) > 1})
    if twice:
        raise ExpertError(
            f"?classes={text} names {twice[0]!r} twice, and a model cannot distinguish the two: remove one"
        )
    return tuple(names)
