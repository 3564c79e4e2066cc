"""The cost of the trainer, side by side in one run: steps, memory, accumulation, the loader, and two gloo ranks.

    python benchmarks/training.py                       # about ten minutes on two cores; also on a GPU, if there is one
    python benchmarks/training.py --quick --out FOLDER  # a minute; its figures prove nothing

Arms are processes of their own, which take turns, round by round; ratios are medians over rounds, of the arms of the
same round. Weights and batches are random. Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch

from training_arms import Arm, Measured, measure, write_data

HERE = Path(__file__).parent / "results" / "training"
PLAIN, CAPTIONS, LINEAR, CONV = "plain OpenCLIP loop", "captions alone", "three linear heads", "three conv heads"
CHUNKS = 8


@dataclass(frozen=True)
class Check:
    """A ratio with its limit; ``rounds`` are its values in the rounds."""

    what: str
    rounds: Sequence[float]
    limit: float
    least: bool = False

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.rounds)

    @property
    def met(self) -> bool:
        """True if the median is within the limit."""
        return self.value >= self.limit if self.least else self.value <= self.limit


def per_image(one: Measured, other: Measured) -> list[float]:
    """Return the time an image of one arm, relative to another, in each round."""
    return [a / b for a, b in zip(one.per_image, other.per_image, strict=True)]


def steps(args: argparse.Namespace, device: str, data: str) -> tuple[dict[str, Measured], list[Check]]:
    """Measure steps with and without labels, next to a plain loop and the loader."""
    gpu = device.startswith("cuda")
    batch, precision = (args.gpu_batch, args.gpu_precision) if gpu else (args.batch, "fp32")
    base = Arm("clipzoo", args.model, batch, threads=args.threads, device=device, precision=precision)
    heads = {LINEAR: "linear", CONV: "conv"}
    arms = {
        PLAIN: replace(base, kind="plain"),
        CAPTIONS: base,
        **{name: replace(base, head=head, layers=tuple(args.layers)) for name, head in heads.items()},
    }
    loaders = {} if gpu else {
        "loader, captions": replace(base, kind="loader", data=data, batch=args.loaded, threads=1),
        "loader, captions and three columns": replace(
            base, kind="loader", data=data, batch=args.loaded, threads=1, head="conv"
        ),
    }  # fmt: skip
    found = measure(arms | loaders, args.rounds, args.gpu_steps if gpu else args.steps)
    limits = ((CAPTIONS, PLAIN, 1.0), (CONV, CAPTIONS, 1.05), (LINEAR, CAPTIONS, 1.03))
    checks = [Check(f"step of {a} / {b}", per_image(found[a], found[b]), limit) for a, b, limit in limits]
    checks += [
        Check(f"peak memory of {a} / {b}", [found[a].peak / found[b].peak], 1.10)
        for a, b in ((CONV, CAPTIONS), (LINEAR, CAPTIONS))
    ]
    pairs = zip(loaders, (CAPTIONS, CONV), strict=False)
    checks += [
        Check(f"images a second of the {a}, one thread / {b}", per_image(found[b], found[a]), 1.0, least=True)
        for a, b in pairs
    ]
    return found, checks


def accumulated(args: argparse.Namespace, device: str) -> tuple[dict[str, Measured], list[Check]]:
    """Measure a batch in chunks relative to a batch of the size of a chunk."""
    gpu = device.startswith("cuda")
    batch, precision = (args.gpu_batch, args.gpu_precision) if gpu else (args.small_batch, "fp32")
    model = args.model if gpu else args.small_model
    whole = Arm("clipzoo", model, batch, threads=args.threads, device=device, precision=precision)
    names = f"batch {batch}", f"batch {CHUNKS * batch} in {CHUNKS} chunks"
    arms = dict(zip(names, (whole, replace(whole, batch=CHUNKS * batch, accumulate=CHUNKS)), strict=True))
    found = measure(arms, args.few_rounds, 1)
    small, large = (found[name] for name in names)
    return found, [
        Check(f"time an image of {names[1]} / {names[0]}", per_image(large, small), 1.5),
        Check(f"peak memory of {names[1]} / {names[0]}", [large.peak / small.peak], 1.10),
    ]


def ranks(args: argparse.Namespace) -> tuple[dict[str, Measured], list[Check]]:
    """Measure two gloo ranks relative to one process, with a thread each and the same batch."""
    one = Arm("clipzoo", args.small_model, args.shared_batch)
    names = "1 process, 1 thread", "2 gloo ranks, 1 thread each"
    found = measure(dict(zip(names, (one, replace(one, processes=2)), strict=True)), args.few_rounds, 1)
    speed = per_image(found[names[0]], found[names[1]])
    return found, [Check(f"images a second of {names[1]} / {names[0]}", speed, 1.6, least=True)]


def row(name: str, one: Measured) -> str:
    """Return the row of an arm in Markdown."""
    ordered = sorted(one.arm.batch / seconds for seconds in one.seconds)
    spread = f"{ordered[0]:.2f} – {ordered[-1]:.2f}"
    read = f"{one.read / statistics.median(one.seconds) / 2**20:.2f}" if one.read else "–"
    speed = f"{statistics.median(ordered):.2f}"
    return f"| {name} | {one.arm.batch} | {speed} | {spread} | {one.peak / 2**30:.2f} | {read} |"


def report(results: Mapping[str, tuple[Mapping[str, Measured], Sequence[Check]]], about: Mapping[str, object]) -> str:
    """Return the page."""
    lines = ["# Training", "", ", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    for title, (found, checks) in results.items():
        models = sorted({one.arm.model for one in found.values()})
        lines += [f"## {title}: {', '.join(models)}", ""]
        lines += ["| arm | images a step | images/s, median | range | peak memory, GiB | MiB/s read |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |", *(row(name, one) for name, one in found.items()), ""]
        lines += ["| ratio | median | range | limit | met |", "| --- | ---: | ---: | ---: | --- |"]
        for check in checks:
            limit = f"{'≥' if check.least else '≤'} {check.limit:.2f}"
            spread = f"{min(check.rounds):.3f} – {max(check.rounds):.3f}"
            lines.append(f"| {check.what} | {check.value:.3f} | {spread} | {limit} | {'yes' if check.met else 'no'} |")
        lines.append("")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Return the options; `--quick` replaces models and sizes by the smallest."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest models, one round")
    parser.add_argument("--model", default="ViT-B-16", help="of steps and of the loader")
    parser.add_argument("--small-model", default="ViT-B-32", help="of chunks and of two ranks, on the CPU")
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 11], help="that the heads read")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--small-batch", type=int, default=16, help="of a chunk")
    parser.add_argument("--shared-batch", type=int, default=48, help="of two ranks together")
    parser.add_argument("--loaded", type=int, default=64, help="images that a loader reads in a step")
    parser.add_argument("--threads", type=int, default=cores, help="of one process on the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few-rounds", type=int, default=3, help="of chunks and of two ranks")
    parser.add_argument("--steps", type=int, default=1, help="a round")
    parser.add_argument("--gpu-batch", type=int, default=256)
    parser.add_argument("--gpu-precision", default="bf16")
    parser.add_argument("--gpu-steps", type=int, default=5, help="a round")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    if args.quick:
        args.model = args.small_model = "demo:clip"
        args.layers, args.batch, args.small_batch, args.shared_batch, args.loaded = [-1], 2, 2, 4, 4
        args.rounds = args.few_rounds = args.threads = 1
    return args


def main() -> None:
    """Measure all sections, print the page and write both files."""
    args = arguments()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() and not args.quick else [])]
    with TemporaryDirectory() as folder:
        data = write_data(Path(folder), 2 * args.loaded)
        results = {f"Steps on {device}": steps(args, device, data) for device in devices}
    results |= {f"Cached accumulation on {device}": accumulated(args, device) for device in devices}
    results["Two ranks"] = ranks(args)
    about = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {args.threads} threads",
        **({"GPU": torch.cuda.get_device_name()} if "cuda" in devices else {}),
        "torch": torch.__version__, "open_clip": open_clip.__version__,
        "rounds": f"{args.rounds} and {args.few_rounds}",
    }  # fmt: skip
    page = report(results, about)
    print(page)
    plain = {
        title: {
            "arms": {n: asdict(m) for n, m in found.items()},
            "ratios": [asdict(c) | {"median": c.value, "met": c.met} for c in checks],
        }
        for title, (found, checks) in results.items()
    }
    for one in (arm for section in plain.values() for arm in section["arms"].values()):  # type: ignore[attr-defined]
        one["arm"].pop("data")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.md").write_text(page)
    (args.out / "results.json").write_text(json.dumps({"about": about, "sections": plain}, indent=1))


if __name__ == "__main__":
    main()
