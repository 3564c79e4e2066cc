"""Pictures that a processor pads, and pixels that no mask holds: labels of outputs whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput, DetrSegmentationOutput
from transformers.models.eomt.modeling_eomt import EomtForUniversalSegmentationOutput
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoObjectDetectionOutput
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput
from transformers.models.oneformer.modeling_oneformer import OneFormerForUniversalSegmentationOutput

import hf_models as zoo
import hf_newer as newer
from clipzoo import experts
from clipzoo.experts.hf.frame import image_processor_of
from clipzoo.tasks import rle
from hf_models import NAMES, PROMPTS, Build, save

SIZE, BOX = (480, 640), (320, 240, 640, 480)
"""H, W of a picture, and an object in its lower right quarter."""

CANVASES = ((64, 64), (96, 128))
"""What pictures are padded to once they are 48×64."""

FLOOR, CHAIR = 1, 3


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    yield
    t.utils.logging.set_verbosity_warning()
    t.utils.logging.enable_progress_bar()


def padded(build: Build, canvas: tuple[int, int], folder: Path, seed: int = 0) -> Path:
    """The model in a folder, with a processor that brings pictures to 48×64 and pads them."""

    def padding() -> Any:
        model, processor = build()
        own = image_processor_of(processor)
        own.size = {"shortest_edge": 48, "longest_edge": 64}
        own.size_divisor = 16
        own.do_pad, own.pad_size = True, {"height": canvas[0], "width": canvas[1]}
        return model, processor

    return save(padding, folder, seed)


MASKS = {
    "masks": Mask2FormerForUniversalSegmentationOutput,
    "oneformer": OneFormerForUniversalSegmentationOutput,
    "eomt": EomtForUniversalSegmentationOutput,
}


class Told:
    """In a model's place: it gives the output for a chair at `BOX`, in masks with floor around it unless ``alone``."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, form: str, alone: bool = False, shown: tuple[int, int] = (48, 64)) -> None:
        self.form, self.alone, self.shown = form, alone, shown

    def __call__(self, pixel_values: torch.Tensor, **others: Any) -> Any:
        (H, W), (h, w) = pixel_values.shape[-2:], self.shown
        logits = torch.full((1, 2, len(NAMES) + 1), -9.0)
        logits[0, :, -1] = 9.0
        logits[0, 0, CHAIR], logits[0, 0, -1] = 9.0, -9.0
        if self.form in ("softmax", "sigmoid", "grounding"):
            if self.form == "sigmoid":
                logits = logits[..., :-1]
            box = torch.tensor([0.75 * w / W, 0.75 * h / H, 0.5 * w / W, 0.5 * h / H])
            if self.form == "grounding":
                logits = torch.full((1, 2, 32), -9.0)
                logits[0, 0, 1] = 9.0  # the first word, a chair
            boxes = torch.stack([box, box])[None]
            if self.form == "grounding":
                return GroundingDinoObjectDetectionOutput(
                    logits=logits, pred_boxes=boxes, input_ids=others["input_ids"]
                )
            return DetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)
        masks = torch.full((1, 2, H, W), -9.9)
        masks[0, 0, h // 2 : h, w // 2 : w] = 9.9
        if not self.alone:
            masks[0, 1] = -masks[0, 0]
            logits[0, 1, FLOOR], logits[0, 1, -1] = 8.0, -9.0
        if self.form == "detr":
            return DetrSegmentationOutput(logits=logits, pred_masks=masks)
        return MASKS[self.form](class_queries_logits=logits, masks_queries_logits=masks)


def label(folder: Path, query: str, model: Told) -> Any:
    expert: Any = experts.create(f"hf:{folder}{query}")
    expert.load()
    expert._model = model
    (found,) = expert.predict([np.full((*SIZE, 3), 99, np.uint8)])
    return found


def inside() -> np.ndarray:
    """bool [H,W]: the object's pixels."""
    mask = np.zeros(SIZE, bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


SIGMOID = (
    zoo.conditional_detr, zoo.deformable_detr, zoo.rt_detr, zoo.rt_detr_v2, zoo.d_fine, newer.rf_detr_boxes,
    newer.lw_detr, newer.deimv2,
)  # fmt: skip
BOXED = (zoo.detr, zoo.yolos, *SIGMOID)
MASKED = ((zoo.mask2former, "masks"), (zoo.maskformer, "masks"), (zoo.detr_panoptic, "detr"), (zoo.eomt, "eomt"))


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("build", BOXED, ids=lambda build: build.__name__)
def test_boxes_of_a_padded_picture_are_where_the_object_is(build: Build, canvas: Any, tmp_path: Path) -> None:
    found = label(padded(build, canvas, tmp_path), "?threshold=0.3", Told("sigmoid" if build in SIGMOID else "softmax"))
    assert found.ids.tolist() == [CHAIR]
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-2)


@pytest.mark.parametrize("build", [zoo.grounding_dino, zoo.mm_grounding_dino], ids=lambda build: build.__name__)
def test_boxes_of_prompts_are_where_the_object_is(build: Build, tmp_path: Path) -> None:
    folder = padded(build, CANVASES[1], tmp_path)
    found = label(folder, f"?classes={','.join(PROMPTS)}", Told("grounding"))
    assert found.ids.tolist() == [0]
    np.testing.assert_allclose(found.boxes, [BOX], atol=1e-2)


@pytest.mark.parametrize("mode", ["semantic", "panoptic", "instance"])
@pytest.mark.parametrize(("build", "form"), MASKED, ids=[build.__name__ for build, _ in MASKED])
def test_masks_of_a_padded_picture_are_where_the_object_is(build: Build, form: str, mode: str, tmp_path: Path) -> None:
    folder = save(build, tmp_path) if build is zoo.eomt else padded(build, CANVASES[1], tmp_path)  # EoMT: to 64×64
    found = label(folder, f"?mode={mode}", Told(form))
    if mode == "instance":
        seen = rle.decode(found.masks[found.ids.tolist().index(CHAIR)], found.size)
    else:
        seen = found.valid & (found.ids == CHAIR)
    inner = inside()
    rim = np.zeros(SIZE, bool)
    for rows in (slice(230, 250), slice(470, 480)):  # where pixels of the model lie across the object's border
        rim[rows] = True
    for columns in (slice(310, 330), slice(630, 640)):
        rim[:, columns] = True
    assert np.array_equal(seen[~rim], inner[~rim])
    assert 0.95 < seen.sum() / inner.sum() < 1.05


@pytest.mark.parametrize("build", BOXED, ids=lambda build: build.__name__)
def test_boxes_of_a_padded_picture_are_those_of_the_model(build: Build, tmp_path: Path) -> None:
    """With real outputs: shares of the canvas, of which the picture is what differs between white and black."""
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    for seed in range(5):
        folder = padded(build, CANVASES[1], tmp_path, seed)
        theirs = on_canvas(folder, picture)
        boxes = np.clip(theirs, 0, [SIZE[1], SIZE[0]] * 2)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 1 / 256).all(1)]
        if len(boxes):
            break
    expert: Any = experts.create(f"hf:{folder}?threshold=0")
    expert.load()
    (found,) = expert.predict([picture])
    assert len(found.boxes)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-2)


def on_canvas(folder: Path, picture: np.ndarray) -> Any:
    """Boxes [N,4] xyxy in pixels of the picture, which may lie outside of it."""
    processor = t.AutoImageProcessor.from_pretrained(folder)
    white, black, inputs = (
        processor(images=Image.fromarray(image), return_tensors="pt") for image in (picture | 255, picture & 0, picture)
    )
    differs = (white["pixel_values"] != black["pixel_values"])[0, 0]
    height, width = differs.any(1).sum(), differs.any(0).sum()
    assert (height, width) == (48, 64)
    with torch.inference_mode():
        outputs = t.AutoModelForObjectDetection.from_pretrained(folder).eval()(**inputs)
    (theirs,) = processor.post_process_object_detection(outputs, 0, target_sizes=[(1, 1)])
    return theirs["boxes"].numpy() * np.array([CANVASES[1][1] * SIZE[1] / width, CANVASES[1][0] * SIZE[0] / height] * 2)


@pytest.mark.parametrize(("build", "query"), [(zoo.yolos, ""), (zoo.mask2former, "?mode=semantic")])
def test_the_card_of_a_padding_expert_tells_new_labels_from_those_of_the_canvas(
    build: Build, query: str, tmp_path: Path
) -> None:
    plain = experts.create(f"hf:{save(build, tmp_path / 'plain')}{query}").card.preprocessing
    cut = experts.create(f"hf:{padded(build, CANVASES[0], tmp_path / 'padded')}{query}").card.preprocessing
    assert "padding" not in plain
    assert cut["padding"] == "cut off"


# Pixels that no mask holds -----------------------------------------------------------------------------------

SHARED = (
    (zoo.mask2former, "masks"),
    (zoo.maskformer, "masks"),
    (zoo.oneformer, "oneformer"),
    (zoo.detr_panoptic, "detr"),
)


@pytest.mark.parametrize(
    ("build", "form"), [*SHARED, (zoo.eomt, "eomt")], ids=lambda one: getattr(one, "__name__", one)
)
def test_pixels_that_no_mask_holds_are_unknown(build: Build, form: str, tmp_path: Path) -> None:
    """Their probability is 0.00005, and the library gives them to the one segment that there is."""
    folder = save(build, tmp_path)
    shown = (48, 64) if build in (zoo.eomt, zoo.detr_panoptic) else (64, 64)
    found = label(folder, "?mode=panoptic", Told(form, True, shown))
    assert np.all(found.ids[found.valid] == CHAIR)
    assert 0.95 < found.valid.sum() / inside().sum() < 1.05
    things = label(folder, "?mode=panoptic&task=detection&things=3-4", Told(form, True, shown))
    np.testing.assert_allclose(things.boxes, [BOX], atol=8)


def test_masks_of_detr_as_instances_are_cut_as_well(tmp_path: Path) -> None:
    found = label(save(zoo.detr_panoptic, tmp_path), "?mode=instance", Told("detr", True))
    np.testing.assert_allclose(found.boxes, [BOX], atol=8)
