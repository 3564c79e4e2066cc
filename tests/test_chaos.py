"""Killed at random moments, labeling ends with the bytes of a run that nothing disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipzoo.readers import open_dataset
from clipzoo.store import Store, verify

KILLS = 60


@pytest.mark.slow
def test_sixty_kills_change_no_byte(tmp_path: Path) -> None:
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a fork copies one thread
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), str(tmp_path), str(KILLS)]
    ended = subprocess.run(command, capture_output=True, text=True, env=alone)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["kills"] == KILLS
    assert seen["kills after commits"] >= 10
    assert seen["kills with a shard in work"] >= 10
    store, whole = Store(tmp_path / "out"), Store(tmp_path / "whole")
    assert verify(store, open_dataset(str(tmp_path / "data"))) == []
    assert not list(store.root.rglob("*.tmp"))
    for ours, theirs in zip(store.columns(), whole.columns(), strict=True):
        assert ours.manifest.counts == theirs.manifest.counts
        assert ours.manifest.counts.failures > 0
