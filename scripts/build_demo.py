"""Build the embedded demo from ``src/clipzoo/demo/meshes.npz`` (dev time, two CPU cores).

    S=scratch                                                             # any folder
    python scripts/build_demo.py render --split pretraining --count 24000 --out $S    # 6 min
    python scripts/build_demo.py render --split experts     --count 20000 --out $S    # 4 min
    python scripts/build_demo.py render --split probe       --count 2000  --out $S    # and validation, heldout
    python scripts/build_demo.py clip    --out $S --bf16 --steps 2400 --until 800     # the start, 8 min
    python scripts/build_demo.py clip    --out $S --bf16 --steps 700 --resume         # and 7 min
    export OMP_NUM_THREADS=1                                              # two at once, a core each, 35 min
    python scripts/build_demo.py experts --out $S --bf16 --steps 4000 --tasks segmentation
    python scripts/build_demo.py experts --out $S --bf16 --steps 2600 --rate 2e-3 --resume --tasks segmentation
    python scripts/build_demo.py experts --out $S --bf16 --steps 3000 --tasks normals
    python scripts/build_demo.py experts --out $S --bf16 --steps 4500 --tasks depth
    python scripts/build_demo.py experts --out $S --bf16 --steps 2200 --rate 2e-3 --resume --tasks depth
    python scripts/build_demo.py experts --out $S --bf16 --steps 8000 --tasks detection      # these two on a GPU, 3 min
    python scripts/build_demo.py experts --out $S --bf16 --steps 5000 --tasks edges          # with --device cuda
    python scripts/build_demo.py pack    --out $S     # rooms.tar.xz, 5 min
    python scripts/build_demo.py check   --out $S     # validation figures of what is packaged, 3 min

Picture ``i`` of a split is drawn from ``default_rng([split, i])``; training uses seed 0 throughout.
Rendering is resumable: a chunk that is there is left alone.

The start was trained while tints and captions were still being tuned, and the first run of two
experts on pictures of cameras at any height, so these commands give weights like the packaged ones,
not the same bytes. docs/demo.md has what they reach on validation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from multiprocessing import Pool
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    if "render" in sys.argv:
        os.environ[variable] = "1"  # one process a core is faster than two threads each

import numpy as np  # noqa: E402

from clipzoo.demo.meshes import names  # noqa: E402
from clipzoo.demo.rooms import SPLITS, render  # noqa: E402

DEMO = Path(__file__).parents[1] / "src/clipzoo/demo"
CHUNK = 500
WITH_TRUTH = ("experts", "probe", "validation", "test", "heldout")
KEEP_TO_LOOK_AT = 200
TASKS = ("segmentation", "detection", "depth", "normals", "edges")
MOST = 8
"""Objects a picture, at most."""


def draw_chunk(split: str, first: int, count: int, path: Path) -> None:
    """Render ``count`` pictures from ``first`` on and store them in one npz."""
    scenes = [render(i, split) for i in range(first, first + count)]
    kept = scenes if split in WITH_TRUTH else scenes[:KEEP_TO_LOOK_AT] if first == 0 else []
    arrays = {
        "images": np.stack([s.image for s in scenes]),
        "captions": np.array([s.caption for s in scenes]),
        "names": np.array([names().index(s.name) for s in scenes], np.int16),
        "fields_of_view": np.array([s.field_of_view for s in scenes], np.float32),
    }
    if kept:
        arrays["depth"] = np.stack([s.depth for s in kept]).astype(np.float16)
        arrays["normals"] = np.stack([s.normals for s in kept]).astype(np.float16)
        arrays["segmentation"] = np.stack([s.segmentation for s in kept])
        arrays["edges"] = np.stack([s.edges for s in kept])
        arrays["boxes"], arrays["box_classes"] = (
            np.zeros((len(kept), MOST, 4), np.float32),
            np.full((len(kept), MOST), -1),
        )
        for i, scene in enumerate(kept):
            arrays["boxes"][i, : len(scene.boxes)] = scene.boxes
            arrays["box_classes"][i, : len(scene.boxes)] = scene.box_classes
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, **arrays)
    path.with_suffix(".part").rename(path)


def run_render(arguments: argparse.Namespace) -> None:
    folder = arguments.out / arguments.split
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for first in range(0, arguments.count, CHUNK):
        path = folder / f"{first:06d}.npz"
        if not path.exists():
            jobs.append((arguments.split, first, min(CHUNK, arguments.count - first), path))
    with Pool(arguments.workers) as pool:
        pool.starmap(draw_chunk, jobs, chunksize=1)
    print(json.dumps({"split": arguments.split, "count": arguments.count, "drawn": len(jobs)}))


PACKED = {
    "captioned": (3000, None),
    "probe": (800, 800),
    "validation": (700, 250),
    "test": (2000, 500),
    "heldout": (250, 120),
}
"""Split -> how many pictures, and how many of them with truth."""


def run_pack(arguments: argparse.Namespace) -> None:
    import lzma
    import tarfile

    from clipzoo.demo.render import render_split

    folder = arguments.out / "packed"
    for split, (count, truth) in PACKED.items():
        began = time.time()
        render_split(
            split,
            count,
            folder / split,
            truth=truth,
            truth_size=arguments.truth_size,
            quality=arguments.quality,
            workers=arguments.workers,
        )
        print(split, count, f"{time.time() - began:.0f} s", flush=True)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "runs.jsonl" and p.suffix != ".lock")
    target = arguments.target / "rooms.tar.xz"
    with (
        lzma.open(target, "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in files:
            member = tarfile.TarInfo(str(path.relative_to(folder)))  # time 0, owner 0: the same bytes every time
            member.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(member, file)
    total = sum(p.stat().st_size for p in arguments.target.rglob("*") if p.is_file())
    print(f"{target.name} {target.stat().st_size / 1e6:.1f} MB, demo folder {total / 1e6:.1f} MB")


def run_clip(arguments: argparse.Namespace) -> None:
    from demo_models import train_clip

    train_clip(arguments)


def run_experts(arguments: argparse.Namespace) -> None:
    from demo_models import train_experts

    train_experts(arguments)


def run_check(arguments: argparse.Namespace) -> None:
    from demo_figures import check

    check(arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    drawing = commands.add_parser("render")
    drawing.add_argument("--split", choices=SPLITS, required=True)
    drawing.add_argument("--count", type=int, required=True)
    drawing.add_argument("--out", type=Path, required=True)
    drawing.add_argument("--workers", type=int, default=2)
    drawing.set_defaults(run=run_render)
    clip = commands.add_parser("clip")
    clip.add_argument("--out", type=Path, required=True)
    clip.add_argument("--target", type=Path, default=DEMO)
    clip.add_argument("--steps", type=int, default=1300)
    clip.add_argument("--batch", type=int, default=192)
    clip.add_argument("--rate", type=float, default=1e-3)
    clip.add_argument("--bf16", action="store_true")
    clip.add_argument("--until", type=int, help="stop at this step of the schedule")
    clip.add_argument("--resume", action="store_true", help="go on from the weights that are there")
    clip.set_defaults(run=run_clip)
    experts = commands.add_parser("experts")
    experts.add_argument("--out", type=Path, required=True)
    experts.add_argument("--target", type=Path, default=DEMO)
    experts.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    experts.add_argument("--steps", type=int, default=1100)
    experts.add_argument("--rate", type=float, default=3e-3)
    experts.add_argument("--bf16", action="store_true")
    experts.add_argument("--device", default="cpu")
    experts.add_argument("--resume", action="store_true", help="go on from the weights that are there")
    experts.set_defaults(run=run_experts)
    check = commands.add_parser("check")
    check.add_argument("--out", type=Path, required=True)
    check.set_defaults(run=run_check)
    pack = commands.add_parser("pack")
    pack.add_argument("--out", type=Path, required=True)
    pack.add_argument("--target", type=Path, default=DEMO)
    pack.add_argument("--quality", type=int, default=60)
    pack.add_argument("--truth-size", type=int, default=32)
    pack.add_argument("--workers", type=int, default=2)
    pack.set_defaults(run=run_pack)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
