"""SUN RGB-D: ``sunrgbd:SUNRGBD?depth=bfx``.

Each picture's folder has ``image/*.jpg``, ``depth/*.png``, ``depth_bfx/*.png`` (holes filled) and ``scene.txt``. The
16 bits of depth are rotated to the left by three; in millimeters, 0 is unknown, at most 10 m. ``depth`` is ``bfx``
(default) or ``raw``. ``split=test`` or ``train`` needs ``allsplit.mat`` of the toolbox: ``splits=PATH``; the default,
``all``, reads every picture. Scenes are the classes, those of ``all`` in every split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipzoo.benchmarks._published.depth import convention, metric
from clipzoo.benchmarks._published.listing import below, inside, text_of
from clipzoo.benchmarks._published.matlab import matlab
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, PictureFiles, Root, benchmark, numbers
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.tasks.depth import Depth

FARTHEST = 10.0
FIELDS = {"test": "alltest", "train": "alltrain"}
DEPTHS = {"bfx": "depth_bfx", "raw": "depth"}
SHAPE = "<sensor>/…/<picture>/image/*.jpg with depth_bfx/*.png"


class SunRgbd:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the dataset's folder; see `Layout.open`."""
        known = {"split": ("all", "test", "train"), "depth": ("bfx", "raw"), "splits": ()}
        root = Root("sunrgbd", folder, options, known, [], SHAPE)
        images = (path for path in below(root.path) if path.parent.name == "image" and path.parent != root.path)
        paths = root.found(images, lambda path: path.parent.parent.relative_to(root.path).as_posix())
        chosen = _split(root, paths)
        scenes = {key: _scene(path) for key, path in paths.items()}
        names = tuple(sorted({*scenes.values()} - {""}))  # of all splits, so that an index means the same in each
        classified = all(scenes[key] for key in chosen)
        pictures = {
            key: Picture(path, target=names.index(scenes[key]) if classified else None) for key, path in chosen.items()
        }
        reader: PictureFiles = root.some(pictures, ".")
        depths = {key: _depth_file(root, path) for key, path in chosen.items()}
        labels = LabelFiles(convention("z"), {key: path for key, path in depths.items() if path}, _depth)
        shown = [name.replace("_", " ") for name in names] if classified else []
        return benchmark(reader, {"depth": labels}, shown)


LAYOUT: Layout = SunRgbd()


def _depth_file(root: Root, picture: Path) -> Path | None:
    folder = picture.parent.parent / DEPTHS[root.options["depth"]]
    files = inside(folder) if folder.is_dir() else []
    return next((path for path in files if path.suffix.lower() == ".png"), None)


def _depth(key: str, path: Path) -> Depth:
    codes = numbers(path)
    if codes.dtype != np.uint16 and (codes.dtype.kind not in "ui" or codes.max(initial=0) > 65535 or codes.min() < 0):
        raise SampleError(f"{path} has no 16-bit values, which the depth of SUN RGB-D has: {codes.dtype}")
    rotated = codes.astype(np.uint16)
    millimeters = (rotated >> 3) | (rotated << 13)
    return metric(millimeters / 1000, rotated > 0, "z", FARTHEST)


def _scene(picture: Path) -> str:
    file = picture.parent.parent / "scene.txt"
    return text_of(file).strip() if file.is_file() else ""


def _split(root: Root, paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return the pictures of the split: those whose folders end like those of the toolbox's list."""
    split = root.options["split"]
    if split == "all":
        return dict(paths)
    if not root.options["splits"]:
        raise DatasetError(f"sunrgbd: split={split} needs the allsplit.mat of SUNRGBDtoolbox: add &splits=PATH")
    field = FIELDS[split]
    listed: object = matlab(Path(root.options["splits"]), "sunrgbd", [field])[field]
    ends = {str(name).partition("SUNRGBD/")[2].strip("/") for name in np.asarray(listed).ravel()}
    return {
        key: path for key, path in paths.items() if key in ends or f"SUNRGBD/{key}".partition("SUNRGBD/")[2] in ends
    }
