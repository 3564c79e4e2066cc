"""The benchmark of the trainer runs and states every ratio with its limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_training_benchmark_states_every_ratio(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--quick", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert [*sections] == ["Steps on cpu", "Cached accumulation on cpu", "Two ranks"]
    limits = {ratio["what"]: ratio["limit"] for section in sections.values() for ratio in section["ratios"]}
    assert limits["step of captions alone / plain OpenCLIP loop"] == 1.0
    assert limits["step of three conv heads / captions alone"] == 1.05
    assert limits["step of three linear heads / captions alone"] == 1.03
    assert limits["peak memory of three conv heads / captions alone"] == 1.1
    assert limits["time an image of batch 16 in 8 chunks / batch 2"] == 1.5
    assert limits["images a second of 2 gloo ranks, 1 thread each / 1 process, 1 thread"] == 1.6
    assert sum("loader" in what for what in limits) == 2
    for section in sections.values():
        assert all(ratio["median"] > 0 for ratio in section["ratios"])
        assert all(len(arm["seconds"]) == 1 and arm["peak"] > 2**20 for arm in section["arms"].values())
    page = (tmp_path / "results.md").read_text()
    assert all(what in page for what in limits)
