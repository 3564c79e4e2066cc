"""The layout that clipzoo writes: a folder with ``images/`` (tars) and ``truth/`` (a label store), with the class files
of CLIP_benchmark.

``images/`` is read as any dataset of tars is (`readers.webdataset`), nested folders included; where it has a folder
``test`` with tars, as CLIP_benchmark writes, only that one. Captions are optional; a ``.txt`` holds one caption a line.
``<key>.cls`` is a class index. Beside the tars, or one folder above them: ``classnames.txt``, a name a line, and
``zeroshot_classification_templates.txt``, a template a line with ``{c}``.

``truth/``, where there is one, has a column ``<task>/truth`` a task.
"""

from __future__ import annotations

from clipzoo import files
from clipzoo.benchmarks._columns import column_labels
from clipzoo.benchmarks.base import PLAIN, Benchmark, Layout, every_caption
from clipzoo.errors import DatasetError, SampleError
from clipzoo.files import Place
from clipzoo.readers import Entry, open_dataset
from clipzoo.readers.webdataset import WebDataset
from clipzoo.types import Sample

CLASS = "cls"
LINES = "txt"
SPLIT = "test"
"""The folder in which CLIP_benchmark has the tars."""


class Folder:
    """Opens such a folder."""

    def open(self, folder: Place) -> Benchmark:
        """See `Layout`."""
        images, truth = folder / "images", folder / "truth"
        if not images.is_dir():
            raise DatasetError(f"{folder} has no folder images/; docs/benchmarks.md shows how such a folder is made")
        tars = files.below(images, ".tar")
        if not tars:
            raise DatasetError(
                f"neither {images} nor a folder in it holds a .tar; write its pictures as shards (docs/benchmarks.md)"
            )
        inner = any(name.startswith(f"{SPLIT}/") for name in tars)
        reader = open_dataset(f"{images}?format=webdataset", captions="optional")
        assert isinstance(reader, WebDataset)
        reader.location = str(images)
        shards = tuple(shard for shard in reader.shards if not inner or shard.startswith(f"{SPLIT}/"))
        beside = images / SPLIT if inner else images
        return Benchmark(
            reader=reader,
            shards=shards,
            labels=column_labels(truth, reader) if truth.is_dir() else {},
            classnames=_lines(beside, "classnames.txt"),
            templates=_lines(beside, "zeroshot_classification_templates.txt") or PLAIN,
            target=lambda entry: _target(reader, entry),
            captions=_captions,
            places=tuple(reader.paths[shard] for shard in shards),
        )


LAYOUT: Layout = Folder()


def _captions(entry: Entry, sample: Sample) -> tuple[str, ...]:
    """The captions of a sample; each line of a ``.txt`` is one."""
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
        shown = text[:20].decode("utf-8", "replace")
        raise SampleError(f"its {CLASS} is {shown!r}, not the index of a class, a whole number from 0") from error


def _lines(folder: Place, name: str) -> tuple[str, ...]:
    """The lines of a file beside the shards or one folder above; none if it is in neither place."""
    for path in (folder / name, folder.parent / name):
        if path.is_file():
            return tuple(line for line in path.read_bytes().decode("utf-8").splitlines() if line.strip())
    return ()
