"""Folders and recipes of strangers: their code does not run unless the user says so, once, or typed it himself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import clipzoo
from clipzoo import cli, recipe, trust
from clipzoo import runs as workspace
from clipzoo.cli import _console, app
from clipzoo.cli._console import _is_typed
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.experts import runs_code
from clipzoo.labeling import label
from clipzoo.models import Student
from clipzoo.models._open_clip import CONFIG
from clipzoo.runs import new_recipe
from clipzoo.runs import verbs as pipeline
from clipzoo.runs.before.dry_run import preview
from making import make_dataset

OWN = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast
Path({mark!r}).touch()
class Own(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that the code of strangers makes when it runs."""
    return tmp_path / "it-ran"


@pytest.fixture(autouse=True)
def _configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *asked: pytest.fail(f"transformers asked: {asked}"))


# A model's own code -----------------------------------------------------------------------------------------


@pytest.fixture(params=["asked for", "not asked for"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, tiny_clip: str, mark: Path) -> Path:
    """The tiny CLIP with a tokenizer of its own code, which its configuration asks for or not."""
    folder = tmp_path / "gift"
    Student.create(tiny_clip).save(folder)
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "own.py").write_text(OWN.format(mark=str(mark)))
    config = json.loads((folder / CONFIG).read_text())
    asked = {"trust_remote_code": True} if request.param == "asked for" else {}
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = asked
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def values_of(dataset: Path, model: str, **student: Any) -> dict[str, Any]:
    return {
        "name": "gift", "data": str(dataset), "student": {"model": model, **student},
        "training": {"steps": 1, "batch_size": 4}, "arms": ["clip-ft"],
    }  # fmt: skip


def test_code_of_a_folder_is_not_run(hostile: Path, mark: Path, dataset: Path, tmp_path: Path) -> None:
    wanted = recipe.parse(values_of(dataset, f"local-dir:{hostile}"))
    looks: list[Callable[[], Any]] = [
        lambda: Student.create(f"local-dir:{hostile}"),
        lambda: Student.create(f"local-dir:{hostile}", random=True),
        lambda: Student.load(hostile),
        lambda: clipzoo.load(hostile),
        lambda: preview(wanted, tmp_path / "run"),
        lambda: workspace.Run(wanted, tmp_path / "run"),
        lambda: new_recipe.check_start(f"local-dir:{hostile}"),
    ]
    for look in looks:
        with pytest.raises(CheckpointError, match="trust_remote_code: true in the recipe, or call with"):
            look()
    assert not mark.exists()


def test_code_of_a_hub_model_is_not_run(hostile: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "open_clip.pretrained.hf_hub_download", lambda repo_id, filename, **options: str(hostile / filename)
    )
    config = json.loads((hostile / CONFIG).read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = str(hostile)
    (hostile / CONFIG).write_text(json.dumps(config))
    for random in (False, True):
        with pytest.raises(CheckpointError, match="trust_remote_code"):
            Student.create("hf-hub:stranger/gift", random=random)
    assert not mark.exists()
    Student.create("hf-hub:stranger/gift", trust_remote_code=True)
    assert mark.exists()


def test_code_of_a_text_tower_is_not_run_and_nobody_is_asked(tmp_path: Path, tiny_clip: str, mark: Path) -> None:
    folder, tower = tmp_path / "gift", tmp_path / "tower"
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), folder)
    tower.mkdir()
    (tower / "own.py").write_text(OWN.format(mark=str(mark)))
    (tower / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}})
    )
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(tower)}
    (folder / CONFIG).write_text(json.dumps(config))
    for trusted in (False, True):
        with pytest.raises(CheckpointError, match="trust_remote_code"):
            Student.create(f"local-dir:{folder}", trust_remote_code=trusted)
    assert not mark.exists()


def test_trusted_code_runs_also_of_the_trained_student(
    hostile: Path, mark: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    wanted = recipe.parse(values_of(dataset, f"local-dir:{hostile}", trust_remote_code=True))
    assert wanted.code == (f"the tokenizer of local-dir:{hostile}",)
    student = pipeline.train(workspace.Run(wanted, out), "clip-ft", 0)
    assert mark.exists()
    pipeline.train(workspace.Run(wanted, out), "clip-ft", 0)
    path, _ = pipeline.export(workspace.Run(wanted, out), arm="clip-ft", out=tmp_path / "exported")
    for folder in (student, path):
        clipzoo.load(folder, trust_remote_code=True)


def test_a_run_that_began_before_code_was_asked_about_goes_on(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    wanted = recipe.parse(values_of(dataset, tiny_clip))
    pipeline.train(workspace.Run(wanted, tmp_path), "clip-ft", 0)
    student = wanted.student.model_copy(update={"trust_remote_code": True})
    workspace.Run(wanted.model_copy(update={"student": student}), tmp_path).adopt()


# A recipe's code ---------------------------------------------------------------------------------------------

EXPERT = """
import numpy as np
from pathlib import Path
from clipzoo.experts import Expert, ExpertCard
from clipzoo.tasks import Convention
from clipzoo.tasks.segmentation import Segmentation
Path({mark!r}).touch()
class Mine(Expert):
    card = ExpertCard("", "segmentation", Convention(("dark", "bright")))
    def load(self, device="cpu"):
        pass
    def predict(self, images):
        return [Segmentation((i.mean(2) > 127).astype(np.uint16), np.ones(i.shape[:2], bool)) for i in images]
"""
URI = "python:stranger:Mine"


@pytest.fixture
def received(tmp_path: Path, tiny_clip: str, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that names a module beside it, where the user has gone."""
    folder = tmp_path / "received"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    monkeypatch.setitem(sys.modules, "stranger", None)
    monkeypatch.delitem(sys.modules, "stranger")
    (folder / "stranger.py").write_text(EXPERT.format(mark=str(mark)))
    make_dataset(folder / "data", shards=1, count=8)
    values = {**values_of(folder / "data", tiny_clip), "arms": ["clip", "clipzoo"], "columns": [{"expert": URI}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(values))
    return folder / "mine.yaml"


def clipzoo_(*words: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], input=answer)


@pytest.mark.parametrize(
    "words", [["train", "--device", "cpu"], ["train", "--dry-run"], ["run", "--dry-run"], ["run"], ["eval"]]
)
def test_a_recipe_that_names_code_is_refused_without_a_terminal(words: list[str], received: Path, mark: Path) -> None:
    found = clipzoo_(words[0], received, *words[1:])
    assert isinstance(found.exception, RecipeError)
    assert URI in str(found.exception)
    assert str(found.exception).endswith("add --trust")
    assert not mark.exists()
    assert not (received.parent / "runs").exists()
    assert not trust.place().exists()


@pytest.mark.parametrize("words", [["export"], ["report"], ["eval"], ["train"], ["run", "--dry-run"]])
def test_so_is_a_run_folder_that_was_received(words: list[str], received: Path, mark: Path) -> None:
    folder = received.parent / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_bytes(received.read_bytes())
    found = clipzoo_(words[0], folder, *words[1:])
    assert isinstance(found.exception, RecipeError)
    assert "add --trust" in str(found.exception)
    assert not mark.exists()


def test_trust_is_given_for_one_command_by_an_option(received: Path, mark: Path) -> None:
    found = clipzoo_("train", received, "--device", "cpu", "--trust")
    assert found.exit_code == 0, found.output
    assert mark.exists()
    assert not trust.place().exists()
    assert isinstance(clipzoo_("export", "runs/gift").exception, RecipeError)
    assert clipzoo_("export", "runs/gift", "--trust").exit_code == 0


def test_a_terminal_is_asked_once(received: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def confirm(question: str, abort: bool) -> None:
        asked.append(question)

    monkeypatch.setattr(_console, "interactive", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    found = clipzoo_("train", received, "--dry-run")
    assert URI in found.output
    assert len(asked) == 1
    assert mark.exists()
    for words in (["train", received, "--device", "cpu"], ["export", "runs/gift"]):
        assert clipzoo_(*words).exit_code == 0
    assert len(asked) == 1, "the run's folder has the same recipe"
    kept = json.loads(trust.place().read_text())
    assert kept[str(received)] == [URI]
    assert not list((received.parent / "runs").rglob("trusted*"))
    moved = received.rename(received.with_name("other.yaml"))
    clipzoo_("train", moved, "--dry-run")
    assert len(asked) == 2, "a recipe in another place is another one"
    moved.write_text(moved.read_text().replace(URI, "python:stranger:Other"))
    clipzoo_("train", moved, "--dry-run")
    assert len(asked) == 3, "and so is one that names other code"


def test_a_no_runs_nothing(received: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_console, "interactive", lambda: True)
    found = clipzoo_("train", received, answer="n\n")
    assert found.exit_code == 1
    assert "Aborted" in found.output
    assert not mark.exists()
    assert not trust.place().exists()


def test_code_that_is_typed_needs_no_trust(received: Path, mark: Path) -> None:
    plain = received.with_name("plain.yaml")
    plain.write_text(received.read_text().replace(URI, "demo:segmentation"))
    found = clipzoo_("run", plain, "--dry-run", "--set", f"columns.0.expert={URI}")
    assert "evaluation.test" in str(found.exception)
    found = clipzoo_("train", plain, "--dry-run", "--set", f"columns.0.expert={URI}")
    assert found.exit_code == 0, found.output
    assert mark.exists()
    assert clipzoo_("label", "data", "--expert", URI, "--out", "labels", "--device", "cpu").exit_code == 0


def test_new_remembers_the_code_that_it_was_given_and_takes_none_from_a_store(received: Path, mark: Path) -> None:
    words = ["new", "--yes", "--data", "data", "--model", "ViT-B-32 random", "--bench", "none", "--device", "cpu"]
    label("data", [URI], "gift", device="cpu", progress=False)
    mark.unlink()
    del sys.modules["stranger"]
    found = clipzoo_(*words, "--store", "gift", "--out", "of-store.yaml")
    assert found.exit_code == 0, found.output
    assert not mark.exists()
    assert recipe.load("of-store.yaml").columns[0].column == "segmentation/python-stranger-Mine"
    assert clipzoo_(*words, "--expert", URI, "--out", "typed.yaml").exit_code == 0
    assert trust.known([URI], Path("typed.yaml"))


def test_in_python_a_path_needs_trust_and_an_object_has_it(received: Path, mark: Path) -> None:
    with pytest.raises(RecipeError, match=r"trust=True"):
        clipzoo.load_recipe(received)
    assert not mark.exists()
    assert clipzoo.load_recipe(received, trust=True).code == (URI,)
    assert clipzoo.Run(recipe.parse(yaml.safe_load(received.read_text())), received.parent / "run").experts


def test_zoos_tell_which_of_their_experts_run_code() -> None:
    yes = ["python:a:B", "torchhub:x#y?trust_repo=1", "torchhub:card.yaml", "hf:x/y?trust_remote_code=1"]
    no = ["hf:x/y", "hf:x/y?trust_remote_code=0", "onnx:a.yaml", "demo:depth", "column:depth/a?to=normals", "nonsense"]
    assert [uri for uri in yes + no if runs_code(uri)] == yes


def test_a_damaged_memory_trusts_nothing_and_one_that_cannot_be_kept_stops_nothing(tmp_path: Path) -> None:
    trust.remember([URI], tmp_path / "r.yaml")
    assert trust.known([URI], tmp_path / "r.yaml")
    for text in ("{", "[]", '{"r.yaml": 3}'):
        trust.place().write_text(text)
        assert not trust.known([URI], tmp_path / "r.yaml")
    shutil.rmtree(trust.place().parent)
    trust.place().parent.write_text("a file")
    trust.remember([URI], tmp_path / "r.yaml")


def test_text_of_strangers_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    told = "name\x1b[2J\x9b31m\r\u202eok\tnext\nline"
    table = Table("what")
    table.add_row(told)
    _console.console.print(told, table, markup=False)
    with pytest.raises(SystemExit):
        cli._exit_with(told)
    seen = capsys.readouterr()
    for text in seen:
        assert "\\x1b[2J" in text
        assert not {"\x1b", "\x9b", "\r", "\u202e"} & set(text)
    assert "\nline" in seen.err


def test_a_longer_uri_on_the_command_line_is_no_trust_in_a_shorter_one() -> None:
    typed = ["columns.0.expert=python:mine.py:Expert2", 'columns=[{expert: "python:other:Expert?a=1"}]']
    assert _is_typed("python:mine.py:Expert2", typed)
    assert _is_typed("python:other:Expert?a=1", typed)
    for uri in ("python:mine.py:Expert", "python:mine.py", "python:other:Expert", "python:other"):
        assert not _is_typed(uri, typed)
