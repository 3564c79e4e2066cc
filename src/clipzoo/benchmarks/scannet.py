"""ScanNet as single frames: ``scannet:scannet_frames_25k``.

``scene*/color/<frame>.jpg`` with ``scene*/depth/<frame>.png``: 16-bit millimeters along the optical axis, 0 is unknown.
``scenes=PATH`` names a list of scenes, such as ``scannetv2_val.txt``; without it, all scenes are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipzoo.benchmarks._published.depth import convention, metric
from clipzoo.benchmarks._published.listing import inside, text_of
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark, numbers
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.tasks.depth import Depth

SHAPE = "scene*/color/<frame>.jpg and scene*/depth/<frame>.png"
MILLIMETERS = 1000


class ScanNet:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the folder of the scenes; see `Layout.open`."""
        root = Root("scannet", folder, options, {"scenes": ()}, [], SHAPE)
        wanted = _scenes(root)
        scenes = [path for path in root.path.glob("scene*/color") if wanted is None or path.parent.name in wanted]
        colors = (path for scene in scenes for path in inside(scene))
        listed = root.found(colors, lambda path: f"{path.parent.parent.name}/{path.stem}")
        reader = root.some({key: Picture(path) for key, path in listed.items()}, "scene*/color")
        files = {key: path.parent.parent / "depth" / f"{path.stem}.png" for key, path in listed.items()}
        return benchmark(reader, {"depth": LabelFiles(convention("z"), files, _depth)})


LAYOUT: Layout = ScanNet()


def _scenes(root: Root) -> frozenset[str] | None:
    """Return the wanted scenes; None for all."""
    if not root.options["scenes"]:
        return None
    path = Path(root.options["scenes"])
    if not path.is_file():
        raise DatasetError(f"scannet: there is no list of scenes {path}; give a file with one scene per line")
    return frozenset(text_of(path).split())


def _depth(key: str, path: Path) -> Depth:
    codes = numbers(path)
    if codes.dtype.kind not in "ui" or codes.ndim != 2:
        raise SampleError(f"{path} is not a 16-bit depth map: it has {codes.dtype} values of shape {codes.shape}")
    return metric(codes / MILLIMETERS, codes > 0, "z")
