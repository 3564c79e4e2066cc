"""Rendered scenes as a benchmark folder: ``images/`` in CLIP_benchmark's layout, ``truth/`` a label store."""

from __future__ import annotations

import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from clipzoo import files
from clipzoo.demo import rooms
from clipzoo.demo.captions import TEMPLATES
from clipzoo.demo.meshes import ROOM, classes, names
from clipzoo.experts.base import ExpertCard
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Column, ColumnWriter, Store
from clipzoo.tasks import get as get_task
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.edges import Edges
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import View

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

SHARD = 500
WITH_TRUTH = ("probe", "validation", "test", "heldout")
"""Splits with truth; pictures for training have none, not even a class."""


def render_split(
    split: str,
    count: int,
    out: Path,
    *,
    truth: int | None = None,
    truth_size: int = 32,
    quality: int = 75,
    workers: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Render the first ``count`` pictures of a split; complete shards are not rendered again.

    Args:
        split: one of `rooms.SPLITS`.
        count: pictures.
        out: folder; gets ``images/*.tar`` (webp, txt, cls) with ``classnames.txt`` and the prompt templates, and
            for `WITH_TRUTH` splits ``truth/``, a store with one column per task.
        truth: number of pictures with truth; default all.
        truth_size: side of the truth's labels in pixels.
        quality: of the WebP files.
        workers: processes; default one per core.
        on_progress: receives the number of finished pictures.
    """
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    _write_lines(images / "classnames.txt", names())
    _write_lines(images / "zeroshot_classification_templates.txt", [t.replace("{}", "{c}") for t in TEMPLATES])
    starts = range(0, count, SHARD)
    missing = [start for start in starts if not _shard(images, start).exists()]
    if missing:
        _render_images(split, count, missing, images, quality, workers, on_progress)
    if split in WITH_TRUTH:
        _render_truth(split, truth or count, out, truth_size, workers, on_progress)


def _render_images(
    split: str, count: int, missing: list[int], images: Path, quality: int, workers: int | None,
    on_progress: Callable[[int], None],
) -> None:  # fmt: skip
    with _pool(workers) as pool:
        for start in missing:
            seeds = range(start, min(start + SHARD, count))
            write_shard(_shard(images, start), pool.imap(partial(_sample, split=split, quality=quality), seeds, 16))
            on_progress(seeds.stop)


def _render_truth(
    split: str, count: int, out: Path, size: int, workers: int | None, on_progress: Callable[[int], None]
) -> None:
    reader = open_dataset(str(out / "images"))
    store, dataset = Store(out / "truth"), fingerprint(reader)
    columns = {task: store.create(_card(task, convention), dataset) for task, convention in conventions().items()}
    with ExitStack() as stack, _pool(workers) as pool:
        for column in columns.values():
            stack.enter_context(column.lock())
        done = set.intersection(*(column.committed() for column in columns.values()))
        for start, shard in zip(range(0, count, SHARD), reader.shards, strict=False):
            if shard in done:
                continue
            seeds = range(start, min(start + SHARD, count))
            labels = pool.imap(partial(_labels, split=split, size=size), seeds, 16)
            keys = [entry.key for entry in reader.index(shard)]
            _write_truth(columns, shard, keys, zip(seeds, labels, strict=True))
            on_progress(seeds.stop)
    for column in columns.values():
        column.finish()


def _write_truth(
    columns: Mapping[str, Column], shard: str, keys: list[str], labeled: Iterator[tuple[int, dict[str, object]]]
) -> None:
    with ExitStack() as stack:
        writers = {task: stack.enter_context(ColumnWriter(column, shard, keys)) for task, column in columns.items()}
        done = set()
        for seed, labels in labeled:
            done.add(_key(seed))
            for task, label in labels.items():
                writers[task].add(_key(seed), label)
        for key in keys:
            if key not in done:
                for writer in writers.values():
                    writer.fail(key, "truth was not asked for")


def conventions() -> dict[str, Convention]:
    """Return task -> convention of the truth."""
    return {
        "segmentation": Convention(classes=classes()),
        "depth": Convention(kind="metric", along="z"),
        "normals": Convention(),
        "edges": Convention(),
        "detection": Convention(classes=classes()[len(ROOM) :]),
    }


def truth_of(scene: rooms.Scene) -> dict[str, object]:
    """Return task -> label of a scene, at the size of the picture; every pixel is known."""
    (H, W, _), count = scene.image.shape, len(scene.boxes)
    valid = np.ones((H, W), np.bool_)
    return {
        "segmentation": Segmentation(scene.segmentation.astype(np.uint16), valid),
        "depth": Depth(scene.depth, valid, "metric", "z"),
        "normals": Normals(scene.normals, valid),
        "edges": Edges(scene.edges.astype(np.float32), valid),
        "detection": Detection(
            (H, W),
            scene.boxes,
            (scene.box_classes - len(ROOM)).astype(np.uint16),
            np.ones(count, np.float32),
            np.zeros(count, np.bool_),
        ),
    }


def _sample(seed: int, split: str, quality: int) -> tuple[str, dict[str, bytes]]:
    scene = rooms.render(seed, split)
    file = io.BytesIO()
    Image.fromarray(scene.image).save(file, "WEBP", quality=quality, method=6)
    members = {"webp": file.getvalue(), "txt": scene.caption.encode()}
    if split in WITH_TRUTH:
        members["cls"] = str(names().index(scene.name)).encode()
    return _key(seed), members


def _labels(seed: int, split: str, size: int) -> dict[str, object]:
    view = View.whole((size, size))
    return {task: get_task(task).view(label, view) for task, label in truth_of(rooms.render(seed, split)).items()}


def _card(task: str, convention: Convention) -> ExpertCard:
    return ExpertCard(uri="truth", task=task, convention=convention, license="CC0-1.0", revision="rooms-1")


def _key(seed: int) -> str:
    return f"{seed:08d}"


def _shard(images: Path, start: int) -> Path:
    return images / f"{start // SHARD:05d}.tar"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    files.write(path, ("\n".join(lines) + "\n").encode())


def _pool(workers: int | None) -> Pool:
    return multiprocessing.get_context("spawn").Pool(workers or os.cpu_count() or 1)
