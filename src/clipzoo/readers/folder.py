"""A folder of images with caption files: ``x.jpg`` with ``x.txt``, ``x.caption`` or ``x.json``, nested.

A key is the path below the folder without the extension. Options: ``caption`` names fields of the ``.json`` files, and
``txt`` or ``caption`` for the files of these extensions; ``outside=yes`` allows links that lead out of the folder;
``exif=json`` applies the EXIF orientation of the ``.json``. Hidden files and files with other extensions are ignored.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.readers._location import IMAGES, Location, listing
from clipzoo.readers._rows import ROWS, digest
from clipzoo.readers._samples import exif, fields
from clipzoo.readers._samples.captions import TEXTS, Captions
from clipzoo.readers._samples.images import ImageFolder
from clipzoo.readers.base import CAPTION_BYTES, Entry, Keys, Reader
from clipzoo.types import Failure, Sample


@dataclass(frozen=True, slots=True)
class Slice:
    """Samples ``start`` to ``stop`` of one folder, in the order of their names."""

    folder: str
    start: int
    stop: int


class Folder(Reader):
    """Image files with caption files; shards are runs of folders."""

    def __init__(self, location: Location) -> None:
        self.location = location.text
        self.drawn = location.fields
        self.captions = Captions.of(location)
        self.reads_texts = bool(self.captions.several)
        self.texts = tuple(ext for ext in self.captions.members if ext in (*TEXTS, "json"))
        self.root = location.on_disk("a folder of images")
        self.images = ImageFolder(self.root, location.flag("outside"))
        counts = [(folder, _count(self.root, folder)) for folder in self._folders()]
        self.slices = {f"{i:06d}": slices for i, slices in enumerate(_cut(counts))}
        self.shards = tuple(self.slices)
        self.identity = digest([counts, "upright"] if self.captions.upright else counts)

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True for a folder with images that is not an imagefolder."""
        return location.is_folder and "image" in location.kinds and not location.imagefolder

    @classmethod
    def open(cls, location: Location) -> Folder:
        """Open the images in a folder and all folders below it.

        Raises:
            DatasetError: there are no images.
        """
        location.allow("caption", "outside", "exif")
        if not location.is_folder or "image" not in location.kinds:
            raise DatasetError(f"{location.path!r} is no folder with images ({', '.join(IMAGES)}); give one")
        return cls(location)

    def index(self, shard: str) -> list[Entry]:
        """Return every sample of the shard in the order of names; a caption without an image is a failed sample.

        Raises:
            DatasetError: a folder cannot be listed, or the shard is not one of `shards`.
        """
        if shard not in self.slices:
            raise DatasetError(f"{self.location!r} has no shard {shard!r}; it has {', '.join(self.shards[:5])}, …")
        keys, root = Keys(), self.root
        try:
            return [
                self._entry(shard, stem, names, keys)
                for one in self.slices[shard]
                for stem, names in _samples(root, one)
            ]
        except OSError as error:
            raise DatasetError(
                f"cannot list {error.filename} ({error.strerror}); check that it is still there"
            ) from error

    def read(self, entry: Entry) -> Sample:
        """Return the image and caption of a usable entry.

        Raises:
            SampleError: the entry has a failure, a file cannot be read, or the caption has no text.
        """
        entry.check()
        image = self.images.read(f"{entry.key}.{entry.image}")
        if not entry.caption:
            return Sample(entry.key, entry.shard, image, "")
        text = self.images.read(f"{entry.key}.{entry.caption}", CAPTION_BYTES)
        member = entry.caption.lower()
        data = {member: text} | self._texts(entry, [ext for ext in entry.texts if ext != entry.caption])
        found = fields.of_members(data, self.drawn) if self.drawn else {}
        caption, *others = fields.caption_or_field(lambda: fields.captions_of(self.captions, data, member), found)
        image = exif.upright(image, text) if self.captions.upright else image
        return Sample(entry.key, entry.shard, image, caption, tuple(others), found)

    def fields(self, entry: Entry) -> Mapping[str, tuple[str, ...]]:
        """See `Reader.fields`."""
        return fields.of_members(self._texts(entry, self._present(entry)))

    def others(self, entry: Entry) -> Mapping[str, bytes]:
        """See `Reader.others`; only files of texts are part of a sample."""
        names = [ext for ext in self._present(entry) if ext.lower() == fields.JSON or ext != entry.caption]
        data = self._texts(entry, names)
        return exif.with_note_applied(data) if self.captions.upright else data

    def _present(self, entry: Entry) -> list[str]:
        """Return the extensions of a sample's files of texts, in lower or upper case."""
        return [
            ext
            for known in (*TEXTS, fields.JSON)
            for ext in (known, known.upper())
            if ext in entry.members or self._has_text(entry.key, ext)
        ]

    def _texts(self, entry: Entry, extensions: Iterable[str]) -> dict[str, bytes]:
        """Return extension in lower case -> bytes of the readable files of a sample."""
        data = {}
        for ext in extensions:
            with suppress(SampleError):  # it is a link that leads out, or too large
                data[ext.lower()] = self.images.read(f"{entry.key}.{ext}", CAPTION_BYTES)
        return data

    def _has_text(self, stem: str, extension: str) -> bool:
        return self.images.refuse(f"{stem}.{extension}") is None and _size(self.root / f"{stem}.{extension}") > 0

    def sideways(self, entry: Entry, image: bytes) -> str:
        """See `Reader.sideways`."""
        if self.captions.upright or not (self.root / f"{entry.key}.json").is_file():
            return ""
        try:
            return exif.sideways(image, self.images.read(f"{entry.key}.json", CAPTION_BYTES))
        except SampleError:  # the .json is not part of the sample
            return ""

    def stamp(self, shard: str) -> str:
        """Return a digest of the names, sizes and times of modification of all files of the shard."""
        samples = (names for one in self.slices[shard] for _, names in _samples(self.root, one))
        return digest([(name, files.state(self.root / name)) for names in samples for name in names])

    def _folders(self) -> Iterator[str]:
        return (os.path.relpath(folder, self.root) for folder, _ in listing.folders(self.root))

    def _entry(self, shard: str, stem: str, names: Sequence[str], keys: Keys) -> Entry:
        """Return the entry of the files ``names``, relative to the root, which share one ``stem``."""
        key, _ = keys.take(stem)
        extensions = [name.removeprefix(stem + ".") for name in names]
        images = [ext for ext in extensions if ext.lower() in IMAGES]
        caption = next((ext for wanted in self.texts for ext in extensions if ext.lower() == wanted), "")
        named = self._holding_fields(self.captions.several, stem, extensions)
        if named and not (caption and self._has_text(stem, caption)):
            caption = named[0]
        texts = self._holding_fields(self.drawn, stem, extensions)
        if texts and not (caption and self._has_text(stem, caption)):
            caption = texts[0]
        if key != stem:
            return Entry(key, shard, failure=Failure("unsafe-name", "the name of the file is not UTF-8; rename it"))
        if len(images) != 1 or (not caption and self.captions.required):
            return Entry(key, shard, failure=_incomplete(names, images, self.texts))
        wanted = [ext for ext in (images[0], caption) if ext]
        refused = next(filter(None, (self.images.refuse(f"{stem}.{ext}") for ext in wanted)), None)
        if refused:
            return Entry(key, shard, failure=refused)
        spans = {ext: (0, size) for ext in wanted if (size := _size(self.root / f"{stem}.{ext}")) or self._needed(ext)}
        empty = next((f"{stem}.{ext}" for ext, (_, size) in spans.items() if size == 0), "")
        failure = Failure("empty", f"the file is empty: {empty}") if empty else None
        spans |= {ext: (0, _size(self.root / f"{stem}.{ext}")) for ext in texts}
        texts = tuple(dict.fromkeys((*texts, *(named if named != (caption,) else ()))))
        return Entry(key, shard, spans, images[0], caption if caption in spans else "", failure, texts)

    def _holding_fields(self, names: Sequence[str], stem: str, extensions: Sequence[str]) -> tuple[str, ...]:
        """Return the extensions of files that hold the fields ``names``."""
        if not names:
            return ()
        by_name = {ext.lower(): ext for ext in extensions if fields.is_text(ext.lower()) and self._has_text(stem, ext)}
        wanted = dict.fromkeys(fields.member_of(name, by_name) for name in names)
        return tuple(by_name[name] for name in wanted if name)

    def _needed(self, extension: str) -> bool:
        """Return True if a sample cannot be used when its file with this extension is empty."""
        return self.captions.required or extension.lower() in IMAGES


READER = Folder


def _incomplete(names: Sequence[str], images: Sequence[str], order: Sequence[str]) -> Failure:
    present = ", ".join(Path(name).name for name in names)
    if len(images) > 1:
        detail = f"several images have one name: {present}; rename them, or move files that are not images"
        return Failure("ambiguous-image", detail)
    if not images:
        detail = f"there is no image of this name: only {present}; an image is one of {', '.join(IMAGES)}"
        return Failure("no-image", detail)
    texts = " or .".join(order)
    detail = f"there is no caption next to the image: only {present}; add a file of its name with .{texts}"
    return Failure("no-caption", detail)


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it is missing or a broken link."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _samples(root: Path, part: Slice) -> Iterator[tuple[str, list[str]]]:
    """Yield (key, names of its files relative to the root) of the samples of a part of a folder."""
    path, below = root / part.folder, "" if part.folder == "." else part.folder + "/"
    names, bounds = _names(path, path.stat().st_mtime_ns)
    for first, end in pairwise(bounds[part.start : part.stop + 1]):
        yield below + _stem(names[first]), [below + name for name in names[first:end]]


def _count(root: Path, folder: str) -> int:
    """Return the number of samples of one folder; 0 without images."""
    path = root / folder
    return len(_names(path, path.stat().st_mtime_ns)[1]) - 1


@lru_cache(maxsize=2)  # the shards of one large folder follow each other
def _names(folder: Path, changed: int) -> tuple[list[str], array[int]]:
    """Return the images and captions of a folder by stem, and where each stem begins and the last one ends.

    No names if there is no image. ``changed`` is the folder's modification time.
    """
    names = _listed(folder)
    bounds = array("q", (i for i, name in enumerate(names) if i == 0 or _stem(name) != _stem(names[i - 1])))
    bounds.append(len(names))
    return names, bounds


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _listed(folder: Path) -> list[str]:
    """Return the images and captions of a folder by stem; none without images."""
    known = {*IMAGES, *TEXTS, "json"}
    names = [name for name in os.listdir(folder) if name[0] != "." and _extension(name) in known]  # noqa: PTH208
    if not any(_extension(name) in IMAGES for name in names):
        return []
    return sorted(names, key=lambda name: name.rpartition(".")[::2])


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _cut(counts: Iterable[tuple[str, int]]) -> Iterator[tuple[Slice, ...]]:
    """Split folders with their numbers of samples into shards of `ROWS` samples."""
    shard: list[Slice] = []
    room = ROWS
    for folder, count in counts:
        start = 0
        while start < count:
            stop = min(start + room, count)
            shard.append(Slice(folder, start, stop))
            room, start = room - (stop - start), stop
            if room == 0:
                yield tuple(shard)
                shard, room = [], ROWS
    if shard:
        yield tuple(shard)
