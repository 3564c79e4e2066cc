"""Evaluation against straightforward computations, planted truths and known statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipzoo import tasks
from clipzoo.benchmarks import Split, Truth
from clipzoo.errors import PlanError
from clipzoo.evaluation import baselines
from clipzoo.evaluation.probes import fitting, ridge
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.tasks.normals import Normals
from clipzoo.tasks.segmentation import Segmentation

METRES = Convention(kind="metric", along="z")
CLASSES = Convention(classes=("floor", "chair", "lamp"))


# Ridge ------------------------------------------------------------------------------------------------


def sums_of(X, Y, weight, chunk=37):
    moments = ridge.Moments.zero(X.shape[1], Y.shape[1])
    for i in range(0, len(X), chunk):
        moments.add(X[i : i + chunk], Y[i : i + chunk], weight[i : i + chunk])
    return moments


def regression(n=400, D=6, outputs=3, noise=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, D, generator=generator) + 2
    W = torch.randn(D, outputs, generator=torch.Generator().manual_seed(99))
    Y = X @ W - 3 + noise * torch.randn(n, outputs, generator=generator)
    return X, Y, torch.rand(n, generator=generator)


def test_ridge_is_the_direct_solution():
    X, Y, weight = regression()
    fitted = ridge.solve(sums_of(X, Y, weight), sums_of(X, Y, weight), [0.1])
    centered = X - (weight @ X) / weight.sum()
    root = weight.sqrt()[:, None]
    penalty = np.sqrt(0.1 * float(weight.sum())) * np.eye(6)
    rows = np.vstack([(root * centered).numpy(), penalty])
    right = np.vstack([(root * (Y - (weight @ Y) / weight.sum())).numpy(), np.zeros((6, 3))])
    expected = np.linalg.lstsq(rows, right, rcond=None)[0]
    np.testing.assert_allclose(fitted.weight.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose((weight @ (fitted(X) - Y)).numpy(), 0, atol=1e-2)


def test_validation_error_of_every_strength_is_what_prediction_gives():
    train, unseen = regression(60, noise=3), regression(50, noise=3, seed=1)
    for strength in ridge.STRENGTHS:
        fitted = ridge.solve(sums_of(*train), sums_of(*unseen), [strength])
        squares = (fitted(unseen[0]) - unseen[1]).square().mean(1)
        assert fitted.errors[strength] == pytest.approx(float(unseen[2] @ squares / unseen[2].sum()), rel=1e-3)


def test_strength_is_chosen_on_validation():
    train, unseen = regression(30, D=25, noise=6), regression(400, D=25, noise=6, seed=1)
    fitted = ridge.solve(sums_of(*train), sums_of(*unseen))
    assert fitted.strength == min(fitted.errors, key=fitted.errors.get)
    on_itself = ridge.solve(sums_of(*train), sums_of(*train))
    assert on_itself.strength == min(ridge.STRENGTHS) < fitted.strength


# Probes -----------------------------------------------------------------------------------------------


def planted(n, size=(8, 12), grid=(4, 4), seed=0, holes=0.0):
    """Features and the log depth that is linear in them, block by block."""
    rng = np.random.default_rng(seed)
    maps = torch.tensor(rng.normal(size=(n, 5, *grid)), dtype=torch.float32)
    bh, bw = size[0] // grid[0], size[1] // grid[1]
    W = np.random.default_rng(7).normal(size=(5, bh * bw)) * 0.3
    blocks = np.einsum("ndij,dp->nijp", maps.numpy(), W).reshape(n, *grid, bh, bw)
    log = blocks.transpose(0, 1, 3, 2, 4).reshape(n, *size)
    valid = rng.random((n, *size)) >= holes
    labels = [Depth(np.exp(one).astype(np.float32), seen, "metric", "z") for one, seen in zip(log, valid, strict=True)]
    return maps, Truth(tasks.get("depth"), METRES, tuple(labels), size)


def fit(maps, truth, validation_maps, validation, strengths=ridge.STRENGTHS, batch=7):
    """Fit the probe of one task from features in memory, which arrive in batches."""
    train, choose = (Split((), tuple(map(str, range(len(t)))), t.size, truth={"depth": t}) for t in (truth, validation))
    read = {id(train): maps, id(choose): validation_maps}
    return fitting.fit_all(lambda part: iter(read[id(part)].split(batch)), train, choose, strengths).tasks["depth"]


def test_probe_recovers_a_planted_linear_map():
    fitted = fit(*planted(60), *planted(20, seed=1))
    maps, truth = planted(10, seed=2)
    expected = np.log(np.stack([label.values for label in truth.labels]))
    np.testing.assert_allclose(fitted.raw(maps)[:, 0].numpy(), expected, atol=5e-3)
    scored = fitted.score(maps, truth, [str(i) for i in range(10)])
    assert scored.compute()["depth/delta1"] == 1
    assert scored.statistics.shape[0] == 10


def test_wholly_unknown_tokens_and_missing_labels_are_inert():
    maps, truth = planted(60)
    torn = [Depth(label.values, label.valid & (np.arange(12) < 9), "metric", "z") for label in truth.labels[:30]]
    other = Truth(truth.task, METRES, (*torn, *truth.labels[30:50], *[None] * 10), truth.size)
    fitted = fit(maps, other, *planted(20, seed=1))
    unseen, right = planted(10, seed=2)
    scored = fitted.score(unseen, Truth(right.task, METRES, (None, *right.labels[1:]), right.size), list("0123456789"))
    assert scored.compute()["depth/delta1"] == 1
    assert not scored.statistics[0].any()


def test_partly_known_blocks_pull_on_known_pixels_alone():
    fitted = fit(*planted(200, holes=0.2), *planted(50, seed=1, holes=0.2))
    maps, truth = planted(20, seed=2)
    assert fitted.score(maps, truth, list(map(str, range(20)))).compute()["depth/absrel"] < 0.15


def test_a_grid_that_does_not_divide_the_truth_is_resampled():
    maps, truth = planted(30)
    coarse = F.adaptive_avg_pool2d(maps, (3, 5))
    fitted = fit(coarse, truth, coarse, truth)
    assert fitted.block == (3, 3)
    assert fitted.raw(coarse).shape == (30, 1, 8, 12)


def test_the_probe_is_ridge_regression_on_standardized_tokens():
    maps, truth = planted(60)
    maps = maps * torch.tensor([1, 50, 0.01, 1, 0])[:, None, None] + torch.tensor([0, 300, 0, 1, 7])[:, None, None]
    fitted = fit(maps, truth, maps[:9], replace(truth, labels=truth.labels[:9]), [0.05])
    X = maps.double().permute(0, 2, 3, 1).flatten(0, 2)
    X = (X - X.mean(0)) / X.std(0, correction=0).where(X.std(0, correction=0) > 0, torch.inf)
    log = torch.tensor(np.log(np.stack([label.values for label in truth.labels]))).double()
    Y = log.reshape(60, 4, 2, 4, 3).permute(0, 1, 3, 2, 4).reshape(len(X), 6)
    W = torch.linalg.solve(X.T @ X + 0.05 * len(X) * torch.eye(5), X.T @ (Y - Y.mean(0)))
    expected = (X @ W + Y.mean(0)).reshape(60, 4, 4, 2, 3).permute(0, 1, 3, 2, 4).reshape(60, 8, 12)
    torch.testing.assert_close(fitted.raw(maps)[:, 0], expected.float(), atol=1e-5, rtol=1e-5)


def test_outputs_in_several_passes_give_the_same_probe(monkeypatch):
    whole = fit(*planted(60), *planted(20, seed=1), [0.01])
    monkeypatch.setattr(fitting, "GROUP_BYTES", 16 * 5 * 2)
    monkeypatch.setattr(fitting, "PASS_BYTES", 8 * 5 * 2)
    parts = fit(*planted(60), *planted(20, seed=1), [0.01])
    assert len(parts.ridges) == 3
    maps, _ = planted(5, seed=3)
    torch.testing.assert_close(parts.raw(maps), whole.raw(maps))


def test_classes_that_do_not_occur_in_a_chunk_add_nothing():
    rng = np.random.default_rng(0)
    X, weight = torch.tensor(rng.normal(size=(40, 3))), torch.tensor(rng.random(40))
    Y = torch.zeros(40, 6, dtype=torch.float64)
    Y[:, [1, 4]] = torch.tensor(rng.normal(size=(40, 2)))
    whole, some = ridge.Moments.zero(3, 6), ridge.Moments.zero(3, 6)
    whole.add(X, Y, weight)
    some.add(X, Y[:, [1, 4]], weight, columns=torch.tensor([1, 4]))
    for name in ("y", "xy", "xx"):
        torch.testing.assert_close(getattr(some, name), getattr(whole, name))
    assert some.yy == pytest.approx(whole.yy)


def test_outputs_in_groups_give_the_same_probe(monkeypatch):
    whole = fit(*planted(60), *planted(20, seed=1), [0.01])
    monkeypatch.setattr(fitting, "GROUP_BYTES", 16 * 5 * 4)
    parts = fit(*planted(60), *planted(20, seed=1), [0.01])
    assert len(parts.ridges) == 2
    maps, _ = planted(5, seed=3)
    torch.testing.assert_close(parts.raw(maps), whole.raw(maps))


# Baselines --------------------------------------------------------------------------------------------


def dense_set(n, seed, size=(16, 16)):
    """Floors and chairs whose place varies, depth that falls with the row, noise everywhere."""
    rng = np.random.default_rng(seed)
    row = np.linspace(4, 1, size[0])[:, None] * np.ones(size)
    ids = np.where(rng.random((n, *size)) < 0.3, 1, 0) + (np.arange(size[0])[:, None] < 5)
    values = (row * np.exp(rng.normal(0, 0.3, (n, 1, 1)))).astype(np.float32)
    vectors = np.stack([rng.normal(0, 0.2, (n, *size)), np.ones((n, *size)), 0.2 * np.ones((n, *size))], 1)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    known = np.ones(size, np.bool_)
    labels = {
        "segmentation": (CLASSES, [Segmentation(one.astype(np.uint16), known) for one in ids]),
        "depth": (METRES, [Depth(one, known, "metric", "z") for one in values]),
        "normals": (Convention(), [Normals(one, known) for one in vectors]),
    }
    truth = {name: Truth(tasks.get(name), c, tuple(made), size) for name, (c, made) in labels.items()}
    images = (ids[..., None] * 80 + rng.integers(0, 20, (n, *size, 3))).astype(np.uint8)
    keys = tuple(f"{seed}-{i:04d}" for i in range(n))
    return Split(images, keys, size, truth=truth, known=(True,) * n)


PARTS = tuple(dense_set(n, seed) for seed, n in enumerate((40, 20, 30)))


def test_position_prior_is_the_best_of_constants():
    prior = baselines.position_prior(PARTS[0], PARTS[0]).score(PARTS[0])
    test, known = PARTS[0], np.ones((16, 16), np.bool_)
    rng = np.random.default_rng(5)
    for _ in range(20):
        ids = rng.integers(0, 3, (16, 16)).astype(np.uint16)
        row = np.linspace(*rng.uniform(0.5, 5, 2), 16)[:, None] * np.ones((1, 16))
        guesses = {
            "segmentation": Segmentation(ids, known),
            "depth": Depth(row.astype(np.float32), known, "metric", "z"),
        }
        for name, label in guesses.items():
            other = baselines.score_constant(label, test.truth[name], test.keys).compute()
            headline = next(iter(other))
            assert prior[name].compute()[headline] >= other[headline]
    assert prior["segmentation"].compute()["segmentation/miou"] > 0.3
    assert prior["normals"].compute()["normals/mean_angle"] < 15


def test_pixels_and_position_see_what_a_constant_cannot():
    seen = baselines.pixels_position(*PARTS[:2], grid=(4, 4)).score(PARTS[2])["segmentation"].compute()
    prior = baselines.position_prior(*PARTS[:2]).score(PARTS[2])["segmentation"].compute()
    assert seen["segmentation/miou"] > prior["segmentation/miou"] + 0.1


def test_patches_hold_pixels_and_place():
    made = baselines.patches(np.asarray(PARTS[0].images[:3]), (4, 4))
    assert made.shape == (3, 3 * 16 + 16, 4, 4)
    patch = torch.tensor(PARTS[0].images[1, 4:8, 8:12]).permute(2, 0, 1).reshape(-1) / 255
    torch.testing.assert_close(made[1, :48, 1, 2], patch)
    assert made[:, 48:, 1, 2].argmax(1).tolist() == [6, 6, 6]


def test_expert_is_scored_in_the_view_of_the_set():
    part = PARTS[2].select([3, 4, 5])
    originals = [np.full((20 + 2 * (i > 3), 20, 3), i, np.uint8) for i in range(3, 6)]
    seen = replace(part, images=originals)
    sizes = []

    def predict(images):
        sizes.append([image.shape[0] for image in images])
        return [
            Segmentation(np.zeros(image.shape[:2], np.uint16), np.ones(image.shape[:2], np.bool_)) for image in images
        ]

    scored = baselines.expert(predict, "segmentation", seen, CLASSES)
    assert sizes == [[20], [22, 22]]
    ids = np.stack([label.ids for label in part.truth["segmentation"].labels])
    assert scored.compute()["segmentation/accuracy"] == pytest.approx((ids == 0).mean())
    with pytest.raises(PlanError, match="label spaces"):
        baselines.expert(predict, "segmentation", seen, Convention(classes=("sky",)))


def test_sets_join_only_labels_of_one_convention():
    joined = PARTS[0].extended(PARTS[1])
    assert len(joined) == len(joined.truth["depth"]) == 60
    truth = {"depth": Truth(tasks.get("depth"), Convention(kind="affine-depth"), (None,) * 20, (16, 16))}
    part = PARTS[1]
    with pytest.raises(PlanError, match="cannot be joined"):
        PARTS[0].extended(replace(part, truth=truth))
