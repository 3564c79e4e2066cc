"""The model card of an export: its license, and a snippet that finds the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from clipzoo import recipe
from clipzoo import runs as workspace
from clipzoo.export import model_card
from clipzoo.export.base import Source
from clipzoo.runs import verbs
from test_pipeline import world  # noqa: F401


@pytest.fixture(scope="module")
def run(world: recipe.Recipe, tmp_path_factory: pytest.TempPathFactory) -> workspace.Run:  # noqa: F811
    values = world.model_dump(mode="json") | {"arms": ["clip"], "columns": [], "license": "cc-by-4.0"}
    return workspace.Run(recipe.parse(values), tmp_path_factory.mktemp("card") / "my run")


def snippet(folder: Path) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return block


@pytest.mark.parametrize("target", ["open_clip", "hf", "timm", "onnx", "all"])
def test_the_snippet_of_the_card_runs_where_the_command_was_run(
    run: workspace.Run, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (32, 32))
    picture.save("picture.jpg")
    folder, _ = verbs.export(run, target, "clip", out=Path("my student"))
    folders = [folder / name for name in ("open_clip", "hf", "timm", "onnx")] if target == "all" else [folder]
    for one in folders:
        exec(snippet(one), {"picture": picture})
        assert f'folder = "{one.as_posix()}"' in snippet(one)
    assert sorted(path.name for path in Path().iterdir()) == ["my student", "picture.jpg"]


def test_the_snippet_of_an_upload_names_the_repository(run: workspace.Run) -> None:
    card = verbs.push(run, "me/clip", arm="clip", dry_run=True).card
    assert 'folder = snapshot_download("me/clip")' in card
    assert Source.__dataclass_fields__["place"].default == "."


def test_the_card_states_the_license_of_the_result(run: workspace.Run) -> None:
    card = model_card(run.recipe, "clip", 0, {}, None, "0")
    assert card.startswith('---\nlibrary_name: {library}\ntags: [clip, clipzoo]\nlicense: "cc-by-4.0"\n---\n')
    assert "This student is published under cc-by-4.0. It derives from the pretrained model" in card
    none = model_card(run.recipe.model_copy(update={"license": None}), "clip", 0, {}, None, "0")
    assert "license:" not in none.split("---")[1]
    assert "No license is stated for this student" in none


@pytest.mark.parametrize("arm", ["clipzoo", "clipzoo-best"])
def test_the_card_of_a_training_without_captions_says_so(run: workspace.Run, arm: str) -> None:
    training = run.recipe.training.model_copy(update={"contrastive_weight": 0.0})
    card = model_card(run.recipe.model_copy(update={"training": training}), arm, "r", {}, None, "0")
    assert " on pseudo-labels of the images of " in card
    assert ", without captions. The text tower was not trained." in card
    assert "on the captions of" not in card
    assert "and the images of" in card
    assert "on the captions of" in model_card(run.recipe, arm, "r", {}, None, "0")


def test_the_license_may_change_after_training(run: workspace.Run) -> None:
    verbs.evaluate(run)
    changed = workspace.Run(run.recipe.model_copy(update={"license": "mit"}), run.out)
    assert changed.recipe.license == "mit"
