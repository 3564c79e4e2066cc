"""Confidence weights and trimming: pixels of noisy labels count less, or not at all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipzoo import losses, tasks
from clipzoo.cli._tables import task_facts
from clipzoo.data import Batch, LabelColumn
from clipzoo.errors import RecipeError
from clipzoo.experts.base import ExpertCard
from clipzoo.losses import PLUGINS, Pixels, part_of
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.recipe import parse
from clipzoo.runs import Run, verbs
from clipzoo.store import ColumnWriter, Store
from clipzoo.tasks import Convention
from clipzoo.tasks.base import Target
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.training import read_log
from clipzoo.training.objectives import ColumnObjective
from clipzoo.training.processes.whole import Weighing, split, totals
from conftest import picture
from test_losses import EVERY, VALID, B, H, W, rand

TRIM = 0.3
WEIGHT = rand(B, H, W, seed=30).sigmoid()
PER_PIXEL = [name for name in EVERY if hasattr(PLUGINS.load(name), "pixels")]
TRIMS = {name: 0.0 if name == "focal" else TRIM for name in EVERY}
"""Focal loss belongs to detection, which is not trimmed: its largest values are the objects."""
BY_THEMSELVES = ["silog", "ssi", "ssi_gradient"]


def arrays(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Values, summed over the channels of a pixel, and counts."""
    values = pixels.values.detach().numpy()
    return (values.sum(1) if values.ndim == 4 else values), pixels.counts.double().numpy()


def test_every_loss_has_pixels_or_an_option_of_its_own() -> None:
    assert sorted(PER_PIXEL + BY_THEMSELVES) == sorted(EVERY)


@pytest.mark.parametrize("name", PER_PIXEL)
def test_a_loss_is_the_mean_of_its_pixels(name: str) -> None:
    _, raw, truth = EVERY[name]
    values, counts = arrays(PLUGINS.load(name).pixels(raw, truth, VALID))
    assert not values[~VALID.numpy()].any()
    assert PLUGINS.load(name).loss(raw, truth, VALID).item() == pytest.approx(values.sum() / counts.sum())


@pytest.mark.parametrize("name", PER_PIXEL)
def test_a_pixel_counts_by_its_weight(name: str) -> None:
    _, raw, truth = EVERY[name]
    values, counts = arrays(PLUGINS.load(name).pixels(raw, truth, VALID))
    ours = losses.evaluate(PLUGINS.load(name), raw, truth, VALID, WEIGHT)
    assert ours.item() == pytest.approx((WEIGHT.numpy() * values).sum() / (WEIGHT.numpy() * counts).sum())
    whole = losses.evaluate(PLUGINS.load(name), raw, truth, VALID, torch.full((B, 1, 1), 0.25))
    assert whole.item() == pytest.approx(PLUGINS.load(name).loss(raw, truth, VALID).item(), rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(PER_PIXEL) - {"focal"}))
def test_the_worst_pixels_of_each_image_have_no_gradient(name: str) -> None:
    _, raw, truth = EVERY[name]
    pixels = PLUGINS.load(name).pixels(raw, truth, VALID)
    values, counts = arrays(pixels)
    total, dropped = 0.0, np.zeros((B, H, W), bool)
    for b in range(B):
        groups = [VALID[b].numpy()]
        if pixels.rare is not None:
            groups = [groups[0] & pixels.rare[b].numpy(), groups[0] & ~pixels.rare[b].numpy()]
        for group in groups:
            ordered = sorted(zip(values[b][group], np.argwhere(group).tolist(), strict=True), reverse=True)
            count = math.floor(TRIM * group.sum())
            total += sum(value for value, _ in ordered[count:])
            for _, (y, x) in ordered[:count]:
                dropped[b, y, x] = True
    raw = raw.clone().requires_grad_()
    ours = losses.evaluate(PLUGINS.load(name), raw, truth, VALID, trim=TRIM)
    ours.backward()
    assert ours.item() == pytest.approx(total / counts.sum())
    assert raw.grad is not None
    changed = raw.grad.abs().sum(1) > 0
    assert dropped.sum() >= 0.2 * VALID.sum()
    assert not changed[torch.from_numpy(dropped)].any()
    assert changed[VALID & ~torch.from_numpy(dropped)].any()


@pytest.mark.parametrize("name", ["silog", "ssi"])
def test_losses_of_whole_images_leave_the_worst_pixels_out(name: str) -> None:
    _, raw, truth = EVERY[name]
    each = []
    for p, t, v in zip(raw[:, 0].numpy(), truth.numpy(), VALID.numpy(), strict=True):
        p, t = p[v], t[v]
        if name == "silog":
            error = np.abs((p - t) - np.sort(p - t)[(len(p) - 1) // 2])
        else:
            error = np.abs((p - p.mean()) / p.std() - (t - t.mean()) / t.std())
        kept = np.argsort(error)[: len(error) - math.floor(TRIM * len(error))]
        d = (p - t)[kept]
        silog = math.sqrt((d**2).mean() - 0.85 * d.mean() ** 2)
        each.append(silog if name == "silog" else 1 - np.corrcoef(p[kept], t[kept])[0, 1])
    ours = losses.evaluate(PLUGINS.load(name), raw, truth, VALID, trim=TRIM, eps=1e-9)
    assert ours.item() == pytest.approx(np.mean(each))


def test_an_image_whose_other_pixels_are_constant_has_no_ssi_loss() -> None:
    truth = torch.zeros(2, H, W, dtype=torch.float64)
    truth[0, 0, 0], truth[1] = 9.0, rand(H, W, seed=1)
    raw = rand(2, 1, H, W).requires_grad_()
    everywhere = torch.ones(2, H, W, dtype=torch.bool)
    ours = losses.evaluate(PLUGINS.load("ssi"), raw, truth, everywhere, trim=TRIM)
    ours.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    alone = losses.evaluate(PLUGINS.load("ssi"), raw[1:], truth[1:], everywhere[1:], trim=TRIM)
    assert ours.item() == pytest.approx(alone.item() / 2)


@pytest.mark.parametrize("name", EVERY)
def test_unknown_pixels_stay_inert_and_nothing_known_is_zero(name: str) -> None:
    _, clean, truth = EVERY[name]
    weight = WEIGHT if name in PER_PIXEL else None

    def run(raw: Tensor, truth: Tensor, valid: Tensor) -> tuple[float, Tensor]:
        raw = raw.clone().requires_grad_()
        value = losses.evaluate(PLUGINS.load(name), raw, truth, valid, weight, trim=TRIMS[name])
        value.backward()
        assert raw.grad is not None
        return value.item(), raw.grad

    hole = ~VALID[:, None].expand_as(clean)
    mask = ~VALID if truth.ndim == 3 else ~VALID[:, None]
    nonsense = torch.nan if truth.is_floating_point() else 10**6
    value, gradient = run(torch.where(hole, torch.nan, clean), torch.where(mask, nonsense, truth), VALID)
    expected, theirs = run(clean, truth, VALID)
    assert value == pytest.approx(expected)
    torch.testing.assert_close(gradient, theirs)
    assert not gradient[hole].any()
    nothing, gradient = run(clean, truth, torch.zeros_like(VALID))
    assert nothing == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", PER_PIXEL)
def test_two_parts_are_the_whole_batch(name: str) -> None:
    """The mean over two processes, each with a part of the images, is the value and the gradient of the whole."""

    class Both:
        parts = 2

        def __init__(self, sums: list[Tensor]) -> None:
            self.sums, self.own = iter(sums), []

        def total(self, value: Tensor, largest: bool) -> Tensor:
            self.own.append((value, largest))
            return next(self.sums, value)

    _, raw, truth = EVERY[name]
    file, rows = PLUGINS.load(name), (slice(0, 1), slice(1, B))

    def one(part: slice, sums: list[Tensor]) -> tuple[Tensor, list[tuple[Tensor, bool]]]:
        both = Both(sums)
        with part_of(both):
            value = losses.evaluate(file, inputs[part], truth[part], VALID[part], WEIGHT[part], trim=TRIMS[name])
        return value, both.own

    inputs = raw.clone().requires_grad_()
    whole = losses.evaluate(file, inputs, truth, VALID, WEIGHT, trim=TRIMS[name])
    whole.backward()
    expected, inputs = inputs.grad, raw.clone().requires_grad_()
    sums: list[Tensor] = []
    for _ in range(4):  # totals that depend on others
        asked = [one(part, sums)[1] for part in rows]
        sums = [torch.maximum(a, c) if largest else a + c for (a, largest), (c, _) in zip(*asked, strict=True)]
    value = sum(one(part, sums)[0] for part in rows) / 2
    value.backward()
    assert value.item() == pytest.approx(whole.item())
    assert inputs.grad is not None
    assert expected is not None
    torch.testing.assert_close(inputs.grad, expected)


@pytest.mark.parametrize("trim", [0.0, TRIM])
def test_two_chunks_are_the_whole_batch(trim: float) -> None:
    """Their totals, which are computed of labels alone, are those of the whole batch, of soft and rare edges, too."""
    specs = {
        "segmentation/a": HeadSpec("segmentation", SPACE, confidence_weight=1.0, trim=trim),
        "edges/a": HeadSpec("edges", Convention(), trim=trim),
        "depth/a": HeadSpec("depth", Convention(kind="metric", along="z"), trim=trim),
        "depth/b": HeadSpec("depth", Convention(kind="affine-depth"), trim=trim),
    }
    targets = {name: target(name, spec) for name, spec in specs.items()}
    whole = Batch(torch.zeros(4, 8, 8, 3), torch.zeros(4, 1), ["a"] * 4, targets, [])
    objectives = [ColumnObjective(name, spec) for name, spec in specs.items()]
    chunks = split(whole, 2)
    weighing, predictions = Weighing(totals(objectives, chunks), 1.0), {n: raw(n, spec) for n, spec in specs.items()}
    for objective in objectives:
        expected = objective({"predictions": predictions}, whole)
        parts = [
            weighing.term(objective, {"predictions": {n: p[i : i + 2] for n, p in predictions.items()}}, chunk)
            for i, chunk in zip((0, 2), chunks, strict=True)
        ]
        assert sum(parts).item() == pytest.approx(expected.item(), rel=1e-5), objective.name


def raw(name: str, spec: HeadSpec) -> Tensor:
    return rand(4, tasks.get(spec.task).raw_channels(spec.convention), 8, 8, seed=len(name)).float()


def target(name: str, spec: HeadSpec) -> Target:
    """Labels of 4 images, of which the first has none, with holes."""
    empty = tasks.get(spec.task).collate([None] * 4, (8, 8))
    valid = rand(4, 8, 8, seed=40) > -0.5
    valid[0] = False
    filled = {"ids": (rand(4, 8, 8, seed=41) > 1).long(), "values": 0.1 + rand(4, 8, 8, seed=42).sigmoid().float()}
    weight = {"weight": rand(4, 1, 1, seed=43).sigmoid().float()} if spec.confidence_weight else {}
    return {**{key: filled[key] for key in empty if key in filled}, "valid": valid, **weight}


# Tasks -------------------------------------------------------------------------------------------------------

SPACE = Convention(classes=("background", "square"))


def masks(*confidences: float | None) -> list[Segmentation | None]:
    known, ids = np.ones((4, 4), np.bool_), np.eye(4, dtype=np.uint16)
    return [Segmentation(ids, known, sure) for sure in confidences]


def test_the_confidence_of_a_mask_weights_its_image() -> None:
    task = tasks.get("segmentation")
    sure = task.confidences([*masks(0.5, None), None], (4, 4))
    assert sure is not None
    assert sure.flatten().tolist() == [0.5, 1, 1]
    target = task.collate([*masks(0.5, None), None], (4, 4))
    raw = rand(3, 2, 4, 4).float()
    apart = [task.loss(raw[i : i + 1], {k: v[i : i + 1] for k, v in target.items()}, SPACE) for i in (0, 1)]
    ours = task.loss(raw, {**target, "weight": sure**2}, SPACE)
    assert ours.item() == pytest.approx((0.25 * apart[0] + apart[1]).item() / 1.25)


def test_the_score_of_a_box_weights_its_pixels() -> None:
    task = tasks.get("detection")
    boxes = np.array([[0, 0, 4, 4], [4, 4, 8, 8]], np.float32)
    no = np.zeros(2, np.bool_)
    label = Detection((8, 8), boxes, np.zeros(2, np.uint16), np.array([0.25, 0.5], np.float32), no)
    sure = task.confidences([label, None], (8, 8))
    assert sure is not None
    assert (sure[0, :4, :4] == 0.25).all()
    assert (sure[0, 4:, 4:] == 0.5).all()
    assert sure[0, :4, 4:].eq(1).all()
    assert sure[1].eq(1).all()
    target, space = task.collate([label], (8, 8)), Convention(classes=("square",))
    raw = rand(1, task.channels(space), 8, 8).float()
    without = task.loss(raw, target, space)
    assert task.loss(raw, {**target, "weight": torch.ones(1, 8, 8)}, space).item() == pytest.approx(without.item())
    doubtful = {**target, "weight": sure[:1]}
    alone = {**target, "weight": (sure[:1] == 0.5).float() + (sure[:1] == 1).float()}
    assert task.loss(raw, doubtful, space).item() not in (without.item(), task.loss(raw, alone, space).item())
    raw.requires_grad_()
    task.loss(raw, alone, space).backward()
    assert raw.grad is not None
    assert not raw.grad[:, :, :4, :4].any()
    assert raw.grad[:, :, 4:, 4:].any()


def test_a_batch_has_weights_only_if_pixels_are_weighted(labels: Path) -> None:
    column = Store(labels).column("segmentation", "test-truth")
    assert "weight" not in LabelColumn(column).collate(masks(0.5), (4, 4))
    assert LabelColumn(column, confidence_weight=2.0).collate(masks(0.5), (4, 4))["weight"].tolist() == [[[0.25]]]
    depth = Store(labels).column("depth", "test-truth")
    assert "weight" not in LabelColumn(depth, confidence_weight=2.0).collate([None], (4, 4))


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            HeadSpec("depth", Convention(kind="metric", along="z"), confidence_weight=1.0),
            "confidence_weight is 1, but labels of depth have no conf",
        ),
        (HeadSpec("detection", SPACE, trim=0.1), "trim is 0.1, but the loss built in of detection .* remove trim"),
        (
            HeadSpec("depth", Convention(kind="affine-depth"), loss="ssi_gradient", loss_options={"trim": 0}, trim=0.1),
            r"trim is 0.1, and loss_options.trim 0\. Remove one of them",
        ),
    ],
)
def test_unsupported_combinations_are_refused(spec: HeadSpec, error: str, tiny_clip: str) -> None:
    with pytest.raises(RecipeError, match=f"the column x/y: {error}"):
        Student.create(tiny_clip, specs={"x/y": spec})


def test_a_custom_loss_without_pixels_is_refused(tiny_clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("clipzoo.losses.cross_entropy.pixels")
    for spec in (HeadSpec("segmentation", SPACE, trim=0.1), HeadSpec("segmentation", SPACE, confidence_weight=1)):
        with pytest.raises(RecipeError, match=r"the loss cross_entropy .*has no values per pixel"):
            Student.create(tiny_clip, specs={"a/b": spec})


def test_a_head_remembers_how_it_was_trained(tiny_clip: str, tmp_path: Path) -> None:
    specs = {
        "a/b": HeadSpec("segmentation", SPACE, confidence_weight=2.0, trim=0.1),
        "c/d": HeadSpec("edges", Convention()),
    }
    Student.create(tiny_clip, specs=specs).save(tmp_path)
    assert Student.load(tmp_path).specs == specs
    text = (tmp_path / "clipzoo_heads.json").read_text()
    assert text.count("trim") == text.count("confidence_weight") == 1


def test_the_command_says_what_a_task_supports() -> None:
    assert dict(task_facts(tasks.get("depth")))["trim"] == "berhu, silog, ssi, ssi_gradient"
    assert dict(task_facts(tasks.get("detection")))["trim"] == "not supported"
    assert dict(task_facts(tasks.get("detection")))["confidence_weight"] == "supported"
    assert dict(task_facts(tasks.get("edges")))["confidence_weight"] == "not supported: labels have no confidence"


# Runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sure(dataset: Path, tmp_path: Path) -> Path:
    """A store with a column of masks, of which every second one is doubtful, and one without confidences."""
    reader = open_dataset(str(dataset))
    for name, confidences in (("sure", (1.0, 0.1)), ("mute", (None, None))):
        column = Store(tmp_path / "store").create(
            ExpertCard(f"test:{name}", "segmentation", SPACE), fingerprint(reader)
        )
        rng = np.random.default_rng(0)
        for shard in reader.shards:
            with ColumnWriter(column, shard) as writer:
                for i, entry in enumerate(reader.index(shard)):
                    mask = picture(rng)[2]
                    writer.add(entry.key, Segmentation(mask.astype(np.uint16), np.ones_like(mask), confidences[i % 2]))
        column.finish()
    return tmp_path / "store"


def recipe(dataset: Path, store: Path, model: str, **column: object) -> dict[str, object]:
    return {
        "name": "noisy", "data": str(dataset), "store": str(store), "arms": ["clip", "clipzoo"],
        "columns": [{"column": "segmentation/test-sure", "head": "linear", **column}],
        "student": {"model": model},
        "training": {"steps": 2, "batch_size": 8, "contrastive_weight": 0, "deterministic": True, "tracking": []},
    }  # fmt: skip


def test_a_recipe_trains_on_weighted_and_trimmed_pixels(
    dataset: Path, sure: Path, tiny_clip: str, tmp_path: Path
) -> None:
    values = {}
    for name, fields in {"plain": {}, "sure": {"confidence_weight": 1}, "trim": {"trim": 0.25}}.items():
        verbs.train(Run(parse(recipe(dataset, sure, tiny_clip, **fields)), tmp_path / name), "clipzoo", 0)
        values[name] = read_log(tmp_path / name / "arms" / "clipzoo" / "0")[0]["loss"]
    assert values["trim"] < values["plain"]
    assert values["sure"] != values["plain"]


def test_weights_without_any_confidence_are_refused(dataset: Path, sure: Path, tiny_clip: str, tmp_path: Path) -> None:
    values = recipe(dataset, sure, tiny_clip, column="segmentation/test-mute", confidence_weight=1)
    with pytest.raises(RecipeError, match=r"confidence_weight of segmentation/test-mute is 1, but its labels have no"):
        len(Run(parse(values), tmp_path / "run").plan)


def test_a_share_above_one_half_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"columns\.0\.trim"):
        parse(recipe(tmp_path, tmp_path, "demo:clip", trim=0.6))
