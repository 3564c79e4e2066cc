"""Every head on every shape of tapped maps: shapes, gradients, half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clipzoo import heads, plugins
from clipzoo.heads.layers import Gather

VIT = [(24, 7, 9)] * 4
RESNET = [(8, 32, 24), (16, 16, 12), (32, 8, 6), (64, 4, 3)]
ODD = [(8, 33, 25), (16, 17, 13), (32, 9, 7)]
MAPS = {"vit": VIT, "vit-3": VIT[:3], "vit-2": VIT[:2], "vit-1": VIT[:1], "resnet": RESNET, "odd": ODD}
MAPS |= {"one token": [(5, 1, 1)] * 4, "two stems": [(8, 32, 24), *RESNET]}
every_head = pytest.mark.parametrize("name", plugins.names("heads"))
every_map = pytest.mark.parametrize("shapes", MAPS.values(), ids=MAPS)


def drawn(shapes: list[tuple[int, int, int]], images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, *shape, generator=generator) for shape in shapes]


@every_head
@every_map
def test_the_output_has_its_channels_and_every_parameter_a_gradient(
    name: str, shapes: list[tuple[int, int, int]]
) -> None:
    torch.manual_seed(0)
    head = heads.create(name, [c for c, _, _ in shapes], 7)
    raw = head(drawn(shapes))
    assert raw.shape[:2] == (2, 7)
    finest = max(h * w for _, h, w in shapes)
    assert raw.shape[2] * raw.shape[3] >= 4 * finest
    (raw * torch.randn_like(raw)).sum().backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]


@every_head
def test_an_image_does_not_see_its_batch(name: str) -> None:
    head, maps = heads.create(name, [c for c, _, _ in RESNET], 6), drawn(RESNET)
    torch.testing.assert_close(head([m[:1] for m in maps]), head(maps)[:1])


@every_map
def test_gathering_equals_norms_then_sizes_then_a_convolution(shapes: list[tuple[int, int, int]]) -> None:
    torch.manual_seed(0)
    gather = Gather([c for c, _, _ in shapes])
    project = nn.Conv2d(gather.out_channels, 5, 1)
    for parameter in gather.parameters():
        nn.init.normal_(parameter)
    size = max(h for _, h, _ in shapes), max(w for _, _, w in shapes)
    levels = [heads.resize(norm(m), size) for norm, m in zip(gather.norms, drawn(shapes), strict=True)]
    plain = project(torch.cat(levels, 1))
    ours = gather(drawn(shapes), project)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((x * weight).sum(), [*gather.parameters()]) for x in (ours, plain)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def test_heads_share_what_they_begin_with() -> None:
    maps = heads.Maps(drawn(RESNET))
    first, second = (heads.create(name, [c for c, _, _ in RESNET], 6) for name in ("linear", "fcos"))
    alone = first(list(maps))
    before = maps.stacked
    torch.testing.assert_close(first(maps), alone)
    second(maps)
    assert maps.stacked is before


@every_head
def test_half_precision(name: str) -> None:
    head, maps = heads.create(name, [c for c, _, _ in VIT], 6), drawn(VIT)
    with torch.autocast("cpu", torch.bfloat16):
        raw = head([m.bfloat16() for m in maps])
    raw.float().sum().backward()
    assert raw.isfinite().all()
    torch.testing.assert_close(raw.float(), head(maps), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (VIT, (56, 72)),
        (VIT[:3], (28, 36)),
        (VIT[:2], (14, 18)),
        (VIT[:1], (14, 18)),
        (RESNET, (64, 48)),
        (ODD, (66, 50)),
    ],
)
def test_the_pyramid_of_dpt_has_the_sizes_of_the_paper(
    shapes: list[tuple[int, int, int]], expected: tuple[int, int]
) -> None:
    head = heads.create("dpt", [c for c, _, _ in shapes], 1, width=8)
    assert head(drawn(shapes)).shape[-2:] == expected
    assert heads.create("dpt", [c for c, _, _ in shapes], 1, upscale=1)(drawn(shapes)).shape[-2:] == (
        expected[0] // 2,
        expected[1] // 2,
    )


@pytest.mark.slow
def test_dpt_learns_what_no_level_knows_alone() -> None:
    """A map of which half is said by a shallow layer and half by a deep one."""
    torch.manual_seed(0)
    maps = drawn(RESNET[:2], images=4)
    coarse = torch.nn.functional.interpolate(maps[1][:, :1], (64, 48), mode="bilinear")
    truth = torch.nn.functional.interpolate(maps[0][:, :1], (64, 48), mode="bilinear") + coarse
    head = heads.create("dpt", [8, 16], 1, width=16)
    adam = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        adam.zero_grad()
        loss = (head(maps) - truth).square().mean()
        loss.backward()
        adam.step()
    assert loss < 0.1 * truth.var()


def test_pyramid_pooling_equals_adaptive_pooling() -> None:
    from clipzoo.heads.psp import GRIDS, _means

    x = torch.randn(2, 3, 7, 10)
    for cells in GRIDS:
        torch.testing.assert_close(_means(x, cells), torch.nn.functional.adaptive_avg_pool2d(x, cells))


def test_outputs_of_deeplab_depend_on_no_other_image_and_not_on_chance() -> None:
    head, maps = heads.create("deeplabv3", [c for c, _, _ in VIT], 6).train(), drawn(VIT)
    torch.testing.assert_close(head(maps), head(maps), rtol=0, atol=0)
    torch.testing.assert_close(head([m[:1] for m in maps]), head(maps)[:1])
