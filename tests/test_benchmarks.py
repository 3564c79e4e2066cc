"""The benchmarks run: tiny, to see that they do; what they measure stands in benchmarks/results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_labeling_is_measured_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "labeling.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    for name, row in found["throughput"].items():
        assert {"expert", "forward", "engine", "obvious"} == set(row["seconds"]), name
        assert row["obvious_bytes_over_ours"] > 5
    assert set(found["columns"]) == {"segmentation", "detection", "depth", "normals", "edges"}
    assert found["estimate"]["estimated_bytes_over_true"] == pytest.approx(1, abs=0.15)
    assert "these figures prove nothing" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_objectives_are_compared_on_validation(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "objectives.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    schemes = {"fixed", "uncertainty", "gradient_norm", "equal_scale", "expert_dropping"}
    assert set(found["scores"]) > schemes | {"trim 0.1", "confidence_weight 1", "gram anchor 1"}
    assert set(found["costs"]) == schemes | {"fixed, gradients_every: 1"}
    assert all({"criterion", "zero_shot/top1"} <= set(seeds["0"]) for seeds in found["scores"].values())
    page = (tmp_path / "results.md").read_text()
    assert "these figures prove nothing" in page
    assert "| expert_dropping |" in page


@pytest.mark.slow
def test_the_loader_is_measured_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "loader.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found["sizes"]) == {"256", "512"}
    for one in found["sizes"].values():
        assert all(ms > 0 for ms in one["cpu_ms"].values())
        assert "images + three columns / images" in one["ratios"]
    assert set(found["bytes"]) == {"segmentation", "depth", "normals"}
    assert "these figures prove nothing" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_waiting_is_measured_in_turns(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "waiting.py"), "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "results.json").read_text())["seconds"]
    assert set(found) == {"0", "1"}
    assert all(len(one) == 3 and all(len(seconds) == 1 for seconds in one.values()) for one in found.values())
