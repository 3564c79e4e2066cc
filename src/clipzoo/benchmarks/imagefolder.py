"""Pictures in one folder for each class, as of ImageNet or Places365: ``imagefolder:val``.

Class names are the lines of ``classnames.txt`` (in the order of the sorted folders), else the names that OpenCLIP has
for the classes of ImageNet if the folders are WordNet ids of these 1,000 classes, all or some (ImageNet-R, ImageNet-A),
else the folders' names. Templates are the lines of ``zeroshot_classification_templates.txt``, else OpenCLIP's 80
templates if the classes are ImageNet's, else the name alone. Hidden files and folders are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipzoo.benchmarks._published.listing import below
from clipzoo.benchmarks._published.pictures import Picture, Root, benchmark
from clipzoo.benchmarks.base import PLAIN, Benchmark, Layout
from clipzoo.benchmarks.webdataset import lines_of, templates_of
from clipzoo.errors import DatasetError
from clipzoo.files import Place

SHAPE = "<class>/*.jpg"
NAMES = "classnames.txt"
WORDNET = re.compile(r"n\d{8}")


class ImageFolder:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of the classes' folders; see `Layout.open`."""
        root = Root("imagefolder", folder, options, {}, [], SHAPE)
        folders = sorted(path for path in root.path.iterdir() if path.is_dir() and path.name[0] != ".")
        if not folders:
            raise DatasetError(f"imagefolder: {root.path} has no folders. This layout is {SHAPE}")
        names, templates = _names(root, folders)
        pictures = {
            key: Picture(path, target=i)
            for i, one in enumerate(folders)
            for key, path in root.found(below(one), root.stem).items()
        }
        return benchmark(root.some(pictures, "."), {}, names, templates=templates)


LAYOUT: Layout = ImageFolder()


def _names(root: Root, folders: Sequence[Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return class names in the order of the folders, and templates."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES  # slow to import
    from timm.data import ImageNetInfo

    known = dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True))  # both in the order of the ids
    ids, names = [one.name for one in folders], lines_of(root.path, NAMES)
    imagenet = known.keys() >= set(ids)
    if names and len(names) != len(folders):
        raise DatasetError(
            f"imagefolder: {root.path} has {len(folders)} folders, but {NAMES} has {len(names)} lines. Each "
            "line names a folder, in their sorted order"
        )
    if not names and not imagenet and all(map(WORDNET.fullmatch, ids)):
        strange = [one for one in ids if one not in known]
        raise DatasetError(
            f"imagefolder: the folders of {root.path} are WordNet ids, and {len(strange)} of {len(ids)} are not among "
            f"ImageNet's 1,000 classes, such as {strange[0]}. Zero-shot needs names instead of ids. Write "
            f"{root / NAMES} with one name per line, in the order of the sorted folders"
        )
    default = tuple(known[one] if imagenet else re.sub(r"[_-]+", " ", one) for one in ids)
    usual = imagenet and (not names or len(ids) == len(known))
    written = tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES) if usual else PLAIN
    return names or default, templates_of(root.path) or written
