"""The default layout: a folder with ``images/`` (tars), ``truth/`` (a label store) and class files of CLIP_benchmark.

``images/`` is read as any dataset of tars (`readers.webdataset`), nested folders included. If it has a folder ``test``
with tars, as CLIP_benchmark writes, only that folder is read. Captions are optional: a ``.txt`` has one caption per
line. ``<key>.cls`` is a class index. Next to the tars, or one folder above them: ``classnames.txt`` with one name per
line, and ``zeroshot_classification_templates.txt`` with one template per line, such as "a photo of a {c}.".

``truth/`` is optional and has a column ``<task>/truth`` for each task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipzoo import files
from clipzoo.benchmarks._published import listing
from clipzoo.benchmarks._streaming.columns import column_labels
from clipzoo.benchmarks.base import PLAIN, Benchmark, Layout, every_caption
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.readers import Entry, open_dataset
from clipzoo.readers.webdataset import WebDataset
from clipzoo.types import Sample

CLASS = "cls"
LINES = "txt"
TEMPLATES = "zeroshot_classification_templates.txt"
SPLIT = "test"
"""The folder in which CLIP_benchmark writes the tars."""


class Folder:
    """The layout; see the module."""

    def open(self, folder: Place, options: Mapping[str, str]) -> Benchmark:
        """Open the benchmark in a folder; see `Layout.open`."""
        if options:
            raise DatasetError(f"webdataset: there is no option {next(iter(options))!r}; this layout has none")
        images, truth = folder / "images", folder / "truth"
        if not images.is_dir():
            raise DatasetError(f"{folder} has no folder images/; docs/benchmarks.md describes the layout")
        names = map(str, listing.below(images)) if isinstance(images, Path) else iter(files.below(images))
        if not any(name.lower().endswith(".tar") for name in names):
            raise DatasetError(
                f"neither {images} nor a folder in it holds a .tar; write the images as shards (docs/benchmarks.md)"
            )
        reader = open_dataset(f"{images}?format=webdataset", captions="optional")
        assert isinstance(reader, WebDataset)
        reader.location = str(images)
        inner = any(shard.startswith(f"{SPLIT}/") for shard in reader.shards)
        shards = tuple(shard for shard in reader.shards if not inner or shard.startswith(f"{SPLIT}/"))
        tar_folder = images / SPLIT if inner else images
        return Benchmark(
            reader=reader,
            shards=shards,
            labels=column_labels(truth, reader) if truth.is_dir() else {},
            classnames=lines_of(tar_folder, "classnames.txt"),
            templates=templates_of(tar_folder) or PLAIN,
            target=lambda entry: _target(reader, entry),
            captions=_captions,
            places=tuple(reader.paths[shard] for shard in shards),
        )


LAYOUT: Layout = Folder()


def _captions(entry: Entry, sample: Sample) -> tuple[str, ...]:
    """Return the captions of a sample; each line of a ``.txt`` is one."""
    if entry.caption != LINES:
        return every_caption(entry, sample)
    return tuple(line.strip() for line in sample.caption.splitlines() if line.strip())


def _target(reader: WebDataset, entry: Entry) -> int | None:
    if CLASS not in entry.members:
        return None
    text = files.read_at(reader.paths[entry.shard], *entry.members[CLASS])
    try:
        return int(text)
    except ValueError as error:
        start = text[:20].decode("utf-8", "replace")
        raise SampleError(f"its {CLASS} is {start!r}, not the index of a class, a whole number from 0") from error


def lines_of(folder: Place, name: str) -> tuple[str, ...]:
    """Return the lines of a file next to the shards or one folder above; empty if there is no such file."""
    path = next((path for path in (folder / name, folder.parent / name) if path.is_file()), None)
    return tuple(listing.lines_of(path)) if path else ()


def templates_of(folder: Place) -> tuple[str, ...]:
    """Return the lines of `TEMPLATES`, as `lines_of`; `DatasetError` if the class name has no place in one."""
    templates = lines_of(folder, TEMPLATES)
    if wrong := [line for line in templates if "{c}" not in line]:
        raise DatasetError(
            f"{TEMPLATES} of {folder} has the template {wrong[0]!r} without {{c}}, which stands for the class name, so "
            "every class would have the same text. Write templates as CLIP_benchmark does, such as 'a photo of a "
            f"{{c}}.'. If they have {{}} instead: sed -i 's/{{}}/{{c}}/g' {TEMPLATES}"
        )
    return templates
