"""The loop: it learns, stops and resumes to the same bits, and says what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import CheckpointError, ClipzooError, DatasetError
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import open_dataset
from clipzoo.recipe import TrainingRecipe
from clipzoo.stopping import Interrupted
from clipzoo.store import Store
from clipzoo.training import Job, Training, read_log, train
from clipzoo.training.updates import optimizer

STEPS = 12


def job(dataset: Path, labels: Path, model: str, out: Path, **settings: object) -> Training:
    columns = {c.name: c for c in Store(labels).columns()}
    reader = open_dataset(str(dataset))
    torch.manual_seed(0)
    student = Student.create(model, specs={n: HeadSpec(c.task, c.convention, "conv") for n, c in columns.items()})
    data = TrainingSet(
        Plan.build(reader, columns), reader, {n: LabelColumn(c) for n, c in columns.items()}, Viewing((32, 32))
    )
    values = {"steps": STEPS, "batch_size": 16, "log_every": 1, "checkpoint_every": 2, **settings}
    recipe = TrainingRecipe.model_validate(values)
    return Training(Job(recipe, rate=1e-3, steps=recipe.steps, out=out), student, data)


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, labels: Path, tiny_clip: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    train(job(dataset, labels, tiny_clip, out))
    return out


def same_student(a: Path, b: Path) -> bool:
    names = ("open_clip_model.safetensors", "clipzoo_heads.safetensors")
    pairs = [(load_file(a / "student" / n), load_file(b / "student" / n)) for n in names]
    return all(torch.equal(x[k], y[k]) for x, y in pairs for k in x)


def test_the_loss_falls_and_every_term_is_logged(uninterrupted: Path) -> None:
    log = [line for line in read_log(uninterrupted) if "loss" in line]
    assert [line["step"] for line in log] == list(range(STEPS))
    assert {"loss/contrastive", "loss/segmentation/test-truth", "loss/depth/test-truth"} <= set(log[0])
    assert log[-1]["loss"] < log[0]["loss"]
    assert list((uninterrupted / "tensorboard").iterdir())


def test_the_result_is_an_openclip_folder(uninterrupted: Path, tiny_clip: str) -> None:
    import open_clip

    model = open_clip.create_model(f"local-dir:{uninterrupted / 'student'}").eval()
    student = Student.load(uninterrupted / "student").eval()
    texts = ["red square", "a photo of a green square"]
    images = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.encode_image(student.normalize(images), normalize=True), student.encode_image(images))
        tokens = open_clip.get_tokenizer(f"local-dir:{uninterrupted / 'student'}")(texts)
        assert torch.equal(model.encode_text(tokens, normalize=True), student.encode_text(texts))


@pytest.mark.parametrize("killed_after", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_and_resumed_it_ends_in_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, uninterrupted: Path, killed_after: int
) -> None:
    """A real SIGKILL of a real process, at a moment that no checkpoint was chosen for."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import torch; torch.set_num_threads(1);"
        "from test_training import job, train; train(job(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:5],"
        "Path(sys.argv[5])))"
    )
    arguments = [str(Path(__file__).parent), str(dataset), str(labels), tiny_clip, str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    deadline = time.monotonic() + 60
    while len(read_log_safely(tmp_path)) < killed_after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "student").exists()
    train(job(dataset, labels, tiny_clip, tmp_path))
    assert same_student(tmp_path, uninterrupted)
    whole, resumed = read_log(uninterrupted), read_log(tmp_path)
    assert [line["step"] for line in resumed] == [line["step"] for line in whole]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_the_disk_and_leaves_nothing_behind(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, uninterrupted: Path
) -> None:
    code = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from test_training import job, train; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000,) * 2)\n"
        "try: train(job(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5])))\n"
        "except OSError as error: sys.exit(f'the disk: {error.strerror}')"
    )
    arguments = [str(Path(__file__).parent), str(dataset), str(labels), tiny_clip, str(tmp_path)]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ended.stderr.strip().endswith("the disk: File too large")
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    train(job(dataset, labels, tiny_clip, tmp_path))
    assert same_student(tmp_path, uninterrupted)


def read_log_safely(out: Path) -> list[str]:
    path = out / "log.jsonl"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("workers", [0, 1])
def test_asked_to_stop_it_saves_first(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, uninterrupted: Path, workers: int
) -> None:
    def stop(step: int, values: object) -> None:
        if step == 3:  # every process of the job is told, as schedulers do
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGTERM)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)

    stopping = job(dataset, labels, tiny_clip, tmp_path, checkpoint_every=100, workers=workers)
    stopping = replace(stopping, on_step=stop)
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM after step 4; rerun the command to resume"):
        train(stopping)
    assert (tmp_path / "checkpoint.pt").exists()
    train(job(dataset, labels, tiny_clip, tmp_path, checkpoint_every=100))
    assert same_student(tmp_path, uninterrupted)


def test_asked_twice_it_does_not_wait(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    def stop(step: int, values: object) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # two pending signals of one kind would be one
        raise AssertionError("the second one was not heard")

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in commands in the background
    with pytest.raises(KeyboardInterrupt) as raised:
        train(replace(job(dataset, labels, tiny_clip, tmp_path), on_step=stop))
    assert not isinstance(raised.value, Interrupted)


@pytest.mark.parametrize("last", [3, STEPS - 1])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_student_with_dropout_resumes_to_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, last: int, workers: int
) -> None:
    def dropping(out: Path) -> Training:
        made = job(dataset, labels, tiny_clip, out, checkpoint_every=100, workers=workers)
        made.student.heads["depth/test-truth"].mix.append(torch.nn.Dropout(0.5))
        return made

    def stop(step: int, values: object) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGINT)

    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train(dropping(whole))
    with pytest.raises(KeyboardInterrupt):
        train(replace(dropping(halved), on_step=stop))
    assert not (halved / "student").exists()
    train(dropping(halved))
    assert same_student(whole, halved)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_compiled_student_learns_the_same(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, uninterrupted: Path
) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path, compile=True, steps=4))
    for ours, theirs in zip(read_log(tmp_path)[:2], read_log(uninterrupted)[:2], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert (tmp_path / "student" / "done").exists()


def test_workers_do_not_carry_the_student(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    sent = pickle.dumps(loader(made.dataset, 16, made.student.tokenize).collate_fn)
    assert len(sent) < 0.2 * sum(p.nbytes for p in made.student.parameters())


def test_embeddings_never_decay() -> None:
    names = (
        "clip.visual.trunk.pos_embed",
        "clip.visual.trunk.cls_token",
        "clip.positional_embedding",
        "clip.visual.proj",
    )
    weight, gain = torch.nn.Parameter(torch.zeros(1, 4, 8)), torch.nn.Parameter(torch.zeros(8))
    assert [optimizer._decays(name, weight) for name in names] == [False, False, False, True]
    assert not optimizer._decays("clip.visual.trunk.norm.weight", gain)


@pytest.mark.parametrize(
    ("name", "shape", "decays"),
    [
        ("clip.visual.trunk.stages.0.blocks.0.layer_scale.gamma", (64, 1, 1), False),
        ("clip.visual.trunk.layers.0.blocks.0.attn.relative_position_bias_table", (169, 4), False),
        ("clip.visual.trunk.head.weight", (64, 32), True),
        ("heads.depth_x.out.weight", (1, 32, 1, 1), True),
        ("clip.visual.trunk.stem.0.weight", (64, 3, 1, 1), True),
    ],
)
def test_gains_and_biases_of_more_than_one_dimension_never_decay(
    name: str, shape: tuple[int, ...], decays: bool
) -> None:
    assert optimizer._decays(name, torch.nn.Parameter(torch.zeros(shape))) is decays


def test_a_loss_that_is_not_finite_is_named(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    broken = job(dataset, labels, tiny_clip, tmp_path)
    with torch.no_grad():
        broken.student.heads["depth/test-truth"].project.bias.fill_(float("nan"))
    with pytest.raises(ClipzooError, match="depth/test-truth=nan"):
        train(broken)


def test_a_measurement_that_fails_costs_no_training(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, uninterrupted: Path
) -> None:
    def unmeasurable(student: Student) -> Any:
        raise DatasetError("there is no picture to measure on")

    first = job(dataset, labels, tiny_clip, tmp_path / "run")
    with pytest.raises(DatasetError, match="no picture"):
        train(replace(first, evaluate=unmeasurable))
    steps: list[int] = []
    again = job(dataset, labels, tiny_clip, tmp_path / "run")
    train(replace(again, evaluate=lambda student: [], on_step=lambda step, values: steps.append(step)))
    assert steps == []
    assert same_student(tmp_path / "run", uninterrupted)


def test_a_damaged_checkpoint_says_what_to_do(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="Delete it"):
        train(job(dataset, labels, tiny_clip, tmp_path))


def test_arms_of_one_seed_see_the_same_pictures(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    with_labels = job(dataset, labels, tiny_clip, tmp_path).dataset
    without = TrainingSet(with_labels.plan, with_labels.reader, {}, with_labels.viewing, with_labels.seed)
    for row in range(4):
        assert (with_labels[1, row].image == without[1, row].image).all()
