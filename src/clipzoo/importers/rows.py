"""Labels in the rows of a dataset: ``rows:photos.parquet?label=mask&task=segmentation&classes=…&void=255``.

Read are the formats of rows: Parquet, a Hugging Face dataset on disk, CSV and TSV tables. The column ``label`` holds a
picture (bytes, a file's name, or Hugging Face's Image), which is answered for as files are (`files:`), or, where the
task is detection, objects: a mapping of lists, or a list of mappings, of a box and a class each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import PARSERS as ANSWERS
from clipzoo.experts._answers import QUESTIONS, Answers, answer, chosen, parse, split, without_task
from clipzoo.experts.base import ExpertCard
from clipzoo.files import state
from clipzoo.importers import base as _keyed
from clipzoo.importers import files
from clipzoo.importers.base import Importer
from clipzoo.readers import ROW, Entry, RowReader, open_dataset
from clipzoo.readers.table import Table
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

READER = ("key", "caption", "split", "root", "outside", "sep")
"""Options that the dataset's reader is given; they are as where the dataset is labeled, so that keys are the same."""

LABEL = "the column that holds the labels"
REQUIRED = {
    "label": LABEL,
    "classes": "names in the order of ids, as person,dog, or @names.txt with a name a line",
    "box": "xyxy (corners), xywh (corner and sides) or cxcywh (center and sides)",
    "unit": "pixels (of the row's own picture) or relative (shares of its width and height)",
}
TASKS = {**QUESTIONS, "detection": {name: how for name, how in REQUIRED.items() if name != "label"}}
"""Task -> question -> how it is answered."""

OPTIONAL = {
    "task": "",
    "boxes": "the field of an object's box, by default bbox",
    "names": "the field of an object's class, a name or an id, by default category",
    **_boxes.OPTIONAL,
}
PARSERS = {
    **_boxes.PARSERS,
    **{question: ANSWERS[question] for question in ("label", "task")},
    "box": chosen("box", ("xyxy", "xywh", "cxcywh")),
    "unit": chosen("unit", ("pixels", "relative")),
    "boxes": lambda text: {"boxes": text},
    "names": lambda text: {"names": text},
}


def create(name: str) -> Rows:
    """The expert of ``dataset?label=…&task=…&…``.

    Raises:
        ExpertError: the URI leaves a question open, the dataset is not of rows, or its keys do not tell them apart.
        DatasetError: the dataset cannot be read.
    """
    path, _, query = name.partition("?")
    given = split(query)
    options = {option: given.pop(option) for option in READER if option in given}
    if given.get("task") not in TASKS:
        raise without_task(given, "rows", {"label": LABEL}, TASKS)
    if given["task"] == "detection":
        boxes = answer(given, REQUIRED, OPTIONAL, PARSERS, "rows", "detection")
        card = _keyed.card(f"rows:{name}", "detection", given, boxes, Convention(boxes["classes"]))
        return Objects(card, _reader(path, options, given["label"]), boxes)
    answers = parse(given, "rows", {"label": LABEL})
    return Pictures(files.card(f"rows:{name}", given, answers), _reader(path, options, given["label"]), answers)


def _reader(path: str, options: Mapping[str, str], label: str) -> RowReader:
    """The dataset, its labels in the place of its images."""
    behind = "&".join(f"{name}={quote(value)}" for name, value in {**options, "image": label}.items())
    reader = open_dataset(f"{path}?{behind}")
    if not isinstance(reader, RowReader):
        raise ExpertError(f"rows: {path} is no dataset of rows (Parquet, save_to_disk, CSV, TSV); use files: or coco:")
    return reader


class Rows(Importer):
    """Looks labels up in a dataset's rows."""

    def __init__(self, card: ExpertCard, reader: RowReader) -> None:
        super().__init__()
        self.card, self.reader = card, reader
        self.states = {path: state(path) for path in {part.path for part in reader.parts.values()}}
        self.entries: dict[str, Entry] = {}
        for entry in (entry for shard in reader.shards for entry in reader.index(shard)):
            if entry.error is None and self.entries.setdefault(entry.key, entry) is not entry:
                raise ExpertError(
                    f"rows: two rows of {reader.location} have the key {entry.key!r}, so keys do not tell labels "
                    "apart (rows without keys are numbered file by file): name a column of distinct keys by key=, "
                    "here and where the dataset is labeled"
                )

    def place(self, key: str) -> str | None:
        """The row's key."""
        return key if key in self.entries else None

    def state(self, key: str) -> str:
        """See `Expert.state`: the place of its row, and the state of the table."""
        if key not in self.entries:
            return ""
        entry = self.entries[key]
        return f"{entry.members[ROW]} {self.states[self.reader.parts[entry.shard].path]}"

    def value(self, key: str) -> Any:
        """What stands in the column of labels; `SampleError` if there is no row, or nothing in it."""
        if key not in self.entries:
            raise SampleError(f"no row: {self.reader.location} has none with the key {key!r}", "no-label")
        entry = self.entries[key]
        path = self.reader.parts[entry.shard].path
        return self.reader.values(path, entry.members[ROW])[self.reader.columns[path].image]


class Pictures(Rows):
    """Labels that are pictures."""

    def __init__(self, card: ExpertCard, reader: RowReader, answers: Answers) -> None:
        super().__init__(card, reader)
        self.answers = answers

    def state(self, key: str) -> str:
        """Of a CSV or TSV table also the state of the picture that the row names."""
        named = self.value(key) if key in self.entries and isinstance(self.reader, Table) else None
        root = self.reader.images.root
        return super().state(key) + (f" {state(root / named)}" if named and isinstance(root, Path) else "")

    def look_up(self, key: str, size: Size) -> Any:
        """See `Importer.look_up`."""
        where = Path(key)
        data = self.reader.images.of_value(self.value(key))
        return files.fitting(files.read(where, self.answers, data), self.answers, size, where, self.notes)


class Objects(Rows):
    """Labels that are boxes."""

    def __init__(self, card: ExpertCard, reader: RowReader, answers: Mapping[str, Any]) -> None:
        super().__init__(card, reader)
        self.space = _boxes.Space(answers["classes"], answers.get("others", ""))
        self.box, self.relative = answers["box"], answers["unit"] == "relative"
        self.fields = (answers.get("boxes", "bbox"), answers.get("names", "category"))

    def look_up(self, key: str, size: Size) -> Detection:
        """See `Importer.look_up`."""
        objects = _boxes.Objects(self.space, size)
        for box, kind in self._told(self.value(key)):
            name = self._name(kind)
            if objects.wanted(name):
                edges = zip(_boxes.xyxy(box, self.box), self._unit(size), strict=True)
                objects.add(name, [edge * unit for edge, unit in edges])
        return objects.label()

    def _unit(self, size: Size) -> tuple[int, int, int, int]:
        """What the edges of a box are told in, in pixels."""
        H, W = size
        return (W, H, W, H) if self.relative else (1, 1, 1, 1)

    def _told(self, value: Any) -> list[tuple[Any, Any]]:
        """(box, class) of every object of a row."""
        boxes, names = self.fields
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            value = {field: [one.get(field) for one in value] for field in self.fields}
        if not isinstance(value, dict) or not all(isinstance(value.get(field), list) for field in self.fields):
            have = ", ".join(value) if isinstance(value, dict) else type(value).__name__
            raise SampleError(f"no objects with {boxes!r} and {names!r}: {have}; name the fields by boxes= and names=")
        if len(value[boxes]) != len(value[names]):
            raise SampleError(f"as many boxes as classes are needed: {len(value[boxes])} and {len(value[names])}")
        return list(zip(value[boxes], value[names], strict=True))

    def _name(self, kind: Any) -> str:
        """The class that a name or an id tells."""
        if isinstance(kind, int) and 0 <= kind < len(self.space.classes):
            return self.space.classes[kind]
        return str(kind)
