"""What the verbs print and what they leave alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.cli._console import WIDE, _Console
from clipzoo.errors import ExpertError, StoreError
from clipzoo.labeling import label
from making import Bright, encoded, image, make_dataset


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


# Tables ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wide() -> Table:
    made = Table("name", "path")
    made.add_row("n" * 90, "p" * 300)
    return made


def test_a_table_in_a_pipe_is_as_wide_as_its_content(wide, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    console = _Console(file=io.StringIO())
    console.print(wide)
    lines = console.file.getvalue().splitlines()
    assert any("n" * 90 in line and "p" * 300 in line for line in lines)
    assert max(map(len, lines)) < 500 < WIDE


def test_a_table_on_a_narrow_terminal_is_folded_and_nothing_is_cut(wide):
    console = _Console(file=io.StringIO(), force_terminal=True, width=40, no_color=True)
    console.print(wide)
    text = console.file.getvalue()
    assert (text.count("n") - 1, text.count("p") - 1) == (90, 300)  # and one in each heading
    assert "…" not in text


def test_every_verb_prints_whole_tables(tmp_path):
    data, out = make_dataset(tmp_path / "data", shards=1), tmp_path / ("a folder with a long name " * 4)
    bright = Bright("a-very-long-name-of-an-expert-" * 3)
    label(str(data), [bright], out, progress=False, check=False)
    told = invoke("labels", "ls", out)
    assert bright.card.uri in told
    assert f"segmentation/{bright.card.slug}" in told
    assert "…" not in told


# Failures --------------------------------------------------------------------------------------------------


def test_an_import_of_nothing_is_an_error_with_its_reason(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    (tmp_path / "depth").mkdir()
    for i in range(6):
        (tmp_path / "depth" / f"{i:06d}.png").write_bytes(b"no picture")
    asked = ["task=depth", "kind=metric", "along=z", "scale=1", "invalid=0"]
    answers = [word for one in asked for word in ("--set", one)]
    arguments = ["labels", "import", data, tmp_path / "depth", "--format", "files", "--out", tmp_path / "out", *answers]
    arguments += ["--max-failures", "1"]
    with pytest.raises(
        ExpertError, match=r"all 6 samples .*: 00000/000000: its label cannot be used: cannot read the label"
    ):
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert invoke("labels", "show", tmp_path / "out", "depth", "--failed").count("cannot read the label") == 6


def test_a_table_of_failures_says_why_and_shows_one_whole(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    (tmp_path / "depth").mkdir()
    for i in range(6):
        (tmp_path / "depth" / f"{i:06d}.png").write_bytes(b"no picture")
    asked = "task=depth&kind=metric&along=z&scale=1&invalid=0"
    (tmp_path / "depth" / "000000.png").write_bytes(encoded(image(0)[..., 0]))
    arguments = ["--expert", f"files:{tmp_path}/depth?{asked}", "--out", tmp_path / "out", "--max-failures", "1"]
    told = invoke("label", data, *arguments)
    assert "5 × unsound-label: cannot read the label: UnidentifiedImageError: cannot identify image file" in told
    assert f"for example 00000/000001: its label cannot be used: cannot read the label: {tmp_path}/depth/" in told
    assert f"clipzoo labels show {tmp_path}/out depth/files-depth --failed" in told


def test_a_price_without_an_estimate_is_refused_and_nothing_is_labeled(tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    arguments = ["label", data, "--expert", "demo:depth", "--out", tmp_path / "out", "--price", "2"]
    told = invoke(*arguments, code=2)
    assert "add --estimate, or remove --price" in " ".join(told.replace("│", " ").split())
    assert tree(tmp_path) == {"data", "data/00000.tar"}


# Verbs that only look --------------------------------------------------------------------------------------


def test_a_store_that_is_mistyped_is_told_and_not_made(tmp_path):
    for data in (make_dataset(tmp_path / "data", shards=1), "demo:test"):
        for verb in (["inspect"], ["labels", "verify"]):
            result = CliRunner().invoke(app, [*verb, str(tmp_path / "lables"), "--data", str(data)])
            assert isinstance(result.exception, StoreError)
            assert "there is no label store at" in str(result.exception)
            assert "clipzoo labels ls FOLDER" in str(result.exception)
    assert tree(tmp_path) == {"data", "data/00000.tar"}


def test_looking_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("clipzoo.labeling.estimating.SECONDS", 0.01)
    told = invoke("label", "demo:test", "--expert", "demo:depth", "--out", tmp_path / "out", "--estimate", "--price", 2)
    assert "at 2 per hour" in told
    assert tree(tmp_path) == set()
    data = make_dataset(tmp_path / "data", shards=1)
    label(str(data), [Bright()], tmp_path / "out", progress=False, check=False)
    before = tree(tmp_path)
    assert "has 1 shards from" in invoke("labels", "verify", tmp_path / "out", "--data", "demo:test", code=1)
    assert tree(tmp_path) == before
