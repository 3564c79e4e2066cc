"""Several processes, and chunks of a batch: the numbers are those of one process and of the whole batch."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.data import Batch
from clipzoo.errors import DatasetError, RecipeError
from clipzoo.losses import part_of
from clipzoo.models import HeadSpec, Student
from clipzoo.recipe import TrainingRecipe
from clipzoo.tasks import Convention
from clipzoo.tasks import get as get_task
from clipzoo.training import Job, read_log, train
from clipzoo.training.processes import pairs, ranks, sharding, watch
from clipzoo.training.processes.sharding import Sharding, gathered
from clipzoo.training.processes.whole import Processes
from clipzoo.training.updates import optimizer
from clipzoo.training.updates.step import Updater
from forking import ended, on_ranks, started
from test_training import job, same_student

pytestmark = pytest.mark.ranks

CONVENTIONS = {
    "segmentation": Convention(classes=("background", "square")),
    "detection": Convention(classes=("square",)),
    "depth": Convention(kind="metric", along="z"),
    "normals": Convention(),
    "edges": Convention(),
}
SIZE = 12
"""Images of a batch, which 2, 3 and 4 ranks share evenly."""


class Updates:
    """A training without data: the student with all tasks, and the parts of the trainer that compute its gradients."""

    def __init__(self, model: str, **settings: object) -> None:
        torch.manual_seed(0)
        specs = {f"{task}/test": HeadSpec(task, convention) for task, convention in CONVENTIONS.items()}
        random = not (Path(model.removeprefix("local-dir:")) / "open_clip_model.safetensors").exists()
        self.student = Student.create(model, specs=specs, random=random)
        with torch.no_grad():  # features that differ, so that gradients are not tiny
            for parameter in self.student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter)) if parameter.ndim else None
        dropout = settings.pop("dropout", 0.0)
        if dropout:
            self.student.heads["depth/test"].mix.append(torch.nn.Dropout(float(str(dropout))))
        if settings.pop("double", False):
            self.student.double()
        recipe = TrainingRecipe.model_validate({"steps": 4, "batch_size": SIZE, "clip_norm": 1e9, **settings})
        self.job = Job(recipe, rate=1e-2, steps=4, out=Path())
        sharding.check_batch(recipe)
        sharding.check_student(recipe, self.student)
        self.sharding = Sharding(self.job, self.student)
        self.adam = optimizer.build(self.student, self.job)
        self.student.train()

    @property
    def updater(self) -> Updater:
        return Updater(self, self.adam, self.sharding)  # type: ignore[arg-type]


def batch(student: Student, rows: slice, size: tuple[int, int] | None = None) -> Batch:
    """Rows of one fixed batch, whose labels are missing unevenly."""
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (SIZE, *(size or student.image_size), 3), dtype=torch.uint8, generator=rng)
    captions = [f"{('red', 'green', 'blue')[i % 3]} {('dark', 'bright')[i % 2]} square" for i in range(SIZE)]
    targets = {}
    for number, (column, spec) in enumerate(student.specs.items()):
        target = get_task(spec.task).collate([None] * SIZE, (16, 16))
        valid = torch.rand(SIZE, 16, 16, generator=rng) < 0.7
        valid[: 3 + number] = False  # no labels on the first ranks
        valid[5, :, :8] = False
        target = {name: _filled(name, value, rng) for name, value in target.items()} | {"valid": valid}
        targets[column] = {name: value[rows] for name, value in target.items()}
    texts = captions[rows]
    return Batch(images[rows], student.tokenize(texts), texts, targets, [], {"": (0, len(texts))})


def _filled(name: str, empty: Tensor, rng: torch.Generator) -> Tensor:
    if name == "vectors":
        return torch.nn.functional.normalize(torch.randn(empty.shape, generator=rng), dim=1)
    if name == "distances":
        inside = torch.rand(len(empty), 1, *empty.shape[2:], generator=rng) < 0.3
        return (0.05 + 0.2 * torch.rand(empty.shape, generator=rng)) * inside
    if name == "asked":
        return torch.ones_like(empty)
    if empty.dtype == torch.int64:
        return torch.randint(0, 2, empty.shape, generator=rng) * (1 if name == "ids" and empty.ndim == 3 else 0)
    return 0.1 + 0.8 * torch.rand(empty.shape, generator=rng)


def step(model: str, uneven: int = 0, **settings: object) -> dict[str, Any]:
    """One update on this rank's share of the batch; its terms, gradients, and weights afterwards, of whole tensors."""
    updates = Updates(model, **settings)
    count, rank = ranks.world_size(), ranks.rank()
    first, last = rank * SIZE // count, (rank + 1) * SIZE // count
    if uneven and rank == 0:
        last -= uneven
    part = batch(updates.student, slice(first, last), *updates.job.settings.height_widths)
    update = updates.updater.update(part, 0)
    named = dict(updates.student.named_parameters())
    gradients = gathered({name: p.grad for name, p in named.items() if p.grad is not None})
    weights = gathered({name: p.detach() for name, p in named.items()})
    terms = {name: value.detach() for name, value in update.terms.items()}
    return {"terms": terms, "gradients": gradients, "norm": update.gradient_norm, "weights": weights}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float = 1e-5) -> None:
    """Terms, and every gradient by its norm, agree."""
    assert list(ours["terms"]) == list(theirs["terms"])
    for name, value in ours["terms"].items():
        assert value.item() == pytest.approx(theirs["terms"][name].item(), rel=tolerance), name
    assert set(ours["gradients"]) == set(theirs["gradients"])
    for name, gradient in ours["gradients"].items():
        other = theirs["gradients"][name]
        if other.norm() > 1e-6 * theirs["norm"]:  # that of keys' biases is 0, up to rounding
            assert (gradient - other).norm().item() <= tolerance * other.norm().item(), name
    assert ours["norm"].item() == pytest.approx(theirs["norm"].item(), rel=tolerance)


@pytest.fixture(scope="module")
def one(tiny_clip: str) -> dict[str, Any]:
    """One process, the whole batch."""
    return step(tiny_clip)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_ranks_compute_the_gradients_of_one_process(tiny_clip: str, one: dict[str, Any], count: int, mode: str) -> None:
    assert all(value.item() > 0 for value in one["terms"].values())
    results = on_ranks(count, partial(step, tiny_clip, sharding=mode))
    assert_same(results[0], one)
    for name, weight in results[0]["weights"].items():
        certain = one["gradients"][name].abs() > 1e-3  # AdamW makes steps of one size of gradients that are rounding
        assert torch.allclose(weight[certain], one["weights"][name][certain], atol=1e-5), name


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_images_of_another_size_give_the_gradients_of_one_process(tiny_clip: str, mode: str) -> None:
    """Positions are interpolated, also where they are sharded, and in cached chunks."""
    single = step(tiny_clip, sizes=[(48, 64)])
    assert single["gradients"]["clip.visual.positional_embedding"].norm() > 0
    results = on_ranks(2, partial(step, tiny_clip, sizes=[(48, 64)], accumulate=2, sharding=mode))
    assert_same(results[0], single)


def test_an_uneven_number_of_readable_samples_changes_no_gradient(tiny_clip: str) -> None:
    """Rank 0 could not read one of its samples."""
    missing = SIZE // 2 - 1

    def without(model: str) -> dict[str, Any]:
        updates = Updates(model)
        whole = batch(updates.student, slice(0, SIZE))
        keep = [row for row in range(SIZE) if row != missing]
        targets = {c: {k: v[keep] for k, v in t.items()} for c, t in whole.targets.items()}
        part = replace(
            whole, images=whole.images[keep], tokens=whole.tokens[keep], targets=targets,
            captions=[whole.captions[row] for row in keep],
        )  # fmt: skip
        update = updates.updater.update(part, 0)
        gradients = {n: p.grad for n, p in updates.student.named_parameters() if p.grad is not None}
        return {"terms": update.terms, "gradients": gradients, "norm": update.gradient_norm}

    assert_same(on_ranks(2, partial(step, tiny_clip, uneven=1))[0], without(tiny_clip))


@pytest.mark.parametrize("chunks", [2, 5])
def test_cached_chunks_compute_the_gradients_of_the_whole_batch(
    tiny_clip: str, one: dict[str, Any], chunks: int
) -> None:
    assert_same(step(tiny_clip, accumulate=chunks), one)


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_cached_chunks_on_two_ranks(tiny_clip: str, one: dict[str, Any], mode: str) -> None:
    results = on_ranks(2, partial(step, tiny_clip, accumulate=3, contrastive_rows=4, sharding=mode))
    assert_same(results[0], one)


def test_activation_checkpointing_changes_no_gradient(tiny_clip: str, one: dict[str, Any]) -> None:
    assert_same(step(tiny_clip, activation_checkpointing=True), one)


def test_chunks_draw_the_dropout_of_their_first_pass(tiny_clip: str) -> None:
    """With the random state of the first pass, a step of two chunks is that of two forward passes in a row."""
    drawn: list[list[Tensor]] = []
    updates = Updates(tiny_clip, accumulate=2, dropout=0.5)
    updates.student.heads["depth/test"].mix[-1].register_forward_hook(
        lambda module, inputs, output: drawn.append([inputs[0].detach(), output.detach()])
    )
    updates.updater.update(batch(updates.student, slice(0, SIZE)), 0)
    first, second = drawn[:2], drawn[2:]
    assert len(second) == 2
    for (_, kept), (_, again) in zip(first, second, strict=True):
        assert torch.equal(kept, again)
    assert not torch.equal(first[0][1] == 0, first[1][1] == 0)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("bias", [None, -10.0])
def test_losses_in_rows_are_those_of_openclip(count: int, bias: float | None) -> None:
    features = {name: torch.randn(12, 8).requires_grad_() for name in ("image_features", "text_features")}
    scalars = {"logit_scale": torch.tensor(7.0, requires_grad=True)}
    if bias is not None:
        scalars["logit_bias"] = torch.tensor(bias, requires_grad=True)
    reference = open_clip.loss.SigLipLoss() if bias is not None else open_clip.loss.ClipLoss()
    value = reference(**features, **scalars)
    expected = torch.autograd.grad(value, [*features.values(), *scalars.values()])

    def in_rows() -> tuple[Tensor, list[Tensor]]:
        rank, share = ranks.rank(), 12 // ranks.world_size()
        own = {name: x.detach()[rank * share : (rank + 1) * share].requires_grad_() for name, x in features.items()}
        others = {name: x.detach().requires_grad_() for name, x in scalars.items()}
        with part_of(Processes()):
            ours = pairs.loss(own | others, rows=5)
        return ours.detach(), list(torch.autograd.grad(ours, [*own.values(), *others.values()]))

    results = on_ranks(count, in_rows) if count > 1 else [in_rows()]
    assert torch.stack([one for one, _ in results]).mean().item() == pytest.approx(value.item(), rel=1e-6)
    for number, truth in enumerate(expected):
        parts = [gradients[number] for _, gradients in results]
        ours = torch.cat(parts) / count if truth.ndim else torch.stack(parts).mean()
        assert torch.allclose(ours, truth, atol=1e-6)


def variant(model: str, folder: Path, vision: dict[str, object], **others: object) -> str:
    """The tiny CLIP with another vision tower, and no weights."""
    shutil.copytree(model.removeprefix("local-dir:"), folder)
    (folder / "open_clip_model.safetensors").unlink()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {"vision_cfg": {"image_size": 32, **vision}, **others}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


RESNET = {"layers": [1, 1, 1, 1], "width": 8}
VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


def test_batch_norm_has_the_statistics_of_all_ranks(tiny_clip: str, tmp_path: Path) -> None:
    in_double = partial(step, variant(tiny_clip, tmp_path / "resnet", RESNET), double=True)
    assert_same(on_ranks(2, in_double)[0], in_double())  # in float32, rounding is up to 4e-5


def test_sigmoid_losses_in_chunks_on_two_ranks(tiny_clip: str, tmp_path: Path) -> None:
    model = variant(tiny_clip, tmp_path / "siglip", VIT, init_logit_bias=-4.0)
    whole = step(model)
    assert "clip.logit_bias" in whole["gradients"]
    assert_same(on_ranks(2, partial(step, model, sharding="fsdp2"))[0], whole)
    assert_same(step(model, accumulate=3, contrastive_rows=5), whole)


def test_combinations_without_meaning_are_refused(tiny_clip: str, tmp_path: Path) -> None:
    model = variant(tiny_clip, tmp_path / "resnet", RESNET)
    with pytest.raises(RecipeError, match=r"has batch norm, whose statistics would be those of a chunk"):
        Updates(model, accumulate=2)
    with pytest.raises(RecipeError, match=r"activation_checkpointing is true, but .* ModifiedResNet"):
        Updates(model, activation_checkpointing=True)
    with pytest.raises(RecipeError, match="Choose a multiple of 5"):
        Updates(tiny_clip, accumulate=5, batch_size=4)


# Trainings -------------------------------------------------------------------------------------------------


def recorded(training: Any, seen: list[list[tuple[int, int]]]) -> Any:
    """The training, whose reads of samples are added to ``seen``, batch by batch."""
    read = training.dataset.__getitems__

    class Recorded(type(training.dataset)):  # type: ignore[misc]
        def __getitems__(self, positions: Any) -> Any:
            seen.append([tuple(map(int, one)) for one in positions])
            return read(positions)

    training.dataset.__class__ = Recorded
    return training


def stopping(training: Any, last: int) -> list[list[tuple[int, int]]]:
    """Train to a step, at which rank 0 alone gets SIGTERM; the positions that this rank has read."""
    seen: list[list[tuple[int, int]]] = []

    def stop(step: int, values: object) -> None:
        if step == last and ranks.is_main():
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train(replace(recorded(training, seen), on_step=stop))
    except KeyboardInterrupt:
        return seen
    raise AssertionError("it was not stopped")


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_a_training_of_two_ranks_resumes_on_one_with_the_same_samples(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, mode: str
) -> None:
    whole: list[list[tuple[int, int]]] = []
    train(recorded(job(dataset, labels, tiny_clip, tmp_path / "one"), whole))
    halved = tmp_path / "two"
    make = partial(job, dataset, labels, tiny_clip, halved, sharding=mode, checkpoint_every=100)
    first = on_ranks(2, lambda: stopping(make(), 4))
    rest: list[list[tuple[int, int]]] = []
    train(recorded(make(), rest))
    together = [sorted(a + b) for a, b in zip(*first, strict=True)]
    assert together == [sorted(one) for one in whole[:5]]
    assert rest == whole[5:]
    for ours, theirs in zip(read_log(halved), read_log(tmp_path / "one"), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_a_training_of_one_process_resumes_sharded_on_two(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    train(job(dataset, labels, tiny_clip, tmp_path / "one"))
    make = partial(job, dataset, labels, tiny_clip, tmp_path / "two", sharding="fsdp2")
    stopping(make(), 4)
    on_ranks(2, lambda: train(make()) and None)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    ours, theirs = (Student.load(tmp_path / name / "student") for name in ("two", "one"))
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


@pytest.mark.parametrize(
    ("count", "mode"), [(2, "ddp"), pytest.param(3, "ddp", marks=pytest.mark.slow), (2, "fsdp2")]
)  # fmt: skip
def test_ranks_that_are_stopped_resume_to_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, count: int, mode: str
) -> None:
    def make(out: str) -> Any:
        settings = {"sharding": mode, "checkpoint_every": 100, "deterministic": True, "batch_size": 12}
        made = job(dataset, labels, tiny_clip, tmp_path / out, **settings)
        made.student.heads["depth/test-truth"].mix.append(torch.nn.Dropout(0.5))
        return made

    on_ranks(count, lambda: train(make("whole")) and None)
    on_ranks(count, lambda: stopping(make("halved"), 4))
    on_ranks(count, lambda: train(make("halved")) and None)
    assert same_student(tmp_path / "halved", tmp_path / "whole")
    assert [line["loss"] for line in read_log(tmp_path / "halved")] == [
        line["loss"] for line in read_log(tmp_path / "whole")
    ]


# Ranks that end --------------------------------------------------------------------------------------------


def ending(training: Any, end: Any) -> None:
    def on_step(step: int, values: object) -> None:
        if step == 3:
            end(ranks.rank())

    train(replace(training, on_step=on_step))


def killed(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def failed(rank: int) -> None:
    if rank == 1:
        raise DatasetError("the disk of rank 1 is gone")


def stuck(rank: int) -> None:
    """Rank 1 ends while rank 0 waits, as it waits in a collective of NCCL."""
    if rank == 1:
        os._exit(1)
    time.sleep(60)


@pytest.mark.parametrize(
    ("end", "workers", "message"),
    [
        (killed, 0, "rank 1 ended without a message: it was killed"),
        (killed, 1, "rank 1 ended without a message: it was killed"),
        (failed, 0, "rank 1 failed: the disk of rank 1 is gone"),
        (stuck, 0, "rank 1 ended without a message"),
    ],
)
def test_a_rank_that_ends_ends_all_with_the_cause(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], end: Any, workers: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(watch, "GRACE", 1.0)
    began = time.monotonic()
    codes = ended(3, lambda: ending(job(dataset, labels, tiny_clip, tmp_path, batch_size=12, workers=workers), end))
    assert time.monotonic() - began < 30
    assert all(codes)
    shown = capfd.readouterr().err
    assert message in shown
    assert shown.count("All processes of the training were ended") == 1


def test_a_rank_that_ends_before_it_connects_ends_the_main_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "ARRIVAL", 2.0)
    monkeypatch.setattr(watch, "Client", lambda *where, **key: os._exit(1))
    began = time.monotonic()
    assert ended(2, lambda: None) == [2, 1]
    assert time.monotonic() - began < 30
    assert "rank 1 ended without a message" in capfd.readouterr().err


KILLS = 30


def joined_and_trained(training: Any, folder: Path) -> None:
    (folder / f"joined-{os.getpid()}").touch()
    train(training)


def wait_for_both(processes: list[Any], folder: Path) -> None:
    while not all((folder / f"joined-{process.pid}").exists() for process in processes):
        assert all(process.exitcode is None for process in processes)
        time.sleep(0.01)


@pytest.mark.slow
def test_thirty_kills_of_ranks_change_no_bit(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two ranks gets SIGKILL at a random time; the other one ends by itself, and both start again.

    The time counts from when both have joined: before that, launchers end the other one, and there is none here.
    """
    monkeypatch.setattr(watch, "GRACE", 5.0)
    make = partial(job, dataset, labels, tiny_clip, steps=240, checkpoint_every=2, deterministic=True)
    on_ranks(2, lambda: train(make(out=tmp_path / "whole")) and None)
    chance, kills, resumed, pace = random.Random(0), 0, 0, 1.0
    while kills < KILLS or not (tmp_path / "halved" / "student" / "done").exists():
        processes = started(2, lambda: joined_and_trained(make(out=tmp_path / "halved"), tmp_path))
        if kills < KILLS:
            wait_for_both(processes, tmp_path)
            time.sleep(pace * chance.uniform(0.0, 0.7))
            os.kill(chance.choice(processes).pid or 0, signal.SIGKILL)
            kills += 1
        for process in processes:
            process.join(30)
            assert process.exitcode is not None, "a rank outlives the other one by 30 s"
        saved = (tmp_path / "halved" / "checkpoint.pt").exists()
        resumed += saved
        pace *= 1 if saved else 1.3  # a busy machine needs longer to its first checkpoint
        assert kills < KILLS or resumed >= 10
        assert kills == KILLS or not (tmp_path / "halved" / "student" / "done").exists(), "more steps are needed"
    assert same_student(tmp_path / "halved", tmp_path / "whole")
    assert [line["loss"] for line in read_log(tmp_path / "halved") if "loss" in line] == [
        line["loss"] for line in read_log(tmp_path / "whole") if "loss" in line
    ]


def test_gpus_without_a_gpu_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = CliRunner().invoke(app, ["train", str(tmp_path / "r.yaml"), "--gpus", "2"])
    assert "this machine has 0 GPUs, too few for 2 processes" in str(done.exception)
