"""Where a dataset is: a path or pattern, and options behind it, as in ``photos.csv?image=file&caption=title``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

from clipzoo import files
from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.plugins import hint
from clipzoo.readers._location import listing

IMAGES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "jp2", "jfif", "avif")
"""Extensions of images, the preferred one first where a sample has several."""

METADATA = ("metadata.jsonl", "metadata.csv")
"""Tables of Hugging Face's imagefolder: a row for each ``file_name``."""

_OPTIONS = re.compile(r"(.+)(\?\w+=[^?]*)", re.DOTALL)
_KINDS = {"tar": "tar", "csv": "table", "tsv": "table", "parquet": "parquet", **dict.fromkeys(IMAGES, "image")}


@dataclass(frozen=True)
class Location:
    """A location taken apart.

    Attributes:
        text: as it was given.
        path: without the options; a file, a folder, or a glob or brace pattern.
        options: name -> value. Values may be percent-encoded: ``sep=%26``.
        captions: whether a sample needs one.
    """

    text: str
    path: str
    options: Mapping[str, str]
    captions: bool = True

    @classmethod
    def parse(cls, text: str) -> Location:
        """Take a location apart; a path that exists has no options, whatever its name."""
        path, options = parse_options(text)
        if not options or ("://" not in text and Path(text).expanduser().exists()):
            return cls(text, text, {})
        pairs = (part.partition("=") for part in options[1:].split("&"))
        return cls(text, path, {name: unquote(value) for name, _, value in pairs})

    @property
    def folder(self) -> Place:
        """The folder itself, or the one that holds the file."""
        path = files.place(self.path)
        return path if self.is_folder else path.parent

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder, not a file or pattern."""
        return files.place(self.path).is_dir()

    @property
    def whole(self) -> tuple[Place, ...]:
        """The folder of which all is read, with those below it, if there is one."""
        path = files.place(self.path)
        return (path,) if self.is_folder else (listing.tame(path),) if "**" in path.parts else ()

    def on_disk(self, what: str) -> Path:
        """Its folder, for formats that are read from a disk.

        Raises:
            DatasetError: it is on a network.
        """
        folder = self.folder
        if not isinstance(folder, Path):
            raise DatasetError(
                f"{self.text!r}: {what} is read from a disk only: copy it to one, or write it as tars, which are read "
                "from anywhere (docs/data.md)"
            )
        return folder

    def files(self) -> Iterator[Place]:
        """Every file that is meant, one after the other; see `listing.files`."""
        return listing.files(self.path)[1]

    @property
    def kinds(self) -> frozenset[str]:
        """What its files are: "tar", "table", "parquet", "image"."""
        return self._look[0]

    @property
    def metadata(self) -> tuple[Place, ...]:
        """Its tables of Hugging Face's imagefolder."""
        return self._look[1]

    @cached_property
    def _look(self) -> tuple[frozenset[str], tuple[Place, ...]]:
        kinds, metadata = set(), []
        for path in self.files():
            kinds.add(kind_of(path.name))
            if path.name in METADATA:
                metadata.append(path)
        return frozenset(kinds - {""}), tuple(metadata)

    @cached_property
    def imagefolder(self) -> bool:
        """Whether its images have captions in such tables, and in no files beside them; or it is such a ``.jsonl``."""
        if not self.is_folder:
            return any(path.suffix == ".jsonl" for path in self.metadata)
        there = self.metadata and "image" in self.kinds and "tar" not in self.kinds
        return bool(there) and not self._captions_beside()

    @cached_property
    def notes(self) -> bool:
        """Whether its Parquet files are img2dataset's notes of pictures: each beside a folder of its name."""
        if not self.is_folder or "image" not in self.kinds:
            return False
        tables = (path for path in self.files() if kind_of(path.name) == "parquet")
        return all((path.parent / path.stem).is_dir() for path in tables)

    def _captions_beside(self) -> bool:
        """Whether a file that is a caption lies beside an image of its name."""
        folder: Place | None = None
        ends: dict[str, set[str]] = {}
        for path in self.files():  # one folder after the other
            if path.parent != folder:
                folder, ends = path.parent, {}
            of_name = ends.setdefault(path.stem, set())
            of_name.add(kind_of(path.name) or path.suffix.lower())
            if "image" in of_name and of_name & {".txt", ".caption", ".json"}:
                return True
        return False

    def allow(self, *names: str) -> Location:
        """The location itself, if it has no other options than these and ``format``.

        Raises:
            DatasetError: an option that the format does not know.
        """
        known = ("format", *names)
        for name in self.options:
            if name not in known:
                raise DatasetError(f"{self.text!r}: the format has no option {name!r}; {hint(name, known)}")
        return self

    def told(self, **options: str) -> str:
        """The location with more options, as a user may write it."""
        values = {**self.options, **options}
        return self.path + "?" + "&".join(f"{name}={quote(value, safe='/,|:. ')}" for name, value in values.items())

    def flag(self, name: str) -> bool:
        """An option that is ``yes`` or ``no``; no by default.

        Raises:
            DatasetError: it is neither.
        """
        value = self.options.get(name, "no")
        if value not in ("yes", "no"):
            raise DatasetError(f"{self.text!r}: {name}={value} is neither yes nor no")
        return value == "yes"


def with_endings(name: str, endings: Sequence[str]) -> tuple[str, ...]:
    """The fields that a name means: itself, and where it has none of the ``endings``, with each of them."""
    return (name,) if name.rpartition(".")[2] in endings else (name, *(f"{name}.{ending}" for ending in endings))


def parse_options(text: str) -> tuple[str, str]:
    """The path, and the options with their ``?``; "" if there are none. A ``?`` without a ``=`` is a wildcard."""
    match = _OPTIONS.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def kind_of(name: str) -> str:
    """The kind of a file by its name; "" if it is no data."""
    if listing.packing(name):
        return "tar"
    return _KINDS.get(name.rpartition(".")[2].lower(), "")
