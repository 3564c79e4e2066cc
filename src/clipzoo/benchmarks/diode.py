"""DIODE: ``diode:val/indoors?along=z``.

``*.png`` with ``*_depth.npy`` (float meters) and ``*_depth_mask.npy`` (1 where there was a return). The dataset's
documentation does not say what depth is measured along, so ``along`` must be given: ``z`` (optical axis) or ``ray``.

``task=normals``: ``*_normal.npy``, vectors [H,W,3], (0, 0, 0) where unknown (README of diode-dataset/diode-devkit),
next to the pictures, or below ``normals=PATH`` with the same names. Their axes are not documented: ``frame`` must be
given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from clipzoo.benchmarks._published.depth import convention, metric
from clipzoo.benchmarks._published.listing import below
from clipzoo.benchmarks._published.normals import frame_of, vectors
from clipzoo.benchmarks._published.pictures import LabelFiles, Picture, Root, benchmark
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Depth
from clipzoo.tasks.normals import Normals

SHAPE = "scene_*/scan_*/<name>.png with <name>_depth.npy and <name>_depth_mask.npy"
ENDING = "_normal.npy"
NORMALS = f"scene_*/scan_*/<name>.png with <name>{ENDING}"


class Diode:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open a folder, with all folders below it; see `Layout.open`."""
        if options.get("task", "depth") != "depth":
            return _normals(folder, options)
        if options.get("along") not in ("z", "ray"):
            raise DatasetError(
                "diode: say what depth is measured along: diode:PATH?along=z (optical axis), or along=ray"
            )
        root = Root("diode", folder, options, {"along": (), "task": ("depth",)}, [], SHAPE)
        along = cast(Along, root.options["along"])
        paths = (path for path in below(root.path) if path.with_name(f"{path.stem}_depth.npy").is_file())
        pictures = {key: Picture(path) for key, path in root.found(paths, root.stem, (".png",)).items()}
        reader = root.some(pictures, ".")
        files = {key: root / f"{key}_depth.npy" for key in pictures}
        masks = {key: _mask(path) for key, path in files.items()}
        truth = LabelFiles(convention(along), files, lambda key, path: _depth(path, along), others=masks)
        return benchmark(reader, {"depth": truth})


LAYOUT: Layout = Diode()


def _normals(folder: Place, options: Mapping[str, str]) -> Benchmark:
    known = {"task": ("depth", "normals"), "frame": (), "normals": ()}
    root = Root("diode", folder, options, known, [], NORMALS)
    frame = frame_of("diode", root.options)
    files = Path(root.options["normals"] or root.path)
    names = (path.relative_to(files).as_posix() for path in below(files))
    keys = [name.removesuffix(ENDING) for name in names if name.endswith(ENDING)]
    paths = root.found(below(root.path), root.stem, (".png",))
    pictures = {key: Picture(paths[key]) for key in keys if key in paths}
    if keys and not pictures:
        raise DatasetError(
            f"diode: {files} has {keys[0]}{ENDING}, but {root.path} has no {keys[0]}.png. Give folders of the same "
            "level, such as diode:val?task=normals&normals=val_normals"
        )
    labels = {key: files / f"{key}{ENDING}" for key in pictures}
    truth = LabelFiles(Convention(), labels, lambda key, path: _vectors(path, frame), named=frame)
    return benchmark(root.some(pictures, "."), {"normals": truth})


def _vectors(path: Path, frame: str) -> Normals:
    try:
        return vectors(path, np.load(path, allow_pickle=False), frame)
    except ValueError as error:
        raise SampleError(f"{path} is damaged: {error}") from error


def _mask(path: Path) -> Path:
    return path.with_name(path.name.replace("_depth.npy", "_depth_mask.npy"))


def _depth(path: Path, along: Along) -> Depth:
    mask = _mask(path)
    try:
        values, valid = (np.load(file, allow_pickle=False) for file in (path, mask))
    except ValueError as error:
        raise SampleError(f"{path} or its mask is damaged: {error}") from error
    values = values.reshape(values.shape[:2])
    if valid.shape != values.shape:
        raise SampleError(f"{mask} is {list(valid.shape)}, but the depth is {list(values.shape)}")
    return metric(values, valid > 0, along)
