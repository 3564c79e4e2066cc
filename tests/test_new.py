"""``clipzoo new``: five answers, each checked; the recipe that it writes runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipzoo import recipe
from clipzoo.cli import app
from clipzoo.errors import ClipzooError, DatasetError
from clipzoo.experts import ExpertCard
from clipzoo.labeling import label
from clipzoo.runs import Run, new_recipe
from clipzoo.runs.before.dry_run import preview
from clipzoo.tasks import Convention
from making import make_dataset

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    for more, split in enumerate(("probe", "validation", "test")):
        make_dataset(tmp_path / "bench" / split / "images", shards=1, count=6 + more)
    return tmp_path / "bench"


def test_wrong_answers_are_asked_again(
    dataset: Path, tiny_clip: str, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    out, masks = tmp_path / "mine.yaml", f"files:{tmp_path}?task=segmentation&classes=background,square&void=none"
    answers = [
        "nowhere", str(dataset),
        "ViT-B-61 openai", "RN50 opnai", tiny_clip,
        "demo:dept", "demo:depth demo:depth", f"demo:detection {masks}",
        str(tmp_path), str(bench),
        "none", "-1", "2.5",
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["new", "--out", str(out), "--device", "cpu"], input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    for said in (
        "no file or folder", "48 usable samples", "ViT-B-16", "has no weights 'opnai'", "yfcc15m", "depth",
        "give at least one expert", "has no folder images/", "'none' is not a number of epochs", "'-1' is not",
        f"next: clipzoo run {out} --dry-run",
    ):  # fmt: skip
        assert said in result.output, said
    written = recipe.load(out)
    assert written.name == "mine"
    assert written.data == str(dataset)
    assert (written.student.model, written.student.layers) == (tiny_clip, (0, 1))
    assert [(c.expert, c.head) for c in written.columns] == [("demo:detection", "fcos"), (masks, "conv")]
    assert written.evaluation.test == str(bench / "test")
    assert written.evaluation.heldout is None
    assert written.training.epochs == 2.5
    assert preview(written, tmp_path / "run").steps == 2, "2.5 epochs of one batch of 32"


def test_defaults_are_a_run_of_the_packaged_rooms(tmp_path: Path) -> None:
    out = tmp_path / "new" / "first.yaml"
    result = CliRunner().invoke(app, ["new", "--yes", "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    written = recipe.load(out)
    assert (written.data, written.student.model, written.evaluation.test) == (
        "demo:captioned",
        "demo:clip",
        "demo:test",
    )
    assert {column.expert for column in written.columns} >= {"demo:depth", "demo:normals"}
    assert CliRunner().invoke(app, ["new", "--yes", "--out", str(out)]).exception.__class__.__name__ == "RecipeError"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--data", "nowhere"], "no file or folder"),
        (["--model", "RN50"], "openai"),
        (["--expert", "dmo:depth"], "did you mean demo"),
        (["--bench", "nowhere"], "nowhere"),
        (["--epochs", "0"], "above 0"),
    ],
)
def test_without_questions_a_wrong_option_is_an_error_and_nothing_is_written(
    wrong: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new", "--yes", "--device", "cpu", *wrong])
    assert isinstance(result.exception, ClipzooError), result.output
    assert says in str(result.exception)
    assert not (tmp_path / "recipe.yaml").exists()


def test_without_a_benchmark_the_recipe_only_trains(dataset: Path, tiny_clip: str, tmp_path: Path) -> None:
    out = tmp_path / "my r.yaml"
    options = [
        "--data",
        str(dataset),
        "--model",
        tiny_clip,
        "--expert",
        "demo:depth",
        "--bench",
        "none",
        "--epochs",
        "1",
    ]
    result = CliRunner().invoke(app, ["new", "--out", str(out), "--device", "cpu", *options])
    assert f"next: clipzoo train '{out}' --dry-run" in result.output
    assert out.read_text().startswith(f"# clipzoo train '{out}'")
    assert len(recipe.load(out).training.learning_rates) == 1, "there is no validation to choose by"


def test_weights_are_a_tag_a_file_or_none_and_paths_may_have_spaces(tiny_clip: str, tmp_path: Path) -> None:
    spaced = tmp_path / "my clip"
    spaced.symlink_to(tiny_clip.removeprefix("local-dir:"))
    for answer, wanted in (
        (f"local-dir:{spaced}", (f"local-dir:{spaced}", None, False)),
        (f"local-dir:{spaced} random", (f"local-dir:{spaced}", None, True)),
        ("ViT-S-32-alt random", ("ViT-S-32-alt", None, True)),
        ("RN50 openai", ("RN50", "openai", False)),
    ):
        found = new_recipe.check_start(answer)
        assert (found.model, found.pretrained, found.random) == wanted


def test_layers_are_the_middle_and_last_block_or_the_last_two_stages() -> None:
    assert new_recipe.check_start("ViT-S-32-alt random").layers == (5, 11)
    assert new_recipe.check_start("demo:clip").layers == (3, 4)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_the_precision_is_that_of_the_device_that_trains(device: str) -> None:
    """GPUs before NVIDIA's Ampere and those of Apple have no instructions for bf16."""
    data, start = new_recipe.Data("shards/", 1000, {}), new_recipe.Start("ViT-B-16", "openai", False, (5, 11))
    cards = {"demo:depth": ExpertCard("", "depth", Convention(kind="affine-disparity"))}
    written = new_recipe.recipe_text(Path("mine.yaml"), data, start, cards, {}, 3, device)
    assert "  precision: auto  # bf16 where the device has instructions for it, else fp32\n" in written


def test_the_template_in_recipes_is_the_output_of_new() -> None:
    path = ROOT / "recipes" / "fine-tune-yours.yaml"
    cards = {
        "hf:facebook/mask2former-swin-base-ade-semantic": ExpertCard(
            "", "segmentation", Convention(classes=("a", "b"))
        ),
        "hf:depth-anything/Depth-Anything-V2-Small-hf": ExpertCard("", "depth", Convention(kind="affine-disparity")),
    }
    splits = {split: f"bench/{split}" for split in ("probe", "validation", "test")}
    data, start = new_recipe.Data("shards/", 1_000_000, {}), new_recipe.Start("ViT-B-16", "openai", False, (5, 11))
    written = new_recipe.recipe_text(
        Path("recipes/fine-tune-yours.yaml"), data, start, cards, splits, 3, "cuda", cores=16
    )
    assert path.read_text() == written


def test_existing_labels_are_used(
    dataset: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label(str(dataset), "demo:edges", "labels", device="cpu", check=False, progress=False)
    label(str(dataset), "demo:depth", "labels", device="cpu", check=False, progress=False)
    manifest = next(Path("labels/depth").glob("*/manifest.json"))
    manifest.write_text(manifest.read_text().replace("demo:depth", "demo:gone"))  # whose expert is not at hand
    common = ["--device", "cpu", "--model", tiny_clip, "--bench", "none", "--epochs", "1"]
    for number, options in enumerate(
        (["--yes", "--data", str(dataset)], ["--yes", "--data", str(dataset), "--store", "labels"])
    ):
        result = CliRunner().invoke(app, ["new", "--out", f"{number}.yaml", *common, *options], catch_exceptions=False)
        assert "labels has labels of this dataset, which will be used: depth/demo-depth, demo:edges" in result.output
        written = recipe.load(f"{number}.yaml")
        assert written.store == "labels"
        assert [(c.expert, c.column) for c in written.columns] == [(None, "depth/demo-depth"), ("demo:edges", None)]
        assert "depth/demo-depth: depth, license " in result.output
        assert "demo:edges: edges, license " in result.output
        assert "labeling comes first" not in Path(f"{number}.yaml").read_text()
    assert Run(written, tmp_path / "run").inputs.unlabeled() == []
    wrong = ["new", "--yes", "--out", "x.yaml", *common, "--data", str(dataset), "--expert"]
    for name, says in (
        ("edges", "'edges' is not the URI of an expert"),
        ("edges/x", "no column edges/x; it has: depth/demo-depth"),
    ):
        assert says in str(CliRunner().invoke(app, [*wrong, name]).exception)
    none = [
        "new",
        "--yes",
        "--out",
        "2.yaml",
        *common,
        "--data",
        str(dataset),
        "--store",
        "none",
        "--expert",
        "demo:edges",
    ]
    CliRunner().invoke(app, none, catch_exceptions=False)
    assert "; labeling comes first" in Path("2.yaml").read_text()
    assert recipe.load("2.yaml").store is None
    assert Run(recipe.load("2.yaml"), tmp_path / "other").inputs.unlabeled() == ["edges/demo-edges"]


def test_the_dataset_of_a_store_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["new", "--yes", "--out", "x.yaml", "--store", "labels"])
    assert "the dataset of its labels is missing: add --data" in str(result.exception)
    asked = CliRunner().invoke(app, ["new", "--out", "x.yaml", "--store", "labels"], input="nowhere\n").output
    assert "1. Dataset (docs/data.md): " in asked, "there is no default"
    asked = CliRunner().invoke(app, ["new", "--out", "x.yaml", "--store", "none"], input="nowhere\n").output
    assert "1. Dataset (docs/data.md) [demo:captioned]: " in asked
    monkeypatch.setattr("clipzoo.runs.new_recipe.check_data", refused)
    result = CliRunner().invoke(app, ["new", "--yes", "--out", "x.yaml", "--store", "none"])
    assert str(result.exception) == "asked for demo:captioned", "without a store, the default is used"


def refused(location: str, progress: object) -> None:
    raise DatasetError(f"asked for {location}")


def test_a_store_of_another_dataset_is_refused_and_an_empty_one_is_filled(
    dataset: Path, bench: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    label(str(bench / "test" / "images"), "demo:edges", "labels", device="cpu", check=False, progress=False)
    options = ["--data", str(dataset), "--model", tiny_clip, "--bench", "none", "--expert", "demo:edges"]
    run = ["new", "--yes", "--device", "cpu", *options]
    assert "another dataset" in str(CliRunner().invoke(app, [*run, "--store", "labels"]).exception)
    CliRunner().invoke(app, [*run, "--out", "own.yaml"], catch_exceptions=False)
    assert recipe.load("own.yaml").store is None, "labels of something else are no labels of this"
    result = CliRunner().invoke(app, [*run, "--out", "new.yaml", "--store", "fresh"], catch_exceptions=False)
    assert "fresh has no labels yet; new labels will be stored there" in result.output
    assert recipe.load("new.yaml").store == "fresh"


def test_the_comment_at_the_top_matches_command_and_device() -> None:
    cards = {"demo:depth": ExpertCard("", "depth", Convention(kind="metric", along="z"))}
    data, start = new_recipe.Data("shards/", 1000, {}), new_recipe.Start("demo:clip", None, True, (3, 4))
    splits = {split: f"demo:{split}" for split in ("probe", "validation", "test")}
    for device, measured, verb in (("cpu", {}, "train"), ("cpu", splits, "run"), ("cuda", {}, "train")):
        text = new_recipe.recipe_text(Path("r.yaml"), data, start, cards, measured, 1, device)
        assert text.startswith(f"# clipzoo {verb} r.yaml ")
        assert f"clipzoo {'run' if verb == 'train' else 'train'}" not in text
        assert ("H100" in text) is (device == "cuda")
        assert "; labeling comes first." in text
        batch = 256 if device == "cuda" else 32
        assert f"{(2 if measured else 1) * (1000 // batch) * batch:,} images in total" in text, "of whole batches"


def test_the_comment_at_the_top_counts_trials_and_whole_batches() -> None:
    cards = {"demo:depth": ExpertCard("", "depth", Convention(kind="metric", along="z"))}
    start = new_recipe.Start("ViT-B-16", "openai", False, (5, 11))
    splits = {split: f"demo:{split}" for split in ("probe", "validation", "test")}
    text = new_recipe.recipe_text(Path("r.yaml"), new_recipe.Data("shards/", 330, {}), start, cards, splits, 1, "cpu")
    assert f"{2 * 32 * (10 + 3 * 2):,} images in total" in text, "10 steps of 32, and three trials of 2, of both arms"
