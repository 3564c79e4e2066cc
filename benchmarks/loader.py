"""CPU time of the loader and of others, side by side in one process with one thread.

    pip install webdataset
    OMP_NUM_THREADS=1 python benchmarks/loader.py                       # 4 minutes
    OMP_NUM_THREADS=1 python benchmarks/loader.py --quick --out /tmp/loader

The contenders take turns, round by round; ratios are medians over rounds. Pictures are JPEG of quality 95 with noise,
labels are 512×512, a quarter of them with unknown pixels, crops 224×224 of half to all of the area, targets 56×56.
Without webdataset, its rows read the tar by Python's tarfile. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import platform
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from clipzoo import jpeg
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.experts import ExpertCard
from clipzoo.readers import Reader, fingerprint, open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Column, ColumnWriter, Store, software
from clipzoo.tasks import Convention, png
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import FloatArray

CROP, STRIDE, SCALE = 224, 4, (0.5, 1.0)
CLASSES = tuple(f"class {i}" for i in range(150))
CONVENTIONS = {
    "segmentation": Convention(CLASSES), "depth": Convention(kind="metric", along="z"), "normals": Convention(),
}  # fmt: skip
OPENCLIP, TORCHVISION, THREE = "webdataset + OpenCLIP's transform", "webdataset + torchvision", "three columns"
Pass = Callable[[], object]
"""One pass over all pictures."""


class Result(TypedDict):
    """The CPU milliseconds of each contender, by round, and medians of them and of ratios."""

    rounds: dict[str, list[float]]
    cpu_ms: dict[str, float]
    ratios: dict[str, float]


# Data ------------------------------------------------------------------------------------------------------


def smooth(rng: np.random.Generator, size: int, coarse: int) -> FloatArray:
    field = Image.fromarray(rng.normal(0, 1, (coarse, coarse)).astype(np.float32))
    return np.array(field.resize((size, size), Image.Resampling.BICUBIC))


def photo(rng: np.random.Generator, size: int) -> bytes:
    """A JPEG with structure at all scales, and grain."""
    octaves = [sum(smooth(rng, size, size * n // 512 + 2) * 90 / n**0.5 for n in (6, 16, 48, 128)) for _ in range(3)]
    grain = np.stack(octaves, -1) + 128 + rng.normal(0, 6, (size, size, 1))
    file = io.BytesIO()
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def labels(rng: np.random.Generator, size: int, holes: bool) -> dict[str, object]:
    """Labels of one scene: regions, with or without holes, and surfaces with the noise of a model's output."""
    regions = np.digitize(smooth(rng, size, 9), [-1, -0.5, 0, 0.3, 0.6, 1])
    valid = (smooth(rng, size, 8) < 1.5) | (not holes)
    depth = np.exp(1 + 0.4 * smooth(rng, size, 6) + 0.2 * regions + rng.normal(0, 5e-4, (size, size)))
    vectors = np.stack([smooth(rng, size, 9) for _ in range(3)]) * 0.5 + rng.normal(0, 0.005, (3, size, size))
    vectors[2] += 1.5
    return {
        "segmentation": Segmentation((regions * 17).astype(np.uint16), valid),
        "depth": Depth(depth.astype(np.float32), valid, "metric", "z"),
        "normals": Normals((vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32), valid),
    }


def make(folder: Path, sizes: Sequence[int], count: int, label_size: int) -> dict[str, dict[str, Column]]:
    """Write pictures of each size, and columns of each codec that fit them all; return codec -> task -> column."""
    rng = np.random.default_rng(0)
    for size in sizes:
        members = ((f"{i:03d}", {"jpg": photo(rng, size), "txt": b"a photo"}) for i in range(count))
        write_shard(folder / str(size) / "0.tar", members)
    found: dict[str, dict[str, Column]] = {codec: {} for codec in (png.RLE, png.LEVELS)}
    made = [labels(rng, label_size, i % 4 == 0) for i in range(count)]
    for codec, columns in found.items():
        for task, convention in CONVENTIONS.items():
            column = Store(folder / codec).create(ExpertCard(f"benchmark:{task}", task, convention), {}, codec=codec)
            with ColumnWriter(column, "0") as writer:
                for i, one in enumerate(made):
                    writer.add(f"{i:03d}", one[task])
            columns[task] = Column(column.path)
    return found


# Contenders ------------------------------------------------------------------------------------------------


def tokens(texts: Sequence[str]) -> Tensor:
    return torch.zeros(len(texts), 77, dtype=torch.long)


def ours(reader: Reader, columns: Sequence[Column], viewing: Viewing) -> Pass:
    for column in columns:  # one set of labels for pictures of all sizes
        column.manifest.dataset = dict(fingerprint(reader))
    used = {column.name: LabelColumn(column, STRIDE) for column in columns}
    plan = Plan.build(reader, {column.name: column for column in columns})
    dataset = TrainingSet(plan, reader, used, viewing)
    return lambda: list(loader(dataset, min(16, len(plan)), tokens))


def pictures(tar: Path) -> Iterator[bytes]:
    """Yield the JPEG files of a tar."""
    if find_spec("webdataset"):
        import webdataset

        yield from (sample["jpg"] for sample in webdataset.WebDataset(str(tar), shardshuffle=False))
        return
    with tarfile.open(tar) as opened:
        for member in opened:
            if member.name.endswith(".jpg"):
                file = opened.extractfile(member)
                assert file is not None
                yield file.read()


def stacked(tar: Path, decode: Callable[[bytes], Tensor]) -> Pass:
    def once() -> None:
        batch = []
        for data in pictures(tar):
            batch.append(decode(data))
            if len(batch) == 16:
                torch.stack(batch)
                batch = []

    return once


def openclip(tar: Path) -> Pass:
    transform = open_clip.image_transform(CROP, is_train=True, aug_cfg={"scale": SCALE})
    return stacked(tar, lambda data: transform(Image.open(io.BytesIO(data)).convert("RGB")))


def torchvision(tar: Path) -> Pass:
    transform = v2.Compose([
        v2.RandomResizedCrop(CROP, scale=SCALE, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
    ])  # fmt: skip

    def decode(data: bytes) -> Tensor:  # the operator below torchvision.io.decode_jpeg, which warns since 0.29
        pixels = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), 3)
        return torch.as_tensor(transform(pixels))

    return stacked(tar, decode)


def contenders(data: Path, columns: dict[str, dict[str, Column]]) -> dict[str, Pass]:
    reader = open_dataset(str(data))
    exact, fast = Viewing((CROP, CROP), SCALE), Viewing((CROP, CROP), SCALE, resampling="torch")
    small, whole = columns[png.LEVELS], columns[png.RLE]
    return {
        "images": ours(reader, [], exact),
        "images, jitter": ours(reader, [], Viewing((CROP, CROP), SCALE, jitter=0.2)),
        **{f"images + {task}": ours(reader, [column], exact) for task, column in small.items()},
        f"images + {THREE}": ours(reader, list(small.values()), exact),
        f"images + {THREE}, without levels": ours(reader, list(whole.values()), exact),
        "images, torch": ours(reader, [], fast),
        f"images + {THREE}, torch": ours(reader, list(small.values()), fast),
        OPENCLIP: openclip(data / "0.tar"),
        TORCHVISION: torchvision(data / "0.tar"),
    }


RATIOS = {
    "images + three columns / images": (f"images + {THREE}", "images"),
    "images + three columns / images, torch": (f"images + {THREE}, torch", "images, torch"),
    "images + three columns, without levels / images": (f"images + {THREE}, without levels", "images"),
    "images + three columns / OpenCLIP": (f"images + {THREE}", OPENCLIP),
    "images + three columns, torch / OpenCLIP": (f"images + {THREE}, torch", OPENCLIP),
    "images / torchvision": ("images", TORCHVISION),
    "images, torch / torchvision": ("images, torch", TORCHVISION),
}
"""Name -> throughput of the first relative to the second."""


def measure(passes: dict[str, Pass], count: int, rounds: int) -> Result:
    times: dict[str, list[float]] = {name: [] for name in passes}
    for once in passes.values():
        once()
    for _ in range(rounds):
        for name, once in passes.items():
            began = time.process_time()
            once()
            times[name].append(1e3 * (time.process_time() - began) / count)
    ratios = {
        name: statistics.median(b / a for a, b in zip(times[one], times[other], strict=True))
        for name, (one, other) in RATIOS.items()
    }
    return {"rounds": times, "cpu_ms": {n: statistics.median(ms) for n, ms in times.items()}, "ratios": ratios}


def levels_of(columns: dict[str, dict[str, Column]]) -> dict[str, dict[str, float]]:
    """Return task -> bytes a label by both codecs."""
    found: dict[str, dict[str, float]] = {}
    for codec, ones in columns.items():
        for task, column in ones.items():
            sizes = column.rows("0")["size"].to_pylist()
            found.setdefault(task, {})[codec] = statistics.mean(sizes)
    return found


# The page --------------------------------------------------------------------------------------------------


def page(settings: dict[str, object], sizes: dict[str, Result], stored: dict[str, dict[str, float]]) -> str:
    quick = ", **quick: these figures prove nothing**" if settings["quick"] else ""
    lines = [
        "# Loader", "",
        f"One thread, {settings['rounds']} rounds of {settings['images']} pictures{quick}. JPEG by "
        f"{settings['jpeg']}. Labels are {settings['labels']}², crops {CROP}², targets {CROP // STRIDE}².", "",
        "| loader | " + " | ".join(f"{size} px, CPU ms an image | images/s a worker" for size in sizes) + " |",
        "| --- |" + " ---: | ---: |" * len(sizes),
    ]  # fmt: skip
    for name in next(iter(sizes.values()))["cpu_ms"]:
        cells = (f"{found['cpu_ms'][name]:.2f} | {1e3 / found['cpu_ms'][name]:.0f}" for found in sizes.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| throughput of … / of … | " + " | ".join(f"{size} px" for size in sizes) + " |"]
    lines.append("| --- |" + " ---: |" * len(sizes))
    for name in RATIOS:
        ratios = [f"{found['ratios'][name]:.2f}" for found in sizes.values()]
        lines.append(f"| {name} | {' | '.join(ratios)} |")
    lines += ["", f"| column | `{png.RLE}`, bytes a label | `{png.LEVELS}` |", "| --- | ---: | ---: |"]
    lines += [f"| {task} | {one[png.RLE]:,.0f} | {one[png.LEVELS]:,.0f} |" for task, one in stored.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--labels", type=int, default=512, help="side of the labels in pixels")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/loader")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("clipzoo.store").setLevel(logging.ERROR)  # labels without fingerprints of pictures
    rounds, count, label_size = args.rounds or 15, 32, args.labels
    if args.quick:
        rounds, count, label_size = args.rounds or 1, 4, 384
    settings: dict[str, object] = {
        "quick": args.quick, "rounds": rounds, "images": count, "labels": label_size, "cores": os.cpu_count(),
        "machine": platform.machine(), "jpeg": jpeg.name(), "webdataset": find_spec("webdataset") is not None,
        "software": software(),
    }  # fmt: skip
    with TemporaryDirectory(prefix="loader-") as folder:
        columns = make(Path(folder), (256, 512), count, label_size)
        sizes = {str(s): measure(contenders(Path(folder) / str(s), columns), count, rounds) for s in (256, 512)}
        stored = levels_of(columns)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {"settings": settings, "sizes": sizes, "bytes": stored}
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = page(settings, sizes, stored)
    (args.out / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
