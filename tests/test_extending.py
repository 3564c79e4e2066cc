"""docs/extending.md: its package is installed, its recipe runs, and faults of such packages are reported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import clipzoo
from clipzoo import losses, tasks
from clipzoo.cli import app
from clipzoo.errors import PluginError, RecipeError
from clipzoo.models import HeadSpec, Student
from clipzoo.tasks import Convention
from clipzoo.training import read_log
from installing import DOCS, commands, installed, written

PAGE = "extending.md"
METRES = Convention(kind="metric", along="z")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with installed(tmp_path_factory.mktemp("package"), written(PAGE)) as folder:
        yield folder


def test_the_page_is_a_package_whose_recipe_runs(package: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package)
    Path("shards").symlink_to(dataset)
    said = {}
    for arguments in commands(PAGE):
        more = ["--set", "training.steps=2", "--device", "cpu"] if arguments[0] == "train" else []
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, result.output
        said[arguments[0]] = result.output
    assert re.search(r"residual \{width: 64, blocks: 2, upscale: 4\}", said["tasks"])
    assert re.search(r"huber \{delta: 0\.5\}", said["tasks"])
    assert "bands: " in CliRunner().invoke(app, ["experts"]).output
    student = clipzoo.load("runs/mine/arms/clipzoo/0/student")
    assert type(student.student.heads["depth/demo-depth"]).__module__ == "my_head"
    assert student.student.specs["depth/demo-depth"].loss == "huber"
    log = [line for line in read_log(Path("runs/mine/arms/clipzoo/0")) if "loss" in line]
    weights = [line["weight/depth/demo-depth"] for line in log]
    assert sorted(weights) == [1, 1] or sorted(weights) == [0, 0], "both steps are the turn of one column"
    (label,) = student.predict([np.zeros((20, 30, 3), np.uint8)], "segmentation")
    assert label.ids.shape == (20, 30)


def test_the_loss_is_correct_and_limited_to_its_labels(package: Path) -> None:
    depth, raw = tasks.get("depth"), torch.randn(2, 1, 4, 4, requires_grad=True)
    valid = torch.rand(2, 4, 4) > 0.3
    target = {"values": torch.where(valid, torch.rand(2, 4, 4) + 1, torch.nan), "valid": valid}
    ours = depth.loss(raw, target, METRES, "huber", delta=0.2)
    expected = torch.nn.functional.huber_loss(raw[:, 0][valid], target["values"][valid].log(), delta=0.2)
    torch.testing.assert_close(ours, expected)
    ours.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert depth.offered(METRES) == ("silog", "berhu", "huber")
    for task, convention in (("depth", Convention(kind="affine-depth")), ("edges", Convention())):
        assert "huber" not in tasks.get(task).offered(convention)
        with pytest.raises(PluginError, match=r"the loss 'huber' does not support .* labels; choose"):
            tasks.get(task).criterion(convention, "huber")
    with pytest.raises(PluginError, match="the loss 'huber' does not support detection labels; omit the loss"):
        tasks.get("detection").criterion(Convention(("a",)), "huber")


SPACES = {
    "segmentation": Convention(("a", "b", "c")), "depth, metric": METRES,
    "depth, affine": Convention(kind="affine-depth"), "normals": Convention(), "edges": Convention(),
}  # fmt: skip
RECORDER = """
SEEN = []
learns = lambda task, convention: True
def loss(prediction, target, valid):
    SEEN[:] = prediction.shape, target.shape, valid.shape, target.dtype
    return 0 * prediction.sum()
"""
LETTERS = {"B": 2, "K": 3, "H": 4, "W": 5, "1": 1, "3": 3}


def test_the_documented_arguments_of_losses_are_right(tmp_path: Path) -> None:
    """Each row of its table, against a loss that answers with the shapes that it got."""
    project = toml({"losses": {"recorder": "recorder"}})
    rows = re.findall(
        r"^\| ([\w, ]+) \| [\w ]+ \[(.*?)\] \| [\w, ]+ \[(.*?)\] \|$", (DOCS / PAGE).read_text(), re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(SPACES)
    with installed(tmp_path, {"pyproject.toml": project, "recorder.py": RECORDER}):
        for name, prediction, target in rows:
            task, convention = tasks.get(name.partition(",")[0]), SPACES[name]
            raw = torch.zeros(2, task.raw_channels(convention), 4, 5)
            task.loss(raw, task.collate([None, None], (4, 5)), convention, "recorder")
            seen = losses.PLUGINS.load("recorder").SEEN
            wanted = [tuple(LETTERS[one] for one in shape.split(",")) for shape in (prediction, target, "B,H,W")]
            assert [tuple(shape) for shape in seen[:3]] == wanted, name
            assert seen[3] == (torch.int64 if name == "segmentation" else torch.float32)


def toml(points: Mapping[str, Mapping[str, str]]) -> str:
    """A package with these entry points: group -> name -> module."""
    modules = sorted({module for named in points.values() for module in named.values()})
    lines = ["[project]", 'name = "wrong"', 'version = "0"', "[tool.setuptools]", f"py-modules = {modules!r}"]
    for group, named in points.items():
        lines += [
            f'[project.entry-points."clipzoo.{group}"]',
            *(f'{name} = "{module}"' for name, module in named.items()),
        ]
    return "\n".join(lines)


LOSS = "learns = lambda task, convention: True\ndef loss(prediction, target, valid):\n    return {}\n"
HEAD = """
from torch import nn
class Head(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
    def forward(self, maps):
        return {}
"""
LOSSES = {
    "mute": LOSS.partition("\n")[2].format("prediction.mean()"),
    "torn": "import no_such_package\n",
    "whole": LOSS.format("prediction.abs()"),
    "cut": LOSS.format("(prediction.detach() * 0).sum()"),
    "lost": LOSS.format("valid.no_such_thing"),
}
HEADS = {"narrow": HEAD.format("maps[0][:, :2]"), "broken": HEAD.format("maps['last']")}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    points = {"losses": {name: f"wrong_{name}" for name in LOSSES}, "heads": {name: f"wrong_{name}" for name in HEADS}}
    files = {f"wrong_{name}.py": text for name, text in (LOSSES | HEADS).items()}
    with installed(tmp_path_factory.mktemp("wrong"), {"pyproject.toml": toml(points), **files}) as folder:
        yield folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": "mute"}, r"mute = 'wrong_mute' of the group clipzoo\.losses has no learns; docs/extending\.md"),
        ({"loss": "torn"}, r"torn = 'wrong_torn' .* cannot be loaded \(ModuleNotFoundError: No module named 'no_such_"),
        ({"loss": "whole"}, r"the loss whole of images without labels is tensor.* It must be a scalar 0 with its"),
        ({"loss": "cut"}, r"the loss cut of images without labels is 0\.0. It must be a scalar 0 with its graph"),
        ({"loss": "lost"}, r"the loss lost fails: .*no_such_thing"),
        ({"name": "narrow"}, r"the head narrow returns \[1, 2, 4, 4\] for one image. Its forward must return \[1, 1"),
        ({"name": "broken"}, r"the head broken cannot be made and run: list indices must be integers"),
    ],
)
def test_faulty_plugins_are_reported_before_anything_is_done(
    wrong: Path, tiny_clip: str, changes: dict[str, str], says: str
) -> None:
    spec = replace(HeadSpec("depth", METRES, "linear"), **changes)
    with pytest.raises(RecipeError, match=f"(?s)the column depth/x: .*{says}"):
        Student.create(tiny_clip, specs={"depth/x": spec}, random=True)
