"""WebDataset shards as img2dataset and others write them: uncompressed tars of ``<key>.<ext>`` members.

A sample is a run of consecutive members with one key, the path up to the first dot of its last part. Its image
is the first of `IMAGES` that it has; its caption is ``.txt``, else the field "caption" or "text" of ``.json``. The
option ``caption`` names other fields of ``.json``.
Whatever else is found becomes an entry with its reason: nothing raises, nothing is left out silently. Files beside
the tars (img2dataset's ``.parquet`` and ``_stats.json``) are ignored.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place, read_at
from clipzoo.readers import _shards
from clipzoo.readers._captions import TEXTS, Captions
from clipzoo.readers._location import IMAGES, Location
from clipzoo.readers.base import CAPTION_BYTES, IMAGE_BYTES, Entry, Keys, Reader, Span, too_large
from clipzoo.types import Sample

BLOCK = 512

_NAME = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]+)", re.DOTALL)


@dataclass(slots=True)
class _Group:
    """The members of one sample while its run lasts; ``fault`` is what makes it unusable, if anything."""

    key: str
    members: dict[str, Span] = field(default_factory=dict)
    fault: str | None = None


class WebDataset(Reader):
    """Uncompressed tar shards, read by offset."""

    def __init__(self, location: str, paths: Mapping[str, Place], captions: Captions) -> None:
        self.location = location
        self.paths = dict(paths)
        self.shards = tuple(self.paths)
        self.captions = captions
        self.threads = max(map(files.threads, paths.values()))

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Whether tars are there; tables beside them are what img2dataset notes of its work."""
        return "tar" in location.kinds

    @classmethod
    def open(cls, location: Location) -> WebDataset:
        """The dataset in a folder (nested ones included), a .tar file, or a glob or brace pattern.

        Raises:
            DatasetError: no shard is there, or the shards are compressed.
        """
        paths = _shards.find(location.allow("caption").path)
        _shards.refuse_compressed(next(iter(paths.values())))
        return cls(location.text, paths, Captions.of(location))

    def index(self, shard: str) -> list[Entry]:
        """Every sample of the shard in its order, from one pass over the headers.

        Keys are unique: a second run of a key is called ``<key>#2`` and carries an error, as does a last
        entry ``…#truncated`` where the tar is cut off.

        Raises:
            DatasetError: the shard is compressed, cannot be opened, or is not one of `shards`.
        """
        path = self._path(shard)
        keys = Keys()
        try:
            _shards.refuse_compressed(path)
            return [_entry(group, shard, self.captions.members, keys) for group in _groups(path)]
        except OSError as error:
            raise DatasetError(
                f"cannot read the shard {path} ({error.strerror}); check that it is still there"
            ) from error

    def read(self, entry: Entry) -> Sample:
        """Image and caption of a usable entry.

        Raises:
            SampleError: the entry carries an error, has no caption text, or the file has changed.
        """
        if entry.error is not None:
            raise SampleError(entry.error)
        image, text = _members(self._path(entry.shard), entry, (entry.image, entry.caption))
        caption, *others = self.captions.of_member(text, entry.caption)
        return Sample(entry.key, entry.shard, image, caption, tuple(others))

    def near(self, shard: str) -> AbstractContextManager[None]:
        """See `Reader.near`."""
        return files.near(self._path(shard))

    def _path(self, shard: str) -> Place:
        if shard not in self.paths:
            raise DatasetError(f"{self.location!r} has no shard {shard!r}; it has {', '.join(self.shards[:5])}, …")
        return self.paths[shard]


READER = WebDataset


# Index -----------------------------------------------------------------------------------------------------


class _HeaderFile(io.BufferedReader):
    """A tar of which only headers are read: `tarfile` would take in whatever size a long name's header claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= CAPTION_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


def _headers(path: Place) -> Iterator[tarfile.TarInfo]:
    """Member headers; ends with `tarfile.ReadError` where the archive is not complete."""
    size = files.size(path)
    with _HeaderFile(files.raw(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # a shard of 10⁵ samples would otherwise be kept in memory
            if member.size < 0:  # the walk would go backwards, without end
                raise tarfile.ReadError(f"the member {member.name!r} claims a size of {member.size} bytes")
            yield member
        end = tar.offset
    mark = read_at(path, end, BLOCK)
    if len(mark) < BLOCK or mark.strip(b"\0"):
        raise tarfile.ReadError(f"no end mark at byte {min(end, size)} of {size}")
    for at in range(end, size, CAPTION_BYTES):
        if read_at(path, at, CAPTION_BYTES).strip(b"\0"):
            raise tarfile.ReadError(
                f"data goes on behind the end mark at byte {end}, as in tars written behind each other"
            )


def _groups(path: Place) -> Iterator[_Group]:
    """Samples of a tar; a cut-off tar ends with a group that says so."""
    size = files.size(path)
    group: _Group | None = None
    try:
        for member in _headers(path):
            if member.isdir():
                continue
            cut = member.offset_data + (member.size if member.isreg() else 0) > size
            name = _printable(member.name)
            match = _NAME.fullmatch(name)
            if match is None and member.isreg() and not cut and "\\" not in name:
                continue  # no extension, or hidden: a README or a ._file, not a sample
            key, ext = (match[1], match[2].lower()) if match else (name, "")
            if group is None or group.key != key or ext in group.members:
                if group is not None:
                    yield group
                group = _Group(key)
            if cut:
                group.fault = _cut(f"its member {name!r} goes on past the end of the file, {size} bytes")
                break
            _take(group, member, name, ext)
    except (tarfile.TarError, OSError, ValueError) as error:
        if group is not None and _fault(group) is None:
            yield group
            group = None
        group = group or _Group(path.stem + "#truncated")
        group.fault = _cut(str(error))
    if group is not None:
        yield group


def _take(group: _Group, member: tarfile.TarInfo, name: str, ext: str) -> None:
    """Add a member to its sample, or the reason why it may not be used."""
    group.members[ext] = (member.offset_data, member.size)
    parts = name.split("/")
    if not member.isreg() or member.issparse():
        kind = "link" if member.issym() or member.islnk() else "device" if member.isdev() else "special file"
        group.fault = f"its member {name!r} is a {kind}; only regular files are read"
    elif name.startswith("/") or ".." in parts or "\\" in name:
        group.fault = f"its member {name!r} points outside the shard; rename it without '..', '/' in front or '\\'"
    elif "\ufffd" in name:
        group.fault = f"the name of its member {name!r} is not UTF-8; rename it"


def _printable(name: str) -> str:
    """The member's name without './' in front; bytes that are no UTF-8 as U+FFFD."""
    clean = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    while clean.startswith("./"):
        clean = clean[2:]
    return clean


def _cut(seen: str) -> str:
    return (
        f"the shard is truncated or damaged here ({seen}); the samples before are used: "
        "fetch or write the shard again for the rest"
    )


def _fault(group: _Group, order: Sequence[str] = (*TEXTS, "json")) -> str | None:
    """Why the sample cannot be used, as far as its headers tell."""
    if group.fault is not None:
        return group.fault
    image, caption = _first(IMAGES, group.members), _first(order, group.members)
    found = f"it has {', '.join(group.members)}"
    if not image:
        return f"the sample has no image: {found}, an image is one of {', '.join(IMAGES)}"
    if not caption:
        return f"the sample has no caption: {found}, a caption is a {' or '.join(order)} member"
    for part, name, most in ((image, "image", IMAGE_BYTES), (caption, "caption", CAPTION_BYTES)):
        size = group.members[part][1]
        if size == 0:
            return f"the {name} ({part}) is empty: 0 bytes"
        if size > most:
            return too_large(f"{name} ({part})", size, most)
    return None


def _first(wanted: Sequence[str], members: Mapping[str, Span]) -> str:
    return next((ext for ext in wanted if ext in members), "")


def _entry(group: _Group, shard: str, order: Sequence[str], keys: Keys) -> Entry:
    """The group as an entry under a key of its own."""
    fault = _fault(group, order)
    key, count = keys.take(group.key)
    if count > 1:
        again = (
            f"the key {group.key!r} is in the shard {count} times, the first one is used; "
            "a sample's members must stand together, and keys must differ"
        )
        fault = again if fault is None else f"{again}; besides, {fault}"
    return Entry(key, shard, group.members, _first(IMAGES, group.members), _first(order, group.members), fault)


# Read ------------------------------------------------------------------------------------------------------


def _members(path: Place, entry: Entry, wanted: Sequence[str]) -> list[bytes]:
    try:
        found = files.read_spans(path, [entry.members[ext] for ext in wanted])
    except OSError as error:
        raise SampleError(f"cannot read {path}: {error}") from error
    for ext, data in zip(wanted, found, strict=True):
        if len(data) < entry.members[ext][1]:
            raise SampleError(
                f"{path} ends inside {entry.key}.{ext}; it has changed since it was indexed: index it again"
            )
    return found


# Write -----------------------------------------------------------------------------------------------------


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> int:
    """Write a tar of (key, {extension: bytes}) and return how many samples it holds.

    Equal samples give equal bytes: no times, owners or versions. The file appears whole or not at all.

    Raises:
        DatasetError: a key has a dot in its last part or comes twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    seen: set[str] = set()
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            for key, members in samples:
                if key in seen or _NAME.fullmatch(f"{key}.x") is None or "." in key.rpartition("/")[2]:
                    raise DatasetError(f"the key {key!r} comes twice, is empty or has a dot; give each sample its own")
                seen.add(key)
                for ext, data in members.items():
                    add_member(tar, f"{key}.{ext}", data)
        os.replace(partial, path)  # noqa: PTH105 – Path.replace is the same call
    finally:
        partial.unlink(missing_ok=True)
    return len(seen)


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> Span:
    """Append a regular file without time or owner; returns where its bytes are."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
    padded = -(-len(data) // BLOCK) * BLOCK
    return tar.offset - padded, len(data)
