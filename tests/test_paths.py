"""Places as users write them: text or `pathlib.Path` alike, and addresses of stores where a folder may stand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import clipzoo
from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.errors import RecipeError, RemoteError
from clipzoo.runs import verbs as pipeline
from clipzoo.runs.before.dry_run import preview
from clipzoo.runs.before.preflight import check_splits
from clipzoo.runs.new_recipe import check_benchmarks, check_out
from serving import put
from test_pipeline import write_benchmark

SPLITS = ("probe", "validation", "test")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    for seed, split in enumerate(SPLITS):
        write_benchmark(root / split, 24, seed)
    return root


def recipe_of(data: object, model: str, bench: object) -> clipzoo.Recipe:
    text = {
        "name": "squares", "data": str(data), "arms": ["clip"], "student": {"model": model},
        "training": {"steps": 1, "batch_size": 8}, "evaluation": {split: f"{bench}/{split}" for split in SPLITS},
    }  # fmt: skip
    return clipzoo.Recipe.model_validate(text)


def test_every_public_function_takes_text_and_paths(
    dataset: Path, labels: Path, tiny_clip: str, bench: Path, tmp_path: Path
) -> None:
    """Each name of docs/api.md that is given a place, once by text and once by a path."""
    for kind in (str, Path):
        at, data = tmp_path / kind.__name__, kind(dataset)
        at.mkdir()
        assert clipzoo.check(data, kind(at / "check.html"), limit=4, progress=False).usable == 4
        reader, store = clipzoo.open_dataset(data), clipzoo.Store(kind(labels))
        clipzoo.label(data, "demo:depth", kind(at / "labels"), progress=False, check=False, log=kind(at / "log"))
        clipzoo.inspect(kind(labels), data, kind(at / "gallery.html"), 2)
        assert not clipzoo.verify(clipzoo.Store(kind(at / "labels")), reader)
        clipzoo.Plan.build(reader, {}).save(kind(at / "plan.parquet"))
        assert len(clipzoo.Plan.load(kind(at / "plan.parquet"))) == 48
        wanted = recipe_of(dataset, tiny_clip, bench)
        (at / "recipe.yaml").write_text(wanted.to_yaml())
        assert clipzoo.load_recipe(kind(at / "recipe.yaml")) == wanted
        assert preview(wanted, kind(at / "run")).folder == at / "run"
        run = clipzoo.Run(wanted, kind(at / "run"))
        assert run.out == at / "run"
        pipeline.export(run, arm="clip", out=kind(at / "exported"))
        clipzoo.Student.create(tiny_clip).save(kind(at / "student"))
        assert not clipzoo.Student.load(kind(at / "student")).specs
        assert clipzoo.load(kind(at / "student")).columns == ()
        (at / "masks").mkdir()
        for key in ("0000", "0001"):
            np.save(at / "masks" / f"{key}.npy", np.zeros((32, 32), np.uint8))
        told = {"task": "segmentation", "classes": "none,square", "void": "none"}
        found = clipzoo.import_labels(
            kind(data), kind(at / "masks"), "files", told, kind(at / "labels"), max_failures=1, progress=False
        )
        assert found.matched == 2
        assert clipzoo.merge([store], clipzoo.Store(kind(at / "merged")))


@pytest.mark.parametrize("given", ["s3://bucket/here", Path("s3://bucket/here"), "memory://here"])
def test_what_has_to_lie_on_a_disk_says_so_of_an_address(
    given: str | Path, tiny_clip: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And makes no folder that is called ``s3:``."""
    monkeypatch.chdir(tmp_path)
    wanted = recipe_of(dataset, tiny_clip, "demo:")
    for call in (
        lambda: clipzoo.Run(wanted, given),
        lambda: clipzoo.Student.create(tiny_clip).save(given),
        lambda: clipzoo.load(given),
        lambda: clipzoo.load_recipe(given),
        lambda: clipzoo.check(dataset, given),
        lambda: check_out(given),
    ):
        with pytest.raises(RemoteError, match=r"is an address, but .* must be on a local disk"):
            call()
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def stored(far: str, bench: Path) -> Iterator[str]:
    return put(bench, f"{far}/bench")


def test_arms_are_measured_on_benchmark_folders_in_a_store(
    stored: str, bench: Path, dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    """And get the numbers that they have on a disk."""
    found = [
        json.loads(pipeline.evaluate(clipzoo.Run(recipe_of(dataset, tiny_clip, place), tmp_path / name)).read_text())
        for name, place in (("disk", bench), ("store", stored))
    ]
    assert "segmentation/miou" in found[0]["arms"]["clip"]
    assert "zero_shot/top1" in found[0]["arms"]["clip"]
    assert found[0]["arms"] == found[1]["arms"]
    assert found[0]["baselines"] == found[1]["baselines"]


def test_splits_in_a_store_are_told_apart(memory: str, bench: Path, dataset: Path, tiny_clip: str) -> None:
    place = put(bench, f"{memory}/bench")
    assert check_benchmarks(place) == {split: f"{place}/{split}" for split in SPLITS}
    with pytest.raises(RecipeError, match=r"evaluation\.test is .*whose images are those of data"):
        check_splits(recipe_of(f"{place}/test", tiny_clip, place))
    with pytest.raises(RecipeError, match=r"evaluation\.probe is .*whose images are those of data"):
        check_splits(recipe_of(f"{place}/probe/images/0.tar", tiny_clip, place))
    with pytest.raises(RecipeError, match="has no folder images/;"):
        check_benchmarks(f"{memory}/nowhere")


def test_a_web_server_is_no_place_for_a_benchmark_folder() -> None:
    with pytest.raises(RecipeError, match=r"evaluation\.probe is 'http://host/b/probe', which is on a web server"):
        check_benchmarks("http://host/b")


def test_tars_lie_in_the_folder_or_in_one_that_is_named_as_the_split(memory: str, bench: Path, tmp_path: Path) -> None:
    put(bench / "test" / "images", f"{memory}/inner/images/test")
    put(bench / "test" / "images", f"{memory}/outer/images")
    for place in (f"{memory}/inner", f"{memory}/outer", str(bench / "test")):
        found = read_split(open_benchmark(place), (16, 16))
        assert len(found.targets) == len(found.captioned()) == 24
