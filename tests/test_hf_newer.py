"""Families of 2025 and 2026 of Hugging Face transformers: labels are those of the library's own post-processing.

Models are tiny, of the same architecture, with random weights. Several odd sizes of image; a batch is as one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from scipy import ndimage
from transformers.models.rf_detr.modeling_rf_detr import RfDetrInstanceSegmentationOutput

import hf_newer as newer
from clipzoo import experts, tasks
from clipzoo.errors import ClipzooError, ExpertError, SampleError
from clipzoo.experts.base import ExpertInput
from clipzoo.experts.hf.frame import Frame
from clipzoo.labeling import label as label_dataset
from clipzoo.store import Store
from clipzoo.tasks import rle
from clipzoo.types import ImageArray
from hf_models import NAMES, PROMPTS, Build, save
from making import make_dataset
from test_hf_parity import VOID, agree, boxes, cut

SIZES = ((58, 83), (97, 41), (33, 64))
OURS = "x-right,y-up,z-toward"
ASKED = f"classes={','.join(PROMPTS)}"

Pictures = Sequence[ImageArray]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    yield
    t.utils.logging.set_verbosity_warning()
    t.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def pictures() -> list[list[ImageArray]]:
    """Colored blocks: two pictures of the first of `SIZES`, one of each other."""
    rng = np.random.default_rng(0)

    def blocks(size: tuple[int, int]) -> ImageArray:
        small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
        return np.asarray(small.resize(size[::-1], Image.Resampling.NEAREST))

    return [[blocks(size) for _ in range(2 if size == SIZES[0] else 1)] for size in SIZES]


def loaded(uri: str) -> Any:
    expert = experts.create(uri)
    expert.load()
    return expert


def labels_of(expert: Any, pictures: list[Pictures]) -> Iterator[tuple[ImageArray, Any]]:
    """Each picture with its label in a batch, which the contract allows, and with its label alone."""
    for batch in pictures:
        for picture, label in zip(batch, expert.predict(batch), strict=True):
            for found in (label, *expert.predict([picture])):
                tasks.get(expert.card.task).check(found, expert.card.convention)
                yield picture, found


def library(folder: Path, kind: str, reads: str = "AutoImageProcessor") -> tuple[Any, Any]:
    return getattr(t, reads).from_pretrained(folder), getattr(t, kind).from_pretrained(folder).eval()


def outputs_of(model: Any, inputs: Any) -> Any:
    with torch.inference_mode():
        return model(**inputs)


# Normals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "kind", "padded"),
    [
        (newer.sapiens2_normals, "Sapiens2ForNormalEstimation", True),
        (newer.sapiens2_normals_stretched, "Sapiens2ForNormalEstimation", False),
        (newer.tipsv2_normals, "Tipsv2DptForNormalEstimation", False),
    ],
)
def test_normals_are_those_of_the_library(
    build: Build, kind: str, padded: bool, pictures: list[Pictures], tmp_path: Path
) -> None:
    folder = save(build, tmp_path)
    processor, model = library(folder, kind)
    sizes = "source_sizes" if padded else "target_sizes"
    turned = loaded(f"hf:{folder}?frame=x-right,y-down,z-forward")
    for picture, label in labels_of(loaded(f"hf:{folder}?frame={OURS}"), pictures):
        output = outputs_of(model, processor(images=Image.fromarray(picture), return_tensors="pt"))
        (found,) = processor.post_process_normal_estimation(output, **{sizes: [picture.shape[:2]]})
        theirs = torch.nn.functional.normalize(found["normals"], dim=0).numpy()
        assert label.valid.all()
        np.testing.assert_allclose(label.vectors, theirs, atol=1e-4)
        assert np.ptp(theirs, axis=(1, 2)).max() > 0.01
    (other,) = turned.predict([picture])
    assert np.array_equal(other.vectors, label.vectors * np.float32([1, -1, -1])[:, None, None])


def test_normals_whose_axes_nobody_states_are_refused_until_the_uri_does(tmp_path: Path) -> None:
    folder = save(newer.tipsv2_normals, tmp_path)
    with pytest.raises(ExpertError, match=r"where the axes of its normals point\. Add \?frame=.*clipzoo experts check"):
        experts.create(f"hf:{folder}")
    with pytest.raises(ExpertError, match=r"\?frame=x-right,y-up: .*does not name three axes"):
        experts.create(f"hf:{folder}?frame=x-right,y-up")


def test_normals_that_are_not_finite_are_unknown(pictures: list[Pictures], tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(newer.tipsv2_normals, tmp_path)}?frame={OURS}")
    torch.nn.init.constant_(expert.module.decoder.head.bias, float("nan"))
    (label,) = expert.predict(pictures[1])
    assert not label.valid.any()
    assert not label.vectors.any()


# Three heads -------------------------------------------------------------------------------------------------


def test_each_head_of_a_dense_predictor_is_read_by_its_task(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.tipsv2, tmp_path)
    processor, model = library(folder, "Tipsv2DptForDensePrediction")
    heads = {
        task: loaded(f"hf:{folder}?task={task}{more}")
        for task, more in (("depth", ""), ("normals", f"&frame={OURS}"), ("segmentation", ""))
    }
    assert {type(expert.module).__name__ for expert in heads.values()} == {
        "Tipsv2DptForDepthEstimation", "Tipsv2DptForNormalEstimation", "Tipsv2DptForSemanticSegmentation"
    }  # fmt: skip
    for batch in pictures:
        ours = {task: expert.predict(batch) for task, expert in heads.items()}
        for i, picture in enumerate(batch):
            output, size = (
                outputs_of(model, processor(images=Image.fromarray(picture), return_tensors="pt")),
                [picture.shape[:2]],
            )
            depth = processor.post_process_depth_estimation(output, size)[0]["predicted_depth"].numpy()
            np.testing.assert_allclose(ours["depth"][i].values, depth, rtol=1e-4)
            normals = processor.post_process_normal_estimation(output, size)[0]["normals"]
            normals = torch.nn.functional.normalize(normals, dim=0).numpy()
            np.testing.assert_allclose(ours["normals"][i].vectors, normals, atol=1e-4)
            (classes,) = processor.post_process_semantic_segmentation(output, size)
            agree(ours["segmentation"][i], np.where(classes == VOID, -1, classes), void=True)
    assert (heads["depth"].card.convention.kind, heads["depth"].card.convention.along) == ("metric", "z")


@pytest.mark.parametrize("query", ["", "?task=edges"])
def test_a_dense_predictor_needs_its_task(query: str, tmp_path: Path) -> None:
    folder = save(newer.tipsv2, tmp_path)
    with pytest.raises(ExpertError, match=r"predicts labels of depth, normals, segmentation: .*such as .task=depth"):
        experts.create(f"hf:{folder}{query}")


def test_body_parts_are_those_of_the_library(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.sapiens2_parts, tmp_path)
    processor, model = library(folder, "Sapiens2ForSemanticSegmentation")
    for picture, label in labels_of(loaded(f"hf:{folder}"), pictures):
        output = outputs_of(model, processor(images=Image.fromarray(picture), return_tensors="pt"))
        (classes,) = processor.post_process_semantic_segmentation(output, [picture.shape[:2]])
        agree(label, np.where(classes == VOID, -1, classes), void=True)
        assert len(classes.unique()) > 2


def test_classes_of_padded_pictures_are_refused(tmp_path: Path) -> None:
    folder = save(lambda: newer.sapiens2("Parts", 5, do_pad=True), tmp_path)
    with pytest.raises(ExpertError, match=r"does not remove the padding.*set do_pad to false"):
        experts.create(f"hf:{folder}")


# Boxes and instances -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [newer.rf_detr_boxes, newer.lw_detr, newer.deimv2])
def test_boxes_are_those_of_the_library(build: Build, pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(build, tmp_path, 1)
    flat = [picture for batch in pictures for picture in batch]
    theirs = dict(zip(map(id, flat), boxes(folder, flat), strict=True))
    assert len({one[0] for found in theirs.values() for one in found}) > 1
    for picture, label in labels_of(loaded(f"hf:{folder}?threshold=0.3"), pictures):
        agree(label, theirs[id(picture)], void=True)


def test_instances_are_those_of_the_library(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.rf_detr_instances, tmp_path, 1)
    processor, model = library(folder, "RfDetrForInstanceSegmentation")
    count = 0
    for picture, label in labels_of(loaded(f"hf:{folder}?threshold=0.3"), pictures):
        output, size = (
            outputs_of(model, processor(images=Image.fromarray(picture), return_tensors="pt")),
            [picture.shape[:2]],
        )
        (found,) = processor.post_process_object_detection(output, threshold=0.3, target_sizes=size)
        (parts,) = processor.post_process_instance_segmentation(
            output, threshold=0.3, target_sizes=size, return_binary_maps=True
        )
        kept = [round(score, 6) in {part["score"] for part in parts["segments_info"]} for score in
                found["scores"].tolist()]  # fmt: skip
        theirs = cut(picture, found["labels"][kept], found["scores"][kept], found["boxes"][kept])
        assert len(theirs) == len(parts["segmentation"])
        theirs = [(*one[:3], mask.numpy()) for one, mask in zip(theirs, parts["segmentation"], strict=True)]
        agree(label, theirs, void=True)
        count += len(theirs)
    assert count > 8


def test_a_box_with_an_empty_mask_is_left_out_and_the_others_keep_theirs(tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(newer.rf_detr_instances, tmp_path)}?threshold=0.5&floor=0.2")
    logits, masks = torch.full((1, 4, len(NAMES)), -9.0), torch.full((1, 4, 8, 8), -1.0)
    for query, (kind, logit) in enumerate(((3, 3.0), (3, 2.0), (4, 1.0), (1, -1.0))):
        logits[0, query, kind] = logit
        if query != 1:
            masks[0, query, 2 * query : 2 * query + 2] = 1.0
    centers = torch.tensor([[[0.5, 0.125 + 0.25 * query, 1.0, 0.25] for query in range(4)]])
    output = RfDetrInstanceSegmentationOutput(logits=logits, pred_boxes=centers, pred_masks=masks)
    label = expert.postprocessor.label(expert._processor, output, Frame((80, 40), (80, 40)), ())
    assert label.ids.tolist() == [3, 4, 1]
    assert label.boxes.tolist() == [[0, 0, 40, 20], [0, 40, 40, 60], [0, 60, 40, 80]]
    assert label.ignored.tolist() == [False, False, True]
    padded = expert.postprocessor.label(expert._processor, output, Frame((80, 40), (100.0, 50.0)), ())
    np.testing.assert_allclose(padded.boxes, [[0, 0, 40, 25], [0, 50, 40, 75], [0, 75, 40, 80]], atol=1e-4)
    assert [rle.decode(text, (80, 40)).shape for text in padded.masks] == [(80, 40)] * 3
    for text, (top, bottom) in zip(label.masks, ((0, 20), (40, 60), (60, 80)), strict=True):
        rows = np.flatnonzero(rle.decode(text, (80, 40)).any(1))
        assert (rows[0], rows[-1] + 1) == pytest.approx((top, bottom), abs=5)


# Prompts -----------------------------------------------------------------------------------------------------


def test_boxes_of_named_classes_are_those_of_the_library(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.omdet_turbo, tmp_path)
    processor, model = library(folder, "OmDetTurboForObjectDetection", "AutoProcessor")
    count = 0
    for picture, label in labels_of(loaded(f"hf:{folder}?{ASKED}&threshold=0.3"), pictures):
        inputs = processor(images=Image.fromarray(picture), text=list(PROMPTS), return_tensors="pt")
        (found,) = processor.post_process_grounded_object_detection(
            outputs_of(model, inputs), text_labels=list(PROMPTS), threshold=0.3, target_sizes=[picture.shape[:2]]
        )
        kinds = [PROMPTS.index(name) for name in found["text_labels"]]
        agree(label, cut(picture, kinds, found["scores"], found["boxes"]), void=False)
        count += len(kinds)
    assert count > 8


def test_instances_of_concepts_are_those_of_the_library(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.sam3, tmp_path)
    processor, model = library(folder, "Sam3Model", "Sam3Processor")
    count = 0
    for picture, label in labels_of(loaded(f"hf:{folder}?{ASKED}&threshold={LOW}"), pictures):
        theirs = []
        for kind, name in enumerate(PROMPTS):
            inputs = processor(images=Image.fromarray(picture), text=name, return_tensors="pt")
            (found,) = processor.post_process_instance_segmentation(
                outputs_of(model, inputs), threshold=LOW, target_sizes=[picture.shape[:2]]
            )
            places = cut(picture, [kind] * len(found["scores"]), found["scores"], found["boxes"])
            theirs += [(*one[:3], mask.numpy() > 0) for one, mask in zip(places, found["masks"], strict=True)]
        agree(label, theirs, void=False)
        count += len(theirs)
    assert count > 8


LOW = 0.2


def test_the_detector_of_a_model_of_videos_is_read(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.sam3_video, tmp_path)
    expert = loaded(f"hf:{folder}?{ASKED}&threshold=0.1")
    whole = t.Sam3VideoModel.from_pretrained(folder).detector_model.state_dict()
    own = expert.module.state_dict()
    assert type(expert.module).__name__ == "Sam3Model"
    assert all(torch.equal(own[name], whole[name]) for name in own)
    assert expert.predict(pictures[0])[0].masks


@pytest.mark.parametrize("build", [newer.omdet_turbo, newer.sam3])
def test_captions_choose_what_is_searched_for(build: Build, pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(build, tmp_path)
    every = loaded(f"hf:{folder}?{ASKED}&threshold=0.1")
    expert = loaded(f"hf:{folder}?{ASKED}&threshold=0.1&prompts=caption")
    captions = ("a sofa and two lamps", "nothing of that")
    inputs = [ExpertInput("", picture, caption) for picture, caption in zip(pictures[0], captions, strict=True)]
    named, none = expert.predict_inputs(inputs)
    assert named.asked.tolist() == [2, 4]
    assert set(named.ids.tolist()) <= {2, 4}
    assert (none.asked.tolist(), none.ignored.tolist()) == ([], [True])
    if build is newer.sam3:  # a concept is searched for alone, so that the others make no difference
        (whole,) = every.predict([pictures[0][0]])
        of = np.isin(whole.ids, [2, 4])
        np.testing.assert_allclose(named.scores, whole.scores[of], atol=1e-5)


@pytest.mark.parametrize(("build", "limit"), [(newer.omdet_turbo, 77), (newer.sam3, 32)])
def test_names_that_a_model_would_cut_are_refused(build: Build, limit: int, tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match=f"has 92 tokens, but .* takes at most {limit}: shorten it"):
        loaded(f"hf:{save(build, tmp_path)}?classes=sofa,{'+'.join(['lamp'] * 90)}")


# Edges of masks ----------------------------------------------------------------------------------------------

GRID: dict[str, Any] = {"points_per_crop": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


@pytest.mark.parametrize("build", [newer.sam, newer.sam_hq, newer.sam2, newer.sam3_tracker])
def test_edges_are_the_borders_of_the_masks_of_the_library(
    build: Build, pictures: list[Pictures], tmp_path: Path
) -> None:
    folder = save(build, tmp_path)
    processor, model = library(folder, "AutoModelForMaskGeneration")
    pipeline = t.pipeline("mask-generation", model, image_processor=processor, device="cpu")
    expert = loaded(f"hf:{folder}?points=4&quality=0&stability=0")
    borders = 0
    for picture, label in labels_of(expert, pictures):
        found = pipeline(Image.fromarray(picture), **GRID)
        theirs = np.zeros(picture.shape[:2], np.float32)
        for mask, score in zip(found["masks"], found["scores"].tolist(), strict=True):
            mask = np.asarray(mask, np.bool_)
            border = mask & ~ndimage.binary_erosion(mask, border_value=1)
            theirs = np.where(border, np.maximum(theirs, np.clip(score, 0, 1)), theirs)
        assert label.valid.all()
        np.testing.assert_allclose(label.values, theirs, atol=1e-5)
        borders += np.count_nonzero(theirs)
    assert borders > 20


def test_a_picture_without_masks_is_a_failure_with_its_reason(pictures: list[Pictures], tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(newer.sam, tmp_path)}?points=2&quality=1")
    with pytest.raises(
        SampleError, match=r"no mask has a quality above 1\.0 and a stability above 0\.95: give smaller"
    ):
        expert.predict(pictures[1])


def test_pictures_without_masks_are_failed_rows_with_the_reason(tmp_path: Path) -> None:
    expert = loaded(f"hf:{save(newer.sam, tmp_path / 'sam')}?points=2&quality=1")
    data = make_dataset(tmp_path / "data", shards=1, count=2)
    with pytest.raises(ClipzooError, match="no mask has a quality above"):
        label_dataset(data, [expert], tmp_path / "out", device="cpu", max_failures=1, check=False, progress=False)
    (column,) = Store(tmp_path / "out").columns()
    details = [failure.detail for _, _, failure in column.failures()]
    assert len(details) == 2
    assert all("no mask has a quality above 1.0" in detail for detail in details)


def test_masks_in_half_precision_are_refused_before_the_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match=r"\?dtype=bfloat16: masks of points need float32.*--precision bf16"):
        experts.create(f"hf:{save(newer.sam, tmp_path)}?dtype=bfloat16")


def test_the_grid_of_points_is_recorded(tmp_path: Path) -> None:
    card = experts.create(f"hf:{save(newer.sam2, tmp_path)}?points=8").card
    assert (card.task, card.preprocessing["points_per_crop"]) == ("edges", 8)
    assert card.preprocessing["pred_iou_thresh"] == 0.88


def test_a_model_of_videos_gives_edges_of_pictures(pictures: list[Pictures], tmp_path: Path) -> None:
    folder = save(newer.sam2_video, tmp_path)
    expert = loaded(f"hf:{folder}?points=4&quality=0&stability=0")
    assert type(expert.module).__name__ == "Sam2Model"
    assert expert.predict(pictures[1])[0].values.any()
