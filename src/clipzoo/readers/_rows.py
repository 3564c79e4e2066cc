"""Base of the table formats: selection of columns, shards of bounded size, samples from fields."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.readers._location import IMAGES, Location
from clipzoo.readers._samples import fields
from clipzoo.readers._samples.captions import Captions
from clipzoo.readers._samples.images import ImageFolder
from clipzoo.readers.base import Entry, Keys, Reader, Span
from clipzoo.types import Failure, Sample

ROWS = 4096
"""Rows of a shard; a resumed labeling repeats at most one shard."""

OPTIONS = ("image", "caption", "key", "root", "outside")
IMAGE = (
    "image", "img", "image_path", "filepath", "file_path", "file_name", "filename", "image_file", "file", "path",
    *IMAGES,
)  # fmt: skip
"""Names of columns of images or image files, in order of preference; case is ignored."""

CAPTION = ("caption", "captions", "text", "title", "alt_text", "alt", "description", "sentences", "sentence")
KEY = ("key", "__key__", "uid")
STATUS = ("status", "error_message")
ADDRESS = ("url", "image_url")

_DISTINCT = "name a column of distinct keys, or number the rows, by ?key="

ROW = "row"
"""The name of the member that holds a row."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read; ``key`` is "" if rows are numbered.

    ``status`` are the columns in which img2dataset records failed downloads, if present. ``drawn`` are columns whose
    texts a sample carries one by one, ``texts`` all that may hold text.
    """

    image: str
    captions: Captions
    key: str
    status: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], location: Location, file: Place, texts: Sequence[str] | None = None) -> Columns:
        """Select columns by the options, else by their names; ``texts`` are those that may hold text, by default all.

        Raises:
            DatasetError: a named column is missing, or no column has a known name.
        """
        image, key = _chosen(names, location, "image", IMAGE, file), _chosen(names, location, "key", KEY, file)
        caption = _known(names, CAPTION)
        captions = Captions.of(location, (caption,))
        missing = [field for field in captions.fields if field not in names and (field or captions.required)]
        if not image and (address := _known(names, ADDRESS)):
            raise DatasetError(
                f"{file} has addresses ({address}) and no images; download them first, for example with img2dataset"
            )
        if not image or missing:
            what = "image" if not image else "caption"
            named = f" named {missing[0]!r}" if missing and missing[0] else ""
            raise DatasetError(
                f"{file} has no {what} column{named}; its columns are {', '.join(names) or 'none'}: choose one by "
                f"?{what}=NAME after the location"
            )
        status = STATUS if set(STATUS) <= set(names) else ()
        drawn = tuple(name for name in location.fields if name in names)
        texts = [name for name in (names if texts is None else texts) if name not in (image, key, *status)]
        return cls(image, captions, key, status, drawn, tuple(texts))

    @property
    def names(self) -> list[str]:
        """All column names that are read, each once."""
        return [name for name in dict.fromkeys([self.image, *self.captions.fields, self.key, *self.drawn]) if name]


def _chosen(names: Sequence[str], location: Location, option: str, known: Sequence[str], file: Place) -> str:
    given = location.options.get(option)
    if given and given not in names:
        raise DatasetError(f"{file} has no column {given!r} for {option}=; its columns are {', '.join(names)}")
    return given if given is not None else _known(names, known)


def _known(names: Sequence[str], known: Sequence[str]) -> str:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


@dataclass(frozen=True, slots=True)
class Part:
    """A shard: ``rows`` rows of a file from row ``first`` on, which is at byte ``offset`` of text files.

    ``fault`` is the reason why the file ends early, or "".
    """

    path: Place
    first: int = 0
    rows: int = 0
    offset: int = 0
    fault: str = ""


class RowReader(Reader):
    """A dataset of rows; a subclass locates and parses them.

    Args:
        location: of the dataset.
        parts: shard name -> its rows.
        columns: file -> the columns that are read.
        states: `states_of` the files, from before they were read.
    """

    def __init__(
        self,
        location: Location,
        parts: Mapping[str, Part],
        columns: Mapping[Place, Columns],
        states: Mapping[Place, str],
    ) -> None:
        self.location, self.folder = location.text, location.folder
        self.states, self._options = dict(states), sorted(location.options.items())
        self.parts, self.columns = dict(parts), dict(columns)
        self.shards = tuple(self.parts)
        self.images = {path: self.image_folder(location, path) for path in self.columns}
        self.threads = max(files.threads(one.root) for one in self.images.values())

    @abstractmethod
    def rows(self, part: Part) -> Iterator[tuple[Span, str, Failure | None]]:
        """Yield (span, key or "", failure or None) for every row of a shard."""

    @abstractmethod
    def values(self, path: Place, span: Span) -> Mapping[str, object]:
        """Return the fields of a row.

        Raises:
            SampleError: it cannot be read.
        """

    def index(self, shard: str) -> list[Entry]:
        """Return an entry for every row of the shard; the key of a row without one is its number in the file.

        Raises:
            DatasetError: the file cannot be read, or the shard is not one of `shards`.
        """
        part, keys = self._part(shard), Keys()
        entries: list[Entry] = []
        try:
            for number, (span, given, failure) in enumerate(self.rows(part), part.first):
                key, count = keys.take(self.key_of(part.path, given) or f"{number:08d}")
                if count > 1:
                    detail = f"the key {given!r} is in the shard {count} times, the first one is used; {_DISTINCT}"
                    failure = Failure("duplicate-key", detail)
                entries.append(Entry(key, shard, {ROW: span}, ROW, ROW, failure))
        except OSError as error:
            raise DatasetError(f"cannot read {part.path} ({error}); check that it is still there") from error
        if part.fault:
            key, _ = keys.take(f"{part.path.stem}#damaged")
            entries.append(Entry(key, shard, failure=Failure("truncated", part.fault)))
        return entries

    def read(self, entry: Entry) -> Sample:
        """Return the sample of a row.

        Raises:
            SampleError: the entry carries an error, the row has no image or caption, or its file has changed.
        """
        entry.check()
        path = self._part(entry.shard).path
        columns = self.columns[path]
        values = self.values(path, entry.members[ROW])
        found = fields.of_values(values, columns.drawn)
        caption, *others = fields.caption_or_field(lambda: columns.captions.of_values(values), found)
        image = self.images[path].of_value(self.image_of(path, values[columns.image]))
        return Sample(entry.key, entry.shard, image, caption, tuple(others), found)

    def fields(self, entry: Entry) -> Mapping[str, tuple[str, ...]]:
        """See `Reader.fields`."""
        path = self._part(entry.shard).path
        found, columns = fields.of_values(self.text_values(path, entry.members[ROW])), self.columns[path]
        return {name: found[name] for name in found if name not in (columns.image, columns.key, *columns.status)}

    def state(self, shard: str) -> str:
        """Return the state of the table's file, and the choices by which it is indexed.

        "" if the file has changed since the dataset was opened: its shards are then still those of the file before.
        """
        path = self._part(shard).path
        state = files.state(path)
        if path not in self.columns or state != self.states[path]:
            return ""
        columns = self.columns[path]
        return f"{state} {digest([self._options, columns.image, columns.key, columns.status])}"

    def stamp(self, shard: str) -> str:
        """Return the state of the table's file, and its columns; pictures in other files are not covered."""
        path = self._part(shard).path
        return f"{files.state(path)} {self.columns[path].names}"

    def text_values(self, path: Place, span: Span) -> Mapping[str, object]:
        """Return the columns of a row that may hold text; others may be among them."""
        return self.values(path, span)

    def named_files(self, shard: str) -> Sequence[str]:
        """See `Reader.named_files`."""
        part = self._part(shard)
        folder = self.images.get(part.path)
        roots = [root for root in (folder.root, folder.second) if isinstance(root, Path)] if folder else []
        names = [str(self.image_of(part.path, name.strip())) for name in self.image_names(part)] if roots else []
        return [str(root / name) for root in roots for name in names if name]

    def image_names(self, part: Part) -> Sequence[str]:
        """Return the names of image files in a shard's rows; empty if the rows hold images."""
        return ()

    def image_folder(self, location: Location, path: Place) -> ImageFolder:
        """Return the folder of the images that rows of the file ``path`` name."""
        return ImageFolder.of(location, path)

    def key_of(self, path: Place, key: str) -> str:
        """Return the sample key for ``key``, the value in a row of the file ``path``."""
        return key

    def image_of(self, path: Place, value: object) -> object:
        """Return the image value of a row of the file ``path``, as `ImageFolder.of_value` takes it."""
        return value

    def _part(self, shard: str) -> Part:
        if shard not in self.parts:
            raise DatasetError(f"{self.location!r} has no shard {shard!r}; it has {', '.join(self.shards[:5])}, …")
        return self.parts[shard]


class NumberedReader(RowReader):
    """A dataset whose rows are read by their number in the file."""

    @abstractmethod
    def row(self, path: Place, number: int, names: Sequence[str]) -> dict[str, object]:
        """Return the fields ``names`` of a row.

        Raises:
            SampleError: it cannot be read.
        """

    def rows(self, part: Part) -> Iterator[tuple[Span, str, Failure | None]]:
        """See `RowReader.rows`."""
        if not part.rows:
            return
        columns = self.columns[part.path]
        wanted = [*filter(None, [columns.key]), *columns.status]
        for number in range(part.first, part.first + part.rows):
            try:
                values = self.row(part.path, number, wanted) if wanted else {}
            except SampleError as error:
                yield (number, 1), "", Failure.of(error)
                continue
            key = values.get(columns.key)
            yield (number, 1), "" if key is None else str(key), _not_downloaded(values) if columns.status else None

    def values(self, path: Place, span: Span) -> Mapping[str, object]:
        """See `RowReader.values`."""
        return self.row(path, span[0], self.columns[path].names)

    def text_values(self, path: Place, span: Span) -> Mapping[str, object]:
        """See `RowReader.text_values`."""
        return self.row(path, span[0], self.columns[path].texts)


def columns_of_text(schema: pa.Schema) -> list[str]:
    """Return the columns of a schema whose type may hold captions: text, and lists of texts."""
    return [one.name for one in schema if _is_text(one.type)]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _not_downloaded(values: Mapping[str, object]) -> Failure | None:
    """Return the reason why img2dataset has no image of a row, or None."""
    status, message = (values[name] for name in STATUS)
    if status in ("success", None):
        return None
    return Failure("not-downloaded", f"not downloaded: {status}" + (f": {message}" if message else ""))


def cut(path: Place, rows: int, fault: str = "") -> list[Part]:
    """Split a file of ``rows`` rows into shards of at most `ROWS`."""
    parts = [Part(path, first, min(ROWS, rows - first)) for first in range(0, rows, ROWS)] or [Part(path)]
    last = parts[-1]
    return [*parts[:-1], Part(path, last.first, last.rows, fault=fault)]


def states_of(paths: Iterable[Place]) -> dict[Place, str]:
    """Return file -> `files.state`."""
    every = list(paths)
    threads = max(map(files.threads, every), default=1)
    return dict(zip(every, files.map_ahead(files.state, every, threads), strict=True))


def named(name: str, parts: Sequence[Part]) -> dict[str, Part]:
    """Return shard name -> part for the parts of a file, in their order."""
    return {f"{name}/{i:05d}": part for i, part in enumerate(parts)}


def digest(value: object) -> str:
    """Return the SHA-256 of a plain value."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogateescape")).hexdigest()
