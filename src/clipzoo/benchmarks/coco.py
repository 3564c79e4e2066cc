"""COCO: ``coco:PATH?split=val2017``.

Pictures are in ``<split>/`` or ``images/<split>/``. ``task`` is ``detection`` (boxes and masks of
``annotations/instances_<split>.json``; crowds are ignored) or ``panoptic`` (the classes of things and stuff, of
``annotations/panoptic_<split>.json`` and the folder of its maps) or ``stuff`` (`clipzoo.benchmarks._published.stuff`:
the PNGs of ``stuffthingmaps_trainval2017``). ``annotations/captions_<split>.json``, if it exists,
gives the captions for retrieval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from clipzoo.benchmarks._published import stuff
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, class_map
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.importers import coco, panoptic
from clipzoo.importers.coco import Coco
from clipzoo.importers.panoptic import Panoptic
from clipzoo.tasks.base import Convention

SHAPE = "<split>/*.jpg and annotations/instances_<split>.json"


class CocoFolder:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of a release; see `Layout.open`."""
        known = {"split": (), "task": ("detection", "panoptic", "stuff")}
        root = Root("coco", folder, {"split": "val2017", **options}, known, ["annotations"], SHAPE)
        split, task = root.options["split"], root.options["task"]
        if task == "stuff":
            return _stuff(root)
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
        paths = {path.stem: path for path in (root / pictures).glob("*.jpg") if expert.place(path.stem)}
        listed = {key: Picture(path, captions.get(path.name, ())) for key, path in paths.items()}
        reader = root.some(listed, pictures)
        files = {key: root / name if task == "detection" else maps / f"{key}.png" for key in paths}
        labels = LabelFiles(expert.card.convention, files, lambda key, path: expert.look_up(key, reader.size(key)))
        return benchmark(reader, {expert.card.task: labels})


LAYOUT: Layout = CocoFolder()


def _stuff(root: Root) -> Benchmark:
    split = root.options["split"]
    pictures = f"images/{split}" if (root / f"images/{split}").is_dir() else split
    root.require(pictures)
    folders = [name.format(split=split) for name in stuff.FOLDERS]
    maps = next((root / name for name in folders if (root / name).is_dir()), None)
    if maps is None:
        raise DatasetError(
            f"coco: {root.path} has none of {', '.join(folders)}, which have "
            "the PNGs of COCO-Stuff. Unpack stuffthingmaps_trainval2017.zip into the folder stuffthingmaps/ there. The "
            "JSON of stuff_trainval2017.zip is not read"
        )
    captions = _captions(root / f"annotations/captions_{split}.json")
    paths = {path.stem: path for path in (root / pictures).glob("*.jpg")}
    listed = {key: Picture(path, captions.get(path.name, ())) for key, path in paths.items()}
    reader = root.some(listed, pictures)
    files = {key: maps / f"{key}.png" for key in paths}
    truth = LabelFiles(Convention(stuff.CLASSES), files, lambda key, path: class_map(path, stuff.CODES))
    return benchmark(reader, {"segmentation": truth})


def _captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Return file name -> captions; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
        names = {image["id"]: image["file_name"] for image in values["images"]}
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
