"""WebDataset: the shards of the dataset with label members next to picture and caption; keys are kept.

Maps are PNG files, ``<key>.depth.png``, with the conventions of ``--to png``; objects are JSON,
``<key>.detection.json``. The name of a member is the task, or ``<task>-<column>`` if several columns have this task.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from clipzoo.errors import SampleError, StoreError
from clipzoo.files import Place
from clipzoo.labeling.exports import _folder, _maps, _names, _readme
from clipzoo.labeling.exports._objects import records
from clipzoo.labeling.exports.base import Labeled, Labels
from clipzoo.readers.webdataset import write_shard
from clipzoo.readers.webdataset.tar import is_kept
from clipzoo.store import Column
from clipzoo.tasks.detection import Detection

TASKS = (*_maps.TASKS, "detection")
FOLDER = SEVERAL = True

OBJECTS = (
    "JSON: width and height of the picture, and objects with `bbox` (x, y, width, height in pixels), `category`, "
    "`category_id` (from 0), `score`, `iscrowd` (ignored), and `segmentation` (COCO run lengths) if the object has a "
    "mask. `clipzoo labels import` does not read this member; export the column with `--to coco` as well to import it."
)


def write(labels: Labels, column: Column, out: Place) -> None:
    """See `clipzoo.labeling.exports.base.Write`."""
    folder, names = cast(Path, out), _names.of(labels.columns)
    for one in labels.columns:
        if one.task == "segmentation":
            (folder / f"{names[one.name]}.classes.txt").write_bytes(_readme.class_list(one))
    for shard, pictures in itertools.groupby(labels, lambda one: one.sample.shard):
        try:
            path = _folder.inside(folder, f"{shard.removesuffix('.tar')}.tar")
        except SampleError as error:
            raise StoreError(f"a shard of the dataset has no safe name: {error}") from error
        write_shard(path, _samples(pictures, labels, names))


def _samples(
    pictures: Iterator[Labeled], labels: Labels, names: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """Yield key and members of each picture of a shard whose key is possible in WebDataset."""
    for one in pictures:
        try:
            _folder.inside(Path(), one.key)
            if not is_kept(f"{one.key}.txt"):
                raise SampleError(f"the key {one.key!r} is not UTF-8. Give the sample another key")
            if "." in one.key.rpartition("/")[2]:
                raise SampleError(
                    f"the key {one.key!r} has a dot, where WebDataset would end the key. Give the sample another key"
                )
        except SampleError as error:
            for column in labels.columns:
                if column.name in one.labels:
                    labels.leave_out(one, column, str(error))
        else:
            yield one.key, _members(one, labels, names)


def _members(one: Labeled, labels: Labels, names: Mapping[str, str]) -> Mapping[str, bytes]:
    members = {one.format: one.sample.image, "txt": one.sample.caption.encode()}
    if one.sample.others:
        members["json"] = json.dumps({"captions": [one.sample.caption, *one.sample.others]}).encode()
    for column in labels.columns:
        if column.name not in one.labels:
            continue
        label = one.labels[column.name]
        if isinstance(label, Detection):
            found = list(records(label, column.convention.classes))
            values = {"width": one.size[1], "height": one.size[0], "objects": found}
            members[f"{names[column.name]}.json"] = json.dumps(values).encode()
            continue
        members[f"{names[column.name]}.png"], change = _maps.encode(label, column.convention)
        if change:
            labels.note(one, column, change)
    return members


def readme(columns: Sequence[Column], out: str) -> str:
    """See `clipzoo.labeling.exports.base.LabelFormatPlugin`."""
    names = _names.of(columns)
    listed = ", ".join(f"`{names[one.name]}.{'json' if one.task == 'detection' else 'png'}`" for one in columns)
    shards = (
        f"Each sample has its picture, its caption (`txt`; all captions in `json` if it has several), and {listed}. "
        "A sample may lack the members of labels that it does not have. Keys are those of the dataset."
    )
    load = 'import webdataset as wds\n\ndataset = wds.WebDataset("00000.tar").decode("pil")'
    parts = [shards, f"```python\n{load}\n```"]
    for one in columns:
        name = names[one.name]
        more = {"label": f"{name}.png"}
        of_map = one.task != "detection"
        parts.append(
            _readme.of_map(one, out, "tars", f"{out}/{name}.classes.txt", more)
            if of_map
            else f"## {one.name}\n\n{OBJECTS}"
        )
    return _readme.text("Labels in WebDataset shards", columns, parts)
