"""Captions in Karpathy's format: ``karpathy:dataset_coco.json?split=test&images=PATH``.

Pictures are ``<images>/<filepath>/<filename>``, by default next to the JSON. All sentences of a picture are its
captions; retrieval is measured on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from clipzoo.benchmarks._published.pictures import Picture, Root, benchmark
from clipzoo.benchmarks.base import Benchmark, Layout
from clipzoo.errors import DatasetError
from clipzoo.files import Place
from clipzoo.plugins import hint

SHAPE = "a JSON with images: filename, split and sentences with raw"


class Karpathy:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open a JSON; see `Layout.open`."""
        if not (isinstance(folder, Path) and folder.is_file()):
            raise DatasetError(f"karpathy: {folder} is not a file; name the JSON, such as dataset_coco.json")
        root = Root("karpathy", folder.parent, options, {"split": (), "images": ()}, [folder.name], SHAPE)
        images, split = Path(root.options["images"] or folder.parent), root.options["split"] or "test"
        try:
            listed = json.loads(folder.read_bytes())["images"]
            splits = {str(one["split"]) for one in listed}
            chosen = {Path(one.get("filepath", ""), one["filename"]): one for one in listed if one["split"] == split}
            paths = root.by_key((str(name.with_suffix("")), name) for name in chosen)
            pictures = {
                key: Picture(
                    images / name, tuple(" ".join(str(one["raw"]).split()) for one in chosen[name]["sentences"])
                )
                for key, name in paths.items()
            }
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"karpathy: {folder} is not {SHAPE} ({type(error).__name__}: {error})") from error
        if not pictures:
            raise DatasetError(f"karpathy: {folder} has no split {split!r}; {hint(split, splits)}")
        return benchmark(root.some(pictures, "."), {})


LAYOUT: Layout = Karpathy()
