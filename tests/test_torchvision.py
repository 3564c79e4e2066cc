"""torchvision: its labels are what torchvision itself gives for the same weights and picture. Weights are random."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import interpolate
from torchvision.models import detection, get_model, get_model_weights, list_models, segmentation

from clipzoo import experts, tasks
from clipzoo.errors import ExpertError, SampleError
from clipzoo.experts.base import sha256
from clipzoo.tasks import rle
from making import image

SIZES = ((33, 57), (64, 40), (48, 48))
SEGMENTATIONS, DETECTIONS = list_models(module=segmentation), list_models(module=detection)
FAST = ("lraspp_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")
FIXED = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
LIKED = (0, 7, 12, 44, 90)
"""Ids that random models are made to see: background, a train, an id that COCO does not use, a bottle, a toothbrush."""


def randomized(name: str) -> Any:
    """A model that sees something: random weights alone give every class the same score."""
    torch.manual_seed(0)
    more = {"aux_loss": True} if name in SEGMENTATIONS and "lraspp" not in name else {}
    model = get_model(name, weights=None, weights_backbone=None, **more).eval()
    with torch.no_grad():
        for key, values in model.named_parameters():
            if "classification_head" in key and "lite" in name and values.ndim > 1:
                values.mul_(8)
            if values.ndim == 1 and len(values) % 91 == 0 and ("cls" in key or "classification" in key):
                values.view(-1, 91).copy_(torch.randn(91))
                values.view(-1, 91)[:, LIKED] += 4 if "mobile" in name or "rcnn" in name else 2
            if key.startswith("roi_heads.box_predictor.cls_score.bias") and len(values) == 2:
                values.copy_(torch.tensor([0.0, 1.0]))
        if "mobile" in name:
            calibrate(model, name in SEGMENTATIONS)
        if name in SEGMENTATIONS:  # no class is better than the others everywhere
            own = [values for key, values in model.named_parameters() if re.match(r"classifier\..*bias", key)]
            picture = get_model_weights(name).DEFAULT.transforms(resize_size=64)(tensor(image(0, SIZES[0])))
            own[-1] -= model(picture[None])["out"].mean((0, 2, 3))
    return model


def calibrate(model: Any, segmentation: bool) -> None:
    """Batch statistics of noise: without them, little of a picture reaches the last layers of a random MobileNet."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    noise = torch.rand(2, 3, 64, 64)
    model(noise * 4 - 2 if segmentation else list(noise))
    for norm in norms:
        norm.eval()


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous().clone() for key, value in randomized(name).state_dict().items()}, path)
    return path


def loaded(name: str, path: Path, query: str = "") -> experts.Expert:
    more = "" if name in FIXED else "&size=64"
    expert = experts.create(f"torchvision:{name}?file={path}{more}{query}")
    expert.load()
    return expert


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def judge_segmentation(expert: experts.Expert, model: Any, name: str) -> None:
    transforms = get_model_weights(name).DEFAULT.transforms(resize_size=64)
    seen: set[int] = set()
    for number, size in enumerate(SIZES):
        pictures = [image(10 * number + i, size) for i in range(2)]
        assert len(expert.predict(pictures)) == len(pictures)
        for picture in pictures:
            (label,) = expert.predict([picture])  # a batch rounds otherwise, and weak scores change places
            with torch.inference_mode():
                logits = model(transforms(tensor(picture))[None])["out"]
            best = interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
            assert (label.ids == best).mean() > 0.999
            assert label.valid.all()
            assert label.confidence == pytest.approx(float(logits.softmax(1).amax(1).mean()), abs=1e-3)
            tasks.get("segmentation").check(label, expert.card.convention)
            seen |= set(best.ravel().tolist())
    assert len(seen) > 1


def judge_detection(expert: experts.Expert, model: Any, name: str, sizes=SIZES) -> None:
    names = get_model_weights(name).DEFAULT.meta["categories"]
    if name not in FIXED:
        model.transform.min_size = (64,)
    seen: set[int] = set()
    for number, size in enumerate(sizes):
        pictures = [image(10 * number + i, size) for i in range(2)]
        assert len(expert.predict(pictures)) == len(pictures)
        for picture in pictures:
            (label,) = expert.predict([picture])  # a batch rounds otherwise, and weak scores change places
            with torch.inference_mode():
                found = {key: value.numpy() for key, value in model([tensor(picture) / 255])[0].items()}
            seen |= set(found["labels"].tolist())
            sides = (found["boxes"][:, 2:] > found["boxes"][:, :2] + 1 / 256).all(1)
            wanted = np.array([names[i] not in ("N/A", "__background__", "no person") for i in found["labels"]], bool)
            kept = np.flatnonzero((found["scores"] > 0.05) & wanted & sides)
            if name in FIXED:  # so weak that scores of other boxes are equal but for rounding: any order is right
                ours = np.array([expert.card.convention.classes[i] for i in label.ids])
                theirs = np.array([names[i] for i in found["labels"][kept]])
                assert len(label.ids) == len(kept)
                far = np.abs(label.boxes[:, None] - found["boxes"][kept]).sum(2) + 1e4 * (ours[:, None] != theirs)
                kept = kept[linear_sum_assignment(far)[1]]
            assert [expert.card.convention.classes[i] for i in label.ids] == [names[i] for i in found["labels"][kept]]
            assert label.boxes == pytest.approx(found["boxes"][kept], abs=0.02)
            assert label.scores == pytest.approx(found["scores"][kept], abs=1e-4)
            assert (label.ignored == (label.scores < 0.5)).all()
            tasks.get("detection").check(label, expert.card.convention)
            if "masks" in found:
                for row, text in zip(kept, label.masks, strict=True):
                    assert (rle.decode(text, size) == (found["masks"][row, 0] > 0.5)).mean() > 0.99
    assert len(seen) > 1 or len(names) == 2, "a detector that sees nothing proves nothing"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in [*SEGMENTATIONS, *DETECTIONS]
    ],
)  # fmt: skip
def test_labels_are_torchvisions_own(name, tmp_path):
    path = saved(name, tmp_path)
    if name in SEGMENTATIONS:
        return judge_segmentation(loaded(name, path), randomized(name), name)
    return judge_detection(loaded(name, path, "&floor=0.05"), randomized(name), name)


@pytest.mark.slow
def test_weights_of_a_name_are_used_as_torchvision_uses_them(tmp_path, monkeypatch):
    """Frozen normalization and its small number, which COCO_V1 were trained without, too."""
    name = "maskrcnn_resnet50_fpn"
    weights = get_model_weights(name).COCO_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    state = randomized(name).state_dict()
    state["backbone.body.bn1.running_var"].fill_(1e-4)  # so that 1e-5 more would count
    state["backbone.body.bn1.weight"].fill_(0.01)
    torch.save(state, path)
    theirs = get_model(name, weights="COCO_V1", progress=False).eval()
    expert = loaded(name, path, "&weights=COCO_V1&floor=0.05")
    for model in (theirs, expert._model):
        model.roi_heads.detections_per_img = 5  # masks are what takes time
    judge_detection(expert, theirs, name, SIZES[:1])
    assert expert.card.revision == "COCO_V1"
    assert "BSD" in expert.card.license
    with pytest.raises(ExpertError, match="is damaged: its SHA-256 does not begin with bf2d0c1e"):
        experts.create(f"torchvision:{name}")


def test_without_a_network_the_message_tells_where_the_weights_go(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refused(*args: Any, **kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    monkeypatch.setattr("torch.hub.urlopen", refused)
    with pytest.raises(ExpertError, match="cannot download") as error:
        experts.create("torchvision:fcn_resnet50")
    assert f"{tmp_path}/hub/checkpoints/fcn_resnet50_coco-1167a1af.pth" in str(error.value)
    assert "?weights=COCO_WITH_VOC_LABELS_V1&file=" in str(error.value)


def test_label_spaces(tmp_path):
    empty = tmp_path / "w.safetensors"
    empty.write_bytes(b"")
    voc = experts.create(f"torchvision:fcn_resnet50?file={empty}").card
    assert voc.convention.classes[:2] == ("background", "aeroplane")
    assert len(voc.convention.classes) == 21
    assert "resize_size=[520]" in voc.preprocessing["transforms"]
    assert voc.weights_sha256 == sha256(empty)
    assert voc.license == "unknown"
    coco = experts.create(f"torchvision:ssd300_vgg16?file={empty}").card
    assert len(coco.convention.classes) == 80
    assert coco.convention.classes[0] == "person"
    assert "N/A" not in coco.convention.classes
    assert coco.preprocessing["threshold"] == 0.5
    assert experts.create(f"torchvision:keypointrcnn_resnet50_fpn?file={empty}").card.convention.classes == ("person",)
    own = experts.create(f"torchvision:fcos_resnet50_fpn?file={empty}&classes=cat,dog&license=CC0-1.0").card
    assert own.convention.classes == ("cat", "dog")
    assert own.license == "CC0-1.0"


def test_a_fine_tuned_model_of_own_classes(tmp_path):
    name, path = FAST[0], tmp_path / "own.pth"
    torch.manual_seed(1)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=3)
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    expert = loaded(name, path, "&classes=floor,wall,chair")
    assert expert.card.convention.classes == ("floor", "wall", "chair")
    (label,) = expert.predict([image(0, (30, 40))])
    assert label.ids.shape == (30, 40)
    with pytest.raises(ExpertError, match="no state dict of a lraspp_mobilenet_v3_large with 2 outputs"):
        loaded(name, path, "&classes=floor,wall")
    with pytest.raises(SampleError, match="too long and thin: 900×10"):
        expert.predict([image(0, (10, 900))])


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/never", "w"))


def test_weights_that_could_run_code_are_not_read(tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    with pytest.raises(ExpertError, match=r"cannot be read as weights alone(.|\n)*save_file"):
        loaded(FAST[0], path)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("resnet50", "no model 'resnet50' of segmentation or detection; did you mean"),
        ("fcn_resnet5", "did you mean fcn_resnet50"),
        ("fcn_resnet50?weights=COCO_V7", "no weights 'COCO_V7'; there are: COCO_WITH_VOC_LABELS_V1"),
        ("fcn_resnet50?file=/no/such.pth", "there is no such file"),
        ("fcn_resnet50?threshold=0.5", "threshold is not an option"),
        ("fcn_resnet50?classes=a,b", "add file="),
        ("ssd300_vgg16?threshold=0.1", "floor= is above threshold="),
        ("ssd300_vgg16?threshold=2", "less than or equal to 1"),
    ],
)
def test_wrong_uris(uri, message):
    with pytest.raises(ExpertError, match=message):
        experts.create(f"torchvision:{uri}")
