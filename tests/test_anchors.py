"""Anchors: the student stays near its frozen start."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipzoo.data import loader
from clipzoo.models import Student
from clipzoo.recipe import AnchorsRecipe
from clipzoo.training import objectives, read_log, train
from clipzoo.training.objectives import gram_anchor
from test_training import job, same_student


def test_an_untrained_student_has_no_distance(dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path) -> None:
    made = job(dataset, labels, tiny_clip, tmp_path)
    made.student.returns_maps = True
    every = objectives.anchors(objectives.Start(made.student), AnchorsRecipe(embedding=1, gram=1))
    batch = next(iter(loader(made.dataset, 4, made.student.tokenize)))
    values = objectives.terms(every, made.student.eval()(batch.images, batch.tokens), batch)
    assert [value.item() for value in values.values()] == pytest.approx([0, 0], abs=1e-6)
    assert all(value.requires_grad for value in values.values())
    with torch.no_grad():
        for parameter in made.student.clip.visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    values = objectives.terms(every, made.student(batch.images, batch.tokens), batch)
    assert all(value.item() > 1e-3 for value in values.values())


def test_gram_matrices_hold_similarities_and_not_directions() -> None:
    maps = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    turned = 3 * torch.einsum("dc,bchw->bdhw", turn, maps)
    assert torch.allclose(gram_anchor.gram(maps), gram_anchor.gram(turned), atol=1e-5)
    assert gram_anchor.gram(torch.randn(1, 3, 40, 20)).shape == (1, 14 * 10, 14 * 10)


def embeddings(folder: Path) -> torch.Tensor:
    images = torch.randint(0, 255, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return Student.load(folder / "student").eval().encode_image(images)


@pytest.mark.slow
def test_an_anchored_training_stays_nearer_and_resumes_to_the_same_bits(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    def stop(step: int, values: object) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    def anchored(name: str, **anchors: float) -> Any:
        given = {"anchors": anchors} if anchors else {}
        return job(dataset, labels, tiny_clip, tmp_path / name, **given)

    free = anchored("free")
    start = free.student.eval()
    images = torch.randint(0, 255, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = start.encode_image(images)
    train(free)
    train(anchored("whole", embedding=30.0, gram=5.0))
    with pytest.raises(KeyboardInterrupt):
        train(replace(anchored("cut", embedding=30.0, gram=5.0), on_step=stop))
    train(anchored("cut", embedding=30.0, gram=5.0))
    assert same_student(tmp_path / "whole", tmp_path / "cut")
    assert {"loss/anchor/embedding", "loss/anchor/gram"} <= set(read_log(tmp_path / "whole")[-1])
    cosines = {name: float((before * embeddings(tmp_path / name)).sum(1).mean()) for name in ("free", "whole")}
    assert cosines["whole"] > cosines["free"]
