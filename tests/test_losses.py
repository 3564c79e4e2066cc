"""Each loss against an independent value, and all of them under a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import ops

from clipzoo import plugins
from clipzoo.losses import angmf, angular, balanced, berhu, cross_entropy, focal, giou, silog, ssi, ssi_gradient

B, H, W, K = 3, 5, 7, 4


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VALID = rand(B, H, W, seed=9) > -0.5
IDS = torch.randint(0, K, (B, H, W), generator=torch.Generator().manual_seed(1))
UNIT = F.normalize(rand(B, 3, H, W, seed=2), dim=1)
PLANE = rand(B, H, W, seed=3)
SOFT = rand(B, H, W, seed=4).sigmoid()

HOT = (F.one_hot(IDS, K).movedim(-1, 1) * (rand(B, 1, H, W, seed=4) > 0)).double()


def boxes(seed: int) -> Tensor:
    """[B,4,H,W], xyxy, sides of 0.5 to 4.5."""
    low = rand(B, 2, H, W, seed=seed)
    return torch.cat([low, low + 0.5 + 4 * rand(B, 2, H, W, seed=seed + 1).sigmoid()], 1)


EVERY: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]] = {
    "angmf": (angmf.loss, rand(B, 4, H, W), UNIT),
    "angular": (angular.loss, rand(B, 3, H, W), UNIT),
    "balanced": (balanced.loss, rand(B, 1, H, W), SOFT),
    "berhu": (berhu.loss, rand(B, 1, H, W), PLANE),
    "cross_entropy": (cross_entropy.loss, rand(B, K, H, W), IDS),
    "focal": (focal.loss, rand(B, K, H, W), HOT),
    "giou": (giou.loss, boxes(5), boxes(7)),
    "silog": (silog.loss, rand(B, 1, H, W), PLANE),
    "ssi": (ssi.loss, rand(B, 1, H, W), PLANE),
    "ssi_gradient": (ssi_gradient.loss, rand(B, 1, H, W), PLANE),
}
every = pytest.mark.parametrize("name", EVERY)


def test_every_loss_is_here() -> None:
    assert set(EVERY) == set(plugins.names("losses")), "add an example of each new loss to EVERY"


def test_cross_entropy_is_that_of_torch() -> None:
    raw = EVERY["cross_entropy"][1]
    theirs = F.cross_entropy(raw, torch.where(VALID, IDS, -100), ignore_index=-100)
    torch.testing.assert_close(cross_entropy.loss(raw, IDS, VALID), theirs)


def test_label_smoothing_is_that_of_the_paper() -> None:
    raw, eps = EVERY["cross_entropy"][1], 0.1
    truth = (1 - eps) * F.one_hot(IDS, K).movedim(-1, 1) + eps / K
    theirs = -(truth * raw.log_softmax(1)).sum(1)[VALID].mean()
    torch.testing.assert_close(cross_entropy.loss(raw, IDS, VALID, label_smoothing=eps), theirs)


def test_balanced_is_equation_2_of_hed() -> None:
    raw, hard = EVERY["balanced"][1], (SOFT > 0.8).double()
    edges = others = 0.0
    for x, y in zip(raw[:, 0][VALID].tolist(), hard[VALID].tolist(), strict=True):
        probability = 1 / (1 + math.exp(-x))
        edges, others = (edges - y * math.log(probability), others - (1 - y) * math.log(1 - probability))
    positives, all_of_them = hard[VALID].sum().item(), VALID.sum().item()
    beta = 1 - positives / all_of_them
    equation = beta * edges + (1 - beta) * others
    weights = beta * positives + (1 - beta) * (all_of_them - positives)
    assert positives < 0.3 * all_of_them
    assert balanced.loss(raw, hard, VALID).item() == pytest.approx(equation / weights)
    halves = (edges / positives + others / (all_of_them - positives)) / 2
    assert balanced.loss(raw, hard, VALID).item() == pytest.approx(halves)


def test_balanced_is_least_where_the_prediction_is_the_label() -> None:
    right = SOFT.logit()[:, None].requires_grad_()
    balanced.loss(right, SOFT, VALID).backward()
    assert right.grad is not None
    assert right.grad.abs().max() < 1e-12
    assert balanced.loss(torch.zeros(B, 1, H, W), SOFT, VALID).item() == pytest.approx(math.log(2))


def test_balanced_without_any_edge_is_zero() -> None:
    raw = EVERY["balanced"][1].clone().requires_grad_()
    value = balanced.loss(raw, torch.zeros_like(SOFT), VALID)
    value.backward()
    assert value.item() == 0
    assert raw.grad is not None
    assert not raw.grad.any()


def test_silog_is_equation_4() -> None:
    raw = EVERY["silog"][1]
    images = []
    for p, t, v in zip(raw[:, 0].numpy(), PLANE.numpy(), VALID.numpy(), strict=True):
        d = (p - t)[v]
        images.append(math.sqrt((d**2).mean() - 0.85 * d.mean() ** 2))
    assert silog.loss(raw, PLANE, VALID, eps=1e-9).item() == pytest.approx(np.mean(images))
    assert silog.loss(raw, PLANE, VALID).item() == pytest.approx(np.mean(images), abs=1e-3)


def test_silog_forgives_a_factor_as_far_as_lambda_says() -> None:
    shifted = PLANE + 0.3
    assert silog.loss(PLANE, PLANE, VALID).item() == 0
    assert silog.loss(shifted, PLANE, VALID, lam=1.0).item() == pytest.approx(0, abs=1e-9)
    assert silog.loss(shifted, PLANE, VALID, eps=1e-9).item() == pytest.approx(0.3 * math.sqrt(0.15))


def test_ssi_is_one_minus_the_correlation() -> None:
    raw = EVERY["ssi"][1]
    each = [
        1 - np.corrcoef(p[v], t[v])[0, 1]
        for p, t, v in zip(raw[:, 0].numpy(), PLANE.numpy(), VALID.numpy(), strict=True)
    ]
    assert ssi.loss(raw, PLANE, VALID, eps=0).item() == pytest.approx(np.mean(each))


def test_ssi_leaves_what_a_least_squares_fit_leaves() -> None:
    p, t, v = EVERY["ssi"][1][0, 0].numpy(), PLANE[0].numpy(), VALID[0].numpy()
    columns = np.stack([p[v], np.ones(v.sum())], 1)
    _, residual, *_ = np.linalg.lstsq(columns, t[v], rcond=None)
    unexplained = residual[0] / ((t[v] - t[v].mean()) ** 2).sum()
    loss = ssi.loss(EVERY["ssi"][1][:1], PLANE[:1], VALID[:1], eps=0).item()
    assert 1 - (1 - loss) ** 2 == pytest.approx(unexplained)


def test_ssi_forgives_scale_and_shift_but_not_turning_over() -> None:
    for truth in (PLANE, 1e-4 * PLANE, 1e4 * PLANE - 7):
        assert ssi.loss(3 * PLANE - 8, truth, VALID).item() == pytest.approx(0, abs=1e-5)
        assert ssi.loss(-PLANE, truth, VALID).item() == pytest.approx(2, abs=1e-5)


def test_angular_is_one_minus_the_cosine_of_any_length() -> None:
    raw = EVERY["angular"][1]
    theirs = (1 - F.cosine_similarity(raw, UNIT))[VALID].mean()
    torch.testing.assert_close(angular.loss(raw, UNIT, VALID, eps=1e-9), theirs)
    torch.testing.assert_close(angular.loss(50 * raw, UNIT, VALID), theirs, atol=1e-5, rtol=0)
    assert angular.loss(-UNIT, UNIT, VALID).item() == pytest.approx(2, abs=1e-5)


def test_berhu_by_hand() -> None:
    errors = torch.tensor([[[0.0, 0.5, -1.0], [2.0, -10.0, 7.0]]])
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    c, raw = 2.0, errors[:, None].clone().requires_grad_()
    loss = berhu.loss(raw, torch.zeros_like(errors), valid)
    loss.backward()
    assert loss.item() == pytest.approx((0 + 0.5 + 1 + 2 + (100 + c**2) / (2 * c)) / 5)
    assert raw.grad is not None
    torch.testing.assert_close(raw.grad[0, 0] * 5, torch.tensor([[0.0, 1, -1], [1, -10 / c, 0]]))


def test_angmf_is_a_density_on_the_sphere() -> None:
    """Its integral over all directions is 1, whatever the confidence; its mean lies at the prediction."""
    theta = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000 * math.pi
    around = torch.stack([theta.sin(), torch.zeros_like(theta), theta.cos()])[None, :, None]
    for r in (-5.0, 0.0, 3.0, 20.0):
        raw = torch.tensor([0.0, 0, 7, r], dtype=torch.float64).view(1, 4, 1, 1)
        each = [
            angmf.loss(raw, around[..., i : i + 1], torch.ones(1, 1, 1, dtype=torch.bool), eps=1e-6)
            for i in range(len(theta))
        ]
        density = torch.exp(-torch.stack(each))
        assert (density * 2 * math.pi * theta.sin()).sum().item() * math.pi / 2000 == pytest.approx(1, abs=1e-4)
        assert density.argmax() == 0


def test_ssi_gradient_is_the_papers_by_loops() -> None:
    raw = EVERY["ssi_gradient"][1]
    images = []
    for p, t, v in zip(raw[:, 0].numpy(), PLANE.numpy(), VALID.numpy(), strict=True):
        aligned = []
        for x in (p, t):
            center = np.sort(x[v])[(v.sum() - 1) // 2]
            aligned.append((x - center) / np.abs(x[v] - center).mean())
        r = aligned[0] - aligned[1]
        smallest = np.sort(np.abs(r[v]))[: math.ceil(0.8 * v.sum())]
        edges = 0.0
        for step in (1, 2, 4, 8):
            pairs = [
                abs(r[y, x] - r[y + dy, x + dx])
                for y in range(0, H, step)
                for x in range(0, W, step)
                for dy, dx in ((0, step), (step, 0))
                if y + dy < H and x + dx < W and v[y, x] and v[y + dy, x + dx]
            ]
            edges += sum(pairs) / max(v[::step, ::step].sum(), 1)
        images.append(smallest.sum() / (2 * v.sum()) + 0.5 * edges)
    assert ssi_gradient.loss(raw, PLANE, VALID, eps=0).item() == pytest.approx(np.mean(images))


def test_ssi_gradient_forgives_scale_shift_and_gross_errors_of_the_truth_but_not_turning_over() -> None:
    truth = 1e3 * PLANE - 7
    assert ssi_gradient.loss(3 * PLANE - 8, truth, VALID, eps=0).item() == pytest.approx(0, abs=1e-9)
    assert ssi_gradient.loss(-PLANE, truth, VALID).item() > 1
    wrong, far = PLANE.clone(), PLANE.clone()
    wrong[:, 0, 0], far[:, 0, 0] = 40, 80
    known = torch.ones_like(VALID)
    losses = [ssi_gradient.loss(PLANE, t, known, alpha=0, trim=trim).item() for t in (wrong, far) for trim in (0.2, 0)]
    assert losses[0] < 0.5 * losses[1]
    assert losses[2] < 0.5 * losses[3]


@pytest.mark.parametrize("name", ["ssi", "ssi_gradient"])
def test_an_image_of_constant_truth_does_not_count(name: str) -> None:
    loss, raw, _ = EVERY[name]
    truth = PLANE.clone().float()
    truth[0] = 3.7
    torch.testing.assert_close(loss(raw.float(), truth, VALID), loss(raw[1:].float(), truth[1:], VALID[1:]))


def test_focal_is_equation_5() -> None:
    raw = EVERY["focal"][1]
    total = 0.0
    for logit, one, known in zip(raw.flatten(), HOT.flatten(), VALID[:, None].expand_as(raw).flatten(), strict=True):
        p = 1 / (1 + math.exp(-float(logit)))
        p, a = (p, 0.25) if one else (1 - p, 0.75)
        total -= float(known) * a * (1 - p) ** 2 * math.log(p)
    positive = HOT.any(1) & VALID
    assert 10 < positive.sum() < VALID.sum() - 10
    assert focal.loss(raw, HOT, VALID).item() == pytest.approx(total / int(positive.sum()))
    theirs = ops.sigmoid_focal_loss(raw, HOT, 0.4, 1.5).sum() / HOT.any(1).sum()
    torch.testing.assert_close(focal.loss(raw, HOT, torch.ones_like(VALID), alpha=0.4, gamma=1.5), theirs)


def test_focal_without_focus_is_binary_cross_entropy() -> None:
    raw, soft = EVERY["focal"][1][:, :1], rand(B, 1, H, W, seed=8).sigmoid()
    theirs = F.binary_cross_entropy_with_logits(raw[:, 0][VALID], soft[:, 0][VALID])
    torch.testing.assert_close(focal.loss(raw, soft, VALID, alpha=-1, gamma=0), theirs)


def test_focal_of_background_alone_is_not_divided_by_nothing() -> None:
    raw = EVERY["focal"][1]
    theirs = ops.sigmoid_focal_loss(raw, torch.zeros_like(raw), 0.25, 2).sum()
    torch.testing.assert_close(focal.loss(raw, torch.zeros_like(raw), torch.ones_like(VALID)), theirs)


def test_giou_is_algorithm_2() -> None:
    found, right = (x.movedim(1, -1)[VALID].numpy() for x in (EVERY["giou"][1], EVERY["giou"][2]))
    each = []
    for (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) in zip(found, right, strict=True):
        both = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
        either = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both
        hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
        each.append(1 - both / either + (hull - either) / hull)
    assert max(each) > 1, "some boxes lie apart"
    assert giou.loss(*EVERY["giou"][1:], VALID).item() == pytest.approx(np.mean(each), abs=1e-6)
    theirs = ops.generalized_box_iou_loss(*(x.movedim(1, -1)[VALID] for x in EVERY["giou"][1:]), reduction="mean")
    torch.testing.assert_close(giou.loss(*EVERY["giou"][1:], VALID), theirs)
    assert giou.loss(right_boxes := EVERY["giou"][2], right_boxes, VALID).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"berhu"}))  # c is a constant of the step
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    loss, raw, target = EVERY[name]
    assert torch.autograd.gradcheck(lambda x: loss(x, target, VALID), raw.clone().requires_grad_())


@every
def test_nan_under_the_mask_stays_there(name: str) -> None:
    loss, raw, target = EVERY[name]
    clean = raw.clone().requires_grad_()
    dirty = torch.where(VALID[:, None], raw, torch.nan).requires_grad_()
    nonsense: Any = torch.nan if target.is_floating_point() else 10**6
    known = VALID if target.ndim == 3 else VALID[:, None]
    values = loss(clean, target, VALID), loss(dirty, torch.where(known, target, nonsense), VALID)
    assert values[0] == values[1]
    for value in values:
        value.backward()
    assert clean.grad is not None
    assert dirty.grad is not None
    assert torch.equal(clean.grad, dirty.grad)


@every
@pytest.mark.parametrize("fill", [0.0, torch.nan, torch.inf, -torch.inf])
def test_nothing_valid_is_zero_with_a_graph(name: str, fill: float) -> None:
    loss, raw, target = EVERY[name]
    x = torch.full_like(raw, fill).requires_grad_()
    value = loss(x, target, torch.zeros_like(VALID))
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


@every
def test_one_valid_pixel_and_constant_outputs_have_finite_gradients(name: str) -> None:
    loss, raw, target = EVERY[name]
    one = torch.zeros_like(VALID)
    one[0, 2, 3] = True
    for valid in (one, VALID):
        for start in (raw, torch.zeros_like(raw), torch.ones_like(raw)):
            x = start.float().requires_grad_()
            loss(x, target.float() if target.is_floating_point() else target, valid).backward()
            assert x.grad is not None
            assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["silog", "berhu", "ssi", "ssi_gradient"])
def test_a_channel_of_one_is_dropped_and_other_shapes_are_not_broadcast(name: str) -> None:
    loss, raw, target = EVERY[name]
    torch.testing.assert_close(loss(raw, target, VALID), loss(raw[:, 0], target[:, None], VALID))
    with pytest.raises(AssertionError, match="mask"):
        loss(raw[..., :1], target, VALID)
