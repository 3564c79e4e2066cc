"""PNG files: a folder per column with one file per picture, ``<out>/<task>/<slug>/<key>.png``.

Segmentation is a palette PNG (255 is unknown), metric depth 16 bits in millimeters (0 is unknown), normals RGB in the
frame x-right, y-up, z-toward, and edges gray. `clipzoo labels import --format files` reads all of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from clipzoo.errors import SampleError
from clipzoo.files import Place
from clipzoo.labeling.exports import _folder, _maps, _readme
from clipzoo.labeling.exports.base import Labels
from clipzoo.store import Column

TASKS = _maps.TASKS
FOLDER = SEVERAL = True


def write(labels: Labels, column: Column, out: Place) -> None:
    """See `clipzoo.labeling.exports.base.Write`."""
    folder = cast(Path, out)
    for one in labels.columns:
        (folder / one.name).mkdir(parents=True)
        if one.task == "segmentation":
            (folder / f"{one.name}.classes.txt").write_bytes(_readme.class_list(one))
    for picture in labels:
        for one in labels.columns:
            if one.name not in picture.labels:
                continue
            data, change = _maps.encode(picture.labels[one.name], one.convention)
            try:
                _folder.put(folder / one.name, f"{picture.key}.png", data)
            except SampleError as error:
                labels.leave_out(picture, one, str(error))
                continue
            if change:
                labels.note(picture, one, change)


def readme(columns: Sequence[Column], out: str) -> str:
    """See `clipzoo.labeling.exports.base.LabelFormatPlugin`."""
    parts = [
        _readme.of_map(one, f"{out}/{one.name}", "files", f"{out}/{one.name}.classes.txt", {"suffix": ".png"})
        for one in columns
    ]
    return _readme.text("Labels as PNG files", columns, ["The file of a label is `<task>/<column>/<key>.png`.", *parts])
