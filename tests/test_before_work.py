"""Mistakes that are found before the first step, and messages without representations of Python."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from clipzoo import experts, recipe, runs
from clipzoo.benchmarks import Truth, open_benchmark
from clipzoo.benchmarks._streaming.split import _joined
from clipzoo.cli import app
from clipzoo.cli.eval import _with_default
from clipzoo.data import Plan
from clipzoo.errors import CheckpointError, ClipzooError, DatasetError, PlanError, RecipeError
from clipzoo.export.base import sentence
from clipzoo.files import place
from clipzoo.progress import Silent
from clipzoo.runs.before.dry_run import preview
from clipzoo.runs.folder import Folder
from clipzoo.runs.models import Comparison, measure
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention, get
from clipzoo.tasks.segmentation import Segmentation
from making import make_dataset
from test_pipeline import write_benchmark

REPRESENTATION = re.compile(
    r"\b[A-Z]\w*\([a-z_]+=|<class '|<[\w.]+ object at|<function |mappingproxy|WindowsPath|PosixPath"
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", shards=1)
    for seed, split in enumerate(("probe", "validation", "test", "heldout")):
        write_benchmark(tmp_path / split, 6, seed)
    return tmp_path


def made(**changes: object) -> recipe.Recipe:
    values = {
        "name": "x", "data": "data", "student": {"model": "demo:clip"}, "training": {"steps": 1, "batch_size": 2},
        "arms": ["clip-ft"],
    }  # fmt: skip
    return recipe.parse(values | changes)


def other_classes(split: Path) -> None:
    """Give a benchmark of `write_benchmark` true labels of another label space."""
    shutil.rmtree(split / "truth")
    card = experts.ExpertCard("truth", "segmentation", Convention(("sky", "sea", "sand")))
    reader = open_benchmark(split).reader
    from clipzoo.readers import fingerprint

    with ColumnWriter(Store(split / "truth").create(card, fingerprint(reader)), "0") as writer:
        for i in range(6):
            writer.add(f"{i:04d}", Segmentation(np.zeros((4, 4), np.uint16), np.ones((4, 4), bool)))


@pytest.mark.parametrize("split", ["test", "heldout"])
def test_truth_of_another_label_space_is_refused(places: Path, split: str) -> None:
    other_classes(places / split)
    wanted = made(evaluation={name: name for name in ("probe", "validation", "test", "heldout")})
    for run in (lambda: preview(wanted, "run"), lambda: runs.Run(wanted, "run")):
        with pytest.raises(RecipeError, match=rf"of evaluation\.\w+ and evaluation\.{split} differ: segmentation has"):
            run()
    assert not Path("run").exists()


def test_a_checkpoint_of_another_architecture_is_refused(places: Path, tiny_clip: str) -> None:
    shutil.copytree(tiny_clip.removeprefix("local-dir:"), "other")
    config = json.loads(Path("other/open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] *= 2
    Path("other/open_clip_config.json").write_text(json.dumps(config))
    torch.save({"state_dict": {"visual.conv1.weight": torch.zeros(3)}}, "w.pt")
    for student in ({"model": "local-dir:other"}, {"model": "RN50", "pretrained": "w.pt"}):
        for run in (
            lambda s=student: preview(made(student=s), "run"),
            lambda s=student: runs.Run(made(student=s), "run"),
        ):
            with pytest.raises(CheckpointError, match=r"architecture|does not fit|do not fit"):
                run()
    assert not Path("run").exists()


def test_strides_larger_than_the_images_are_refused(places: Path) -> None:
    column = {"columns": [{"expert": "demo:depth", "stride": 500}], "arms": ["clipzoo"]}
    for wanted, says in (
        (made(**column), r"stride of depth/demo-depth is 500, but images have \d+ pixels"),
        (made(evaluation={"test": "test", "label_stride": 500}), "evaluation.label_stride is 500"),
    ):
        for run in (lambda w=wanted: preview(w, "run"), lambda w=wanted: runs.Run(w, "run")):
            with pytest.raises(RecipeError, match=says):
                run()
    assert not Path("run").exists()


def test_layers_that_the_student_does_not_have_are_refused(places: Path) -> None:
    with pytest.raises(RecipeError, match=r"student\.layers is \[12\], and the vision tower has no such layers"):
        runs.Run(made(student={"model": "demo:clip", "layers": [12]}), "run")


def test_the_dry_run_counts_the_images_of_a_chunk(places: Path, tiny_clip: str) -> None:
    chunks = made(training={"steps": 1, "batch_size": 4, "accumulate": 2}, student={"model": tiny_clip})
    assert "activations at 2 images in fp32" in dict(preview(chunks, "run").rows())["memory, estimated"]
    auto = made(training={"steps": 1, "batch_size": 4, "precision": "auto"}, student={"model": tiny_clip})
    assert "in fp32, at most" in dict(preview(auto, "run").rows())["memory, estimated"], "bf16 needs less"


def test_all_models_are_checked_before_the_first_is_measured(
    places: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = f"open_clip:{tiny_clip.removeprefix('local-dir:')}"
    monkeypatch.setattr("clipzoo.encoders.create", lambda uri: pytest.fail(f"{uri} was loaded"))
    for bad, says in {
        "open_clip:ViT-B-17": "did you mean ViT-B-16", "open_clip:RN50/opanai": "did you mean openai",
        "timm:vit_bass_patch16_224": "did you mean vit_base_patch16_224", "open_clip:RN50?sice=3": "sice",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=says):
            measure(Comparison([good, bad], {"test": "test"}, places / "out"), Silent())


def test_messages_of_models_name_options(places: Path, tiny_clip: str) -> None:
    uri = f"open_clip:{tiny_clip.removeprefix('local-dir:')}"
    shutil.copytree("probe", "copy")
    other_classes(places / "heldout")
    told = []
    for given in (
        {"test": "test", "probe": "none", "validation": "validation"},
        {"test": "test", "probe": "test", "validation": "validation"},
        {"test": "copy", "probe": "probe", "validation": "validation"},
        {"test": "test", "probe": "heldout", "validation": "validation"},
        {"test": "https://x.y/z"},
    ):
        with pytest.raises(RecipeError) as raised:
            measure(Comparison([uri], given, places / "out"), Silent())
        told.append(str(raised.value))
    shutil.rmtree("test/truth")
    with pytest.raises(RecipeError) as raised:
        measure(Comparison([uri], {"test": "test"}, places / "out", open_vocabulary="maskclip"), Silent())
    assert "omit --open-vocabulary" in str(raised.value)
    for text in (*told, str(raised.value)):
        assert "evaluation." not in text
    assert all("--" in text for text in told)


def test_a_bare_folder_of_another_layout_comes_with_its_name(places: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        Path("VOC2012", folder).mkdir(parents=True)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save("VOC2012/JPEGImages/a.jpg")
    Image.fromarray(np.zeros((6, 8), np.uint8)).save("VOC2012/SegmentationClass/a.png")
    Path("VOC2012/ImageSets/Segmentation/val.txt").write_text("a\n")
    with pytest.raises(DatasetError, match=r"The folder has the layout voc: write voc:VOC2012$"):
        open_benchmark("VOC2012")
    with pytest.raises(RecipeError, match=r"evaluation\.test is 'VOC2012'.*write voc:VOC2012"):
        preview(made(evaluation={"test": "VOC2012"}), "run")
    Path("empty").mkdir()
    with pytest.raises(DatasetError) as raised:
        open_benchmark("empty")
    assert "has the layout" not in str(raised.value)


def test_a_dry_run_builds_the_plan_on_disk(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, build = [], Plan.build.__func__
    monkeypatch.setattr(Plan, "build", classmethod(lambda cls, *a, **k: given.append(k["path"]) or build(cls, *a, **k)))
    assert preview(made(), "run").samples == 6
    (path,) = given
    assert path.name == "plan.arrow"
    assert not path.exists(), "the folder is temporary"
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (["--open-vocabulary"], ["--open-vocabulary", "maskclip"]),
        (["--open-vocabulary", "--test", "x"], ["--open-vocabulary", "maskclip", "--test", "x"]),
        (["--open-vocabulary", "recipe.yaml"], ["--open-vocabulary", "maskclip", "recipe.yaml"]),
        (["r.yaml", "--open-vocabulary", "sclip"], ["r.yaml", "--open-vocabulary", "sclip"]),
        (["--open-vocabulary=naclip", "r.yaml"], ["--open-vocabulary=naclip", "r.yaml"]),
    ],
)
def test_open_vocabulary_has_a_default(given: list[str], parsed: list[str]) -> None:
    assert list(_with_default(given)) == parsed


def test_the_default_of_open_vocabulary_reaches_the_measurement(
    places: Path, tiny_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["eval", "--model", f"open_clip:{tiny_clip.removeprefix('local-dir:')}", "--test", "test"]
    done = CliRunner().invoke(app, [*arguments, "--label-size", "16", "--open-vocabulary"], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(Path("eval/results.json").read_text())["protocol"]["open_vocabulary"].startswith("maskclip")
    typed = CliRunner().invoke(app, [*arguments, "--open-vocabulary", "sclp"])
    assert typed.exit_code == 2
    assert "sclip" in typed.output


def test_the_sentence_of_an_export_has_the_parity_of_heads() -> None:
    parity: dict[str, object] = {
        "images": 2, "image_embeddings": 1e-7, "library": "x 1", "preprocessing_levels": 0.1,
        "preprocessing_cosine": 1.0, "transform_levels": 0.0, "transform_embeddings": 0.0,
    }  # fmt: skip
    heads = {"depth/a": {"depth": 2e-6, "valid": 1e-9}, "edges/b": {"edges": 3e-7}}
    assert "depth/a 2.0e-06, edges/b 3.0e-07" in sentence(parity | {"heads": heads})
    assert "heads" not in sentence(parity)


def test_one_picture_is_one_picture(places: Path, tiny_clip: str) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    folder = tiny_clip.removeprefix("local-dir:")
    done = CliRunner().invoke(app, ["predict", folder, "a.png", "--prompts", "a"], catch_exceptions=False)
    assert "1 picture, 0 failed" in done.output
    done = CliRunner().invoke(app, ["predict", folder, "a.png", "a.png", "--prompts", "a"], catch_exceptions=False)
    assert "2 pictures, 0 failed" in done.output


def truth(**convention: object) -> Truth:
    return Truth(get("depth" if "kind" in convention else "segmentation"), Convention(**convention), [None], (4, 4))


def python_file(places: Path, code: str) -> Callable[[], object]:
    path = places / f"m{abs(hash(code))}.py"
    path.write_text(code)
    return lambda: experts.create(f"python:{path}:Mine")


def test_no_message_has_a_representation_of_python(places: Path, tiny_clip: str) -> None:
    other_classes(places / "test")
    Path("damaged").mkdir()
    Path("damaged/base.json").write_text("{}")
    Path("x.yaml").write_text("- a")
    expert = "from clipzoo.experts import Expert, ExpertCard\nfrom clipzoo.tasks import Convention\n"
    provoked: list[Callable[[], object]] = [
        lambda: _joined(truth(classes=("a", "b")), truth(classes=("a", "c")), 1),
        lambda: _joined(truth(kind="metric", along="z"), truth(kind="affine-depth", along="z"), 1),
        python_file(places, f"{expert}class Mine(Expert):\n    card = Convention(('a',))"),
        python_file(places, f"{expert}class Mine(Expert):\n    card = None"),
        python_file(places, f"{expert}Mine = ExpertCard('', 'depth', Convention(kind='metric'))"),
        python_file(places, f"{expert}class Mine: pass"),
        python_file(places, f"{expert}class Mine(Expert):\n    def __init__(self, x): pass"),
        lambda: Folder("damaged").base,
        lambda: recipe.load("x.yaml"),
        lambda: made(columns=[{"expert": 3}], arms=[{"name": "x"}]),
        lambda: made(arms=["clipzoo", {"name": "x y", "columns": ["a"]}], columns=[{"expert": "demo:depth"}]),
        lambda: made(training={"steps": 1, "learning_rates": Convention(("a",))}),
        lambda: preview(made(evaluation={"probe": "probe", "validation": "validation", "test": "test"}), "run"),
        lambda: preview(made(columns=[{"expert": "demo:depth", "loss_options": {"x": 1}}], arms=["clipzoo"]), "run"),
        lambda: preview(made(columns=[{"expert": "demo:depth", "head_options": {"x": 1}}], arms=["clipzoo"]), "run"),
        lambda: preview(made(columns=[{"column": "depth/none"}], arms=["clipzoo"]), "run"),
        lambda: preview(made(data="nowhere"), "run"),
        lambda: preview(made(student={"model": "local-dir:nowhere"}), "run"),
        lambda: experts.create("demo:none"),
        lambda: experts.create("torchvision:fcn_resnet5"),
        lambda: open_benchmark(place("data")),
    ]
    told = []
    for provoke in provoked:
        with pytest.raises((ClipzooError, ValueError)) as raised:
            provoke()
        assert isinstance(raised.value, ClipzooError), raised.value
        told.append(str(raised.value))
    assert len(set(told)) == len(provoked)
    assert [text for text in told if REPRESENTATION.search(text)] == []


def test_the_dry_run_of_several_processes_refuses_what_they_would(places: Path, tiny_clip: str) -> None:
    training = {"steps": 1, "batch_size": 2, "sharding": "fsdp2", "balancing": "gradient_norm"}
    several = made(training=training, student={"model": tiny_clip})
    preview(several, "run")
    with pytest.raises(RecipeError, match=r"balancing is gradient_norm, but training\.sharding is fsdp2"):
        preview(several, "run", processes=2)


def test_data_smaller_than_a_batch_is_refused_before_labeling(places: Path, tiny_clip: str) -> None:
    column = {"columns": [{"expert": "demo:depth"}]}
    large = made(training={"steps": 1, "batch_size": 999}, student={"model": tiny_clip}, arms=["clipzoo"], **column)
    with pytest.raises(PlanError, match=r"has \d+ usable samples, fewer than one batch of 999"):
        runs.train(runs.Run(large, "run"), "clipzoo", 0)
    assert not list(Path("run/labels").rglob("*.tar"))


def test_labels_only_needs_no_benchmark_and_its_dry_run_is_about_labels(places: Path) -> None:
    (places / "r.yaml").write_text(made(arms=["clipzoo"], columns=[{"expert": "demo:edges"}]).to_yaml())
    command = ["run", "r.yaml", "--out", "out", "--labels-only"]
    result = CliRunner().invoke(app, [*command, "--dry-run"], catch_exceptions=False)
    assert "labels edges/demo-edges" in result.output
    for item in ("trainings", "each training", "memory", "evaluation"):
        assert item not in result.output
    assert not Path("out").exists()
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert Store("out/labels").columns()[0].committed()
