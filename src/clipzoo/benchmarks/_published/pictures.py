"""Pictures and true labels that lie on a disk as files, for layouts of published datasets.

A layout lists its pictures as key -> `Picture`, and gives each task a `LabelFiles`: key -> label file, and a function
that reads one. `Root` explains a folder in which the layout's files are missing.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.benchmarks._published.listing import PICTURES, lines_of
from clipzoo.benchmarks.base import Benchmark, Labels, Loader
from clipzoo.errors import DatasetError, SampleError
from clipzoo.experts.base import sha256
from clipzoo.files import Place
from clipzoo.plugins import hint
from clipzoo.readers import Entry, Reader
from clipzoo.tasks.base import Convention
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import MAX_PIXELS, Failure, Sample, Size, image_size

SHARD = 1000
"""Pictures of a shard."""

PART = "part"
"""Option of all layouts: splits the pictures of one list, for example into those for probes and for validation."""


# Pictures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture file, its captions and its class index."""

    path: Path
    captions: tuple[str, ...] = ()
    target: int | None = None


class PictureFiles(Reader):
    """Picture files in the order of their keys, in shards of `SHARD`.

    Args:
        location: shown in messages.
        pictures: key -> picture.
    """

    def __init__(self, location: str, pictures: Mapping[str, Picture]) -> None:
        self.location, self.pictures = location, pictures
        keys = sorted(pictures)
        self._keys = {f"{i:05d}": keys[i * SHARD : (i + 1) * SHARD] for i in range(-(-len(keys) // SHARD))}
        self.shards = tuple(self._keys)

    def index(self, shard: str) -> list[Entry]:
        """Return an entry for each picture; a missing file is a failure."""
        return [self._entry(shard, key) for key in self._keys[shard]]

    def read(self, entry: Entry) -> Sample:
        """Return the bytes and captions of a picture; `SampleError` if the file cannot be read."""
        picture = self.pictures[entry.key]
        try:
            data = picture.path.read_bytes()
        except OSError as error:
            raise SampleError(f"cannot read {picture.path}: {error.strerror}", "cannot-read") from error
        first, *others = picture.captions or ("",)
        return Sample(entry.key, entry.shard, data, first, tuple(others))

    def size(self, key: str) -> Size:
        """Return (H, W) of a picture, read from the file's header."""
        return image_size(self.pictures[key].path.read_bytes())[0]

    def paths(self) -> frozenset[Path]:
        """Return the files of all pictures, without links."""
        return frozenset(picture.path.resolve() for picture in self.pictures.values())

    def _entry(self, shard: str, key: str) -> Entry:
        path = self.pictures[key].path
        try:
            size = path.stat().st_size
        except OSError:
            return Entry(key, shard, failure=Failure("no-image", f"the picture {path} is missing"))
        return Entry(key, shard, {"image": (0, size)}, "image", "")


def benchmark(
    reader: PictureFiles, labels: Mapping[str, Labels], classnames: Sequence[str] = (), **options: Any
) -> Benchmark:
    """Return the benchmark of picture files; ``options`` are further fields of `Benchmark`."""
    return Benchmark(
        reader, reader.shards, labels, tuple(classnames), target=lambda entry: reader.pictures[entry.key].target,
        pictures=reader.paths(), **options,
    )  # fmt: skip


L = TypeVar("L")


# Labels ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelFiles(Generic[L]):
    """True labels in files; see `Labels`.

    Attributes:
        convention: of the labels.
        files: key -> label file; several keys may share one.
        read: returns the label of a key and its file.
        edit: applied to each label, for example to remove what an evaluation crop excludes.
        named: options on which the labels depend, for `identity`.
        others: key -> another file on which its label depends, such as a mask, for `identity`.
    """

    convention: Convention
    files: Mapping[str, Path]
    read: Callable[[str, Path], L]
    edit: Callable[[L], L] = field(default=lambda label: label)
    named: str = ""
    others: Mapping[str, Path] = field(default_factory=dict)

    def loaders(self, entries: Sequence[Entry]) -> list[Loader | None]:
        """Return a function for each entry that reads its label; None for entries without one."""
        return [partial(self.label, entry.key) if entry.key in self.files else None for entry in entries]

    def label(self, key: str) -> L:
        """Return the label of a key; `SampleError` if its file cannot be read."""
        path = self.files[key]
        try:
            return self.edit(self.read(key, path))
        except OSError as error:
            raise SampleError(f"cannot read the label {path}: {error.strerror}", "cannot-read") from error

    def places(self) -> Iterator[Place]:
        """Yield nothing: the files are on this disk."""
        return iter(())

    def identity(self) -> str:
        """Return the SHA-256 of the convention, the options, the keys and the contents of all label files."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256(f"{self.convention!r}{self.named}".encode())
        paths = {*self.files.values(), *self.others.values()}
        hashes = {path: sha256(path) if path.is_file() else "missing" for path in paths}
        for key, path in [*sorted(self.files.items()), *sorted(self.others.items())]:
            digest.update(f"\n{key} {hashes[path]}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def class_map(path: Path, classes: Mapping[int, int]) -> Segmentation:
    """Return the classes of a PNG of numbers.

    Args:
        path: a PNG in which each pixel is a number or a palette index.
        classes: number in the file -> class id; all other numbers are unknown.

    Raises:
        SampleError: not such a PNG.
    """
    codes = numbers(path)
    if codes.dtype.kind not in "ui" or codes.ndim != 2:
        raise SampleError(f"{path} is not a map of class numbers: it has {codes.dtype} values of shape {codes.shape}")
    top = max(int(codes.max(initial=0)), *classes)
    table = np.full(top + 1, -1, np.int64)
    table[list(classes)] = list(classes.values())
    ids = table[codes]
    return Segmentation(np.maximum(ids, 0).astype(np.uint16), ids >= 0)


def numbers(path: Path) -> NDArray[Any]:
    """Return the numbers of a PNG or TIFF of one channel, [H,W]; of a palette, its indices.

    Raises:
        SampleError: it cannot be decoded, or has too many pixels.
    """
    try:
        with Image.open(path, formats=("PNG", "TIFF")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SampleError(f"{path} has more than {MAX_PIXELS} pixels", "too-large")
            return np.asarray(image)
    except SampleError:
        raise
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise SampleError(f"cannot decode the label {path}: {type(error).__name__}: {error}") from error


# Folders ---------------------------------------------------------------------------------------------------


class Root:
    """The folder of a layout, with its options.

    Args:
        layout: name of the layout, for messages.
        folder: as the user gave it.
        options: as the user gave them.
        known: option -> its values with the default first; an empty tuple allows any text. `PART` is known to all.
        needed: names below the folder without which it does not have this layout.
        shape: one line that shows the layout.

    Raises:
        DatasetError: the folder is remote or missing, has another layout, or an option is unknown.
    """

    def __init__(
        self, layout: str, folder: Place, options: Mapping[str, str], known: Mapping[str, Sequence[str]],
        needed: Sequence[str], shape: str,
    ) -> None:  # fmt: skip
        if not isinstance(folder, Path):
            raise DatasetError(f"{layout}: {folder} is an address; this layout is read from a disk only: copy it there")
        self.layout, self.path, self.shape = layout, folder, shape
        known = {**known, PART: ()}
        self.options = {name: next(iter(values), "") for name, values in known.items()}
        for name, value in options.items():
            if name not in known:
                raise DatasetError(f"{layout}: there is no option {name!r}; {hint(name, known)}")
            if known[name] and value not in known[name]:
                raise DatasetError(f"{layout}: {name}={value} is unknown; {hint(value, known[name])}")
            self.options[name] = value
        self.require(*needed)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def require(self, *names: str) -> None:
        """Raise `DatasetError` unless all these files and folders exist below the root."""
        if not self.path.is_dir():
            raise DatasetError(f"{self.layout}: there is no folder {self.path}; check the path")
        missing = [name for name in names if not (self.path / name).exists()]
        if not missing:
            return
        found = ", ".join(sorted(path.name for path in itertools.islice(self.path.iterdir(), 8))) or "nothing"
        raise DatasetError(
            f"{self.layout}: {self.path} has no {', '.join(missing)}; it has {found}. This layout is {self.shape}. "
            f"{self._elsewhere(missing)}"
        )

    def _elsewhere(self, missing: Sequence[str]) -> str:
        """Return the fix: another folder near the root that has the missing names, if there is one."""
        near = [self.path.parent, *sorted(p for p in self.path.glob("*") if p.is_dir())]
        near += sorted(p for p in self.path.glob("*/*") if p.is_dir())
        for folder in near:
            if all((folder / name).exists() for name in missing):
                return f"{folder} has this layout: use {self.layout}:{folder}"
        return "Give the folder that holds these names"

    def named(self, folder: str, key: str) -> Path:
        """Return the picture file of a key in a folder, of any usual ending."""
        for suffix in (*PICTURES, *map(str.upper, PICTURES)):
            if (path := self.path / folder / f"{key}{suffix}").is_file():
                return path
        return self.path / folder / f"{key}{PICTURES[0]}"

    def stem(self, path: Path) -> str:
        """Return the path of a file below the root, without its ending."""
        return path.relative_to(self.path).with_suffix("").as_posix()

    def found(
        self,
        paths: Iterable[Path],
        key: Callable[[Path], str] = lambda path: path.stem,
        endings: Container[str] = PICTURES,
    ) -> dict[str, Path]:
        """Return key -> file of the pictures among files; `DatasetError` if two have the same key."""
        return self.by_key((key(path), path) for path in paths if path.suffix.lower() in endings)

    def by_key(self, paths: Iterable[tuple[str, Path]]) -> dict[str, Path]:
        """Return key -> file of (key, file); `DatasetError` if two files have the same key."""
        pictures: dict[str, Path] = {}
        for key, path in paths:
            if (other := pictures.setdefault(key, path)) is not path:
                raise DatasetError(
                    f"{self.layout}: {other} and {path} have the same key {key!r}, and only one of them could be used. "
                    "Rename or remove one"
                )
        return pictures

    def lines(self, name: str) -> list[str]:
        """Return the first word of each line of a list of keys; `DatasetError` if the file is missing or empty."""
        self.require(name)
        keys = [line.split()[0] for line in lines_of(self.path / name)]
        if not keys:
            raise DatasetError(f"{self.layout}: {self.path / name} is empty; it must list one key per line")
        for key in keys:
            if key.startswith("/") or ".." in key.split("/"):
                raise DatasetError(
                    f"{self.layout}: {self.path / name} has the key {key!r}, which leads out of the folder: fix it"
                )
        return keys

    def some(self, pictures: Mapping[str, Picture], where: str) -> PictureFiles:
        """Return the reader of pictures; `DatasetError` if there are none."""
        if not pictures:
            raise DatasetError(
                f"{self.layout}: there is no picture in {self.path / where}. This layout is {self.shape}"
            )
        query = "&".join(f"{name}={value}" for name, value in self.options.items() if value)
        return PictureFiles(f"{self.layout}:{self.path}?{query}", {key: pictures[key] for key in self.part(pictures)})

    def part(self, keys: Iterable[str]) -> list[str]:
        """Return the sorted keys of the part that the user wants, by default all.

        ``part=0/5`` is every fifth key from the first on, and ``part=1-4/5`` is the rest.
        """
        ordered = sorted(keys)
        if not self.options[PART]:
            return ordered
        match = re.fullmatch(r"(\d+)(?:-(\d+))?/(\d+)", self.options[PART])
        first, last, count = (int(match[1]), int(match[2] or match[1]), int(match[3])) if match else (1, 0, 0)
        if not first <= last < count:
            raise DatasetError(
                f"{self.layout}: part={self.options[PART]} is not a part; write part=0/5 for every fifth picture, and "
                "part=1-4/5 for the others"
            )
        chosen = [key for i, key in enumerate(ordered) if first <= i % count <= last]
        if not chosen:
            raise DatasetError(f"{self.layout}: part={self.options[PART]} of {len(ordered)} pictures is empty")
        return chosen
