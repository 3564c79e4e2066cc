"""Segments of COCO's panoptic format as classes: ``panoptic:panoptic.json?maps=folder&classes=all``, by sample key.

A map is a PNG whose colors are numbers of segments, R + 256 G + 256² B, and the JSON tells each segment's category.
Pixels of no segment (0) are unknown; things, stuff and crowds alike are of their class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipzoo.errors import SampleError
from clipzoo.experts import _boxes
from clipzoo.experts._answers import PATTERN, answer, split
from clipzoo.experts.base import ExpertCard
from clipzoo.files import place, state
from clipzoo.importers import _coco, files
from clipzoo.importers import base as _keyed
from clipzoo.importers.base import Importer, inside, same_aspect
from clipzoo.importers.coco import PARSERS as COCO
from clipzoo.importers.coco import REQUIRED as QUESTIONS
from clipzoo.tasks.base import Convention
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import Size

REQUIRED = {"classes": QUESTIONS["classes"], "maps": "the folder of the PNGs that the JSON names"}
OTHERS = "drop or ignore: pixels of classes that are not in classes are unknown"
OPTIONAL = {
    "match": _coco.MATCHED, "rename": _coco.RENAME, "pattern": PATTERN, **_boxes.OPTIONAL, "others": OTHERS,
}  # fmt: skip
PARSERS = {**COCO, "maps": lambda text: {"maps": text}}


def create(name: str) -> Panoptic:
    """The expert of ``panoptic.json?maps=…&classes=…``.

    Raises:
        ExpertError: the URI leaves a question open, or file or folder are not sound as a whole.
    """
    path, _, query = name.partition("?")
    given = split(query)
    answers = answer(given, REQUIRED, OPTIONAL, PARSERS, "panoptic", "segmentation")
    folder = _keyed.folder(answers["maps"], f"panoptic:{name}")
    file = _coco.read(place(path), answers)
    names = tuple(file.categories.values())
    space = _boxes.Space(names if given["classes"] == _coco.ALL else answers["classes"], answers.get("others", ""))
    space.check(names, path)
    convention = Convention(space.classes)
    card = _keyed.card(f"panoptic:{name}", "segmentation", given, answers, convention, file.sha256)
    return Panoptic(card, file, space, folder)


class Panoptic(Importer):
    """Looks maps up in a folder, and what their segments are in a file."""

    def __init__(self, card: ExpertCard, file: _coco.Annotated, space: _boxes.Space, folder: Path) -> None:
        super().__init__()
        self.card, self.file, self.space, self.folder = card, file, space, folder
        self.notes = file.notes

    def place(self, key: str) -> str | None:
        """The image's name in the file."""
        name = self.file.name(key)
        return name if name in self.file.pictures else None

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        return self.file.hint(keys)

    def state(self, key: str) -> str:
        """See `Expert.state`; of the map, since the card knows the JSON."""
        return state(self._map(key)[0])

    def look_up(self, key: str, size: Size) -> Segmentation:
        """See `Importer.look_up`."""
        path, annotation = self._map(key)
        colors = files.read(path, colors=True)
        same_aspect((colors.shape[0], colors.shape[1]), size, str(path))
        return self._label(colors.astype(np.int64) @ np.array([1, 1 << 8, 1 << 16]), annotation, path)

    def _map(self, key: str) -> tuple[Path, dict[str, Any]]:
        """The file of a sample's map, and what the JSON tells of it."""
        told = self.file.annotations.get(self.file.picture(key).id, ())
        if len(told) != 1 or not isinstance(told[0].get("file_name"), str):
            raise SampleError(f"the image needs one annotation with a file_name: it has {len(told)}")
        inside(told[0]["file_name"])
        return self.folder / told[0]["file_name"], told[0]

    def _label(self, numbers: Any, annotation: dict[str, Any], path: Path) -> Segmentation:
        """The label of a map of segments' numbers [H,W]."""
        ids: dict[Any, int | None] = {0: None}
        for segment in annotation.get("segments_info") or ():
            ids[segment.get("id")] = self.space.number(self.file.category(segment))
        present, places = np.unique(numbers, return_inverse=True)
        strange = [number for number in present.tolist() if number not in ids]
        if strange:
            raise SampleError(f"a segment that the JSON does not tell of: {strange[0]} in {path}")
        found = [ids[number] for number in present.tolist()]
        valid = np.array([one is not None for one in found])
        values = np.array([one or 0 for one in found], np.uint16)
        return Segmentation(values[places].reshape(numbers.shape), valid[places].reshape(numbers.shape))
