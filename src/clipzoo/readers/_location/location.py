"""Location of a dataset: a path or pattern followed by options, as in ``photos.csv?image=file&caption=title``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

from clipzoo import files
from clipzoo.errors import DatasetError
from clipzoo.files import Place, several
from clipzoo.plugins import hint
from clipzoo.readers._location import listing

IMAGES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "jp2", "jfif", "avif")
"""Extensions of images, the preferred one first where a sample has several."""

METADATA = ("metadata.jsonl", "metadata.csv")
"""Tables of Hugging Face's imagefolder: a row for each ``file_name``."""

_OPTIONS = re.compile(r"(.+)(\?\w+=[^?]*)", re.DOTALL)
REQUIRED, OPTIONAL = "required", "optional"
"""Values of the option ``captions``."""

_KINDS = {"tar": "tar", "csv": "table", "tsv": "table", "parquet": "parquet", **dict.fromkeys(IMAGES, "image")}


@dataclass(frozen=True)
class Location:
    """A parsed location.

    Attributes:
        text: the location as given.
        path: the location without its options: a file, a folder, or a glob or brace pattern.
        options: name -> value. Values may be percent-encoded: ``sep=%26``.
        captions: True if each sample needs a caption.
        fields: caption fields that samples carry one by one.
    """

    text: str
    path: str
    options: Mapping[str, str]
    captions: bool = True
    fields: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Location:
        """Parse a location; a path that exists has no options, whatever its name.

        Several datasets in one text (`clipzoo.files.several`) have the format ``joined``.
        """
        if several.separate(text):
            return cls(text, text, {"format": "joined"})
        path, options = parse_options(text)
        if not options or ("://" not in text and Path(text).expanduser().exists()):
            return cls(text, text, {})
        pairs = (part.partition("=") for part in options[1:].split("&"))
        named = {name: unquote(value) for name, _, value in pairs}
        captions = named.pop("captions", REQUIRED)
        if captions not in (REQUIRED, OPTIONAL):
            raise DatasetError(f"{text!r}: captions={captions} is neither {REQUIRED} nor {OPTIONAL}")
        return cls(text, path, named, captions == REQUIRED)

    @property
    def folder(self) -> Place:
        """The folder itself, or the folder of the file."""
        path = files.place(self.path)
        return path if self.is_folder else path.parent

    @cached_property
    def is_folder(self) -> bool:
        """True for a folder, False for a file or pattern."""
        return files.place(self.path).is_dir()

    @property
    def whole(self) -> tuple[Place, ...]:
        """The folder that is read with all folders below it, if there is one."""
        if several.separate(self.path):
            return ()
        path = files.place(self.path)
        return (path,) if self.is_folder else (listing.fixed_folder(path),) if "**" in path.parts else ()

    def on_disk(self, what: str) -> Path:
        """Return the folder, for formats that are read from a disk only; ``what`` names the format in the error.

        Raises:
            DatasetError: the folder is on a network.
        """
        folder = self.folder
        if not isinstance(folder, Path):
            raise DatasetError(
                f"{self.text!r}: {what} is read from a disk only: copy it to one, or write it as tars, which are read "
                "from anywhere (docs/data.md)"
            )
        return folder

    def files(self) -> Iterator[Place]:
        """Yield the files of the location; see `listing.files`."""
        return listing.files(self.path)[1]

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of its files: "tar", "table", "parquet", "image"."""
        return self._scan[0]

    @property
    def metadata(self) -> tuple[Place, ...]:
        """Its tables of Hugging Face's imagefolder."""
        return self._scan[1]

    @cached_property
    def _scan(self) -> tuple[frozenset[str], tuple[Place, ...]]:
        kinds, metadata = set(), []
        for path in self.files():
            kinds.add(kind_of(path.name))
            if path.name in METADATA:
                metadata.append(path)
        return frozenset(kinds - {""}), tuple(metadata)

    @cached_property
    def imagefolder(self) -> bool:
        """True if captions are in metadata tables only, not in files next to images; also for a ``metadata.jsonl``."""
        if not self.is_folder:
            return any(path.suffix == ".jsonl" for path in self.metadata)
        has_tables = self.metadata and "image" in self.kinds and "tar" not in self.kinds
        return bool(has_tables) and not self._has_caption_files()

    @cached_property
    def notes(self) -> bool:
        """True if its Parquet files are img2dataset's metadata of image files: each is next to a folder of its name."""
        if not self.is_folder or "image" not in self.kinds:
            return False
        tables = (path for path in self.files() if kind_of(path.name) == "parquet")
        return all((path.parent / path.stem).is_dir() for path in tables)

    def _has_caption_files(self) -> bool:
        """Return True if any image has a caption file of the same name next to it."""
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
        """Return the location itself if it has only these options and ``format``.

        Raises:
            DatasetError: it has an option that the format does not know.
        """
        known = ("format", *names)
        for name in self.options:
            if name not in known:
                raise DatasetError(f"{self.text!r}: the format has no option {name!r}; {hint(name, known)}")
        return self

    def with_options(self, **options: str) -> str:
        """Return the text of the location with more options."""
        values = {**self.options, **({} if self.captions else {"captions": OPTIONAL}), **options}
        return self.path + "?" + "&".join(f"{name}={quote(value, safe='/,|:. ')}" for name, value in values.items())

    def flag(self, name: str) -> bool:
        """Return the value of a yes/no option; False by default.

        Raises:
            DatasetError: the value is neither ``yes`` nor ``no``.
        """
        value = self.options.get(name, "no")
        if value not in ("yes", "no"):
            raise DatasetError(f"{self.text!r}: {name}={value} is neither yes nor no")
        return value == "yes"


def with_endings(name: str, endings: Sequence[str]) -> tuple[str, ...]:
    """Return the fields that a name refers to: itself and, unless it has one of the ``endings``, with each of them."""
    return (name,) if name.rpartition(".")[2] in endings else (name, *(f"{name}.{ending}" for ending in endings))


def parse_options(text: str) -> tuple[str, str]:
    """Split a location into path and options with their ``?``, or ""; a ``?`` without a ``=`` is a wildcard."""
    match = _OPTIONS.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def kind_of(name: str) -> str:
    """Return the kind of a file by its name; "" if it is not data."""
    if listing.packing(name):
        return "tar"
    return _KINDS.get(name.rpartition(".")[2].lower(), "")
