"""Build a captioned dataset and benchmark folders with true foregrounds from OpenClipart drawings (public domain).

    scripts/fetch_openclipart            # fetches the drawings and the expert, then calls this
    python scripts/build_openclipart.py SVG_FOLDER data/openclipart

``openclipart.py`` renders the drawings. Drawings of one series (same title, or same folder and first word of the file
name) share a split; series of more than ``LARGE`` drawings (decks of cards, road signs) are used for training only. The
splits with truth have ``segmentation/truth`` and ``edges/truth``. Drawings that fill their box have no background
and get no truth. Rendered drawings are cached in ``OUT/drawings``, so rerunning the command resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from clipzoo.experts.base import ExpertCard
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks.base import Convention
from openclipart import SHARES, Drawing, compose, draw, outline, read, series, split_of, truth

SHARD = 250
TELL = partial(print, flush=True)
TRUTHS = {
    "segmentation": (truth, Convention(classes=("background", "foreground")), "alpha, version 1"),
    "edges": (outline, Convention(), "outline of alpha, version 1"),
}
"""Task -> how a drawing's alpha tells it, what labels mean, and what made them."""


def collect(root: Path, reasons: Counter[str]) -> list[Drawing]:
    """Drawings with usable texts, each file and key once; the others are counted by reason."""
    found, seen = [], set[str]()
    for path in sorted(root.rglob("*.svg")):
        name, svg = path.relative_to(root).as_posix(), path.read_bytes()
        drawing = read(name, svg)
        if isinstance(drawing, Drawing):
            marks = {hashlib.sha256(svg).hexdigest(), drawing.key}
            if not marks & seen:
                found.append(drawing)
                seen |= marks
                continue
            drawing = "the same file or name as another"
        reasons[drawing] += 1
    return found


def write_split(split: str, drawings: Sequence[Drawing], cache: Path, out: Path) -> dict[str, int]:
    """``images/`` of a split, and ``truth/`` for those in `SHARES`; returns what there is."""
    images = out / split / "images"
    shutil.rmtree(out / split, ignore_errors=True)
    labels: dict[str, dict[str, Any]] = {task: {} for task in TRUTHS}

    def samples(chunk: Sequence[Drawing]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for d in chunk:
            picture, alpha = compose(Image.open(cache / f"{d.key}.png"), d.key)
            for task, (told, *_) in TRUTHS.items():
                labels[task][d.key] = told(alpha)
            file = io.BytesIO()
            picture.save(file, "PNG")
            yield d.key, {"png": file.getvalue(), "txt": d.caption.encode()}

    for i in range(0, len(drawings), SHARD):
        write_shard(images / f"{i // SHARD:05d}.tar", samples(drawings[i : i + SHARD]))
    counts = {"pictures": len(drawings)}
    if split in SHARES:
        write_truth(out / split, labels)
        counts["with truth"] = sum(label is not None for label in labels["segmentation"].values())
    return counts


def write_truth(folder: Path, labels: Mapping[str, Mapping[str, Any]]) -> None:
    """The columns ``<task>/truth`` of a split; ``labels`` are task -> key -> label, None if there is none."""
    reader = open_dataset(str(folder / "images"))
    for task, (_, convention, revision) in TRUTHS.items():
        card = ExpertCard("truth", task, convention, license="public domain", revision=revision)
        column = Store(folder / "truth").create(card, fingerprint(reader))
        for shard in reader.shards:
            with ColumnWriter(column, shard) as writer:
                for entry in reader.index(shard):
                    if (label := labels[task][entry.key]) is None:
                        writer.fail(entry.key, "the drawing fills its box: its alpha tells no background")
                    else:
                        writer.add(entry.key, label)
        column.finish()


def build(svg: Path, out: Path, workers: int | None = None, tell: Callable[[str], None] = TELL) -> None:
    """Everything from a folder of SVG files; prints and writes ``counts.json``."""
    reasons: Counter[str] = Counter()
    drawings = collect(svg, reasons)
    cache = out / "drawings"
    jobs = [(svg / d.path, cache / f"{d.key}.png") for d in drawings]
    kept = []
    with get_context("spawn").Pool(workers) as pool:
        for i, (d, fault) in enumerate(zip(drawings, pool.imap(draw, jobs, 8), strict=True), 1):
            if fault is None:
                kept.append(d)
            else:
                reasons["cannot be drawn"] += 1
                tell(f"{d.path} {fault}")
            if i % 200 == 0 or i == len(drawings):
                tell(f"{i} of {len(drawings)} drawings rendered")
    parts: dict[str, list[Drawing]] = {"captioned": [], **{split: [] for split in SHARES}}
    for group in series(kept):
        parts[split_of(group)] += group
    counts = {s: write_split(s, sorted(part, key=lambda d: d.path), cache, out) for s, part in parts.items()}
    (out / "counts.json").write_text(json.dumps({"kept": counts, "left out": reasons}, indent=1))
    tell(json.dumps({"kept": counts, "left out": reasons}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("svg", type=Path, help="folder with the package's drawings, …/share/openclipart/svg")
    parser.add_argument("out", type=Path, help="data/openclipart")
    parser.add_argument("--workers", type=int, help="processes; default one a core")
    arguments = parser.parse_args()
    build(arguments.svg, arguments.out, arguments.workers)
