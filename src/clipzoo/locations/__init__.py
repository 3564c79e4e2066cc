"""Locations with a scheme, such as ``demo:test``, whose data is created on first use; one file per scheme.

Wherever a recipe or a command takes a dataset or a benchmark, a location may begin with the name of a file here, or of
an entry point in the group ``clipzoo.locations``. All other locations are returned as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Protocol, TypedDict, cast

from clipzoo import files, readers
from clipzoo.errors import DatasetError
from clipzoo.files import AnyPath, several
from clipzoo.plugins import Registry
from clipzoo.readers import Location, Reader, joined
from clipzoo.tasks.base import Convention

__all__ = [
    "PLUGINS", "LocationPlugin", "Proposals", "conventions", "datasets", "open_dataset", "pictures_to_render",
    "proposals", "provided", "resolve", "resolve_data", "resolve_into_store", "resolved", "share_pictures",
]  # fmt: skip

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""

_HOME = Path("~/.cache/clipzoo")
"""Folder of created data; it is expanded when it is needed, since a user in a container may have no home."""
_FOLDER = re.compile(r"(?!\w+://).+|(?!https?://)[^*?\[{]+", re.DOTALL)
"""A location that may be a folder with subfolders: a path, or a remote address without a pattern."""


class Proposals(TypedDict, total=False):
    """Question of ``clipzoo new`` -> proposed answer."""

    model: str
    experts: list[str]
    benchmarks: str
    epochs: float


class LocationPlugin(Protocol):
    """A module of this folder; its name is the scheme of its locations.

    ``PROPOSALS``, if a module has it, maps a question of ``clipzoo new`` (model, experts, benchmarks, epochs) to the
    answer that is proposed for its datasets.
    """

    def check(self, location: str) -> None:
        """Raise `DatasetError` unless the location exists."""

    def resolve(self, location: str, cache: Path, progress: Progress) -> Path:
        """Return the folder of the data, created in ``cache`` unless an earlier call created it."""

    def pictures(self, location: str) -> int | None:
        """Return the number of pictures if creating them takes long, else None."""

    def shares(self, one: str, other: str) -> bool:
        """Return True if two locations, the second of any scheme, have pictures in common."""

    def conventions(self, location: str) -> Mapping[str, Convention]:
        """Return task -> convention of the true labels; empty if there are none."""


PLUGINS: Registry[LocationPlugin] = Registry(
    "locations", ("check", "resolve", "pictures", "shares", "conventions"), noun="scheme of locations"
)


def _plugin(location: str) -> LocationPlugin | None:
    """Return the plugin that provides a location, if any; `DatasetError` if it has no such location."""
    if (scheme := _scheme(location)) is None:
        return None
    plugin = PLUGINS.load(scheme)
    plugin.check(location)
    return plugin


def _scheme(location: str) -> str | None:
    """Return the name of the plugin that provides a location, if any."""
    scheme, colon, _ = location.partition(":")
    return scheme if colon and scheme in PLUGINS.names() else None


def provided(location: str) -> bool:
    """Return True if a plugin provides the location, or one of several datasets.

    Raises:
        DatasetError: its plugin has no such location.
    """
    return any(_plugin(one) is not None for one in (datasets(location) or {"": location}).values())


def share_pictures(one: str, other: str) -> bool:
    """Return True if two provided locations have pictures in common."""
    plugin = _plugin(one)
    return plugin is not None and provided(other) and plugin.shares(one, other)


def datasets(location: str) -> dict[str, str]:
    """Return name -> location of several datasets that are resolved one by one; empty for any other location.

    These are the datasets of a text (`clipzoo.files.several`), and of a YAML file on a disk that names a location with
    a scheme. Other YAML files are opened by their reader.

    Raises:
        DatasetError: the text or the file is not valid.
    """
    if named := several.separate(location):
        return named
    parsed = Location.parse(location)
    if "://" in parsed.path or not joined.Joined.accepts(parsed) or not Path(parsed.path).expanduser().is_file():
        return {}
    named = joined.listed(parsed)
    if all(_scheme(text) is None for text in named.values()):
        return {}
    return {name: text if parsed.captions or _scheme(text) else _optional(text) for name, text in named.items()}


def _optional(location: str) -> str:
    """Return a location whose samples need no captions."""
    return replace(Location.parse(location), captions=False).with_options()


def conventions(location: str) -> Mapping[str, Convention]:
    """Return task -> convention of the true labels of a provided location; empty for any other."""
    plugin = _plugin(location)
    return plugin.conventions(location) if plugin else {}


def pictures_to_render(location: str) -> int | None:
    """Return the number of pictures of a provided location that takes long to create; None for any other."""
    plugin = _plugin(location)
    return plugin.pictures(location) if plugin else None


def proposals(location: str) -> Proposals:
    """Return question -> answer that ``clipzoo new`` proposes for a provided location; empty for any other."""
    return cast(Proposals, getattr(_plugin(location), "PROPOSALS", {}))


def resolve(location: str, cache: Path, progress: Progress = lambda what, done, total: None) -> str:
    """Return the folder of a provided location; any other location is returned as it is.

    Args:
        location: such as ``demo:test``, ``rooms:test?count=100``, or anything else.
        cache: where data is created; later calls find it there.
        progress: receives what is being created.

    Raises:
        DatasetError: the plugin has no such location.
    """
    plugin = _plugin(location)
    return str(plugin.resolve(location, cache, progress)) if plugin else location


def resolve_data(location: str, cache: Path, progress: Progress = lambda what, done, total: None) -> str:
    """Return the location that a reader opens: as `resolve`, but the ``images/`` of a benchmark folder.

    Several `datasets` are resolved one by one.
    """
    if named := datasets(location):
        return several.combine({name: resolve_data(one, cache, progress) for name, one in named.items()})
    found = resolve(location, cache, progress)
    path = Location.parse(found).path
    images = files.place(path) / "images" if _FOLDER.fullmatch(path) else None
    return f"{images}{found.removeprefix(path)}" if images and images.is_dir() else found


def resolve_into_store(location: str, store: str) -> str:
    """Return the location as `resolve_data` does; data is created in the folder of a label store.

    For a remote store, data is created in the user's cache.

    Raises:
        DatasetError: the plugin has no such location, or the folder is a link that leads out of the store.
    """
    cache = _cache(store)
    if provided(location):
        files.check_inside(cache.parent, cache.name, DatasetError)
    return resolve_data(location, cache)


@contextmanager
def resolved(location: str, store: str) -> Iterator[str]:
    """Yield the location as `resolve_into_store` returns it, but create data for the length of the block only.

    Data that the folder of the store has is used.
    """
    with TemporaryDirectory(prefix="clipzoo-look-") as scratch:
        cache = _cache(store)
        for known in cache.iterdir() if cache.is_dir() else ():
            Path(scratch, known.name).symlink_to(known.resolve())
        yield resolve_data(location, Path(scratch))


def open_dataset(
    location: AnyPath, captions: Literal["required", "optional"] = "required", fields: Sequence[str] = ()
) -> Reader:
    """Open the dataset at ``location``: a folder, file, list, or glob or brace pattern, with options after ``?``.

    docs/data.md describes the formats and their options. Data of ``demo:`` and ``rooms:`` is created in
    ``~/.cache/clipzoo`` on first use.

    Args:
        location: of the dataset.
        captions: if they are optional, an image without a readable caption is a usable sample whose caption is "".
        fields: caption fields that samples carry in `Sample.fields`: columns, members and fields of ``.json``.

    Raises:
        DatasetError: there is no data, or its format is unknown or ambiguous.
        RemoteError: its address cannot be reached.
    """
    place = os.fspath(location)
    return readers.open_dataset(resolve_data(place, _HOME.expanduser()) if provided(place) else place, captions, fields)


def _cache(store: str) -> Path:
    return _HOME.expanduser() if "://" in store else Path(store, ".data")
