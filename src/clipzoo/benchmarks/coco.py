"""COCO: ``coco:PATH?split=val2017``.

Pictures are in ``<split>/`` or ``images/<split>/``. ``task`` is ``detection`` (boxes and masks of
``annotations/instances_<split>.json``; crowds are ignored) or ``panoptic`` (the classes of things and stuff, of
``annotations/panoptic_<split>.json`` and the folder of its maps), ``stuff`` (`clipzoo.benchmarks._published.stuff`:
the PNGs of ``stuffthingmaps_trainval2017``) or ``stuff-only`` (the 91 classes of stuff, and ``other`` for all things,
of ``annotations/stuff_<split>.json``). ``annotations/captions_<split>.json``, if it exists, gives the captions for
retrieval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from clipzoo.benchmarks._published import stuff
from clipzoo.benchmarks._published.listing import inside
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, class_map
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.importers import coco, panoptic
from clipzoo.importers.coco import Coco
from clipzoo.importers.panoptic import Panoptic
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.segmentation import Segmentation

SHAPE = "<split>/*.jpg and annotations/instances_<split>.json"


class CocoFolder:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of a release; see `Layout.open`."""
        known = {"split": (), "task": ("detection", "panoptic", "stuff", "stuff-only")}
        root = Root("coco", folder, {"split": "val2017", **options}, known, ["annotations"], SHAPE)
        split, task = root.options["split"], root.options["task"]
        if task.startswith("stuff"):
            return _stuff(root, *(_maps(root) if task == "stuff" else _masks(root)))
        name = f"annotations/{'instances' if task == 'detection' else 'panoptic'}_{split}.json"
        root.require(name)
        pictures = f"images/{split}" if (root / f"images/{split}").is_dir() else split
        root.require(pictures)
        maps = root / f"annotations/panoptic_{split}"
        expert: Coco | Panoptic
        if task == "detection":
            expert = coco.create(f"{root / name}?classes=all&masks=yes&match=stem")
        else:
            expert = panoptic.create(f"{root / name}?classes=all&match=stem&maps={quote(str(maps))}")
        captions = _captions(root / f"annotations/captions_{split}.json")
        paths = root.found(path for path in inside(root / pictures) if expert.place(path.stem))
        listed = {key: Picture(path, captions.get(key, ())) for key, path in paths.items()}
        reader = root.some(listed, pictures)
        files = {key: root / name if task == "detection" else maps / f"{key}.png" for key in paths}
        others = {} if task == "detection" else dict.fromkeys(paths, root / name)  # classes of the maps' segments
        labels = LabelFiles(
            expert.card.convention, files, lambda key, path: expert.look_up(key, reader.size(key)), others=others
        )
        return benchmark(reader, {expert.card.task: labels})


LAYOUT: Layout = CocoFolder()


Read = Callable[[str, Path], Segmentation]


def _stuff(root: Root, classes: Sequence[str], file: Callable[[str], Path], read: Read) -> Benchmark:
    """Return the benchmark of segmentation whose label files ``file`` names by key, and ``read`` reads."""
    split = root.options["split"]
    pictures = f"images/{split}" if (root / f"images/{split}").is_dir() else split
    root.require(pictures)
    captions = _captions(root / f"annotations/captions_{split}.json")
    paths = root.found(inside(root / pictures))
    listed = {key: Picture(path, captions.get(key, ())) for key, path in paths.items()}
    reader = root.some(listed, pictures)
    truth = LabelFiles(Convention(tuple(classes)), {key: file(key) for key in paths}, read)
    return benchmark(reader, {"segmentation": truth})


def _maps(root: Root) -> tuple[Sequence[str], Callable[[str], Path], Read]:
    """Return the arguments of `_stuff` for the PNGs, which have things and stuff."""
    folders = [name.format(split=root.options["split"]) for name in stuff.FOLDERS]
    maps = next((root / name for name in folders if (root / name).is_dir()), None)
    if maps is None:
        raise DatasetError(
            f"coco: {root.path} has none of {', '.join(folders)}, which have "
            "the PNGs of COCO-Stuff. Unpack stuffthingmaps_trainval2017.zip into the folder stuffthingmaps/ there, or "
            "use task=stuff-only for the JSON of stuff_trainval2017.zip, in which all things are one class"
        )
    return stuff.CLASSES, lambda key: maps / f"{key}.png", lambda key, path: class_map(path, stuff.CODES)


def _masks(root: Root) -> tuple[Sequence[str], Callable[[str], Path], Read]:
    """Return the arguments of `_stuff` for the JSON, which has one mask for each class of a picture."""
    name = f"annotations/stuff_{root.options['split']}.json"
    root.require(name)
    expert = coco.create(f"{root / name}?classes=all&masks=yes&match=stem")
    file, classes = expert.file, expert.card.convention.classes

    def read(key: str, path: Path) -> Segmentation:
        picture = file.picture(key)
        ids, valid = np.zeros(picture.size, np.uint16), np.zeros(picture.size, np.bool_)
        for annotation in file.annotations.get(picture.id, ()):
            mask = coco.mask_of(annotation, picture.size)
            if mask is not None:
                pixels = rle.decode(mask, picture.size)
                ids[pixels], valid = classes.index(file.category(annotation)), valid | pixels
        return Segmentation(ids, valid)

    return classes, lambda key: root / name, read


def _captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Return key -> captions; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
        names = {image["id"]: Path(image["file_name"]).stem for image in values["images"]}
        captions: dict[str, tuple[str, ...]] = {}
        for one in values["annotations"]:
            name = names[one["image_id"]]
            captions[name] = (*captions.get(name, ()), str(one["caption"]).strip())
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"coco: {path} is not a file of captions ({type(error).__name__}: {error}); expected the lists images "
            "and annotations with id, file_name, image_id and caption. Restore it, or remove it to measure no retrieval"
        ) from error
    return captions
