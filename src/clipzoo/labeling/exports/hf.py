"""Hugging Face: Parquet files of key, image, caption and labels, with the features that ``datasets`` reads.

Maps are images with the conventions of ``--to png``; objects are mappings of lists (``bbox`` x, y, width, height in
pixels, ``category`` as ClassLabel). The package ``datasets`` is not needed to write them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from clipzoo import files
from clipzoo.files import Place
from clipzoo.labeling.exports import _maps, _names, _readme
from clipzoo.labeling.exports._objects import records
from clipzoo.labeling.exports.base import Labeled, Labels
from clipzoo.store import Column
from clipzoo.tasks.detection import Detection

TASKS = (*_maps.TASKS, "detection")
FOLDER = SEVERAL = True

GROUP_ROWS, GROUP_BYTES = 100, 32 * 2**20
"""Most rows and about the most bytes of pictures of a row group, which is held in memory."""

FILE_BYTES = 500 * 2**20
"""Bytes after which a new file begins."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
OBJECTS = pa.struct([
    ("bbox", pa.list_(pa.list_(pa.float32()))), ("category", pa.list_(pa.int64())), ("score", pa.list_(pa.float32())),
    ("iscrowd", pa.list_(pa.int64())), ("segmentation", pa.list_(pa.string())),
])  # fmt: skip


def write(labels: Labels, column: Column, out: Place) -> None:
    """See `clipzoo.labeling.exports.base.Write`."""
    folder, names = cast(Path, out), _names.of(labels.columns)
    for one in labels.columns:
        if one.convention.classes:
            (folder / f"{names[one.name]}.classes.txt").write_bytes(_readme.class_list(one))
    schema, groups = _schema(labels.columns, names), _groups(labels, names)
    (folder / "data").mkdir()
    for number, first in enumerate(groups):
        path = folder / "data" / f"train-{number:05d}.parquet"
        with pq.ParquetWriter(files.for_arrow(path), schema) as file:
            file.write_table(pa.Table.from_pylist(first, schema))
            while path.stat().st_size < FILE_BYTES and (following := next(groups, None)) is not None:
                file.write_table(pa.Table.from_pylist(following, schema))


def _groups(labels: Labels, names: Mapping[str, str]) -> Iterator[list[dict[str, object]]]:
    """Yield the rows of each row group."""
    rows: list[dict[str, object]] = []
    size = 0
    for one in labels:
        rows.append(_row(one, labels, names))
        size += len(one.sample.image)
        if len(rows) == GROUP_ROWS or size > GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _row(one: Labeled, labels: Labels, names: Mapping[str, str]) -> dict[str, object]:
    image = {"bytes": one.sample.image, "path": f"{one.key}.{one.format}"}
    captions = {"caption": one.sample.caption, "other_captions": list(one.sample.others)}
    row: dict[str, object] = {"key": one.key, "image": image, **captions}
    for column in labels.columns:
        label = one.labels.get(column.name)
        if isinstance(label, Detection):
            row[names[column.name]] = _objects(label, column.convention.classes)
        elif label is not None:
            data, change = _maps.encode(label, column.convention)
            row[names[column.name]] = {"bytes": data, "path": f"{one.key}.png"}
            if change:
                labels.note(one, column, change)
    return row


def _objects(label: Detection, classes: Sequence[str]) -> dict[str, object]:
    """Return objects as a mapping of lists; masks are JSON texts of run lengths, null without a mask."""
    found = list(records(label, classes))
    lists: dict[str, object] = {name: [one[name] for one in found] for name in ("bbox", "score", "iscrowd")}
    masks = [one.get("segmentation") for one in found]
    texts = [None if mask is None else json.dumps(mask) for mask in masks]
    return {**lists, "category": [one["category_id"] for one in found], "segmentation": texts}


def _schema(columns: Sequence[Column], names: Mapping[str, str]) -> pa.Schema:
    """Return the schema, with the features of ``datasets`` in its metadata."""
    text = {"dtype": "string", "_type": "Value"}
    fields = [
        ("key", pa.string()),
        ("image", IMAGE),
        ("caption", pa.string()),
        ("other_captions", pa.list_(pa.string())),
    ]
    features: dict[str, object] = {
        "key": text, "image": {"_type": "Image"}, "caption": text,
        "other_captions": {"feature": text, "_type": "Sequence"},
    }  # fmt: skip
    for one in columns:
        boxes = one.task == "detection"
        fields.append((names[one.name], OBJECTS if boxes else IMAGE))
        features[names[one.name]] = _features(one.convention.classes) if boxes else {"_type": "Image"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _features(classes: Sequence[str]) -> dict[str, object]:
    """Return the features of objects. "Sequence" is read by datasets before and after 4.0, "List" only after."""
    number: dict[str, object] = {"dtype": "float32", "_type": "Value"}
    label = {"names": list(classes), "_type": "ClassLabel"}
    whole, text = {"dtype": "int64", "_type": "Value"}, {"dtype": "string", "_type": "Value"}
    items: dict[str, Mapping[str, object]] = {"bbox": _list(number), "category": label, "score": number}
    items |= {"iscrowd": whole, "segmentation": text}
    return {name: _list(item) for name, item in items.items()}


def _list(feature: Mapping[str, object]) -> dict[str, object]:
    return {"feature": feature, "_type": "Sequence"}


def readme(columns: Sequence[Column], out: str) -> str:
    """See `clipzoo.labeling.exports.base.LabelFormatPlugin`. It is also the dataset card that the hub reads."""
    names = _names.of(columns)
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n"
    load = (
        "```python\nfrom datasets import load_dataset\n\n"
        f'dataset = load_dataset("parquet", data_files="{out}/data/*.parquet", split="train")\n```'
    )
    rows = "A row has `key`, `image`, `caption`, `other_captions`, and " + ", ".join(f"`{n}`" for n in names.values())
    parts = [f"{rows}. A label that a sample does not have is null.", load]
    for one in columns:
        source, classes = f"{out}/data", f"{out}/{names[one.name]}.classes.txt"
        more = {"label": names[one.name], "key": "key"}
        of_map = one.task != "detection"
        parts.append(
            _readme.of_map(one, source, "rows", classes, more)
            if of_map
            else _of_objects(one, source, {**more, "task": "detection", "classes": f"@{classes}"})
        )
    return card + _readme.text("Labels as a Hugging Face dataset", columns, parts)


def _of_objects(column: Column, source: str, options: Mapping[str, str]) -> str:
    meaning = (
        "`bbox` is x, y, width, height in pixels of the image, `category` the number of the class from 0, `iscrowd` "
        "marks ignored objects, and `segmentation` is the JSON text of COCO's run lengths, or null. The import reads "
        "boxes and classes alone: ignored objects become objects, and scores and masks are lost; `--to coco` keeps all."
    )
    command = _readme.command(source, "rows", {**options, "box": "xywh", "unit": "pixels"})
    return f"## {column.name}\n\n{meaning}\n\n{command}"
