"""Places365 in small pictures: ``places365:PATH``.

``val_256/*.jpg`` with ``places365_val.txt`` (lines such as ``Places365_val_00000001.jpg 165``) and
``categories_places365.txt`` (lines such as ``/a/airfield 0``). Class names are those paths without the letter:
``/c/church/indoor`` is "church indoor". ``split=train``: ``data_256/`` with ``places365_train_standard.txt`` (lines
such as ``/a/airfield/00000001.jpg 0``). Of the archive ``places365standard_easyformat``, use ``imagefolder:``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipzoo.benchmarks._published.listing import lines_of
from clipzoo.benchmarks._published.pictures import Picture, Root, benchmark
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError
from clipzoo.files import Place

NAMES = "categories_places365.txt"
SPLITS = {"val": ("val_256", "places365_val.txt"), "train": ("data_256", "places365_train_standard.txt")}
"""Split -> folder of the pictures, and their list."""
SHAPE = f"val_256/*.jpg, places365_val.txt and {NAMES}; of training: data_256/ and places365_train_standard.txt"
TEMPLATES = ("a photo of a {c}.",)


class Places365:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of the lists; see `Layout.open`."""
        root = Root("places365", folder, options, {"split": tuple(SPLITS)}, [NAMES], SHAPE)
        pictures_folder, pictures_list = SPLITS[root.options["split"]]
        root.require(pictures_folder, pictures_list)
        classes = {number: name for name, number in _numbered(root / NAMES)}
        if sorted(classes) != [*range(len(classes))] or not classes:
            raise DatasetError(f"places365: {root / NAMES} must number its classes from 0 on, without gaps")
        targets = dict(_numbered(root / pictures_list))
        if wrong := [name for name, number in targets.items() if number not in classes]:
            raise DatasetError(
                f"places365: {root / pictures_list} gives {wrong[0]} the class {targets[wrong[0]]}, but {root / NAMES} "
                f"has {len(classes)} classes. Give both files of one release"
            )
        numbers = {Path(name.lstrip("/")): number for name, number in targets.items()}
        paths = root.by_key((name.with_suffix("").as_posix(), name) for name in numbers)
        pictures = {
            key: Picture(root / pictures_folder / str(name), target=numbers[name]) for key, name in paths.items()
        }
        names = [" ".join(classes[i].strip("/").split("/")[1:]).replace("_", " ") for i in range(len(classes))]
        return benchmark(root.some(pictures, pictures_folder), {}, names, templates=TEMPLATES)


LAYOUT: Layout = Places365()


def _numbered(path: Path) -> list[tuple[str, int]]:
    """Return the name and number of each line; `DatasetError` for other lines."""
    pairs = []
    for line in lines_of(path):
        name, _, number = line.rpartition(" ")
        if not name or not number.isdecimal():
            raise DatasetError(f"places365: {path} has the line {line!r}; each line is a name, a space and a number")
        pairs.append((name, int(number)))
    return pairs
