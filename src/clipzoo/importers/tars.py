"""Labels inside of tars, a member of each sample: ``tars:shards/?label=seg.png&task=segmentation&classes=…&void=255``.

The tars may be the dataset's own, with ``key.seg.png`` beside ``key.jpg``, or others in which the keys are the same.
``label`` is what follows the key in the member's name; its PNG, TIFF or NPY is answered for as files are (`files:`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts._answers import Answers, parse, split
from clipzoo.experts.base import ExpertCard
from clipzoo.files import read_at, state
from clipzoo.importers import files
from clipzoo.readers import Location
from clipzoo.readers.base import IMAGE_BYTES, Span, too_large
from clipzoo.readers.webdataset import WebDataset
from clipzoo.types import Size

LABEL = "what follows the key in the names of the members that hold the labels, as seg.png"


def create(name: str) -> Tars:
    """The expert of ``tars?label=…&task=…&…``.

    Raises:
        ExpertError: the URI leaves a question open, or no member, or two of one key, are labels.
        DatasetError: there are no tars, or they cannot be read.
    """
    path, _, query = name.partition("?")
    given = split(query)
    answers = parse(given, "tars", {"label": LABEL}, files.OPTIONAL)
    label = given["label"].strip(".").lower()
    reader = WebDataset.open(Location(path, path, {"image": label}, captions=False))  # its keys end where labels begin
    return Tars(files.card(f"tars:{name}", given, answers), reader, label, answers)


class Tars(files.NamedExpert):
    """Looks labels up among the members of tars."""

    def __init__(self, card: ExpertCard, reader: WebDataset, label: str, answers: Answers) -> None:
        super().__init__(answers, card)
        self.reader, self.label = reader, label
        self.spans: dict[str, tuple[str, Span]] = {}
        others: set[str] = set()
        for entry in (entry for shard in reader.shards for entry in reader.index(shard)):
            others.update(entry.members)
            if label in entry.members:
                own = entry.shard, entry.members[label]
                if self.spans.setdefault(entry.key, own) is not own:
                    raise ExpertError(
                        f"tars: the shards {self.spans[entry.key][0]!r} and {entry.shard!r} of {reader.location} both "
                        f"have {entry.key}.{label}, so keys do not tell labels apart: give the samples other keys, or "
                        "label by one shard each"
                    )
        if not self.spans:
            raise ExpertError(
                f"tars: no member of {reader.location} is called <key>.{label}; what follows keys there is "
                f"{', '.join(sorted(others)[:20]) or 'nothing'}: name one of them by label="
            )
        self.states = {shard: state(path) for shard, path in reader.paths.items()}

    def place(self, key: str) -> str | None:
        """The member's name."""
        name = self.named(key)
        return f"{name}.{self.label}" if name in self.spans else None

    def state(self, key: str) -> str:
        """See `Expert.state`: where the member lies, and the state of its tar."""
        shard, span = self.spans.get(self.named(key) or "", ("", (0, 0)))
        return f"{span} {self.states[shard]}" if shard else ""

    def look_up(self, key: str, size: Size) -> Any:
        """See `Importer.look_up`."""
        name = self.named(key)
        if name not in self.spans:
            detail = f"no label: no tar of {self.reader.location} has {name or key}.{self.label}"
            raise SampleError(detail, "no-label")
        shard, (offset, count) = self.spans[name]
        if count > IMAGE_BYTES:
            raise too_large(f"label ({self.label})", count, IMAGE_BYTES).error()
        where = Path(f"{name}.{self.label}")
        data = read_at(self.reader.paths[shard], offset, count)
        return files.fitting(files.read(where, self.answers, data), self.answers, size, where, self.notes)
