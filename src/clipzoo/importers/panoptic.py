"""Existing segments of COCO's panoptic format, as classes: ``panoptic:panoptic.json?maps=folder&classes=all``.

A map is a PNG whose colors are numbers of segments, R + 256 G + 256² B; the JSON has the category of each segment.
Pixels of no segment (0) are unknown. Things, stuff and crowds all have their class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from clipzoo.errors import SampleError
from clipzoo.experts.base import ExpertCard
from clipzoo.experts.options import split
from clipzoo.files import place, state
from clipzoo.importers import _boxes, _coco, arrays, base
from clipzoo.importers.base import Importer, inside, same_aspect
from clipzoo.importers.coco import CategoryOptions
from clipzoo.tasks.base import Convention
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import Size


class PanopticOptions(CategoryOptions):
    """Options of COCO's panoptic format."""

    maps: str = Field(description="the folder of the PNGs that the JSON names")
    others: Literal["drop", "ignore"] | None = Field(
        None, description="drop or ignore: pixels of classes that are not in classes are unknown"
    )


def create(name: str) -> Panoptic:
    """Return the importer of ``panoptic.json?maps=…&classes=…``.

    Raises:
        ExpertError: options are missing or invalid, or the file or folder as a whole is not valid.
    """
    path, _, query = name.partition("?")
    given = split(query)
    options = base.parse(PanopticOptions, given, "panoptic", "labels of segmentation")
    folder = base.folder(options.maps, f"panoptic:{name}")
    file = _coco.read(place(path), options.match, options.rename, options.pattern)
    space = options.space(file, given["classes"])
    card = base.card(f"panoptic:{name}", "segmentation", given, options, Convention(space.classes), file.sha256)
    return Panoptic(card, file, space, folder)


class Panoptic(Importer):
    """Existing maps in a folder, and the classes of their segments in a JSON file."""

    def __init__(self, card: ExpertCard, file: _coco.Annotated, space: _boxes.Space, folder: Path) -> None:
        super().__init__()
        self.card, self.file, self.space, self.folder = card, file, space, folder
        self.notes = file.notes

    def place(self, key: str) -> str | None:
        """Return the name of the image in the file."""
        name = self.file.name(key)
        return name if name in self.file.pictures else None

    def hint(self, keys: Sequence[str]) -> str:
        """See `Importer.hint`."""
        return self.file.hint(keys)

    def state(self, key: str) -> str:
        """See `Expert.state`: the state of the map; the card has the hash of the JSON."""
        return state(self._map(key)[0])

    def look_up(self, key: str, size: Size) -> Segmentation:
        """See `Importer.look_up`."""
        path, annotation = self._map(key)
        colors = arrays.read(path, colors=True)
        same_aspect((colors.shape[0], colors.shape[1]), size, str(path))
        return self._label(colors.astype(np.int64) @ np.array([1, 1 << 8, 1 << 16]), annotation, path)

    def _map(self, key: str) -> tuple[Path, dict[str, object]]:
        """Return the file of a sample's map, and its annotation."""
        annotations = self.file.annotations.get(self.file.picture(key).id, ())
        if len(annotations) != 1 or not isinstance(annotations[0].get("file_name"), str):
            raise SampleError(f"the image needs one annotation with a file_name: it has {len(annotations)}")
        name = str(annotations[0]["file_name"])
        inside(name)
        return self.folder / name, annotations[0]

    def _label(self, numbers: NDArray[np.int64], annotation: dict[str, object], path: Path) -> Segmentation:
        """Return the label of a map [H,W] of numbers of segments."""
        ids: dict[object, int | None] = {0: None}
        segments = cast(Sequence[Mapping[str, object]], annotation.get("segments_info") or ())
        for segment in segments:
            ids[segment.get("id")] = self.space.number(self.file.category(segment))
        present, places = np.unique(numbers, return_inverse=True)
        strange = [number for number in present.tolist() if number not in ids]
        if strange:
            raise SampleError(f"a segment that is not in the JSON: {strange[0]} in {path}")
        found = [ids[number] for number in present.tolist()]
        valid = np.array([one is not None for one in found])
        values = np.array([one or 0 for one in found], np.uint16)
        return Segmentation(values[places].reshape(numbers.shape), valid[places].reshape(numbers.shape))
