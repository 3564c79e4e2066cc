"""Costs of a large dataset: seconds and bytes a row of its index, its plan and its verification.

    python benchmarks/scale.py                            # shards of 10^5 and 10^6 samples, a plan of 10^7 rows
    python benchmarks/scale.py --quick --out /tmp/scale   # seconds; its figures prove nothing

Shards have sparse images of 20 KB, a caption and a JSON; three columns of labels are joined. With ``--before SRC`` (the
`src` folder of another build) the same shards are indexed and joined by that build, in turns. Times are CPU time of the
process, and wall time next to it. Memory is that of a fresh process, from /proc/self/smaps_rollup: private memory is
``Anonymous``, which no other process shares and which cannot be dropped. Pages of the plan's file are page cache: they
are shared by all processes and dropped when memory is needed; one process alone counts them as ``Private_Clean``.
Writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

IMAGE, CAPTION, META = 20_000, 60, 400
PER_SHARD = 10_000
COLUMNS = ("depth/a", "depth/b", "depth/c")
Row = dict[str, float]
TARGETS = (12_000_000, 400_000_000)
ROOT = Path(__file__).parent


# Synthetic data --------------------------------------------------------------------------------------------


def write_shards(folder: Path, rows: int) -> None:
    """Tars of three members per sample; images are holes in the file."""
    folder.mkdir(parents=True)
    sizes = {"jpg": IMAGE, "txt": CAPTION, "json": META}
    padded = [512 + -(-size // 512) * 512 for size in sizes.values()]
    places = np.cumsum([0, *padded[:-1]])
    for shard, first in enumerate(range(0, rows, PER_SHARD)):
        count = min(PER_SHARD, rows - first)
        with (folder / f"{shard:05d}.tar").open("wb") as file:
            file.truncate(count * sum(padded) + 10_240)
            headers = [_headers(ext, size, first, count) for ext, size in sizes.items()]
            for i in range(count):
                for place, table in zip(places, headers, strict=True):
                    os.pwrite(file.fileno(), table[i], i * sum(padded) + int(place))


def _headers(ext: str, size: int, first: int, count: int) -> list[bytes]:
    info = tarfile.TarInfo(f"{0:09d}.{ext}")
    info.size, info.mode = size, 0o644
    table = np.tile(np.frombuffer(info.tobuf(tarfile.PAX_FORMAT), np.uint8), (count, 1))
    digits = np.char.zfill(np.arange(first, first + count).astype("S9"), 9)
    table[:, :9] = np.frombuffer(digits.tobytes(), np.uint8).reshape(count, 9)
    table[:, 148:156] = ord(" ")
    sums = [f"{value:06o}\0 ".encode() for value in table.sum(1, dtype=np.int64)]
    table[:, 148:156] = np.frombuffer(b"".join(sums), np.uint8).reshape(count, 8)
    return [row.tobytes() for row in table]


def write_store(data: Path, folder: Path) -> None:
    """Rows of three columns over all samples; their tars are empty."""
    from clipzoo.experts import ExpertCard
    from clipzoo.readers import fingerprint, open_dataset, shard_fingerprint
    from clipzoo.store import SCHEMA, Store
    from clipzoo.tasks import Convention

    reader, store = open_dataset(str(data)), Store(folder)
    columns = []
    for name in COLUMNS:
        card = ExpertCard(f"test:{name[-1]}", "depth", Convention(kind="affine-depth"), weights_sha256="00")
        columns.append(store.create(card, fingerprint(reader)))
    for shard in reader.shards:
        entries = reader.index(shard)
        source, n = shard_fingerprint(reader, shard, entries), len(entries)
        spans = {"offset": np.arange(n) * 2048 + 512, "size": np.full(n, 1000)}
        shares = {"valid_share": np.ones(n, np.float32), "confidence": np.full(n, 0.5, np.float32)}
        nulls = {name: pa.nulls(n, pa.string()) for name in ("error", "code")}
        table = pa.table({"key": [entry.key for entry in entries], **spans, **shares, **nulls}).cast(SCHEMA)
        for column in columns:
            marks = {"expert": column.manifest.digest, "tar_sha256": "0" * 64, "source": source}
            pq.write_table(table.replace_schema_metadata(marks), column.file(shard, ".parquet"), compression="zstd")
            column.file(shard, ".tar").write_bytes(b"")
    for column in columns:
        column.finish()


def write_plan(path: Path, rows: int, key_bytes: int) -> None:
    """A plan without a dataset: rows of three columns, and keys of so many bytes."""
    from clipzoo.data.planfile import PlanWriter

    shards = [f"{i:06d}" for i in range(-(-rows // PER_SHARD))]
    with PlanWriter(str(path), shards, COLUMNS) as writer:
        for number in range(len(shards)):
            n = min(PER_SHARD, rows - number * PER_SHARD)
            names = np.char.zfill(np.arange(number * PER_SHARD, number * PER_SHARD + n).astype("S9"), key_bytes)
            spans = {"offset": pa.array(np.arange(n) * 2048), "size": pa.array(np.full(n, 1000))}
            columns: dict[str, pa.Array] = {"key": pa.array(names.astype(str), pa.large_string())}
            for part, ext in (("image", "jpg"), ("caption", "txt")):
                columns[f"{part}:ext"] = pa.array([ext] * n, pa.large_string())
                columns |= {f"{part}:{name}": values for name, values in spans.items()}
            columns |= {f"{one}:{name}": values for one in COLUMNS for name, values in spans.items()}
            writer.add(number, pa.table(columns))
        writer.finish({"left_out": "", "tars": "{}", "places": "{}"})
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that are not on the disk yet count as dirty in every process that maps them


# Measured in a process of its own --------------------------------------------------------------------------


def timed(call: Callable[[], object], rows: int) -> Row:
    """CPU and wall microseconds a row."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return {"cpu_us": (time.process_time() - cpu) / rows * 1e6, "wall_us": (time.perf_counter() - wall) / rows * 1e6}


def memory() -> Row:
    """Bytes of this process by kind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kinds = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {name: kinds[name] for name in ("Rss", "Anonymous", "Private_Dirty", "Private_Clean")}


def index(data: str, rows: str) -> dict[str, Row]:
    """All shards are indexed; nothing is kept."""
    from clipzoo.readers import open_dataset

    reader = open_dataset(data)
    reader.index(reader.shards[0])
    return {"index": timed(lambda: [len(reader.index(shard)) for shard in reader.shards], int(rows))}


def build(data: str, rows: str, store: str, out: str) -> dict[str, Row]:
    """Index and plan of three columns, written to a file."""
    from clipzoo.data import Plan
    from clipzoo.readers import open_dataset
    from clipzoo.store import Store

    reader, path = open_dataset(data), Path(out)
    columns = {column.name: column for column in Store(store).columns()}
    start = memory()

    def made(**options: int) -> None:
        if hasattr(Plan, "epoch"):
            Plan.build(reader, columns, path=path, **options)
        else:  # an earlier build
            Plan.build(reader, columns).save(path)

    separable = hasattr(reader, "separable")
    result = {"index and plan": timed(lambda: made(**{"processes": 1} if separable else {}), int(rows))}
    result["memory"] = {"private": memory()["Anonymous"] - start["Anonymous"]}
    result["file"] = {"bytes": path.stat().st_size / int(rows)}
    if separable:  # its CPU time is that of the first process alone
        result["index and plan, a process per core"] = {"wall_us": timed(made, int(rows))["wall_us"]}
    return result


def use(path: str, steps: str) -> dict[str, Row]:
    """A plan is opened, and batches of an epoch are drawn from its first step, and from the middle of the epoch."""
    from clipzoo.data import Plan

    start, began = memory(), time.perf_counter()
    plan = Plan.load(path)
    opened, seconds = memory(), time.perf_counter() - began
    rows = len(plan)
    result = {"open": {"seconds": seconds, "private": opened["Anonymous"] - start["Anonymous"]}}
    if not hasattr(plan, "epoch"):
        began = time.perf_counter()
        order = plan.order(0, 0)
        result["first batch"] = {"seconds": time.perf_counter() - began}
        starts = [i * 256 % max(rows - 256, 1) for i in range(int(steps))]
        took = timed(lambda: [plan.rows(order[at : at + 256].tolist()) for at in starts], 1)
    else:
        order = plan.epoch(0, 0)
        began = time.perf_counter()
        plan.rows(order.take(np.arange(256)).tolist())
        result["first batch"] = {"seconds": time.perf_counter() - began}
        began = time.perf_counter()
        plan.rows(order.take(rows // 2 + np.arange(256)).tolist())
        result["resume at half"] = {"seconds": time.perf_counter() - began}
        order = plan.epoch(0, 1)
        at = [i * 256 % max(rows - 256, 1) + np.arange(256) for i in range(int(steps))]
        took = timed(lambda: [plan.rows(order.take(one).tolist()) for one in at], 1)
    result["batch of 256"] = {"cpu_ms": took["cpu_us"] / int(steps) / 1e3}
    end = memory()
    result["memory"] = {
        "private": end["Anonymous"] - start["Anonymous"],
        "private a row": (end["Anonymous"] - start["Anonymous"]) / rows,
        "Private_Dirty": end["Private_Dirty"] - start["Private_Dirty"],
        "Private_Clean": end["Private_Clean"] - start["Private_Clean"],
        "resident": end["Rss"] - start["Rss"],
    }
    return result


def checked(rows: str) -> dict[str, Row]:
    """A store of equal depth labels, 512², is verified by default and completely, on one thread."""
    from clipzoo.experts import ExpertCard
    from clipzoo.store import ColumnWriter, Store, verify
    from clipzoo.tasks import Convention
    from clipzoo.tasks.depth import Depth

    folder = Path(mkdtemp())
    try:
        noise = np.random.default_rng(0).random((512, 512), np.float32)
        depth = Depth(np.cumsum(noise, 1).astype(np.float32), np.ones((512, 512), np.bool_), "affine-depth", None)
        card = ExpertCard("test:a", "depth", Convention(kind="affine-depth"), weights_sha256="00")
        result: dict[str, Row] = {}
        for name, count in (("deep", max(int(rows) // 20, 16)), ("default", int(rows))):
            column = Store(folder / name).create(card, {})
            for shard in range(8):
                with ColumnWriter(column, f"{shard:05d}") as writer:
                    data, share, confidence = writer.encode(depth)
                    for key in range(count // 8):
                        writer.copy(f"{shard}-{key}", data, share, confidence)
            column.finish()
            store = Store(folder / name)
            result[name] = timed(lambda store=store, deep=name == "deep": verify(store, deep=deep), count // 8 * 8)
            result[name]["bytes"] = len(data)
        return result
    finally:
        shutil.rmtree(folder)


CALLS: dict[str, Callable[..., dict[str, Row]]] = {"index": index, "build": build, "use": use, "checked": checked}


# Report ----------------------------------------------------------------------------------------------------


def child(call: str, *arguments: object, source: str = "") -> dict[str, Row]:
    """Run a measurement in a fresh process, with the package of ``source`` if given."""
    paths = [source or str(ROOT.parent / "src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--call", call, *map(str, arguments)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    values: dict[str, Row] = json.loads(done.stdout.splitlines()[-1])
    return values


def measured(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Row]]]:
    """Yield (title, figures)."""
    yield from indexed(args, folder, args.shards[0])
    for rows, key_bytes in args.plans:
        began = time.process_time()
        write_plan(folder / "large.arrow", rows, key_bytes)
        spent = {"cpu_us": (time.process_time() - began) / rows * 1e6}
        size = {"bytes": (folder / "large.arrow").stat().st_size / rows, "bytes of keys": float(rows * key_bytes)}
        figures = child("use", folder / "large.arrow", args.steps)
        yield f"{rows:,} rows, keys of {key_bytes} bytes", {"write": spent, "file": size, **figures}
    (folder / "large.arrow").unlink()
    yield f"verify, {args.labels:,} labels", child("checked", args.labels)
    for rows in args.shards[1:]:
        yield from indexed(args, folder, rows)


def indexed(args: argparse.Namespace, folder: Path, rows: int) -> Iterator[tuple[str, dict[str, Row]]]:
    """Yield (title, figures) of shards with ``rows`` samples."""
    data, store = folder / f"data-{rows}", folder / f"store-{rows}"
    write_shards(data, rows)
    write_store(data, store)
    for source, name in ((args.before, "before"), ("", "now")):
        if name == "before" and (not source or rows > 200_000):
            continue
        out = folder / ("plan.parquet" if source else "plan.arrow")
        figures = child("index", data, rows, source=source)
        figures |= child("build", data, rows, store, out, source=source)
        yield f"{rows:,} samples, {name}", figures
        yield f"{rows:,} rows used, {name}", child("use", out, args.steps, source=source)
    shutil.rmtree(data)
    shutil.rmtree(store)


def extrapolated(results: dict[str, dict[str, Row]]) -> list[str]:
    """Rows of a table for larger datasets, from the largest measured ones."""
    built = [values for title, values in results.items() if title.endswith("samples, now")][-1]
    title, plan = next((title, values) for title, values in results.items() if "keys of" in title)
    count = int(title.split(" ")[0].replace(",", ""))
    half = plan["resume at half"]["seconds"] / count
    verify = next(values for title, values in results.items() if title.startswith("verify"))
    lines = ["| | 12 M | 400 M |", "| --- | ---: | ---: |"]
    figures = {
        "index and plan, CPU minutes": [built["index and plan"]["cpu_us"] * n / 60e6 for n in TARGETS],
        "file of the plan, GB": [built["file"]["bytes"] * n / 1e9 for n in TARGETS],
        "opening, seconds": [plan["open"]["seconds"] * n / count for n in TARGETS],
        "resume in the middle of an epoch, seconds": [half * n for n in TARGETS],
        "private memory of a process, MB": [max(plan["memory"]["private a row"], 0) * n / 1e6 for n in TARGETS],
        "verify a column, CPU hours": [verify["default"]["cpu_us"] * n / 3600e6 for n in TARGETS],
        "verify a column with --deep, CPU hours": [verify["deep"]["cpu_us"] * n / 3600e6 for n in TARGETS],
    }
    return lines + [f"| {name} | {a:,.1f} | {b:,.1f} |" for name, (a, b) in figures.items()]


def markdown(results: dict[str, dict[str, Row]], machine: dict[str, object]) -> str:
    """The figures as text."""
    lines = ["# Scale", "", ", ".join(f"{name}: {value}" for name, value in machine.items()), ""]
    for title, figures in results.items():
        lines += [f"## {title}", "", "| | figures |", "| --- | --- |"]
        for name, row in figures.items():
            lines.append(f"| {name} | " + ", ".join(f"{key} {value:,.2f}" for key, value in row.items()) + " |")
        lines.append("")
    return "\n".join([*lines, "## Extrapolation", "", "Linear in the number of rows.", "", *extrapolated(results), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--before", default="", help="the src folder of another build")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "scale")
    parser.add_argument("--scratch", type=Path, help="folder for synthetic data, up to 10 GB; removed at the end")
    parser.add_argument("--samples", type=int, nargs="+", help="print index and plan of these sizes alone, and end")
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.call:
        print(json.dumps(CALLS[args.call[0]](*args.call[1:])))
        return
    args.shards = (2_000,) if args.quick else (100_000, 1_000_000)
    args.plans = ((20_000, 9),) if args.quick else ((10_000_000, 9), (10_000_000, 220))
    args.steps, args.labels = (20, 320) if args.quick else (400, 10_000)
    if args.scratch:
        args.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(dir=args.scratch))
    if args.samples:
        try:
            for rows in args.samples:
                for title, figures in indexed(args, folder, rows):
                    print(title, json.dumps(figures), flush=True)
        finally:
            shutil.rmtree(folder)
        return
    machine: dict[str, object] = {
        "cores": os.cpu_count(),
        "load at start": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "numpy": np.__version__,
    }
    results: dict[str, dict[str, Row]] = {}
    try:
        for title, figures in measured(args, folder):
            results[title] = figures
            print(title, json.dumps(figures), flush=True)
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "results.json").write_text(
                json.dumps({"machine": machine, "results": results}, indent=2) + "\n"
            )
    finally:
        shutil.rmtree(folder)
    (args.out / "results.md").write_text(markdown(results, machine))


if __name__ == "__main__":
    main()
