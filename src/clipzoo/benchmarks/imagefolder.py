"""Pictures in one folder for each class, as of ImageNet or Places365: ``imagefolder:val``.

Class names are the lines of ``classnames.txt`` (in the order of the sorted folders), else the names that OpenCLIP has
for the 1,000 classes of ImageNet if the folders are those WordNet ids, else the folders' names. Templates are the lines
of ``zeroshot_classification_templates.txt``, else OpenCLIP's 80 templates if the classes are ImageNet's, else the name
alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipzoo.benchmarks._published.pictures import PICTURES, Picture, Root, benchmark
from clipzoo.benchmarks.base import PLAIN, Benchmark, Layout
from clipzoo.benchmarks.webdataset import lines_of
from clipzoo.errors import DatasetError
from clipzoo.files import Place

SHAPE = "<class>/*.jpg"
WORDNET = re.compile(r"n\d{8}")


class ImageFolder:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of the classes' folders; see `Layout.open`."""
        root = Root("imagefolder", folder, options, {}, [], SHAPE)
        folders = sorted(path for path in root.path.iterdir() if path.is_dir())
        if not folders:
            raise DatasetError(f"imagefolder: {root.path} has no folders. This layout is {SHAPE}")
        names, templates = _names(root, folders)
        pictures = {
            path.relative_to(root.path).with_suffix("").as_posix(): Picture(path, target=i)
            for i, one in enumerate(folders)
            for path in one.rglob("*")
            if path.suffix in PICTURES
        }
        return benchmark(root.some(pictures, "."), {}, names, templates=templates)


LAYOUT: Layout = ImageFolder()


def _names(root: Root, folders: Sequence[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return class names in the order of the folders, and templates."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES  # slow to import

    imagenet = len(folders) == len(IMAGENET_CLASSNAMES) and all(WORDNET.fullmatch(one.name) for one in folders)
    names = lines_of(root.path, "classnames.txt")
    if names and len(names) != len(folders):
        raise DatasetError(
            f"imagefolder: {root.path} has {len(folders)} folders, but classnames.txt has {len(names)} lines. Each "
            "line names a folder, in their sorted order"
        )
    default = tuple(IMAGENET_CLASSNAMES) if imagenet else tuple(re.sub(r"[_-]+", " ", one.name) for one in folders)
    written = tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES) if imagenet else PLAIN
    return names or default, lines_of(root.path, "zeroshot_classification_templates.txt") or written
