"""Several datasets in a recipe: a list with names and weights, and the same in commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from clipzoo import locations
from clipzoo.cli import app
from clipzoo.data import Plan
from clipzoo.errors import DatasetError, RecipeError
from clipzoo.files import several
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.recipe import Recipe, load, parse
from clipzoo.runs import Run
from clipzoo.runs.before.dry_run import preview
from clipzoo.runs.before.preflight import check_places
from making import make_dataset


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two datasets of twelve and six samples."""
    folder = tmp_path_factory.mktemp("several")
    return make_dataset(folder / "web"), make_dataset(folder / "art", shards=1)


def recipe(data: Any, **training: Any) -> Recipe:
    values = {"name": "x", "data": data, "arms": ["clip-ft"], "student": {"model": "demo:clip"}}
    return parse({**values, "training": {"steps": 2, "batch_size": 4, **training}})


def test_a_list_is_the_yaml_file_with_a_mixture(folders: tuple[Path, Path], tmp_path: Path) -> None:
    web, art = folders
    (tmp_path / "both.yaml").write_text(f"datasets:\n  web: {web}\n  art: {art}\n")
    listed = recipe([str(web), {"data": f"{art}?caption=txt", "name": "art", "weight": 4}])
    before, now = open_dataset(tmp_path / "both.yaml"), open_dataset(listed.location)
    assert now.shards == before.shards == ("art/00000", "web/00000", "web/00001")
    assert fingerprint(now) == fingerprint(before)
    assert Plan.build(now, {}).table == Plan.build(before, {}).table
    assert listed.mixture == {"web": 1, "art": 4}
    assert recipe([str(web), str(art)]).mixture == {}
    equal = [{"data": str(place), "weight": 2} for place in folders]
    assert recipe(equal).mixture == recipe(equal[:1]).mixture == {}
    assert recipe(str(tmp_path / "both.yaml"), mixture={"art": 4}).mixture == {"art": 4}


def test_the_written_recipe_reads_the_same() -> None:
    given = recipe(["shards/web", {"data": "photos.csv?caption=title", "weight": 2}])
    assert parse(yaml.safe_load(given.to_yaml())) == given
    assert given.datasets == {"web": "shards/web", "photos": "photos.csv?caption=title"}
    other = recipe(["shards/web", {"data": "photos.csv?caption=title", "weight": 3}])
    assert given.differences(other) == {"data.1.weight": "2.0, not 3.0"}


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("shards/web/", "web"), ("cc3m/{00000..00099}.tar", "cc3m"), ("photos.csv?caption=title|alt", "photos"),
        ("s3://bucket/laion/**/*.parquet", "laion"), ("demo:captioned", "captioned"), ("https://host/a b.tar", "a-b"),
        ("00000.tar", "00000"), ("*.tar", "data"), ("..", "data"),
    ],
)  # fmt: skip
def test_names_come_from_locations(location: str, name: str) -> None:
    assert several.name_of(location) == name
    assert several.NAME.fullmatch(name)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data is an empty list"),
        (["a/web", "b/web"], r"several datasets called 'web' \(a/web, b/web\)"),
        (["a/web", {"data": "a/web/", "name": "again"}], "'a/web' more than once"),
        ([{"data": "web", "weight": 0}], r"data\.0\.weight is 0; give a number above 0"),
        ([{"data": "web", "weight": -1}], r"data\.0\.weight is -1"),
        ([{"data": "web", "name": "a/b"}], r"data\.0\.name: 'a/b' is no part of file names.*such as b"),
        ([{"data": "web", "wieght": 2}], r"data\.0\.wieght: no such field; did you mean weight"),
        ([{"name": "web"}], r"data\.0\.data is missing"),
        ([3], r"data\.0 is 3"),
        (5, "data is 5; give text"),
    ],
)
def test_mistakes_of_a_list_are_told(data: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(data)


def test_weights_stand_in_one_place() -> None:
    with pytest.raises(RecipeError, match=r"weights belong to one place.*remove training\.mixture"):
        recipe(["web", "art"], mixture={"art": 2})


def test_overrides_reach_datasets(tmp_path: Path) -> None:
    text = "name: x\ndata: [web, {data: art, weight: 2}]\nstudent: {model: 'demo:clip'}\n"
    (tmp_path / "r.yaml").write_text(text + "training: {steps: 1}\narms: [clip-ft]\n")
    changed = load(tmp_path / "r.yaml", ["data.0.weight=3", "data.1.name=pictures"])
    assert changed.mixture == {"web": 3, "pictures": 2}
    assert load(tmp_path / "r.yaml", ["data=[a, b, c]"]).datasets == {"a": "a", "b": "b", "c": "c"}
    assert load(tmp_path / "r.yaml", ["data=alone"]).location == "alone"


def test_runs_and_dry_runs_read_lists(folders: tuple[Path, Path], tmp_path: Path) -> None:
    given = recipe([{"data": str(folders[0]), "weight": 2}, str(folders[1])])
    assert preview(given, tmp_path / "dry").samples == 18
    assert not (tmp_path / "dry").exists()
    run = Run(given, tmp_path / "run")
    assert len(run.plan) == 18
    assert run.trainings._job("clip-ft", 0, 1e-4, 2, tmp_path / "t").dataset.mixture == {"web": 2, "art": 1}


def test_packaged_datasets_may_be_listed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    location = several.combine({"demo": "demo:captioned", "web": str(folders[0])})
    assert locations.provided(location)
    shards = open_dataset(locations.resolve_data(location, tmp_path)).shards
    assert {shard.partition("/")[0] for shard in shards} == {"demo", "web"}


def test_images_of_a_split_are_refused_in_any_dataset(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    (bench / "images").mkdir(parents=True)
    (bench / "images" / "00000.tar").write_bytes((folders[1] / "00000.tar").read_bytes())
    given = recipe([str(folders[0]), str(folders[1])])
    wrong = given.model_copy(update={"evaluation": given.evaluation.model_copy(update={"test": str(bench)})})
    with pytest.raises(RecipeError, match=r"evaluation\.test is .* whose images are those of data\.1"):
        Run(wrong, tmp_path / "run")


def test_paths_next_to_the_recipe_are_told_for_each_dataset(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    with pytest.raises(RecipeError, match=r"data\.1: .*web does not exist, but"):
        check_places(recipe([str(tmp_path), "web"]), tmp_path / "recipe.yaml")


def test_lists_in_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text("datasets: {a: x}\n")
    with pytest.raises(DatasetError, match="both is itself a list of datasets"):
        open_dataset(several.combine({"both": str(tmp_path / "both.yaml")}))


def test_commands_take_several_datasets(folders: tuple[Path, Path], tmp_path: Path) -> None:
    web, art = map(str, folders)
    checked = CliRunner().invoke(app, ["check", web, art])
    assert checked.exit_code == 0, checked.output
    assert "18" in checked.output
    out = tmp_path / "recipe.yaml"
    options = ["--model", "demo:clip", "--expert", "demo:depth", "--bench", "none", "--yes", "--device", "cpu"]
    made = CliRunner().invoke(app, ["new", "--out", str(out), "--data", web, "--data", art, *options])
    assert made.exit_code == 0, made.output
    assert "18 usable samples" in made.output
    assert load(out).datasets == {"art": art, "web": web}
    store = tmp_path / "labels"
    labeled = CliRunner().invoke(app, ["label", web, art, "--expert", "demo:depth", "--out", str(store), "--no-check"])
    assert labeled.exit_code == 0, labeled.output
    (column,) = (store / "depth").iterdir()
    assert {path.name for path in column.iterdir() if path.is_dir()} == {"web", "art"}


def test_equal_names_of_commands_are_told_with_the_text_that_works(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="are both called 'web'") as raised:
        several.combined(["a/web", "b/web"])
    text = str(raised.value).rpartition("argument: ")[2].strip("'")
    assert several.separate(text) == json.loads(text) == {"web1": "a/web", "web2": "b/web"}
