"""`clipzoo push` uploads what `clipzoo export` writes, in one commit, with the run's model card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo import runs as workspace
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, RemoteError
from clipzoo.export._card import card
from clipzoo.runs import verbs as pipeline
from clipzoo.store import Manifest, Store
from hub import Hub, hub

NAME = "me/my-clip"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub 2.4 uploads with an argument that its HTTP client deprecates."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and the environment of a user who is logged in there."""
    with hub() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.address)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield state


@pytest.fixture
def run(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> workspace.Run:
    values = {
        "name": "r", "data": str(dataset), "store": str(labels), "columns": [{"column": "depth/test-truth"}],
        "student": {"model": tiny_clip}, "training": {"steps": 1, "batch_size": 4},
    }  # fmt: skip
    made = workspace.Run(recipe.parse(values), tmp_path / "run")
    pipeline.train(made, "clipzoo", 0)
    return made


def test_a_student_is_uploaded_with_its_card_and_parity(run: workspace.Run, server: Hub) -> None:
    result = CliRunner().invoke(app, ["push", str(run.out), NAME, "--heads", "--private"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"uploaded: {server.address}/{NAME}/commit/1111" in result.output.replace("\n", "")
    files = server.repositories[NAME]
    assert {"README.md", "parity.json", "open_clip_model.safetensors", "clipzoo_heads.safetensors"} <= set(files)
    assert json.loads(files["parity.json"])["image_embeddings"] <= 1e-5
    text = files["README.md"].decode()
    assert text.startswith("---\nlibrary_name: open_clip\n")
    assert "## Experts" in text
    assert "## Cost of the labels" in text
    assert "## Limits" in text
    assert server.private == {NAME: True}
    assert server.commits == ["r: clipzoo, seed 0"]
    assert not [path for path in run.out.iterdir() if path.name.startswith(".push-")]


def test_openclip_finds_the_tokenizer_of_an_uploaded_student(
    run: workspace.Run, server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.push(run, NAME)
    cache, commit = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}", "0" * 40
    for folder in (cache / "refs", cache / "snapshots" / commit, cache / ".no_exist" / commit):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / ".no_exist" / commit / "config.json").touch()  # the hub has been asked for it
    for name, data in server.repositories[NAME].items():
        (cache / "snapshots" / commit / name).write_bytes(data)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tokenizer = open_clip.get_tokenizer(f"hf-hub:{NAME}", cache_dir=str(tmp_path / "cache"))
    texts = ["red square", "a dark picture"]
    assert torch.equal(tokenizer(texts), run.start().tokenize(texts))


def test_a_second_upload_removes_files_of_the_first_and_keeps_others(run: workspace.Run, server: Hub) -> None:
    pipeline.push(run, NAME, heads=True)
    assert server.private == {NAME: None}, "the hub decides on the visibility"
    server.repositories[NAME]["picture.png"] = b"the user's"
    pipeline.push(run, NAME, to="hf")
    files = server.repositories[NAME]
    assert {name for name in files if name.endswith(".safetensors")} == {"model.safetensors"}
    assert "clipzoo_heads.json" not in files
    assert files["picture.png"] == b"the user's"


def test_a_dry_run_shows_files_and_card_and_uploads_nothing(
    run: workspace.Run, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = CliRunner().invoke(app, ["push", str(run.out), NAME, "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert re.search(r"open_clip_model\.safetensors\W+[\d,]+ bytes", result.output)
    assert "## Experts" in result.output
    assert f"dry run: nothing was uploaded to {NAME}" in result.output
    assert not server.requests


def test_errors_of_the_hub_name_the_fix(run: workspace.Run, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="'my-clip' is not a repository of the Hugging Face hub"):
        pipeline.push(run, "my-clip")
    server.refuse = 403
    with pytest.raises(RemoteError, match=rf"refuses the upload to {NAME} \(403: .*hf auth login"):
        pipeline.push(run, NAME)
    server.refuse = 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=f"the hub cannot be reached for {NAME}"):
        pipeline.push(run, NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("clipzoo.export._hub.get_token", lambda: None)
    with pytest.raises(RemoteError, match="no token of the Hugging Face hub was found"):
        pipeline.push(run, NAME)


@pytest.mark.parametrize(
    ("license", "warned"),
    [
        ("Apache-2.0", False), ("mit", False), ("BSD-3-Clause", False), ("cc-by-4.0", False),
        ("apache-2.0 and mit", False), ("cc-by-nc-4.0", True), ("unknown", True), ("other", True),
        ("apache-2.0 and cc-by-nc-sa-4.0", True), ("BSD-3-Clause; the terms of COCO's pictures may apply", True),
        ("MIT non-commercial use only", True), ("cc-by-4.0 noncommercial", True), ("MIT or CC-BY-NC 4.0", True),
        ("Apache-2.0 WITH Commons Clause", True), ("(MIT OR Apache-2.0)", False), ("CC0-1.0", False),
        ("Apache License, Version 2.0", False), ("MIT License", False), ("bsd-3-clause-clear", False),
        ("apache-2.0 AND CC-BY-NC-4.0", True),
    ],
)  # fmt: skip
def test_a_license_that_may_restrict_the_student_is_warned_of(
    license: str, warned: bool, labels: Path, tiny_clip: str
) -> None:
    manifest = Store(labels).column("depth", "test-truth").manifest
    changed = Manifest.model_validate({**manifest.model_dump(), "expert": {"uri": "hf:a/b", "licence": license}})
    wanted = recipe.parse(
        {"name": "r", "data": "d", "student": {"model": tiny_clip}, "training": {"steps": 1}, "arms": ["clip-ft"]}
    )
    text = card(wanted, "clip-ft", "mine: clip-ft, seed 0", {"depth/x": changed}, None, "1")
    assert ("**License warning:**" in text) is warned
