"""Existing labels in the rows of a dataset: ``rows:photos.parquet?label=mask&task=segmentation&classes=…&void=255``.

The formats are Parquet, Hugging Face datasets on disk, CSV and TSV tables. The column ``label`` contains a picture
(bytes, the name of a file, or Hugging Face's Image), with the options of files (`files:`); or, if the task is
detection, objects: a mapping of lists, or a list of mappings, of one box and one class each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field

from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.options import ClassNames, Options, split
from clipzoo.files import Place, state
from clipzoo.importers import _boxes, _meaning, base
from clipzoo.importers._meaning import MapLabel, Meaning
from clipzoo.importers.base import Importer, ImportOptions
from clipzoo.readers import ROW, Entry, RowReader, open_dataset
from clipzoo.readers.table import Table
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from clipzoo.types import Size

READER = ("key", "caption", "split", "root", "outside", "sep")
"""Options of the dataset's reader. With the options that the dataset is labeled with, the keys are the same."""

LabelColumn = Annotated[str, Field(min_length=1, description="the column that contains the labels")]


class PictureOptions(ImportOptions):
    """Options of pictures in rows."""

    label: LabelColumn


class ObjectOptions(_boxes.BoxOptions):
    """Options of objects in rows."""

    label: LabelColumn
    task: Literal["detection"]
    classes: ClassNames = Field(description=_boxes.CLASSES)
    box: Literal["xyxy", "xywh", "cxcywh"] = Field(
        description="xyxy (corners), xywh (corner and sides) or cxcywh (center and sides)"
    )
    unit: Literal["pixels", "relative"] = Field(
        description="pixels (of the row's own picture) or relative (shares of its width and height)"
    )
    boxes: str = Field("bbox", description="the field of an object's box, by default bbox")
    names: str = Field("category", description="the field of an object's class, a name or an id, by default category")


def create(name: str) -> Rows:
    """Return the importer of ``dataset?label=…&task=…&…``.

    Raises:
        ExpertError: options are missing or invalid, the dataset has no rows, or its keys are not unique.
        DatasetError: the dataset cannot be read.
    """
    path, _, query = name.partition("?")
    given = split(query)
    reader_options = {option: given.pop(option) for option in READER if option in given}
    tasks: dict[str, type[Options]] = {**_meaning.MEANINGS, "detection": ObjectOptions}
    if given.get("task") not in tasks:
        raise _meaning.without_task(PictureOptions, given, "rows", tasks)
    if given["task"] == "detection":
        boxes = base.parse(ObjectOptions, given, "rows", "labels of detection")
        card = base.card(f"rows:{name}", "detection", given, boxes, Convention(boxes.classes))
        return Objects(card, _reader(path, reader_options, boxes.label), boxes)
    options, meaning = _meaning.parse(PictureOptions, given, "rows")
    card = _meaning.card(f"rows:{name}", given, options, meaning)
    return Pictures(card, _reader(path, reader_options, options.label), meaning)


def _reader(path: str, options: Mapping[str, str], label: str) -> RowReader:
    """Return the reader of the dataset, with the labels in place of the images."""
    query = "&".join(f"{name}={quote(value)}" for name, value in {**options, "image": label}.items())
    reader = open_dataset(f"{path}?{query}", captions="optional")
    if not isinstance(reader, RowReader):
        raise ExpertError(
            f"rows: {path} is not a dataset of rows (Parquet, save_to_disk, CSV, TSV). Use files: or coco: for other "
            "labels"
        )
    return reader


class Rows(Importer):
    """Existing labels in the rows of a dataset."""

    def __init__(self, card: ExpertCard, reader: RowReader) -> None:
        super().__init__()
        self.card, self.reader = card, reader
        self.states = {path: state(path) for path in {part.path for part in reader.parts.values()}}
        self.entries: dict[str, Entry] = {}
        for shard in reader.shards:
            for entry in reader.index(shard):
                if entry.error is None and self.entries.setdefault(entry.key, entry) is not entry:
                    raise ExpertError(
                        f"rows: two rows of {reader.location} have the key {entry.key!r}, so keys do not tell labels "
                        "apart (rows without keys are numbered file by file). Name a column of unique keys by key=, "
                        "here and where the dataset is labeled"
                    )

    def place(self, key: str) -> str | None:
        """Return the key of the row."""
        return key if key in self.entries else None

    def state(self, key: str) -> str:
        """See `Expert.state`: the number of the row, and the state of the table."""
        if key not in self.entries:
            return ""
        entry = self.entries[key]
        return f"{entry.members[ROW]} {self.states[self.reader.parts[entry.shard].path]}"

    def value(self, key: str) -> object:
        """Return the value in the column of labels; `SampleError` if there is no row or no value."""
        path = self.table(key)
        value = self.reader.values(path, self.entries[key].members[ROW])[self.reader.columns[path].image]
        return self.reader.image_of(path, value)

    def table(self, key: str) -> Place:
        """Return the file of the row; `SampleError` if there is no row."""
        if key not in self.entries:
            raise SampleError(f"no row: {self.reader.location} has none with the key {key!r}", "no-label")
        return self.reader.parts[self.entries[key].shard].path


class Pictures(Rows):
    """Labels that are pictures."""

    def __init__(self, card: ExpertCard, reader: RowReader, meaning: Meaning) -> None:
        super().__init__(card, reader)
        self.meaning = meaning

    def state(self, key: str) -> str:
        """See `Rows.state`; for a CSV or TSV table, also the state of the picture that the row names."""
        named = str(self.value(key) or "") if key in self.entries and isinstance(self.reader, Table) else ""
        root = self.reader.images[self.table(key)].folder_of(named) if named else None
        return super().state(key) + (f" {state(root / named)}" if isinstance(root, Path) else "")

    def look_up(self, key: str, size: Size) -> MapLabel:
        """See `Importer.look_up`."""
        where = Path(key)
        value = self.value(key)
        data = self.reader.images[self.table(key)].of_value(value)
        return _meaning.fitting(self.meaning.read(where, data), self.meaning, size, where, self.notes)


class Objects(Rows):
    """Labels that are boxes."""

    def __init__(self, card: ExpertCard, reader: RowReader, options: ObjectOptions) -> None:
        super().__init__(card, reader)
        self.options = options
        self.space = _boxes.Space(options.classes, options.others)

    def look_up(self, key: str, size: Size) -> Detection:
        """See `Importer.look_up`."""
        (H, W), objects = size, _boxes.Objects(self.space, size)
        units = (W, H, W, H) if self.options.unit == "relative" else (1, 1, 1, 1)
        for box, kind in self._pairs(self.value(key)):
            name = self._name(kind)
            if objects.wanted(name):
                edges = _boxes.xyxy(box, self.options.box)
                objects.add(name, [edge * unit for edge, unit in zip(edges, units, strict=True)])
        return objects.label()

    def _pairs(self, value: object) -> list[tuple[Sequence[object], object]]:
        """Return (box, class) of every object of a row."""
        boxes, names = self.options.boxes, self.options.names
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            value = {field: [one.get(field) for one in value] for field in (boxes, names)}
        if not isinstance(value, dict) or not all(isinstance(value.get(field), list) for field in (boxes, names)):
            have = ", ".join(value) if isinstance(value, dict) else type(value).__name__
            raise SampleError(f"no objects with {boxes!r} and {names!r}: {have}; name the fields by boxes= and names=")
        if len(value[boxes]) != len(value[names]):
            raise SampleError(f"as many boxes as classes are needed: {len(value[boxes])} and {len(value[names])}")
        return list(zip(value[boxes], value[names], strict=True))

    def _name(self, kind: object) -> str:
        """Return the class of a name or an id."""
        if isinstance(kind, int) and 0 <= kind < len(self.space.classes):
            return self.space.classes[kind]
        return str(kind)
