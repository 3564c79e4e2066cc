"""``rooms:<split>?count=N``: the first N pictures of a split, rendered on first use."""

from __future__ import annotations

import re
from pathlib import Path

from clipzoo.demo.render import render_split
from clipzoo.demo.rooms import SPLITS
from clipzoo.demo.splits import PROPOSALS, conventions, shares
from clipzoo.errors import DatasetError
from clipzoo.locations import Progress

__all__ = ["PROPOSALS", "check", "conventions", "pictures", "resolve", "shares"]

_LOCATION = re.compile(r"rooms:(\w+)\?count=(\d+)")


def _parse(location: str) -> tuple[str, int]:
    """Return split and number of pictures of a location."""
    match = _LOCATION.fullmatch(location)
    if match is None or match[1] not in SPLITS:
        raise DatasetError(f"{location!r} is not of the form rooms:<split>?count=N; the splits are {', '.join(SPLITS)}")
    return match[1], int(match[2])


def check(location: str) -> None:
    """Raise `DatasetError` unless the location names a split and a number of pictures."""
    _parse(location)


def pictures(location: str) -> int | None:
    """Return the number of pictures, whose rendering takes minutes."""
    return _parse(location)[1]


def resolve(location: str, cache: Path, progress: Progress) -> Path:
    """Return the benchmark folder of the pictures, rendered into ``cache``; complete shards are not rendered again."""
    split, count = _parse(location)
    out = cache / f"rooms-{split}-{count}"
    render_split(split, count, out, on_progress=lambda done: progress(f"rendering {split}", done, count))
    return out
