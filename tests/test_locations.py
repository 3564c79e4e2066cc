"""Schemes of locations and of models: the demo's, and those of another package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import clipzoo
from clipzoo import locations, model_schemes, readers, recipe
from clipzoo.errors import CheckpointError, DatasetError, RecipeError
from clipzoo.files import several
from clipzoo.models import Student
from clipzoo.runs.before.preflight import check_splits
from clipzoo.runs.new_recipe import check_benchmarks, defaults
from installing import installed
from making import Bright, make_dataset

PLUGIN = '''
"""``mine:<name>``: folders below a root."""
import pathlib

from clipzoo.errors import DatasetError

ROOT = pathlib.Path(__file__).parent

def check(location):
    if not resolve(location, None, None).is_dir():
        raise DatasetError(f"{location}: not mine")

def resolve(location, cache, progress):
    return ROOT / location.removeprefix("mine:")

def pictures(location):
    return None

def shares(one, other):
    return one == other

def conventions(location):
    return {}
'''
PROJECT = """
[project]
name = "mine"
version = "0.1"

[project.entry-points."clipzoo.locations"]
mine = "my_locations"
"""


def test_a_location_without_a_scheme_is_returned_as_it_is(tmp_path: Path) -> None:
    for location in ("", "photos/", "s3://bucket/a.tar", "photos.csv?sep=:", str(tmp_path)):
        assert locations.resolve(location, tmp_path) == location
        assert not locations.provided(location)
        assert locations.conventions(location) == {}
        assert locations.pictures_to_render(location) is None


def test_the_two_schemes_of_the_demo_know_which_splits_they_share() -> None:
    assert locations.share_pictures("demo:probe", "rooms:probe?count=5")
    assert locations.share_pictures("rooms:test?count=9", "rooms:test?count=5")
    assert not locations.share_pictures("demo:probe", "demo:test")
    assert not locations.share_pictures("demo:probe", "probe")
    assert not locations.share_pictures("probe", "demo:probe")
    assert locations.pictures_to_render("rooms:test?count=9") == 9
    assert locations.pictures_to_render("demo:test") is None


def test_functions_take_packaged_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "_HOME", tmp_path / "cache")
    (column,) = clipzoo.label("demo:test", Bright(), tmp_path / "labels", shards="00000", check=False, progress=False)
    assert column.labels
    assert clipzoo.verify(tmp_path / "labels", "demo:test") == []
    assert clipzoo.inspect(tmp_path / "labels", "demo:test", tmp_path / "page.html", count=2).keys
    assert clipzoo.check("demo:test", limit=4, progress=False).usable == 4
    with pytest.raises(DatasetError, match="demo:tset"):
        clipzoo.label("demo:tset", Bright(), tmp_path / "labels")


def test_no_home_folder_is_needed_before_packaged_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", refuse)
    monkeypatch.setattr(Path, "expanduser", refuse)
    spec = importlib.util.spec_from_file_location("locations_again", locations.__file__)
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_data_of_a_store_is_next_to_its_labels_but_not_through_a_link(tmp_path: Path) -> None:
    with locations.resolved("demo:test", str(tmp_path / "labels")) as place:
        assert Path(place).is_dir()
        assert tmp_path not in Path(place).parents
    assert not Path(place).exists()
    assert not (tmp_path / "labels").exists()


def test_a_yaml_list_may_name_packaged_data(tmp_path: Path) -> None:
    make_dataset(tmp_path / "mine", shards=1, count=3)
    mixed, own = tmp_path / "mixed.yaml", tmp_path / "own.yaml"
    mixed.write_text("datasets: {rooms: 'demo:test', mine: mine}")
    own.write_text("datasets: {mine: mine}")
    assert locations.provided(str(mixed))
    assert not locations.provided(str(own))
    assert locations.resolve_data(str(own), tmp_path) == str(own)
    for options in ("", "?captions=optional"):
        place = locations.resolve_data(f"{mixed}{options}", tmp_path / "cache")
        reader = readers.open_dataset(place)
        assert {shard.partition("/")[0] for shard in reader.shards} == {"mine", "rooms"}
        assert reader.captions_optional == bool(options)
    with pytest.raises(DatasetError, match="mixed is itself a list of datasets"):
        readers.open_dataset(locations.resolve_data(several.combine({"mixed": str(mixed)}), tmp_path / "cache"))
    mixed.write_text("datasets: {rooms: 'demo:tset'}")
    with pytest.raises(DatasetError, match="demo:tset"):
        locations.provided(str(mixed))


def test_pictures_of_a_yaml_list_are_compared_with_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("datasets: {rooms: 'demo:test'}")
    values = {"name": "x", "student": {"model": "demo:clip"}, "training": {"steps": 1}, "arms": ["clip"]}
    values |= {"data": str(tmp_path / "list.yaml"), "evaluation": {"test": "demo:test"}}
    with pytest.raises(RecipeError, match=r"whose images are those of data \(rooms\), 'demo:test'"):
        check_splits(recipe.parse(values))


def test_a_benchmark_folder_may_have_options(tmp_path: Path) -> None:
    make_dataset(tmp_path / "bench" / "images")
    (tmp_path / "plain").mkdir()
    for options in ("", "?captions=optional"):
        assert locations.resolve_data(f"{tmp_path}/bench{options}", tmp_path) == f"{tmp_path}/bench/images{options}"
        assert locations.resolve_data(f"{tmp_path}/plain{options}", tmp_path) == f"{tmp_path}/plain{options}"


def test_models_of_a_scheme_are_folders_of_openclip() -> None:
    folder = model_schemes.resolve("demo:clip")
    assert Path(folder.removeprefix("local-dir:"), "open_clip_config.json").is_file()
    assert model_schemes.resolve("ViT-B-16") == "ViT-B-16"
    assert model_schemes.resolve("hf-hub:a/b") == "hf-hub:a/b"
    for wrong in (model_schemes.resolve, Student.create):
        with pytest.raises(CheckpointError, match="no packaged model 'demo:clp'; use demo:clip"):
            wrong("demo:clp")
    assert Student.create("demo:clip").image_size == Student.create(folder).image_size


def test_what_is_proposed_for_data_comes_from_its_scheme() -> None:
    assert defaults("rooms:captioned?count=5", "cpu")["model"] == "demo:clip"
    assert defaults("photos", "cpu")["model"] == "ViT-B-16 openai"


def test_another_package_brings_a_scheme(tmp_path: Path) -> None:
    with installed(tmp_path, {"pyproject.toml": PROJECT, "my_locations.py": PLUGIN}):
        for more, split in enumerate(("probe", "validation", "test")):
            make_dataset(tmp_path / split / "images", shards=1, count=6 + more)
        assert locations.resolve_data("mine:test", tmp_path) == str(tmp_path / "test" / "images")
        with pytest.raises(DatasetError, match="mine:no: not mine"):
            locations.provided("mine:no")
        (tmp_path / "heldout").mkdir()
        splits = check_benchmarks("mine:")
        assert splits == {split: f"mine:{split}" for split in ("probe", "validation", "test", "heldout")}
        values = {"name": "x", "student": {"model": "demo:clip"}, "training": {"steps": 1}, "arms": ["clip"]}
        check_splits(recipe.parse(values | {"data": "demo:captioned", "evaluation": splits}))
        with pytest.raises(RecipeError, match="whose images are those of data"):
            check_splits(recipe.parse(values | {"data": "mine:test", "evaluation": splits}))
