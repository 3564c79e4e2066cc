"""Several datasets as one: a YAML file that names their locations, or a text with them (`clipzoo.files.several`).

    datasets:
      web: shards/web
      photos: photos?caption=title

Paths in a file are relative to it; addresses are allowed. A shard is called ``<name>/<its name>``, which separates the
labels of the datasets; keys do not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import PurePath

import yaml

from clipzoo import files, plugins
from clipzoo.errors import DatasetError
from clipzoo.files import Place, several
from clipzoo.readers import _formats
from clipzoo.readers._location import Location, parse_options
from clipzoo.readers._rows import digest
from clipzoo.readers.base import Entry, Reader
from clipzoo.types import Sample


class Joined(Reader):
    """A concatenation of datasets."""

    def __init__(self, location: str, readers: Mapping[str, Reader]) -> None:
        self.location = location
        self.readers = dict(readers)
        self.shards = tuple(f"{name}/{shard}" for name, reader in self.readers.items() for shard in reader.shards)
        self.folders = tuple(folder for reader in self.readers.values() for folder in reader.folders)
        self.reads_texts = any(reader.reads_texts for reader in self.readers.values())
        self.captions_optional = any(reader.captions_optional for reader in self.readers.values())
        self.separable = all(reader.separable for reader in self.readers.values())
        self.threads = max(reader.threads for reader in self.readers.values())

    @property
    def identity(self) -> str:  # type: ignore[override]  # computed from the datasets when it is needed
        """A digest of the identities of the datasets; "" if none has one."""
        identities = [reader.identity for reader in self.readers.values()]
        return digest(identities) if any(identities) else ""

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True for a YAML file, whose content `open` validates. Text with several datasets names the format."""
        return PurePath(location.path).suffix.lower() in (".yaml", ".yml") and not location.is_folder

    @classmethod
    def open(cls, location: Location) -> Joined:
        """Open the datasets that the file or text names, in the order of their names.

        Raises:
            DatasetError: the file is invalid, or one of its datasets cannot be opened.
        """
        readers = {}
        for name, text in sorted((several.separate(location.path) or listed(location)).items()):
            inner = Location.parse(text)
            inner = replace(inner, captions=location.captions and inner.captions, fields=location.fields)
            if cls.accepts(inner) or several.separate(inner.path):
                raise DatasetError(f"{location.path}: {name} is itself a list of datasets; name its datasets here")
            readers[name] = _formats.open_location(inner)
        return cls(location.text, readers)

    def index(self, shard: str) -> list[Entry]:
        """Return the entries of a shard of one of the datasets."""
        reader, inner = self._reader(shard)
        return [replace(entry, shard=shard) for entry in reader.index(inner)]

    def read(self, entry: Entry) -> Sample:
        """Return the sample of a usable entry.

        Raises:
            SampleError: see the reader of the dataset.
        """
        reader, inner = self._reader(entry.shard)
        return replace(reader.read(replace(entry, shard=inner)), shard=entry.shard)

    def fields(self, entry: Entry) -> Mapping[str, tuple[str, ...]]:
        """See `Reader.fields`."""
        reader, inner = self._reader(entry.shard)
        return reader.fields(replace(entry, shard=inner))

    def contents(self, shard: str) -> str:
        """See `Reader.contents`."""
        reader, inner = self._reader(shard)
        return reader.contents(inner)

    def advice(self, entry: Entry) -> str:
        """See `Reader.advice`; the location is that of the dataset in the file."""
        reader, inner = self._reader(entry.shard)
        return reader.advice(replace(entry, shard=inner))

    def sideways(self, entry: Entry, image: bytes) -> str:
        """See `Reader.sideways`."""
        reader, inner = self._reader(entry.shard)
        return reader.sideways(replace(entry, shard=inner), image)

    def state(self, shard: str) -> str:
        """See `Reader.state`."""
        reader, inner = self._reader(shard)
        return reader.state(inner)

    def stamp(self, shard: str) -> str:
        """See `Reader.stamp`."""
        reader, inner = self._reader(shard)
        return f"{reader.location} {reader.stamp(inner)}"

    def others(self, entry: Entry) -> Mapping[str, bytes]:
        """See `Reader.others`."""
        reader, inner = self._reader(entry.shard)
        return reader.others(replace(entry, shard=inner))

    def cached(self, shard: str) -> AbstractContextManager[None]:
        """See `Reader.cached`."""
        reader, inner = self._reader(shard)
        return reader.cached(inner)

    def _reader(self, shard: str) -> tuple[Reader, str]:
        name, _, inner = shard.partition("/")
        if name not in self.readers:
            raise DatasetError(f"{self.location!r} has no shard {shard!r}; it has {', '.join(self.shards[:5])}, …")
        return self.readers[name], inner


READER = Joined


def listed(location: Location) -> dict[str, str]:
    """Return name -> location of the datasets that a file names; those of `clipzoo.locations` are not changed.

    Raises:
        DatasetError: the file cannot be read, or names no datasets.
    """
    path = files.place(location.allow().path)
    try:
        named = (yaml.safe_load(path.read_bytes()) or {}).get("datasets")
    except (OSError, yaml.YAMLError, AttributeError, RecursionError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    wrong = [pair for pair in named.items() if not _is_valid(pair)] if isinstance(named, dict) else []
    if not isinstance(named, dict) or not named or wrong:
        seen = f"has the invalid entry {str(wrong[0][0])!r}: {wrong[0][1]!r}" if wrong else "names no datasets"
        raise DatasetError(
            f"{path} {seen}; write `datasets:` and below it lines such as `photos: path/to/photos`; "
            "a name has letters, digits, _ and -"
        )
    return {name: _joined(path.parent, text) for name, text in named.items()}


def _joined(folder: Place, text: str) -> str:
    if text.partition(":")[0] in plugins.names("locations"):  # such as demo:train, which is no path
        return text
    place, options = parse_options(text)
    return f"{files.join(folder, place)}{options}"


def _is_valid(pair: tuple[object, object]) -> bool:
    name, text = pair
    return isinstance(text, str) and isinstance(name, str) and several.NAME.fullmatch(name) is not None
