"""NYU Depth v2: ``nyu:nyu_depth_v2_labeled.mat?split=test``, or the folder of one split with pairs of files.

- The labeled ``.mat`` (HDF5, axes reversed) needs ``splits.mat`` next to it, or ``splits=PATH``: 795 pictures for
  training, 654 for testing. ``depth`` is ``filled`` (in-painted, as usual) or ``raw``. This needs h5py and scipy:
  ``pip install 'clipzoo[benchmarks]'``.
- A folder is read with all folders below it: ``rgb_<n>.jpg`` and ``sync_depth_<n>.png``, in millimeters, 0 is unknown.

Depth is in meters along the optical axis; beyond 10 m it is unknown. ``crop=eigen`` (default) scores rows 45 to 470 and
columns 41 to 600 of 480×640 only.

``task=normals`` of the labeled file, from a folder next to it or ``normals=PATH``; see `KINDS`. Their axes differ
between publications and are not documented: ``frame`` must be given, and one that disagrees with the depth is refused.
There is no crop by default.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipzoo.benchmarks._published.depth import convention, cropped, inside, metric, named
from clipzoo.benchmarks._published.listing import below
from clipzoo.benchmarks._published.matlab import hdf5, matlab
from clipzoo.benchmarks._published.normals import check_frame, frame_of, picture_vectors, vectors
from clipzoo.benchmarks._published.pictures import SHARD, LabelFiles, Picture, Root, benchmark, numbers
from clipzoo.benchmarks.base import Benchmark, Layout, Loader
from clipzoo.errors import DatasetError
from clipzoo.experts.base import sha256
from clipzoo.files import Place
from clipzoo.readers import Entry, Reader
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals, normals_from_depth
from clipzoo.types import Camera, Sample

FARTHEST = 10.0
OPTIONS = {
    "task": ("depth", "normals"),
    "frame": (),
    "normals": (),
    "split": ("test", "train"),
    "crop": ("eigen", "none"),
    "depth": ("filled", "raw"),
    "splits": (),
}
KINDS = {
    "nyu_normals_gt": "{split}/{number:05d}.png",
    "normals_gt": "normals/{row:04d}.png",
    "marr": "nm_{number:06d}.mat",
}
"""Usual folder -> file of the normals of a picture, counted from 1 (number) or 0 (row).

- Ladický et al. (ECCV 2014): pictures of value / 127.5 - 1. Unknown: gray, and where the file's ``rawDepths`` are 0.
- Eigen and Fergus (ICCV 2015): the same, with ``masks/`` of the same names, 0 where unknown.
- Bansal et al. (Marr Revisited, CVPR 2016): ``nx``, ``ny`` and ``nz``, with ``depthValid``, 0 where unknown.
"""
CAMERA = Camera(518.8579 / 640, 519.4696 / 480, 325.5824 / 640, 253.7362 / 480)
"""The color camera of the labeled pictures (camera_params.m of the dataset's toolbox)."""
CHECKED = 5
"""Pictures whose normals are compared with those of their depth, to refuse a wrong frame."""
INDICES = {"test": "testNdxs", "train": "trainNdxs"}
SHAPE = "nyu_depth_v2_labeled.mat with splits.mat, or folders of rgb_<n>.jpg with sync_depth_<n>.png"


class Nyu:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the labeled file, or a folder of pairs; see `Layout.open`."""
        if isinstance(folder, Path) and folder.suffix == ".mat":
            crop = {"crop": "none"} if options.get("task") == "normals" else {}
            root = Root("nyu", folder.parent, {**crop, **options}, OPTIONS, [folder.name], SHAPE)
            return _labeled(root, folder)
        return _pairs(Root("nyu", folder, options, {"crop": OPTIONS["crop"]}, [], SHAPE))


LAYOUT: Layout = Nyu()


def _crop(root: Root) -> str:
    return "nyu-eigen" if root.options["crop"] == "eigen" else "none"


def _pairs(root: Root) -> Benchmark:
    paths = root.found((path for path in below(root.path) if path.name.startswith("rgb_")), root.stem)
    pictures = {key: Picture(path) for key, path in paths.items()}
    reader = root.some(pictures, ".")
    files = {
        key: one.path.with_name(f"sync_depth_{one.path.stem.removeprefix('rgb_')}.png") for key, one in pictures.items()
    }

    def read(key: str, path: Path) -> Depth:
        codes = numbers(path)
        return metric(codes / 1000, codes > 0, "z", FARTHEST)

    crop = _crop(root)
    return benchmark(reader, {"depth": LabelFiles(convention("z"), files, read, cropped(crop), named(crop))})


def _labeled(root: Root, path: Path) -> Benchmark:
    splits = Path(root.options["splits"] or path.with_name("splits.mat"))
    if not splits.is_file():
        raise DatasetError(
            f"nyu: there is no {splits}, which lists the pictures of each split. Put the splits.mat of the dataset "
            f"next to {path.name}, or name it: nyu:{path}?splits=PATH"
        )
    name = INDICES[root.options["split"]]
    indices = np.asarray(matlab(splits, "nyu", [name])[name]).ravel()
    keys = root.part(f"{int(index):04d}" for index in indices)
    reader = LabeledPictures(path, [int(key) - 1 for key in keys])
    if root.options["task"] == "normals":
        return Benchmark(reader, reader.shards, {"normals": _normals(root, reader)}, pictures=reader.pictures())
    field = "depths" if root.options["depth"] == "filled" else "rawDepths"
    labels = LabeledDepth(reader, field, _crop(root))
    return Benchmark(reader, reader.shards, {"depth": labels}, pictures=reader.pictures())


def _normals(root: Root, reader: LabeledPictures) -> LabelFiles[Normals]:
    frame = frame_of("nyu", root.options)
    places = [Path(root.options["normals"])] if root.options["normals"] else [root / name for name in KINDS]
    row, split = next(iter(reader.rows.values())), root.options["split"]
    found = [
        (place, kind)
        for place in places
        for kind in KINDS.values()
        if (place / kind.format(split=split, number=row + 1, row=row)).is_file()
    ]
    if not found:
        raise DatasetError(
            f"nyu: there are no normals of picture {row + 1} in {', '.join(map(str, places))}. Files are "
            f"{', '.join(f'{name}/{kind}' for name, kind in KINDS.items())}. Unpack one of these publications next to "
            f"{reader.path.name}, or name its folder: nyu:{reader.path}?task=normals&frame={frame}&normals=PATH"
        )
    place, kind = found[0]
    files = {key: place / kind.format(split=split, number=row + 1, row=row) for key, row in reader.rows.items()}
    masks = {  # none for Bansal et al., whose files have their own
        key: path.parent.with_name("masks") / path.name if kind == KINDS["normals_gt"] else reader.path
        for key, path in files.items()
        if path.suffix != ".mat"
    }

    def read(key: str, path: Path) -> Normals:
        if path.suffix == ".mat":
            fields = matlab(path, "nyu", ["nx", "ny", "nz", "depthValid"])
            channels = [np.asarray(fields[name]) for name in ("nx", "ny", "nz")]
            return vectors(path, np.stack(channels, 2), frame, np.asarray(fields["depthValid"]) > 0)
        known = numbers(masks[key]) if kind == KINDS["normals_gt"] else reader.array("rawDepths", key)
        return vectors(path, picture_vectors(path), frame, known > 0)

    crop = _crop(root)
    truth = LabelFiles(Convention(), files, read, lambda label: _cropped(label, crop), f"{frame} {named(crop)}", masks)
    some = [*files][:: max(len(files) // CHECKED, 1)][:CHECKED]
    check_frame("nyu", frame, ((truth.label(key), _measured(reader, key)) for key in some))
    return truth


def _measured(reader: LabeledPictures, key: str) -> Normals:
    """Return the normals of the depth of a picture."""
    values = reader.array("depths", key)
    return normals_from_depth(metric(values, reader.array("rawDepths", key) > 0, "z", FARTHEST), CAMERA)


def _cropped(label: Normals, crop: str) -> Normals:
    return Normals(label.vectors, label.valid & inside(crop, label.valid.shape))


class LabeledPictures(Reader):
    """Pictures of the labeled file; they are encoded as PNG when they are read.

    Args:
        path: the file.
        rows: of the pictures, from 0; their keys count from 1, as in the dataset's own lists.
    """

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        self.path, self.location = path, f"nyu:{path}"
        with hdf5(path, "nyu", ["images", "depths"]) as file:
            count, channels, width, height = file["images"].shape
            if channels != 3 or max(rows, default=-1) >= count or min(rows, default=0) < 0:
                raise DatasetError(
                    f"nyu: {path} has images of shape {file['images'].shape}; the split needs {max(rows) + 1}"
                )
        self.bytes = 3 * width * height
        self.rows = {f"{row + 1:04d}": row for row in sorted(rows)}
        keys = list(self.rows)
        self._keys = {f"{i:05d}": keys[i * SHARD : (i + 1) * SHARD] for i in range(-(-len(keys) // SHARD))}
        self.shards = tuple(self._keys)

    def index(self, shard: str) -> list[Entry]:
        """Return an entry for each picture of the split."""
        return [Entry(key, shard, {"image": (self.rows[key], self.bytes)}, "image") for key in self._keys[shard]]

    def read(self, entry: Entry) -> Sample:
        """Return a picture as PNG."""
        data = io.BytesIO()
        Image.fromarray(self.array("images", entry.key)).save(data, "PNG", compress_level=1)
        return Sample(entry.key, entry.shard, data.getvalue(), "")

    def pictures(self) -> frozenset[Path]:
        """Return a path for each picture, as if the file was a folder: two splits with a common one are refused."""
        return frozenset(self.path.resolve() / key for key in self.rows)

    def array(self, field: str, key: str) -> NDArray[np.number]:
        """Return one row of a field as [H,W] or [H,W,C]: the file has its axes reversed."""
        with hdf5(self.path, "nyu", [field]) as file:
            return np.ascontiguousarray(np.asarray(file[field][self.rows[key]]).T)


class LabeledDepth:
    """Depth of the labeled file; see `Labels`."""

    def __init__(self, reader: LabeledPictures, field: str, crop: str) -> None:
        self.reader, self.field, self.crop = reader, field, crop

    @property
    def convention(self) -> Convention:
        """Metric depth along the optical axis."""
        return convention("z")

    def loaders(self, entries: Sequence[Entry]) -> list[Loader | None]:
        """Return a function for each entry that reads its depth."""
        return [partial(self._label, entry.key) for entry in entries]

    def _label(self, key: str) -> Depth:
        values = self.reader.array(self.field, key)
        return cropped(self.crop)(metric(values, values > 0, "z", FARTHEST))

    def places(self) -> Iterator[Place]:
        """Yield nothing: the file is on this disk."""
        return iter(())

    def identity(self) -> str:
        """Return the SHA-256 of the file, with the field and the crop."""
        return f"{sha256(self.reader.path)} {self.field} {named(self.crop)}"
