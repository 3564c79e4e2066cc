"""Tables that start without PyTorch, and progress without a terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipzoo import experts, tasks
from clipzoo.cli import _console
from clipzoo.cli._console import PERIOD, Lines, bars
from clipzoo.labeling import _progress

HEAVY = ("torch", "torchvision", "transformers", "open_clip", "scipy", "pandas")
RUN = """
import sys
from clipzoo.cli import app
app({arguments!r}, standalone_mode=False)
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
"""


LISTS = ["labels ls", "tasks", "experts", "experts ls", "experts ls --zoo hf"]
MODULES = 700
"""Most modules that the start of a table imports: 466 for `tasks`, 600 for `labels ls` (0.35 and 0.58 s of CPU)."""


@pytest.mark.parametrize("verb", LISTS)
def test_a_table_imports_few_modules(verb: str, labels: Path) -> None:
    arguments = [*verb.split(), *([str(labels)] if verb == "labels ls" else [])]
    code = RUN.format(arguments=arguments, heavy=()) + "print(len(sys.modules))\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout.split()[-1]) <= MODULES


def test_a_check_imports_no_deep_learning_library(dataset: Path, tmp_path: Path) -> None:
    code = RUN.format(arguments=["check", str(dataset), "--out", str(tmp_path / "check.html")], heavy=HEAVY[:4])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("HEAVY []\n")
    assert (tmp_path / "check.html").is_file()


@pytest.mark.parametrize("verb", LISTS)
def test_a_table_imports_no_deep_learning_library(verb: str, labels: Path) -> None:
    arguments = [*verb.split(), *([str(labels)] if verb == "labels ls" else [])]
    code = RUN.format(arguments=arguments, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("HEAVY []\n")
    shown = {"labels ls": "segmentation/test-truth", "tasks": "surface normals", "experts": "torchvision:"}
    assert shown.get(verb, "Depth Anything").lower() in result.stdout.lower()


def test_families_listed_without_their_zoo_are_those_of_the_zoo() -> None:
    for scheme in experts.schemes():
        assert experts.families_of(scheme) == tuple(getattr(experts.module_of(scheme), "FAMILIES", ()))
    assert {scheme for scheme in experts.schemes() if experts.families_of(scheme)} >= {"hf", "torchhub", "torchvision"}


def test_a_description_is_the_docstring_of_the_module() -> None:
    for registry in (tasks.PLUGINS, *experts.REGISTRIES):
        for name in registry.names():
            module = registry.load(name)
            assert registry.description(name).split() == (module.__doc__ or "").split()


def test_progress_without_a_terminal_is_a_line_every_thirty_seconds() -> None:
    now, lines = 0.0, []
    progress = Lines(lines.append, lambda: now)
    for step in range(1, 101):
        now = 4.0 * step
        progress.step("clipzoo seed 0", step, 100, f"loss {step}.0, 9 images/s")
    assert PERIOD == 30
    assert lines[0] == "clipzoo seed 0: 9/100, loss 9.0, 9 images/s, 0:06:04 left"
    assert lines[-1] == "clipzoo seed 0: 100/100, loss 100.0, 9 images/s"
    assert len(lines) == 13
    progress.step("short", 1, 1)
    assert len(lines) == 13


def test_lines_reach_a_pipe_at_once() -> None:
    code = (
        "from clipzoo.cli import _console; _console.PERIOD = 0\n"
        "with _console.bars() as progress:\n"
        "    progress.stage('training [a]'); progress.step('clip-ft', 0, 3); progress.step('clip-ft', 1, 3, 'loss 2')\n"
        "    import os; os._exit(0)  # a buffer would be lost"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last = result.stdout.splitlines()
    assert first == "▸ training [a]"
    assert last.startswith("clip-ft: 1/3, loss 2, 0:00:00 left")


def test_a_terminal_has_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_console.console, "_force_terminal", True)
    with bars() as progress:
        assert isinstance(progress, _console.Bars)


def test_labeling_without_a_terminal_prints_lines(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(_progress, "PERIOD", 0.05)
    with _progress.Progress(["depth/x"], 4, shown=True) as shown:
        meter = shown.begin()
        meter.samples, meter.images = 10, 5
        shown.shard("0", meter)
        time.sleep(0.3)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("labeling: 1/4 shards, 5 images, ")
    assert line.endswith(" left")
