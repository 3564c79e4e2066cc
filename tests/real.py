"""Experts with real weights over the hostile corpus, as a user has it labeled: by the command line."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import hostile
from clipzoo.readers import open_dataset
from clipzoo.store import Store

ROOT = Path(__file__).parents[1]
FOLDERS = [str(ROOT / "examples" / name) for name in ("hed", "mediapipe")]
EXPERTS = (
    f"onnx:{ROOT / 'recipes' / 'openclipart' / 'u2netp.yaml'}",
    "python:hed:HED",
    "python:litert:Objects",
    "python:litert:Person",
)
WEIGHTS = runpy.run_path(str(ROOT / "examples" / "fetch.py"))["WEIGHTS"]
LACKING = [name for name, what in WEIGHTS.items() if not what.out.is_file()]
LACKING += [name for name in ("ai_edge_litert", "onnxruntime") if find_spec(name) is None]
needs_weights = pytest.mark.skipif(bool(LACKING), reason=f"no {', '.join(LACKING)} here: run `make experts`")


def clipzoo(*arguments: str) -> str:
    """What a command that succeeds says."""
    path = os.pathsep.join(filter(None, [*FOLDERS, os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [sys.executable, "-c", "from clipzoo.cli import main; main()", *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.stdout


def label_corpus(where: str, out: Path, *options: str) -> None:
    """Label the corpus in one pass: of every expert each item is a label, or a row that says why not."""
    experts = [f"--expert={uri}" for uri in EXPERTS]
    clipzoo("label", where, *experts, f"--out={out}", "--max-failures=100%", "--device=cpu", "--threads=1", *options)
    assert "no problems" in clipzoo("labels", "verify", str(out), "--data", where)
    items, shards = {one.name: one.usable for one in hostile.items()}, open_dataset(where).shards
    columns = Store(out).columns()
    assert len(columns) == len(EXPERTS)
    for column in columns:
        rows = [row for shard in shards for row in column.rows(shard).to_pylist()]
        assert sorted(row["key"] for row in rows) == sorted(items)
        assert {row["key"]: row["error"] is None for row in rows} == items, column.name
        assert all(len(row["error"]) > 10 for row in rows if row["error"])
        counts = column.manifest.counts
        assert counts.labels + counts.failures == len(items)
