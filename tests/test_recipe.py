"""Every recipe builds, and all mistakes are reported together."""

from __future__ import annotations

import importlib.util
import json
from importlib import resources
from pathlib import Path

import pytest
import yaml

from clipzoo import experts, recipe
from clipzoo.errors import RecipeError

ROOT = Path(__file__).parent.parent
RECIPES = [*sorted((ROOT / "recipes").rglob("*.yaml")), Path(str(resources.files("clipzoo.demo") / "recipe.yaml"))]
RECIPES = [path for path in RECIPES if "student" in yaml.safe_load(path.read_text())]


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 3


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_builds_and_says_how_it_is_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    built = recipe.load(path, trust=True)
    assert recipe.parse(yaml.safe_load(built.to_yaml())) == built
    head = path.read_text().split("\n\n")[0]
    assert "clipzoo " in head, "a recipe opens with its command, expected time and expected result"
    assert "minutes" in head or "hour" in head
    for column in built.columns:
        if column.expert and column.expert.startswith("demo:"):
            assert experts.create(column.expert).card.task


def test_the_reference_is_up_to_date_and_complete() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "recipe_reference.py")
    assert spec
    assert spec.loader
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert (ROOT / "docs" / "recipe.md").read_text() == reference.page(), "run python scripts/recipe_reference.py"
    for model in reference.PARTS.values():
        for name, field in model.model_fields.items():
            assert name in reference.PARTS or field.description, f"{model.__name__}.{name} has no docstring"


def minimal() -> dict[str, object]:
    return {
        "name": "x",
        "data": "d",
        "student": {"model": "RN50", "random": True},
        "training": {"steps": 1},
        "arms": ["clip"],
    }


def test_all_mistakes_at_once_with_path_and_nearest_name(tmp_path: Path) -> None:
    values = minimal() | {
        "training": {"steps": 0, "batchsize": 4},
        "columns": [
            {"expert": "demo:depth", "wieght": 1},
            {"weight": 1},
            {"expert": "a:b", "head": "cnv"},
            {"expert": "a:c", "loss": "silg"},
        ],
    }
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    text = str(caught.value)
    assert "6 mistakes" in text
    assert "training.batchsize: no such field; did you mean batch_size?" in text
    assert "training.steps is 0; give a number above 0" in text
    assert "columns.0.wieght: no such field; did you mean weight?" in text
    assert "columns.1: name either expert" in text
    assert "columns.2: no head is named 'cnv'; did you mean conv?" in text
    assert "columns.3: no loss is named 'silg'; did you mean silog?" in text


def test_mistakes_of_values_together_are_told_beside_those_of_one() -> None:
    values = {
        "name": 5, "data": "x", "student": {"model": "ViT-B-32", "layer": [1]}, "training": {"batch_size": -1},
        "columns": [{"expert": "demo:depth", "head": "lineal", "loss": "solig"}, {"weight": "much"}],
    }  # fmt: skip
    with pytest.raises(RecipeError) as raised:
        recipe.parse(values)
    text = str(raised.value)
    for found in (
        "name is 5; give text", "student.layer: no such field; did you mean layers?",
        "student: ViT-B-32 comes without weights", "training.batch_size is -1; give a number above 0",
        "training: give steps or epochs", "no head is named 'lineal'", "no loss is named 'solig'",
        "columns.1.weight is \"much\"; give a number", "columns.1: name either expert",
    ):  # fmt: skip
        assert text.count(found) == 1, (found, text)
    assert "8 mistakes" in text  # head and loss are one


def test_wrong_values_are_told_in_the_words_of_a_recipe() -> None:
    values = minimal() | {
        "training": {"steps": "many", "scale": [0.5], "learning_rates": 1e-4, "warmup": 2, "compile": "maybe"},
        "columns": ["demo:depth"], "arms": ["clipz"], "evaluation": "b" * 80,
    }  # fmt: skip
    with pytest.raises(RecipeError) as raised:
        recipe.parse(values)
    assert str(raised.value).splitlines() == [
        "recipe has 8 mistakes:",
        '  columns.0 is "demo:depth"; give names and values, as {name: value}',
        '  training.steps is "many"; give a whole number',
        "  training.learning_rates is 0.0001; give a list, as [a, b]",
        "  training.warmup is 2; give a number below 1",
        "  training.scale.1 is missing; give it, since it has no default",
        '  training.compile is "maybe"; give true or false',
        f'  evaluation is "{"b" * 59}…; give names and values, as {{name: value}}',
        "  arms.0 is \"clipz\"; give one of 'clip', 'clip-ft' or 'clipzoo'; did you mean clip?",
    ]


def test_a_mistyped_model_is_told_before_its_weights_are_asked_for() -> None:
    with pytest.raises(RecipeError, match=r"student: OpenCLIP has no model 'ViT-B-166'.*did you mean ViT-B-16\b"):
        recipe.parse(minimal() | {"student": {"model": "ViT-B-166"}})


def test_what_may_come_of_another_mistake_is_not_told() -> None:
    values = {"name": "x", "data": "x", "student": {"model": "demo:clip"}, "training": {"steps": 1}, "columns": "demo:"}
    with pytest.raises(RecipeError) as raised:
        recipe.parse(values)
    assert "1 mistake:" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("[1, 2]", "holds list"), ("a: [", "is not YAML"), ("!!python/object:os.system {}", "is not YAML")],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=says):
        recipe.load(tmp_path / "r.yaml")


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml does not exist"):
        recipe.load("nowhere.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(minimal() | {"columns": [{"expert": "demo:depth"}]}))
    loaded = recipe.load(path, ["training.steps=7", "columns.0.weight=0.5", "evaluation.test=demo:test"])
    assert (loaded.training.steps, loaded.columns[0].weight, loaded.evaluation.test) == (7, 0.5, "demo:test")
    for wrong in ("training.steps", "columns.9.weight=1", "name.x=1"):
        with pytest.raises(RecipeError, match="--set"):
            recipe.load(path, [wrong])
    with pytest.raises(RecipeError, match=r"r\.yaml with --set training.step=7 has 1 mistake:\n.*did you mean steps"):
        recipe.load(path, ["training.step=7"])


def test_overrides_reach_options_of_a_scheme_that_is_given_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    values = minimal() | {"columns": [{"expert": "demo:depth"}]}
    path.write_text(yaml.safe_dump(values | {"training": {"steps": 1, "balancing": "expert_dropping"}}))
    balancing = recipe.load(path, ["training.balancing.options.p=0.3"]).training.balancing
    assert (balancing.name, balancing.options) == ("expert_dropping", {"p": 0.3})


def test_the_arm_with_labels_needs_labels() -> None:
    with pytest.raises(RecipeError, match="needs columns"):
        recipe.parse(minimal() | {"arms": ["clipzoo"]})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"seeds": []}, r"seeds is \[\]; give 1 or more"),
        ({"seeds": [-1]}, r"seeds.0 is -1; give 0 or more"),
        ({"arms": ["clip", "clip"]}, "arms has clip more than once"),
        ({"evaluation": {"probe": "x"}}, "give validation, too"),
        ({"training": {"steps": 1, "scale": [1.0, 0.2]}}, "scale is .1.0, 0.2."),
        ({"training": {"steps": 1, "scale": [0.2, 1.2]}}, "the largest share"),
        ({"columns": [{"expert": "demo:depth"}, {"expert": "demo:depth"}]}, "columns has demo:depth more than once"),
        ({"training": {"steps": 1, "learning_rates": [1e-4, 1e-3]}}, "evaluation.validation"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(values: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        recipe.parse(minimal() | values)


def test_steps_or_epochs_and_never_both() -> None:
    for length in ({}, {"steps": 1, "epochs": 1}):
        with pytest.raises(RecipeError, match="training: give steps or epochs"):
            recipe.parse(minimal() | {"training": length})
    assert recipe.parse(minimal() | {"training": {"epochs": 0.5}}).training.length == "0.5 epochs"


def test_hours_told_in_recipes_follow_from_what_was_measured() -> None:
    """The arithmetic of the recipes' heads, from the measured rates: 30 epochs, and three seeds with their trials."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "training" / "vitb16-bf16.json").read_text())["rows"]
    rates = {row["arm"]: row["images_per_second"] for row in rows if row["compiled"]}
    both = 1 / rates["captions alone"] + 1 / rates["3 tasks, conv"]
    published, day = ((ROOT / "recipes" / f"{name}.yaml").read_text() for name in ("cliptex-cc3m", "one-gpu-one-day"))
    assert f"{30e6 * both / 3600:.1f} hours of one H100 for each million" in published
    assert f"epochs={30 * rates['captions alone'] / rates['3 tasks, conv']:.1f}" in published
    steps = 10 * (1_000_000 // 256)
    assert f"{steps:,} steps a training" in day
    end = 2e6 / 60 / 3600 + 3 * (steps + steps // 4) * 256 * both / 3600
    assert f"#   {end:.1f}       arms/clipzoo/{{0,1,2}}/student" in day
