"""Open-vocabulary segmentation: dense embeddings by explicit computations, `segment`, recipes and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor
from typer.testing import CliRunner

import clipzoo
from clipzoo import recipe
from clipzoo.cli import app
from clipzoo.errors import CheckpointError, RecipeError
from clipzoo.evaluation import open_vocabulary, zero_shot
from clipzoo.models import Student, dense
from clipzoo.progress import Silent
from clipzoo.runs.models import Comparison, measure
from clipzoo.tasks import Convention
from test_pipeline import changed, world, write_benchmark

__all__ = ["world"]

GRID = (2, 3)


def reference_attention(variant: str, q: Tensor, k: Tensor, v: Tensor, extra: int) -> Tensor:
    """Mixed values [B,N,heads,d] of q, k, v [B,N,heads,d], entry by entry as the papers define them."""
    d = q.shape[-1]

    def products(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("bihd,bjhd->bhij", a, b) / d**0.5

    if variant in ("maskclip", "value"):
        return v
    if variant == "plain":
        weights = products(q, k).softmax(-1)
    elif variant == "sclip":
        weights = products(q, q).softmax(-1) + products(k, k).softmax(-1)
    else:
        near = torch.zeros(q.shape[1], q.shape[1])
        cells = [(y, x) for y in range(GRID[0]) for x in range(GRID[1])]
        for i, (y, x) in enumerate(cells):
            for j, (yy, xx) in enumerate(cells):
                near[extra + i, extra + j] = np.exp(-((y - yy) ** 2 + (x - xx) ** 2) / 50)
        weights = (products(k, k) + near).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, v)


def unit_maps(tokens: Tensor) -> Tensor:
    return F.normalize(torch.einsum("bnd->bdn", tokens), dim=1).reshape(len(tokens), -1, *GRID)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["maskclip", "value", "plain", "sclip", "naclip"])
def test_a_vit_gives_the_embeddings_that_the_papers_define(variant: str) -> None:
    torch.manual_seed(0)
    tower = VisionTransformer((16, 24), 8, 32, 2, 2, 4.0, ls_init_value=0.5, output_dim=12).eval()
    images = torch.randn(2, 3, 16, 24)
    x = tower.transformer.resblocks[0](tower._embeds(images))
    last = tower.transformer.resblocks[1]
    qkv = torch.einsum("bnc,oc->bno", last.ln_1(x), last.attn.in_proj_weight) + last.attn.in_proj_bias
    q, k, v = qkv.reshape(2, 7, 3, 2, 16).unbind(2)
    y = reference_attention(variant, q, k, v, 1).reshape(2, 7, 32)
    y = 0.5 * (torch.einsum("bnc,oc->bno", y, last.attn.out_proj.weight) + last.attn.out_proj.bias)
    if variant not in ("value", "naclip"):
        y = x + y
        y = y + 0.5 * last.mlp(last.ln_2(y))
    expected = unit_maps(torch.einsum("bnc,cd->bnd", tower.ln_post(y)[:, 1:], tower.proj))
    torch.testing.assert_close(dense.embeddings(tower, images, variant), expected, atol=1e-5, rtol=1e-5)
    if variant == "plain":
        own = tower._pool(tower.transformer(tower._embeds(images)))[1] @ tower.proj
        torch.testing.assert_close(dense.embeddings(tower, images, variant), unit_maps(own), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_resnet_gives_the_values_of_its_attention_pool_at_every_position() -> None:
    torch.manual_seed(0)
    tower = ModifiedResNet([1, 1, 1, 1], 12, 4, 64, 8).eval()
    images = torch.randn(2, 3, 64, 96)  # another size than the tower's
    x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))
    pool = tower.attnpool
    values = torch.einsum("bchw,oc->bohw", x, pool.v_proj.weight) + pool.v_proj.bias[:, None, None]
    out = torch.einsum("bchw,oc->bohw", values, pool.c_proj.weight) + pool.c_proj.bias[:, None, None]
    torch.testing.assert_close(dense.embeddings(tower, images), F.normalize(out, dim=1), atol=1e-5, rtol=1e-5)


def timm_tower(pool: str, proj: str) -> TimmModel:
    import timm
    from timm.models.vision_transformer import VisionTransformer as Trunk

    tower = TimmModel("test_vit", 12, 160, pool="token" if pool == "token" else "avg", proj="linear")
    sizes = {"img_size": (16, 24), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    tower.trunk = Trunk(**sizes, global_pool=pool, class_token=pool == "token", init_values=0.5)
    tower.head = torch.nn.Sequential(torch.nn.Linear(32, 12)) if proj else torch.nn.Sequential()
    assert timm.__version__
    return tower.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("pool", "variant"),
    [*(("token", one) for one in ("maskclip", "value", "plain", "sclip", "naclip")),
     *(("map", one) for one in ("maskclip", "sclip", "naclip"))],
)  # fmt: skip
def test_a_vit_of_timm_gives_the_embeddings_that_the_papers_define(pool: str, variant: str) -> None:
    torch.manual_seed(0)
    tower = timm_tower(pool, "linear")
    trunk, images = tower.trunk, torch.randn(2, 3, 16, 24)
    N, extra = (7, 1) if pool == "token" else (6, 0)
    x = trunk.blocks[0](trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(images))))
    last = trunk.blocks[1]
    qkv = torch.einsum("bnc,oc->bno", last.norm1(x), last.attn.qkv.weight) + last.attn.qkv.bias
    q, k, v = qkv.reshape(2, N, 3, 2, 16).unbind(2)
    ordinary = pool == "map" and variant == "maskclip"  # the pool is the last attention
    y = reference_attention("plain" if ordinary else variant, q, k, v, extra).reshape(2, N, 32)
    y = 0.5 * last.attn.proj(y)
    if variant not in ("value", "naclip"):
        y = x + y
        y = y + 0.5 * last.mlp(last.norm2(y))
    tokens = trunk.norm(y)[:, extra:]
    if pool == "map":
        one = trunk.attn_pool
        tokens = torch.cat([one(token[:, None])[:, None] for token in tokens.unbind(1)], 1)  # each token alone
    torch.testing.assert_close(
        dense.embeddings(tower, images, variant), unit_maps(tower.head(tokens)), atol=1e-5, rtol=1e-5
    )


def test_variants_that_a_tower_does_not_have_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"sclip is not defined for a ResNet.*Use the variant maskclip"):
        dense.check(ModifiedResNet([1, 1, 1, 1], 12, 4, 64, 8), "sclip")
    with pytest.raises(CheckpointError, match="plain is not defined for a tower that ends in an attention pool"):
        dense.check(timm_tower("map", "linear"), "plain")
    with pytest.raises(CheckpointError, match="Linear has no dense embeddings"):
        dense.check(torch.nn.Linear(1, 1), "maskclip")


def test_segment_returns_maps_at_the_size_of_the_image(tiny_clip: str, tmp_path: Path) -> None:
    student = Student.create(tiny_clip).train()
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    found = student.segment(image, ["red", "green", "blue"], templates=["a photo of a {c} square", "{c}"])
    assert student.training
    assert found.ids.shape == (40, 56)
    assert found.ids.dtype == np.uint16
    assert found.probabilities.shape == (3, 40, 56)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert (found.similarities.argmax(0) == found.ids).all()
    assert found.heat_map("red").shape == (40, 56, 3)
    with pytest.raises(CheckpointError, match="no heat map of 'dark'"):
        found.heat_map("dark")
    with pytest.raises(CheckpointError, match="needs a list of at least one name"):
        student.segment(image, "red")
    student.save(tmp_path / "student")
    again = clipzoo.load(tmp_path / "student").segment(
        image, ["red", "green", "blue"], ["a photo of a {c} square", "{c}"]
    )
    np.testing.assert_allclose(again.similarities, found.similarities, atol=1e-6)


@torch.no_grad()
def test_another_size_interpolates_the_positions_as_a_student_of_that_size_does(tiny_clip: str) -> None:
    student, larger = Student.create(tiny_clip).eval(), Student.create(tiny_clip, size=(48, 64)).eval()
    images = torch.randint(0, 256, (1, 48, 64, 3), dtype=torch.uint8)
    for variant in ("maskclip", "naclip"):
        torch.testing.assert_close(
            student.encode_dense(images, variant, (48, 64)), larger.encode_dense(images, variant), atol=1e-6, rtol=1e-6
        )
    assert student.image_size == (32, 32)
    with pytest.raises(CheckpointError, match="does not support images of 30×30"):
        student.segment(np.zeros((8, 8, 3), np.uint8), ["red"], size=(30, 30))


def test_every_arm_is_measured_and_turning_it_off_gives_the_same_results(world: recipe.Recipe, tmp_path: Path) -> None:
    arms = ("clip",)
    plain = changed(world, arms=arms)
    before = json.loads(clipzoo.evaluate(clipzoo.Run(plain, tmp_path)).read_text())
    asked = changed(plain, evaluation={"open_vocabulary": "naclip"})
    run = clipzoo.Run(asked, tmp_path)
    results = json.loads(clipzoo.evaluate(run).read_text())
    cell = results["arms"]["clip"]["open_vocabulary/miou"]
    truth = run.suite.dense["test"].truth["segmentation"]
    student = run.start().eval()
    classes = zero_shot.classifier(student, truth.convention.classes, run.suite.dense["test"].templates)
    hits = np.zeros((2, 2))
    with torch.no_grad():
        for images in run.suite.dense["test"].batches(1):
            cosines = torch.einsum("bdhw,kd->bkhw", student.encode_dense(torch.from_numpy(images), "naclip"), classes)
            guess = F.interpolate(cosines, truth.size, mode="bilinear").argmax(1)[0].numpy()
            label = truth.labels[int(hits.sum()) // guess.size]
            np.add.at(hits, (label.ids[label.valid], guess[label.valid]), 1)
    iou = np.diag(hits) / (hits.sum(0) + hits.sum(1) - np.diag(hits))
    assert cell["mean"] == pytest.approx(iou.mean(), abs=1e-9)
    assert cell["ci"][0] <= cell["mean"] <= cell["ci"][1]
    assert results["arms"]["clip"]["open_vocabulary/accuracy"]["mean"] == pytest.approx(np.trace(hits) / hits.sum())
    assert "naclip" in results["protocol"]["open_vocabulary"]
    assert {name: cell for name, cell in results["arms"]["clip"].items() if "open" not in name} == before["arms"][
        "clip"
    ]
    assert json.loads(clipzoo.evaluate(clipzoo.Run(plain, tmp_path)).read_text()) == before
    assert clipzoo.report(clipzoo.Run(asked, tmp_path)).exists()


def test_the_command_measures_models(tiny_clip: str, tmp_path: Path) -> None:
    write_benchmark(tmp_path / "test", 6, 1)
    folder = tiny_clip.removeprefix("local-dir:")
    arguments = ["eval", "--model", f"open_clip:{folder}", "--test", str(tmp_path / "test"), "--label-size", "16"]
    done = CliRunner().invoke(app, [*arguments, "--open-vocabulary", "sclip", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= results["arms"][f"open_clip:{folder}"]["open_vocabulary/miou"]["mean"] <= 1
    assert results["protocol"]["open_vocabulary"].startswith("sclip")


def test_mistakes_are_refused_before_work(world: recipe.Recipe, tmp_path: Path) -> None:
    with pytest.raises((RecipeError, ValueError), match="no variant 'sclp' of open vocabulary; did you mean sclip"):
        changed(world, evaluation={"open_vocabulary": "sclp"})
    write_benchmark(tmp_path / "classes", 6, 9)
    shutil.rmtree(tmp_path / "classes" / "truth")
    for test in (str(tmp_path / "classes"), None):
        asked = {"test": test, "open_vocabulary": "maskclip"}
        with pytest.raises(RecipeError, match="true labels of segmentation whose classes have names"):
            clipzoo.Run(changed(world, evaluation=asked), tmp_path / "run")
    assert not open_vocabulary.named({"segmentation": Convention(classes=("0", "1"))})
    assert open_vocabulary.named({"segmentation": Convention(classes=("0", "chair"))})
    with pytest.raises(RecipeError, match="remove --preset"):
        measure(
            Comparison(["timm:x"], {"test": "x", "probe": "x"}, tmp_path, preset="x", open_vocabulary="sclip"), Silent()
        )
