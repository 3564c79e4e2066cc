"""Values that YAML has and recipes do not: each is one sentence, and what is loaded can be saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo.cli import app
from clipzoo.cli._console import load_recipe
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.runs import new_recipe

HEAD = """\
name: x
data: demo:captioned
student: {model: demo:clip, layers: [3, 4]}
training: {steps: 2, batch_size: 4}
"""
COLUMN = HEAD + "columns: [{expert: 'demo:depth', head_options: OPTIONS}]\n"
Loading = Callable[..., recipe.Recipe]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loading:
    """Load a recipe of a text."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str, *overrides: str) -> recipe.Recipe:
        Path("r.yaml").write_text(text)
        return recipe.load("r.yaml", overrides, trust=True)

    return loaded


def nines(levels: int) -> list[str]:
    """Return lines of mappings and lists of which each repeats the one before nine times."""
    first = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return first + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]


def test_dates_are_text(load: Loading) -> None:
    for text in ("2024-02-30", "2024-02-03"):
        assert load(HEAD.replace("name: x", f"name: {text}") + "arms: [clip]\n").name == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD.replace("name: x", 'name: !!int "abc"'), "r.yaml is not YAML: found an invalid int\n.*line 1, column 7"),
        (HEAD.replace("name: x", 'name: !!bool "abc"'), "found an invalid bool"),
        (HEAD.replace("name: x", 'name: !!float ""'), "found an invalid float"),
        (HEAD.replace("name: x", 'name: !!timestamp "abc"'), "no constructor|not determine a constructor"),
        (HEAD.replace("name: x", 'name: "\\UFFFFFFFF"'), "r.yaml is not YAML"),
        (HEAD.replace("name: x", 'name: "a\\0b"'), "r.yaml has the character NUL in name, .*: remove it"),
        (HEAD.replace("name: x", "name: {2024-01-01: x}"), "name is .*2024-01-01.*; give text"),
        (HEAD + f"max_samples: {'9' * 5000}\n", "found an invalid int"),
        (HEAD + f"max_samples: {'9' * 500}\n", r"a number of 500 digits in max_samples: give one below 9.22337e\+18"),
        (HEAD + f"description: {'[' * 999}\n", "more than 50 levels of lists and mappings"),
        (HEAD + f"description: {'[' * 60}{']' * 60}\n", "more than 50 levels of lists and mappings"),
        (HEAD.replace("steps: 2", "epochs: .inf"), "training.epochs is Infinity; give a finite number"),
        (HEAD.replace("steps: 2", "epochs: 1.0e+300"), r"training.epochs is 1e\+300; give 1e\+06 or less"),
        (HEAD.replace("steps: 2", "steps: 2, learning_rates: [.inf]"), "learning_rates.0 is Infinity; give a finite"),
        (HEAD + "columns: [{expert: 'demo:depth', weight: .inf}]\n", "columns.0.weight is Infinity; give a finite"),
        (HEAD + "seeds: [99999999999999999999999]\n", "a number of 23 digits in seeds.0"),
        (HEAD + "on: 1\n", "r.yaml has True as a name, which is no text: write it in quotes"),
        (COLUMN.replace("OPTIONS", "&a {x: *a}"), "50 levels .* or an alias of itself: flatten it"),
        (COLUMN.replace("OPTIONS", '{x: !!binary "/////w=="}'), "not determine a constructor"),
        (COLUMN.replace("OPTIONS", "{x: {1: a}}"), "has 1 as a name in columns.0.head_options.x"),
        (COLUMN.replace("OPTIONS", "{x: .nan}"), "head_options.x.* is NaN; give a finite number"),
        ("!!set {a}", "not determine a constructor"),
    ],
)
def test_values_that_json_does_not_have_are_mistakes(load: Loading, text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){says}") as caught:
        load(text)
    assert len(str(caught.value)) < 500


def test_values_of_overrides_are_read_in_the_same_way(load: Loading) -> None:
    for wrong in ('name=!!int "abc"', "name={a: 1, a: 2}", "seeds=[99999999999999999999]", 'name="a\\0b"'):
        with pytest.raises(RecipeError, match=r"^--set (name|seeds)="):
            load(HEAD, wrong)
    with pytest.raises(RecipeError, match=r"seeds\.0 is 9223372036854775808; give a number below"):
        recipe.parse({"name": "x", "data": "d", "student": {"model": "demo:clip"}, "training": {"steps": 1},
                      "arms": ["clip"], "seeds": [2**63]})  # fmt: skip


def test_values_of_python_that_json_does_not_have_are_mistakes() -> None:
    within: dict[str, object] = {}
    within["x"] = within
    for value in ({date(2024, 1, 1): "x"}, within):
        with pytest.raises(RecipeError, match="name is a dict; give text"):
            recipe.parse({"name": value, "data": "d", "student": {"model": "demo:clip"}, "training": {"steps": 1}})
    with pytest.raises(RecipeError, match=r"head_options.x is .*; give text, a number, true, false, null, a list"):
        recipe.parse({
            "name": "x", "data": "d", "student": {"model": "demo:clip"}, "training": {"steps": 1},
            "columns": [{"expert": "demo:depth", "head_options": {"x": b"bytes"}}],
        })  # fmt: skip


def test_numbers_with_an_exponent_are_numbers_in_options(load: Loading) -> None:
    options = load(COLUMN.replace("OPTIONS", "{a: 1e-1, b: [1e1, .5E+2], c: {d: 1.e3}, e: x1e1, f: 1e999}")).columns[0]
    assert options.head_options == {"a": 0.1, "b": [10.0, 50.0], "c": {"d": 1000.0}, "e": "x1e1", "f": "1e999"}


def test_a_field_that_is_given_twice_is_named_with_both_lines(load: Loading) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml has 'training' twice in one mapping, in line 4 and in line 5: "):
        load(HEAD + "training: {batch_size: 8}\n")
    with pytest.raises(RecipeError, match="'weight' twice in one mapping, in line 5 and in line 5"):
        load(HEAD + "columns: [{expert: 'demo:depth', weight: 1, weight: 2}]\n")


def test_merge_keys_may_be_overridden(load: Loading) -> None:
    columns = """\
columns:
- &one {expert: 'demo:depth', stride: 4, weight: 2}
- {<<: *one, expert: 'demo:normals', weight: 1}
"""
    one, two = load(HEAD + columns).columns
    assert (one.stride, one.weight, two.stride, two.weight, two.expert) == (4, 2, 4, 1, "demo:normals")


def test_an_override_changes_one_of_two_aliases(load: Loading) -> None:
    columns = """\
columns:
- {expert: 'demo:depth', head_options: &both {width: 32}}
- {expert: 'demo:normals', head_options: *both}
"""
    loaded = load(HEAD + columns, "columns.0.head_options.width=64")
    assert [one.head_options for one in loaded.columns] == [{"width": 64}, {"width": 32}]


@pytest.mark.parametrize("field", ["head_options", "labeling", "merged", "text"])
def test_aliases_that_multiply_are_refused_at_once(load: Loading, field: str) -> None:
    lines = {
        "head_options": ["columns:", "- expert: 'demo:depth'", "  head_options:", *(f"    {one}" for one in nines(9))],
        "labeling": ["labeling:", *(f"  {one}" for one in nines(9)), "description: *a8"],
        "merged": ["labeling:", "  a0: &a0 {a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1}",
                   *(f"  a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9))],
        "text": [f"license: &long {'x' * 100_000}", f"arms: [{', '.join(['*long'] * 200)}]"],
    }[field]  # fmt: skip
    says = "r.yaml is too large: it has more than 100,000 values"
    if field == "merged":  # PyYAML 6.0.4 merges equal mappings once; then the fields are mistakes
        says += "|no such field"
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=says):
        load(HEAD + "\n".join(lines))
    assert time.perf_counter() - start < 10


def test_a_long_recipe_is_read(load: Loading) -> None:
    mixture = "".join(f"    dataset-{number}: 1.5\n" for number in range(500))
    text = HEAD.replace("training: {steps: 2, batch_size: 4}", f"training:\n  steps: 2\n  mixture:\n{mixture}")
    loaded = load(f"{text}arms: [clip]\ndescription: {'x ' * 9999}\n")
    assert len(loaded.training.mixture) == 500
    assert recipe.parse(loaded.model_dump()) == loaded


@pytest.mark.parametrize("name", ["/tmp/victim", "../victim", "a/b", "..", ".", "", " "])
def test_a_name_that_leads_out_of_runs_is_refused_without_out(
    load: Loading, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(HEAD.replace("name: x", f"name: '{name}'") + "arms: [clip]\n")
    with pytest.raises(RecipeError, match=r"^name is .*cannot be a folder in runs/.*or give another place with --out"):
        load_recipe(Path("r.yaml"), None, None)
    assert load_recipe(Path("r.yaml"), Path("here"), None)[1] == Path("here")
    Path("here").mkdir()
    Path("r.yaml").rename("here/recipe.yaml")
    assert load_recipe(Path("here"), None, None)[1] == Path("here"), "an existing run keeps its name"


@pytest.mark.parametrize(
    "name", ["all", "clip", "clip-ft", "clipzoo", "a-vs-b", "only depth/demo-depth", "without x", ""]
)
def test_a_variant_that_would_replace_a_row_of_the_ablation_is_refused(load: Loading, name: str) -> None:
    columns = "columns: [{expert: 'demo:depth'}, {expert: 'demo:normals'}]\n"
    with pytest.raises(RecipeError, match=f"variants has '{name}', which"):
        load(HEAD + columns + f"variants: {{'{name}': [depth]}}\n")
    assert load(HEAD + columns + "variants: {only-depth: [depth]}\n").variants
    assert load(HEAD + columns + "variants: {Geometry 2: [depth]}\n").variants


def test_variants_that_are_a_list_are_reported_with_named_arms(load: Loading) -> None:
    columns = "columns: [{expert: 'demo:depth'}, {expert: 'demo:normals'}]\n"
    arms = "arms: [clipzoo, {name: depth-only, columns: [depth]}]\n"
    for variants in ("[a]", "[]", "''"):
        with pytest.raises(RecipeError, match=r"variants is .*; give names and values"):
            load(HEAD + columns + arms + f"variants: {variants}\n")
    assert load(HEAD + columns + arms + "variants: null\n").variants == {"depth-only": ("depth",)}


@pytest.mark.parametrize("name", ["📷", "é", "a\udcff", 'a"b', "\x7f", "\x85x\u2028", "\ufeff\\u0041\n"])
def test_new_writes_any_path(name: str, tmp_path: Path) -> None:
    place = f"/data/{name}/images"
    data = new_recipe.Data(place, 10, {})
    start = new_recipe.check_start("demo:clip")
    cards = new_recipe.check_experts(["demo:depth"], None)
    splits = {"test": f"/bench/{name}/test"}
    path = tmp_path / f"{name}.yaml"
    text = new_recipe.recipe_text(path, data, start, cards, splits, 1, "cpu", store=f"/labels/{name}")
    path.write_bytes(text.encode())
    assert ("📷" in text) == ("📷" in name)
    loaded = recipe.load(path, ["training.learning_rates=[1e-5]"])
    assert (loaded.name, loaded.data, loaded.store) == (name, place, f"/labels/{name}")
    assert loaded.evaluation.test == splits["test"]
    assert new_recipe.dataset_of(path) == place


def test_recipes_with_pairs_of_surrogates_are_read(load: Loading) -> None:
    assert load(HEAD.replace("name: x", r'name: "\ud83d\udcf7"') + "arms: [clip]\n").name == "📷"


def test_a_broken_recipe_has_no_dataset(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for text in ('a: !!int "x"', "[" * 999, "a: 1\na: 2"):
        path.write_text(text)
        assert new_recipe.dataset_of(path) is None


def test_seeds_of_options_are_limited() -> None:
    for command in (["train", "r.yaml"], ["eval", "--model", "demo:clip"]):
        told = CliRunner().invoke(app, [*command, "--seed", "99999999999999999999999"], env={"COLUMNS": "200"})
        assert told.exit_code == 2
        assert "less than or equal to" in told.output


def test_interpolate_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(HEAD)
    told = CliRunner().invoke(app, ["interpolate", str(tmp_path / "recipe.yaml")])
    assert isinstance(told.exception, CheckpointError)
    assert "recipe.yaml is a file, but interpolate needs the folder of a run" in str(told.exception)


def test_an_arm_without_columns_is_named_as_what_it_is(dataset: Path, tiny_clip: str, load: Loading) -> None:
    load(f"name: x\ndata: {dataset}\nstudent: {{model: '{tiny_clip}'}}\narms: [clip]\n"
         "training: {steps: 1, batch_size: 4}\n")  # fmt: skip
    told = CliRunner().invoke(app, ["train", "r.yaml", "--device", "cpu"], catch_exceptions=False)
    assert "the recipe has no columns: this student was trained on captions only, as clip-ft is" in told.output
