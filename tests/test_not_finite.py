"""Outputs that are not finite, and pictures that are too small for a model: failures of the sample, never labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torchvision.models import get_model

import hf_models as zoo
from clipzoo import experts
from clipzoo.errors import SampleError
from hf_models import save
from making import image

transformers.logging.disable_progress_bar()
PICTURE = image(0, (48, 64))


def loaded(uri: str) -> Any:
    expert = experts.create(uri)
    expert.load()
    return expert


def fill(module: Any, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize(
    ("build", "query"),
    [
        (zoo.yolos, ""),
        (zoo.detr, ""),
        (zoo.rt_detr, ""),
        (zoo.owlvit, "?classes=chair,lamp"),
        (zoo.segformer, ""),
        (zoo.maskformer, "?mode=semantic"),
        (zoo.mask2former, "?mode=instance"),
        (zoo.mask2former, "?mode=panoptic&task=segmentation"),
        (zoo.eomt_semantic, "?mode=semantic"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_outputs_of_transformers_that_are_not_finite_are_no_label(build: zoo.Build, query: str, tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(build, tmp_path)}{query}")
    expert.predict([PICTURE])
    fill(expert.module, float("nan"))
    with pytest.raises(SampleError, match=r"the model's .*(logits|boxes).* are not finite.*float32 or bfloat16"):
        expert.predict([PICTURE, PICTURE])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("head", ["bbox_predictor", "class_labels_classifier"])
def test_one_part_that_is_not_finite_suffices(head: str, value: float, tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(zoo.yolos, tmp_path)}")
    fill(getattr(expert.module, head), value)
    with pytest.raises(SampleError, match="are not finite"):
        expert.predict([PICTURE])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ssdlite320_mobilenet_v3_large", ["head.classification_head", "backbone"]),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", ["rpn.head", "roi_heads.box_predictor", "backbone"]),
        ("lraspp_mobilenet_v3_large", ["classifier"]),
        pytest.param("fcos_resnet50_fpn", ["head.regression_head"], marks=pytest.mark.slow),
        pytest.param("retinanet_resnet50_fpn", ["head.classification_head"], marks=pytest.mark.slow),
        pytest.param("maskrcnn_resnet50_fpn", ["roi_heads.mask_predictor"], marks=pytest.mark.slow),
    ],
)
def test_outputs_of_torchvision_that_are_not_finite_are_no_label(name: str, parts: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_model(name, weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    size = "" if "ssd" in name else "&size=64"
    floor = "" if "lraspp" in name else "&floor=0&threshold=0.9"
    expert = loaded(f"torchvision:{name}?file={tmp_path / 'w.pth'}{size}{floor}")
    expert.predict([PICTURE])
    for part in parts:
        kept = {key: value.clone() for key, value in expert.module.state_dict().items()}
        fill(expert.module.get_submodule(part), float("nan"))
        with pytest.raises(SampleError, match="are not finite"):
            expert.predict([PICTURE])
        expert.module.load_state_dict(kept)


def test_a_picture_that_is_too_small_for_the_model_is_a_failure_of_the_sample(tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(zoo.zoedepth, tmp_path)}")
    for size in ((1, 1), (4, 64), (6, 64)):  # the processor's padding, and a convolution of the model
        with pytest.raises(SampleError, match=f"cannot process a picture of {size[1]}×{size[0]} pixels: "):
            expert.predict([np.zeros((*size, 3), np.uint8)])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("size"), RuntimeError("CUDA error: no kernel image")])
def test_errors_of_device_and_memory_are_not_blamed_on_the_picture(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = loaded(f"hf:{save(zoo.segformer, tmp_path)}")

    def failing(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(expert.module, "forward", failing)
    with pytest.raises(type(error)):
        expert.predict([PICTURE])
