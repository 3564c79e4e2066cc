"""Existing labels in tars, one member per sample: ``tars:shards/?label=seg.png&task=segmentation&classes=…&void=255``.

The tars may be those of the dataset, with ``key.seg.png`` next to ``key.jpg``, or others with the same keys.
``label`` is the part of the member's name after the key. The options of its PNG, TIFF or NPY are those of files
(`files:`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.options import split
from clipzoo.files import read_at, state
from clipzoo.importers import _meaning
from clipzoo.importers._meaning import MapLabel, Meaning, NamedOptions
from clipzoo.importers.base import Importer
from clipzoo.readers import Location
from clipzoo.readers.base import IMAGE_BYTES, Span, too_large
from clipzoo.readers.webdataset import WebDataset
from clipzoo.types import Size


class TarsOptions(NamedOptions):
    """Options of labels in tars."""

    label: Annotated[str, Field(min_length=1)] = Field(
        description="the part of the names of the members that contain labels after the key, as seg.png"
    )


def create(name: str) -> Tars:
    """Return the importer of ``tars?label=…&task=…&…``.

    Raises:
        ExpertError: options are missing or invalid, no member is a label, or two members have one key.
        DatasetError: there are no tars, or they cannot be read.
    """
    path, _, query = name.partition("?")
    given = split(query)
    options, meaning = _meaning.parse(TarsOptions, given, "tars")
    label = options.label.strip(".").lower()
    reader = WebDataset.open(Location(path, path, {"image": label}, captions=False))  # its keys end where labels begin
    return Tars(_meaning.card(f"tars:{name}", given, options, meaning), reader, label, options, meaning)


class Tars(Importer):
    """Existing labels as members of tars."""

    def __init__(
        self, card: ExpertCard, reader: WebDataset, label: str, options: TarsOptions, meaning: Meaning
    ) -> None:
        super().__init__()
        self.card, self.reader, self.label = card, reader, label
        self.options, self.meaning = options, meaning
        self.spans = _spans(reader, label)
        self.states = {shard: state(path) for shard, path in reader.paths.items()}

    def place(self, key: str) -> str | None:
        """Return the name of the member."""
        name = self.options.named(key)
        return f"{name}.{self.label}" if name in self.spans else None

    def state(self, key: str) -> str:
        """See `Expert.state`: the position of the member, and the state of its tar."""
        shard, span = self.spans.get(self.options.named(key) or "", ("", (0, 0)))
        return f"{span} {self.states[shard]}" if shard else ""

    def look_up(self, key: str, size: Size) -> MapLabel:
        """See `Importer.look_up`."""
        name = self.options.named(key)
        if name not in self.spans:
            detail = f"no label: no tar of {self.reader.location} has {name or key}.{self.label}"
            raise SampleError(detail, "no-label")
        shard, (offset, count) = self.spans[name]
        if count > IMAGE_BYTES:
            raise too_large(f"label ({self.label})", count, IMAGE_BYTES).error()
        where = Path(f"{name}.{self.label}")
        data = read_at(self.reader.paths[shard], offset, count)
        return _meaning.fitting(self.meaning.read(where, data), self.meaning, size, where, self.notes)


def _spans(reader: WebDataset, label: str) -> dict[str, tuple[str, Span]]:
    """Return key -> (shard, position) of the members that are labels."""
    spans: dict[str, tuple[str, Span]] = {}
    others: set[str] = set()
    for shard in reader.shards:
        for entry in reader.index(shard):
            others.update(entry.members)
            if label not in entry.members:
                continue
            if entry.key in spans:
                raise ExpertError(
                    f"tars: the shards {spans[entry.key][0]!r} and {entry.shard!r} of {reader.location} both have "
                    f"{entry.key}.{label}, so keys do not tell labels apart. Give the samples other keys, or label by "
                    "one shard each"
                )
            spans[entry.key] = entry.shard, entry.members[label]
    if not spans:
        raise ExpertError(
            f"tars: no member of {reader.location} is called <key>.{label}. The names after keys there are "
            f"{', '.join(sorted(others)[:20]) or 'none'}: name one of them by label="
        )
    return spans
