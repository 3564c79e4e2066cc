"""`clipzoo eval` refuses options that it would not use, with what to do instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.cli.eval import _with_default

MODEL = ["--model", "timm:vit_tiny_patch16_224", "--test", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x.yaml", "--layers", "3"], r"--layers needs --model.*use --set evaluation\.layers="),
        (["x.yaml", "--label-size", "112"], r"--label-size needs --model.*use --set evaluation\.label_stride="),
        (["x.yaml", "--preset", "knn", "--layers", "3"], r"--layers belongs to the preset quick.*Remove --layers"),
        ([*MODEL, "--preset", "dinov3-ade-linear", "--label-size", "32"], r"--label-size belongs to the preset quick"),
        ([*MODEL, "--set", "evaluation.test=x"], r"--set belongs to a recipe.*Remove it"),
        ([*MODEL, "--trust"], r"--trust belongs to a recipe.*Remove it"),
        ([*MODEL, "--seed", "3"], r"--seed needs --preset with a trained probe: quick has no seed\. Remove --seed"),
        ([*MODEL, "--probe", "b", "--preset", "knn", "--seed", "3"], r"knn has no seed\. Remove --seed"),
        ([*MODEL, "--open-vocabulary", "sclp"], r"--open-vocabulary: there is no variant 'sclp'.*sclip"),
        (
            [*MODEL, "--probe", "b", "--preset", "linear-classification", "--seed", "3"],
            r"linear-classification has no seed",
        ),
        (
            [*MODEL, "--probe", "b", "--validation", "c", "--preset", "dinov3-ade-linear"],
            r"dinov3-ade-linear has no setting that validation chooses\. Remove --validation",
        ),
    ],
)
def test_options_that_would_not_be_used_are_refused(options: list[str], message: str) -> None:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["eval", *options])
    assert done.exit_code
    assert re.search(message, " ".join((done.output + str(done.exception)).split()))


def test_a_folder_after_open_vocabulary_is_no_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for path in ("mine", "runs/mine", "recipe.yaml"):
        assert list(_with_default(["--open-vocabulary", path])) == ["--open-vocabulary", "maskclip", path]
    assert list(_with_default(["--open-vocabulary", "sclip", "mine"])) == ["--open-vocabulary", "sclip", "mine"]


def test_a_variant_after_open_vocabulary_is_one_where_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sclip").mkdir()  # the --out of an earlier command
    assert list(_with_default(["--open-vocabulary", "sclip"])) == ["--open-vocabulary", "sclip"]
