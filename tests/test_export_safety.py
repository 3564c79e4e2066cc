"""An export is whole or not there, one at a time, and its card shows words of others as words."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo import runs as workspace
from clipzoo.cli import app
from clipzoo.errors import CheckpointError
from clipzoo.export._card import card
from clipzoo.models import Student
from clipzoo.runs import verbs as pipeline
from clipzoo.store import Manifest, Store

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
sys.argv = ["clipzoo", "export", sys.argv[1], "--heads", "--out", sys.argv[2]]
from clipzoo.cli import main
main()
"""


@pytest.fixture
def run(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> workspace.Run:
    values = {
        "name": "r", "data": str(dataset), "store": str(labels), "columns": [{"column": "depth/test-truth"}],
        "student": {"model": tiny_clip}, "training": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    made = workspace.Run(recipe.parse(values), tmp_path / "run")
    pipeline.train(made, "clipzoo", 0)
    return made


@pytest.mark.parametrize("room", [pytest.param(100, marks=pytest.mark.slow), 40_000])
def test_a_full_disk_is_an_error_in_a_line_and_leaves_nothing(run: workspace.Run, room: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", LIMITED, str(run.out), str(out), str(room)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ended.returncode == 2, ended.stderr
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("number", [27, 28])
def test_what_libraries_in_rust_say_of_a_disk_is_an_error_of_the_disk(
    number: int, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Student.create(tiny_clip)

    def refuse(folder: Path) -> None:
        raise Exception(f"No space left on device (os error {number})")  # as tokenizers does it

    monkeypatch.setattr(student.tokenizer, "save_pretrained", refuse)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as raised:
        student.save(tmp_path / "student")
    assert raised.value.errno == number


def test_an_export_waits_for_nobody_in_the_runs_folder(run: workspace.Run, tmp_path: Path) -> None:
    with run.writing():
        found = CliRunner().invoke(app, ["export", str(run.out), "--out", str(tmp_path / "out")])
    assert isinstance(found.exception, CheckpointError)
    assert "in use by process" in str(found.exception)
    assert not (tmp_path / "out").exists()


HOSTILE = "a | b\n| c | [x](http://evil) ![y](http://evil/p.png) <script>alert(1)</script> `c` {parity} \x1b[2J\\|"


def test_a_card_shows_words_of_others_as_words(labels: Path, tiny_clip: str) -> None:
    manifest = Store(labels).column("depth", "test-truth").manifest
    expert = dict.fromkeys(("uri", "license", "revision", "weights_sha256"), HOSTILE)
    wanted = recipe.parse(
        {
            "name": HOSTILE, "data": HOSTILE, "student": {"model": tiny_clip}, "training": {"steps": 1},
            "arms": ["clip-ft"],
        }
    )  # fmt: skip
    cell = {"mean": 0.5, "ci": [0.4, 0.6], "direction": "higher", "unit": HOSTILE}
    results = {"arms": {HOSTILE: {HOSTILE: cell}}}
    columns = {HOSTILE: Manifest.model_validate({**json.loads(manifest.model_dump_json()), "expert": expert})}
    text = card(wanted, "clip-ft", "mine: clip-ft, seed 0", columns, results, "1")
    assert [text.count(f"{{{name}}}") for name in ("library", "usage", "parity")] == [1, 1, 1]
    assert not {"\x1b", "\r"} & set(text)
    assert "<script" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table] == [6] * 6 + [3] * 3
    assert not re.search(r"(?<!\\)[\[\]`]", text.partition("---\n\n")[2])
    shown = re.sub(r"\\([\\`*|\[\]])", r"\1", html.unescape(table[2]))
    assert " ".join(HOSTILE.split()).replace("\x1b", "\\x1b") in shown


def test_a_manifest_that_lacks_its_license_is_a_dash(labels: Path, tiny_clip: str) -> None:
    manifest = Store(labels).column("depth", "test-truth").manifest.model_copy(update={"expert": {"uri": "hf:a/b"}})
    wanted = recipe.parse(
        {"name": "r", "data": "d", "student": {"model": tiny_clip}, "training": {"steps": 1}, "arms": ["clip-ft"]}
    )
    assert "| depth/x | hf:a/b | – | – | – |" in card(
        wanted, "clip-ft", "mine: clip-ft, seed 0", {"depth/x": manifest}, None, "1"
    )
