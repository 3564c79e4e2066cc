"""Uncompressed tars of ``<key>.<field>`` members, as img2dataset, webdataset and other tools write them.

The members of a key are one sample, at any position in the tar. A key is the path up to the first dot of its last
part. The image is the first of `IMAGES` that the key has; the caption is ``.txt``, else the field "caption" or "text"
of ``.json``, else a row of a ``metadata.jsonl`` or ``metadata.csv`` in the tar. Options: ``image`` and ``caption``
name other fields, ``caption`` also fields of the ``.json``: the first with text is used; ``key`` sets the end of a key;
``exif=json`` applies the EXIF orientation of the ``.json``. If no option is given and no sample results, the layout is
inferred (see `layout`).
Other members become entries with a reason: they raise no error and are not skipped silently. Other files next to the
tars (img2dataset's ``.parquet`` and ``_stats.json``) are ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from clipzoo import files
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.readers._location import IMAGES, Location, listing
from clipzoo.readers._rows import CAPTION, digest
from clipzoo.readers._samples import exif, fields
from clipzoo.readers._samples.captions import Captions
from clipzoo.readers._samples.fields import Fields
from clipzoo.readers.base import CAPTION_BYTES, IMAGE_BYTES, Entry, Keys, Reader, Span, too_large
from clipzoo.readers.webdataset import metadata
from clipzoo.readers.webdataset.layout import LAST, Layout, decide, inferred, stems
from clipzoo.readers.webdataset.tar import Member, members
from clipzoo.types import Failure, Sample

log = logging.getLogger(__name__)

INSPECTED = 3
"""The most shards with members that a layout is inferred from."""


@dataclass(slots=True)
class _Group:
    """The members of one sample; ``fault`` is the reason why it cannot be used, or None.

    ``caption`` is the name of the member for a row of the tar's metadata.
    """

    key: str
    members: dict[str, Span] = field(default_factory=dict)
    fault: Failure | None = None
    caption: str = ""


class WebDataset(Reader):
    """Uncompressed tar shards, read by offset."""

    separable = True

    def __init__(self, location: Location, paths: Mapping[str, Place]) -> None:
        self.location = location.text
        self.given = location
        self.paths = dict(paths)
        self.shards = tuple(self.paths)
        self.captions = Captions.of(location)
        self.reads_texts = bool(self.captions.several)
        self.requested = Layout.of(location, self.captions)
        self._parts: dict[tuple[str, ...], tuple[str, str]] = {}  # fields of a sample -> those of image and caption
        self.threads = max(map(files.threads, paths.values()))

    @classmethod
    def accepts(cls, location: Location) -> bool:
        """Return True if there are tars; tables next to them are img2dataset's metadata."""
        return "tar" in location.kinds

    @classmethod
    def open(cls, location: Location) -> WebDataset:
        """Open the dataset in a folder (nested ones included), a .tar file, or a glob or brace pattern.

        Raises:
            DatasetError: there are no shards, the shards are compressed, or an option has an invalid value.
        """
        paths = listing.find(location.allow("image", "caption", "key", "exif").path)
        first = next(iter(paths.values()))
        with listing.readable(first):
            listing.refuse_compressed(first)
        return cls(location, paths)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the options, else one inferred from the first shards, which is logged."""
        candidates: list[Layout | None] = []
        for path in self.paths.values():
            with listing.readable(path):
                names = (name for name, _, fault, _ in members(path) if not fault)
                layout, has_members = decide(self.requested, names)
            if layout == self.requested:  # nothing is inferred if the requested layout yields any sample
                return self.requested
            candidates += [layout] if has_members else []
            if len(candidates) == INSPECTED:
                break
        inferred_layout = next(filter(None, candidates), self.requested)
        if inferred_layout != self.requested:
            log.warning("%s is read as %s", self.location, _described(self.given, inferred_layout))
        return inferred_layout

    @property
    def identity(self) -> str:  # type: ignore[override]  # needs the layout, which reads a shard
        """A digest of the layout and of ``exif``; "" for the default."""
        layout = self.layout
        values = (layout.key == LAST, layout.images, layout.metadata, self.captions.upright)
        return "" if values == (False, IMAGES, False, False) else digest(values)

    def contents(self, shard: str) -> str:
        """Return `identity`: labels of other members, or of rotated images, must not be mixed."""
        return self.identity

    def index(self, shard: str) -> list[Entry]:
        """Return every sample of the shard in the order of their first members, from one pass over the headers.

        Keys are unique: a repeated key is called ``<key>#2`` and has a failure. The last entry of a truncated tar has
        a failure, too, and may be called ``…#truncated``.

        Raises:
            DatasetError: the shard is compressed, cannot be opened, or is not one of `shards`.
        """
        path = self._path(shard)
        keys, layout = Keys(), self.layout
        with listing.readable(path):
            listing.refuse_compressed(path)
            groups = _grouped(members(path), layout, path.stem)
            if layout.metadata:
                groups = self._with_rows(groups, path)
        return [self._entry(group, shard, keys) for group in groups]

    def read(self, entry: Entry) -> Sample:
        """Return the image and caption of a usable entry.

        Raises:
            SampleError: the entry has a failure or no caption text, or the file has changed.
        """
        entry.check()
        wanted = dict.fromkeys([entry.image, *filter(None, [entry.caption]), *entry.texts])
        data = dict(zip(wanted, _members(self._path(entry.shard), entry, [*wanted]), strict=True))
        image = data.pop(entry.image)
        if not data:
            return Sample(entry.key, entry.shard, image, "")
        found = self._fields(entry, data, self.given.fields) if self.given.fields else {}
        caption, *others = fields.caption_or_field(lambda: self._captions(entry, data), found)
        image = exif.upright(image, data.get(entry.caption, b"")) if self.captions.upright else image
        return Sample(entry.key, entry.shard, image, caption, tuple(others), found)

    def fields(self, entry: Entry) -> Mapping[str, tuple[str, ...]]:
        """See `Reader.fields`."""
        wanted = (*self.captions.several, *self.given.fields)
        names = [name for name in entry.members if _may_hold_text(name, entry.members, wanted)]
        names += [entry.caption] if metadata.is_row(entry.caption) else []
        data = dict(zip(names, _members(self._path(entry.shard), entry, names), strict=True))
        return self._fields(entry, data)

    def _captions(self, entry: Entry, data: Mapping[str, bytes]) -> tuple[str, ...]:
        """Return the captions of the sample, of member -> bytes."""
        if not entry.caption:
            return ("",)
        if metadata.is_row(entry.caption):
            return self._columns.of_values(metadata.values(data[entry.caption], entry.caption, self._named))
        return fields.captions_of(self.captions, data, entry.caption)

    def _fields(self, entry: Entry, data: Mapping[str, bytes], names: Sequence[str] | None = None) -> Fields:
        """Return the fields ``names`` that have text, by default all, of member -> bytes."""
        if metadata.is_row(entry.caption):
            return fields.of_values(metadata.values(data[entry.caption], entry.caption, self._named), names)
        return fields.of_members(data, names)

    def state(self, shard: str) -> str:
        """See `Reader.state`."""
        return files.state(self._path(shard))

    def others(self, entry: Entry) -> Mapping[str, bytes]:
        """See `Reader.others`; rows of the tar's metadata are not members."""
        used = {entry.image, entry.caption} - {fields.JSON}
        names = [name for name in entry.members if name not in used and not metadata.is_row(name)]
        data = dict(zip(names, _members(self._path(entry.shard), entry, names), strict=True))
        return exif.with_note_applied(data) if self.captions.upright else data

    def cached(self, shard: str) -> AbstractContextManager[None]:
        """See `Reader.cached`."""
        return files.cached(self._path(shard))

    def sideways(self, entry: Entry, image: bytes) -> str:
        """See `Reader.sideways`."""
        offset, size = entry.members.get("json", (0, CAPTION_BYTES + 1))
        if self.captions.upright or size > CAPTION_BYTES:
            return ""
        return exif.sideways(image, files.read_at(self._path(entry.shard), offset, size))

    def advice(self, entry: Entry) -> str:
        """See `Reader.advice`."""
        if self.layout.whole(entry.members) or self.layout.metadata:
            return ""
        names = [f"{entry.key.partition('#')[0]}.{name}" for name in entry.members]
        layout = inferred(Layout(required=self.captions.required), names, labels=True)
        return "" if layout is None or layout == self.layout else self.given.with_options(**layout.options)

    @cached_property
    def _columns(self) -> Captions:
        """The captions of a metadata file in a tar."""
        return Captions.of(self.given, CAPTION)

    @property
    def _named(self) -> tuple[str, ...]:
        """The fields whose columns an entry of a metadata file gives."""
        return (*self._columns.fields, *self.given.fields)

    def _path(self, shard: str) -> Place:
        if shard not in self.paths:
            raise DatasetError(f"{self.location!r} has no shard {shard!r}; it has {', '.join(self.shards[:5])}, …")
        return self.paths[shard]

    def _with_rows(self, groups: Sequence[_Group], path: Place) -> list[_Group]:
        """Return the samples with their rows of the tar's metadata; a row without an image is a failed sample."""
        named = {id(one): {f"{one.key}.{name}": span for name, span in one.members.items()} for one in groups}
        tables = {name: span for spans in named.values() for name, span in spans.items() if metadata.names(name)}
        kept = [one for one in groups if not tables.keys() & named[id(one)].keys()]
        by_key = {one.key: one for one in reversed(kept)}
        for table, span in tables.items():
            for file, row, caption in metadata.rows(path, table, span, self._named):
                key, ending = self.layout.split(file) or (file, "")
                group = by_key.get(key)
                if group is None or ending not in group.members:
                    detail = f"the metadata has a row for {file!r}, which is not in the shard"
                    group = _Group(key, fault=Failure("no-image", detail))
                    kept.append(group)
                elif group.caption:  # the sample has a row: another one is a sample of the same key
                    group = _Group(key, {ending: group.members[ending]})
                    kept.append(group)
                group.members[caption], group.caption = row, caption
        return kept

    def _entry(self, group: _Group, shard: str, keys: Keys) -> Entry:
        """Return the entry of a group, with a unique key."""
        members, fault = group.members, group.fault
        fields = tuple(members)
        if fields not in self._parts:
            self._parts[fields] = self.layout.first("images", fields), self.layout.first("captions", fields)
        image, caption = self._parts[fields]
        several, drawn = self.captions.several, self.given.fields
        named = _texts(several, members) if several and not group.caption else ()
        whole = image and caption and not group.caption
        if not (whole and 0 < members[image][1] <= IMAGE_BYTES and 0 < members[caption][1] <= CAPTION_BYTES):
            caption = self._caption(group, group.caption or caption, named)
            fault = fault or self._fault(group, image, caption)
        key, count = keys.take(group.key)
        if count > 1:
            detail = f"the key {group.key!r} is in the shard {count} times, the first one is used; keys must differ"
            fault = Failure("duplicate-key", detail if fault is None else f"{detail}; in addition, {fault}")
        texts: tuple[str, ...] = ()
        if drawn or named:
            others = named if named != (caption,) else ()
            texts = tuple(dict.fromkeys((*_texts(drawn, members), *others)))
        return Entry(key, shard, members, image, caption, fault, texts)

    def _caption(self, group: _Group, name: str, named: Sequence[str]) -> str:
        """Return ``name`` if it is a caption, else one of ``named``, else "" where captions are optional.

        If they are required, return a member that holds a field instead of "".
        """
        if name and 0 < group.members[name][1] <= CAPTION_BYTES:
            return name
        if named or not self.captions.required:
            return next(iter(named), "")
        return next(iter(_texts(self.given.fields, group.members)), name)

    def _fault(self, group: _Group, image: str, caption: str) -> Failure | None:
        """Return the reason why the sample cannot be used, judged by its headers, or None."""
        sizes = (group.members[image][1] if image else 0), (group.members[caption][1] if caption else 1)
        if 0 < sizes[0] <= IMAGE_BYTES and 0 < sizes[1] <= CAPTION_BYTES and (caption or not self.captions.required):
            return None
        present, layout = f"it has {', '.join(group.members)}", self.layout
        if not image:
            wanted = f"an image is one of {layout.describe('images')}; {_option_advice('image')}"
            return Failure("no-image", f"the sample has no image: {present}, {wanted}")
        if not caption and self.captions.required and layout.metadata:
            tables = " or ".join(metadata.FILES)
            return Failure("no-caption", f"the sample has no caption: no {tables} in its tar has a row for it")
        if not caption and self.captions.required:
            wanted = f"a caption is a {layout.describe('captions')} member; {_option_advice('caption')}"
            return Failure("no-caption", f"the sample has no caption: {present}, {wanted}")
        limits = IMAGE_BYTES, CAPTION_BYTES
        for part, name, size, most in zip((image, caption), ("image", "caption"), sizes, limits, strict=True):
            if size == 0:
                return Failure("empty", f"the {name} ({part}) is empty: 0 bytes")
            if size > most:
                return too_large(f"{name} ({part})", size, most)
        return None


READER = WebDataset


def _described(location: Location, layout: Layout) -> str:
    """Return the location with the options that give a layout."""
    if layout.metadata:
        return f"images with captions in the {' or '.join(metadata.FILES)} of their tar"
    return f"{location.with_options(**layout.options)!r}"


# Index -----------------------------------------------------------------------------------------------------


def _texts(wanted: Sequence[str], members: Mapping[str, Span]) -> tuple[str, ...]:
    """Return the members that hold the fields which the dataset was opened with."""
    if not wanted:
        return ()
    usable = [name for name in members if _may_hold_text(name, members, wanted)]
    return tuple(dict.fromkeys(filter(None, (fields.member_of(name, usable) for name in wanted))))


def _may_hold_text(name: str, members: Mapping[str, Span], wanted: Sequence[str]) -> bool:
    """Return True for a member with an ending of texts, or with the name of one of the ``wanted`` fields."""
    known = fields.is_text(name) or any(name == one.lower() for one in wanted)
    return known and 0 < members[name][1] <= CAPTION_BYTES


def _option_advice(part: str) -> str:
    return f"name another one by ?{part}=NAME after the location"


def _grouped(tar_members: Iterable[Member], layout: Layout, shard: str) -> list[_Group]:
    """Return the samples of a tar in the order of their first members; one of them reports a truncated tar.

    A repeated field of a key begins another sample of this key.
    """
    groups: list[_Group] = []
    latest: dict[str, _Group] = {}
    group: _Group | None = None
    key = begin = ""  # of the sample before
    for name, span, fault, plain in tar_members:
        if not name:
            if not groups or (groups[-1].fault is None and layout.whole(groups[-1].members)):
                groups.append(_Group(f"{shard}#truncated"))
            groups[-1].fault = fault
            break
        field = name[len(begin) :].lower() if begin and name.startswith(begin) else ""
        if not field or "/" in field:  # the member is not, as most are, of the sample before
            pair = layout.split(name)
            if pair is None and plain:
                continue  # without extension, or hidden: a README or a ._file, not a sample
            key, field = pair or (name, "")
            group, begin = latest.get(key), f"{key}." if pair and layout.key != LAST else ""
        if group is None or field in group.members:
            group = latest[key] = _Group(key)
            groups.append(group)
        if span is None:
            group.fault = fault
            break
        group.members[field] = span
        group.fault = fault or group.fault
    return _folded(groups, layout) if layout.key == LAST else groups


def _folded(groups: Sequence[_Group], layout: Layout) -> list[_Group]:
    """Move members with dots before their field, such as ``22.05.seg.png``, to the complete sample ``22.05``."""
    whole = {one.key: one for one in groups if one.fault is None and layout.whole(one.members)}
    kept = []
    for group in groups:
        own = group.key in whole or group.fault is not None
        home = None if own else next((whole[stem] for stem in stems(group.key) if stem in whole), None)
        if home is None:
            kept.append(group)
            continue
        for name, span in group.members.items():
            home.members.setdefault(f"{group.key[len(home.key) + 1 :]}.{name}", span)
    return kept


# Read ------------------------------------------------------------------------------------------------------


def _members(path: Place, entry: Entry, wanted: Sequence[str]) -> list[bytes]:
    try:
        parts = files.read_spans(path, [entry.members[ext] for ext in wanted])
    except OSError as error:
        raise SampleError(f"cannot read {path}: {error}", "cannot-read") from error
    for ext, data in zip(wanted, parts, strict=True):
        if len(data) < entry.members[ext][1]:
            raise SampleError(
                f"{path} ends inside {entry.key}.{ext}; it has changed since it was indexed: index it again",
                "cannot-read",
            )
    return parts
