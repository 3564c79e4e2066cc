"""The tutorial works as it is printed: every command block is run, in order, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[str]:
    return [code for language, code in FENCE.findall(text) if language == "bash"]


def test_every_block_of_the_tutorial_is_a_command_block() -> None:
    assert {language for language, _ in FENCE.findall(PAGE.read_text())} == {"bash"}
    assert len(blocks(PAGE.read_text())) >= 8


@pytest.mark.slow
def test_the_tutorial_runs_block_by_block(tmp_path: Path) -> None:
    """``pip`` downloads two wheels, so this test needs a package index."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, code in (("clipzoo", "-c 'from clipzoo.cli import main; main()'"), ("pip", "-m pip"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n')
        program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    paths = os.pathsep.join([str(programs), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    for code in blocks(PAGE.read_text()):
        ended = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", code], cwd=work, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, f"{code}\n{ended.stdout}\n{ended.stderr}"
    for name in ("check.html", "labels.html", "look.html", "runs/tutorial/page.html", "my-clip/open_clip_config.json"):
        assert (work / name).is_file(), name
    split = json.loads((work / "parts" / "split.json").read_text())
    assert {name: part["samples"] for name, part in split["parts"].items()} == {
        "train": 102, "probe": 24, "validation": 24, "test": 30,
    }  # fmt: skip
    assert json.loads((work / "other" / "results.json").read_text())
    assert json.loads((work / "runs" / "tutorial" / "results.json").read_text())
