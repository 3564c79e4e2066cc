"""Taps change nothing: whichever layers the heads read, the embedding is OpenCLIP's own."""

from __future__ import annotations

import pytest
import torch

from clipzoo import demo
from clipzoo.models import Student


@pytest.mark.parametrize("layers", [(4,), (2, 3), (-3,), (1, 4), (-2, -1)])
def test_taps_of_a_resnet_leave_the_embedding_alone(layers: tuple[int, ...]) -> None:
    student = Student.create(demo.locate_model("demo:clip"), layers=layers).eval()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(student(images)["image_features"], student.encode_image(images))
        strides = [4, 4, 8, 16, 32]
        assert [m.shape[-1] for m in student.maps(images)] == [96 // strides[layer] for layer in layers]
