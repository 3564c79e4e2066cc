"""What outputs of Hugging Face models mean: what files tell, what is asked, prompts and the classes they become."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import hf_models as zoo
from clipzoo import experts
from clipzoo.errors import ExpertError
from clipzoo.experts import hf
from clipzoo.experts.base import ExpertInput
from clipzoo.experts.families.hf import family_of
from clipzoo.experts.hf.frame import Frame
from clipzoo.experts.hf.prompts import GroundingPostprocessor
from clipzoo.tasks.detection import Detection
from hf_models import PROMPTS, Build, changed, save
from making import image

NAMED = f"classes={','.join(PROMPTS)}"
METRIC = {"depth_estimation_type": "metric"}
COCO = {0: "person", 1: "dog", 2: "banner", 3: "tree-merged"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A builder's model in a folder of a name, made once."""
    made: dict[str, Path] = {}

    def folder(build: Build, name: str = "model") -> Path:
        if build.__name__ not in made:
            made[build.__name__] = save(build, tmp_path_factory.mktemp(build.__name__) / name)
        return made[build.__name__].rename(made[build.__name__].with_name(name))

    def remembered(build: Build, name: str = "model") -> Path:
        made[build.__name__] = folder(build, name)
        return made[build.__name__]

    return remembered


def card(folder: Path, query: str = "") -> Any:
    return experts.create(f"hf:{folder}{query}").card


# Families ----------------------------------------------------------------------------------------------------


def test_every_row_of_the_table_can_be_read_and_names_its_source() -> None:
    assert len({family.name for family in hf.FAMILIES}) == len(hf.FAMILIES)
    for family in hf.FAMILIES:
        postprocessor = hf.POSTPROCESSORS[family.form]
        assert postprocessor.task == family.task  # for masks, the default
        assert family.gives
        assert "arXiv" in family.source or "github.com" in family.source or family.name.startswith("any other")
        assert not family.seen


@pytest.mark.parametrize(
    ("architecture", "name", "told", "family"),
    [
        ("DPTForDepthEstimation", "Intel/dpt-large", {}, "DPT of Intel (MiDaS 3 and 3.1)"),
        ("DPTForDepthEstimation", "Intel/dpt-hybrid-nyu", {}, "DPT"),
        ("DPTForDepthEstimation", "me/Intel/dpt", {}, "DPT"),
        ("DepthAnythingForDepthEstimation", "x", METRIC, "Depth Anything 2, metric"),
        ("DepthAnythingForDepthEstimation", "x", {}, "Depth Anything 1 and 2"),
        ("PromptDepthAnythingForDepthEstimation", "x", METRIC, "Prompt Depth Anything, metric"),
        ("PromptDepthAnythingForDepthEstimation", "x", {}, "any other …ForDepthEstimation"),
        ("Tipsv2DptForDepthEstimation", "x", {}, "TIPSv2 with a DPT head"),
        ("DepthProForDepthEstimation", "x", {"use_fov_model": True}, "Depth Pro"),
        ("DepthProForDepthEstimation", "x", {}, "Depth Pro without its field of view"),
        ("EomtForUniversalSegmentation", "x", {"do_split_image": True}, "EoMT, semantic"),
        ("EomtDinov3ForUniversalSegmentation", "x", {}, "EoMT"),
        ("Owlv2ForObjectDetection", "x", {}, "OWLv2"),
        ("MMGroundingDinoForObjectDetection", "x", {}, "Grounding DINO"),
        ("TableTransformerForObjectDetection", "x", {}, "any other …ForObjectDetection"),
        ("CHMv2ForDepthEstimation", "x", {}, "any other …ForDepthEstimation"),
    ],
)
def test_the_first_row_that_fits_is_the_family(architecture: str, name: str, told: Any, family: str) -> None:
    assert family_of(architecture, name, told).name == family


@pytest.mark.parametrize(
    ("architecture", "name", "reason"),
    [
        ("DepthAnything3ForDepthEstimation", "me/model", "transformers 5.24 has no Depth Anything 3"),
        ("none", "depth-anything/DA3-LARGE", "transformers 5.24 has no Depth Anything 3"),
        ("none", "folder", "transformers 5.24 has no Depth Anything 3"),
        ("Sapiens2ForPoseEstimation", "facebook/sapiens2-pose-0.4b", "are no labels of clipzoo"),
        ("Sapiens2ForPointmapEstimation", "facebook/sapiens2-pointmap-0.4b", "are no labels of clipzoo"),
    ],
)
def test_models_that_cannot_give_labels_are_refused_by_name(architecture: str, name: str, reason: str) -> None:
    with pytest.raises(ExpertError, match=f"{name}: .*{reason}"):
        family_of(architecture, name, {"model_name": "da3-large"} if name == "folder" else {})
    assert family_of("DepthAnythingForDepthEstimation", "depth-anything/Depth-Anything-V2-Small-hf", {})


def test_a_config_that_tells_the_kind_of_depth_is_not_asked_for_it(folders: Any) -> None:
    told = card(folders(zoo.prompt_depth_anything)).convention
    assert (told.kind, told.along) == ("metric", "z")


# Masks: what they were trained to be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "name", "query", "task", "mode"),
    [
        (zoo.mask2former, "mask2former-tiny-ade-semantic", "", "segmentation", "semantic"),
        (zoo.mask2former, "mask2former-tiny-coco-instance", "", "detection", "instance"),
        (zoo.mask2former, "coco_panoptic_tiny", "", "segmentation", "panoptic"),
        (zoo.mask2former, "coco_panoptic_tiny", "?mode=instance", "detection", "instance"),
        (zoo.mask2former, "coco_panoptic_tiny", "?task=detection&things=1,3-4", "detection", "panoptic"),
        (zoo.eomt_semantic, "model", "", "segmentation", "semantic"),
        (zoo.detr_panoptic, "model", "", "segmentation", "panoptic"),
        (zoo.oneformer, "model", "", "segmentation", "semantic"),
        (zoo.oneformer, "model", "?task=detection", "detection", "instance"),
        (zoo.oneformer, "model", "?mode=panoptic&task=detection", "detection", "panoptic"),
    ],
)
def test_what_masks_are(build: Build, name: str, query: str, task: str, mode: str, folders: Any) -> None:
    found = card(folders(build, name), query)
    assert (found.task, found.preprocessing["mode"]) == (task, mode)
    assert ("threshold" in found.preprocessing) == (mode != "semantic")
    if query.endswith("things=1,3-4"):
        assert found.preprocessing["things"] == (1, 3, 4)
    assert json.dumps(found.to_json())


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("model", "", r"trained to be\? Its files do not say.*\?mode=semantic"),
        ("semantic-or-panoptic", "", r"trained to be\?"),
        ("nonsemantics", "", r"trained to be\?"),
        ("model", "?mode=thing", r"\?mode=thing: the value must be one of semantic, instance, panoptic"),
        ("semantic", "?task=detection", r"are semantic, which gives labels of segmentation only"),
        ("instance", "?task=segmentation", r"are instance, which gives labels of detection only"),
        ("panoptic", "?task=detection", r"which of the 5 classes.*are objects.*\?things="),
        ("panoptic", "?task=detection&things=3-9", r"'3-9' is no id or range of ids below 5"),
        ("panoptic", "?task=detection&things=3-1", r"'3-1' is no id or range of ids below 5"),
        ("panoptic", "?threshold=2", "a score from 0 to 1"),
        ("panoptic", "?threshold=nan", "a score from 0 to 1"),
        (
            "panoptic",
            "?kind=metric",
            "does not apply to.*of the family Mask2Former.*this family: task, mode",
        ),
    ],
)
def test_what_files_leave_open_is_asked(name: str, query: str, message: str, folders: Any) -> None:
    with pytest.raises(ExpertError, match=message):
        card(folders(zoo.mask2former, name), query)


def test_coco_tells_its_things_by_name(tmp_path: Path) -> None:
    folder = save(zoo.mask2former, tmp_path / "model")
    changed(folder, id2label=COCO)
    assert card(folder).preprocessing["mode"] == "panoptic"
    assert card(folder, "?task=detection").preprocessing["things"] == (0, 1)


def test_oneformers_processor_tells_its_things(folders: Any) -> None:
    assert card(folders(zoo.oneformer), "?mode=panoptic&task=detection").preprocessing["things"] == (3, 4)


def test_oneformer_fetches_no_names_of_classes(tmp_path: Path) -> None:
    """Published processors name a file of another repository of the hub, which only training needs."""
    folder = save(zoo.oneformer, tmp_path)
    path = folder / "processor_config.json"
    values = json.loads(path.read_text())
    values["image_processor"]["class_info_file"] = "ade20k_panoptic.json"
    path.write_text(json.dumps(values))
    for query in ("", "?task=detection"):
        expert = experts.create(f"hf:{folder}{query}")
        expert.load()
        assert expert.predict([image(0)])


# Boxes -------------------------------------------------------------------------------------------------------


def test_boxes_between_floor_and_threshold_are_ignored(folders: Any) -> None:
    def label(query: str) -> Detection:
        expert = experts.create(f"hf:{folders(zoo.yolos)}{query}")
        expert.load()
        (found,) = expert.predict([image(0, (58, 83))])
        return found

    low = label("?threshold=0.2")
    middle = float(np.median(low.scores))
    high, both = label(f"?threshold={middle}"), label(f"?threshold={middle}&floor=0.2")
    assert 0 < len(high.ids) < len(low.ids)
    assert np.array_equal(both.boxes, low.boxes)
    void = low.ids == 2
    assert void.any()
    assert np.array_equal(low.ignored, void)
    assert np.array_equal(both.ignored, void | (both.scores <= middle))
    assert card(folders(zoo.yolos), "?threshold=0.6&floor=0.2").preprocessing["floor"] == 0.2
    with pytest.raises(ExpertError, match=r"floor=0\.7 is above the threshold 0\.6"):
        card(folders(zoo.yolos), "?threshold=0.6&floor=0.7")


# Prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", r"add \?classes=FILE"),
        ("?classes=nowhere.txt", "No such file"),
        ("?classes=a,,b", "a class has no name"),
        ("?classes=Dog,cat,dog", "names 'Dog' twice"),
        (f"?{NAMED}&prompts=captions", "one of all, caption"),
    ],
)
def test_what_to_find_has_to_be_told(query: str, message: str, folders: Any) -> None:
    with pytest.raises(ExpertError, match=message):
        card(folders(zoo.owlv2), query)


def test_names_come_from_a_file_and_are_the_label_space(folders: Any, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(PROMPTS) + "\n")
    for query in (f"?classes={tmp_path}/names.txt", f"?classes=@{tmp_path}/names.txt", f"?{NAMED}"):
        found = card(folders(zoo.owlv2), query)
        assert found.convention.classes == PROMPTS
        assert (found.preprocessing["threshold"], found.preprocessing["prompts"]) == (0.1, "all")


def test_names_that_are_too_long_are_told(folders: Any) -> None:
    for build, message in ((zoo.owlv2, "the name 'chair .* has 22 tokens"), (zoo.grounding_dino, "have 44 tokens tog")):
        names = "chair " * 20 if build is zoo.owlv2 else ",".join(f"{word} chair lamp" for word in "abcdefghik")
        with pytest.raises(ExpertError, match=message):
            experts.create(f"hf:{folders(build)}?classes=sofa,{names.strip()}").load()
    experts.create(f"hf:{folders(zoo.grounding_dino)}?prompts=caption&classes=sofa,{names}").load()


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("A Dog and two hot-dogs", ("dog", "hot dog")),
        ("a hot dog", ("hot dog",)),
        ("three berries, boxes", ("box", "berry")),
        ("dogma; doghouse; underdog", ()),
        ("a traffic  light", ("traffic_light",)),
        ("", ()),
        ("dog(s), dog!", ("dog",)),
    ],
)
def test_names_in_captions(caption: str, found: tuple[str, ...], folders: Any) -> None:
    names = ("dog", "box", "berry", "hot dog", "traffic_light")
    postprocessor = experts.create(f"hf:{folders(zoo.owlv2)}?prompts=caption&classes={','.join(names)}").postprocessor
    assert postprocessor.query(caption) == (tuple(sorted(names.index(name) for name in found)) or None)


@pytest.mark.parametrize("build", [zoo.owlv2, zoo.grounding_dino], ids=lambda build: build.__name__)
def test_captions_choose_the_prompts(build: Build, folders: Any) -> None:
    """A sample is asked what a detector of only these names is asked; one without names says nothing."""
    folder, pictures = folders(build), [image(i, (58, 83)) for i in range(4)]
    captions = ("a sofa and two table lamps", "nothing", "Lamps!", "a table lamp; a sofa")
    expert = experts.create(f"hf:{folder}?prompts=caption&threshold=0.2&{NAMED}")
    expert.load()
    assert expert.needs_sample
    with pytest.raises(ExpertError, match="from captions"):
        expert.predict(pictures)
    labels = expert.predict_inputs([ExpertInput("", *both) for both in zip(pictures, captions, strict=True)])
    for names, rows in ((("table lamp", "sofa"), (0, 3)), (("lamp",), (2,))):
        plain = experts.create(f"hf:{folder}?threshold=0.2&classes={','.join(names)}")
        plain.load()
        for row, theirs in zip(rows, plain.predict([pictures[row] for row in rows]), strict=True):
            assert len(theirs.ids)
            assert labels[row].ids.tolist() == [PROMPTS.index(names[i]) for i in theirs.ids]
            assert (theirs.asked, set(labels[row].asked)) == (None, {PROMPTS.index(name) for name in names})
            np.testing.assert_allclose(labels[row].boxes, theirs.boxes, atol=1 / 256)
            np.testing.assert_allclose(labels[row].scores, theirs.scores, atol=1e-5)
    assert not labels[1].valid.any()
    assert labels[1].asked.tolist() == [], "nothing was looked for"
    assert labels[1].confidence is None


def test_a_box_is_of_the_class_of_its_surest_token(folders: Any) -> None:
    """Where the library's phrases are halves of names, or of several."""
    expert = experts.create(f"hf:{folders(zoo.grounding_dino)}?{NAMED}")
    expert.load()
    words = ["chair", ".", "table", "lamp", ".", "lamp", ".", "pic", "##ture", "frame", ".", "sofa", "."]
    text = ["[CLS]", *words, "[SEP]"]
    sure = [
        {"chair": 0.6, "sofa": 0.7},
        {"##ture": 0.8},
        {"table": 0.3, "lamp": 0.4},
        {".": 0.9, "[SEP]": 0.9, "frame": 0.3},
        {".": 0.9, "chair": 0.2},
    ]
    logits = torch.full((1, len(sure) + 1, 32), -20.0)
    for row, scores in enumerate(sure):
        for word, score in scores.items():
            logits[0, row, text.index(word)] = float(np.log(score / (1 - score)))
    logits[0, -1, 6] = 3.0  # the second lamp, which is a name of its own
    ids = torch.tensor(
        [expert._processor.tokenizer(expert.postprocessor.text(tuple(range(5)), 1)["text"][0])["input_ids"]]
    )
    assert expert._processor.tokenizer.convert_ids_to_tokens(ids[0].tolist()) == text
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4]]]).repeat(1, len(logits[0]), 1)
    output = SimpleNamespace(logits=logits, pred_boxes=boxes, input_ids=ids)
    assert isinstance(expert.postprocessor, GroundingPostprocessor)
    frame = Frame((100, 100), (100, 100))
    label = expert.postprocessor.label(expert._processor, output, frame, tuple(range(5)))
    assert [PROMPTS[i] for i in label.ids] == ["sofa", "picture frame", "table lamp", "picture frame", "lamp"]
    np.testing.assert_allclose(label.scores[:-1], [0.7, 0.8, 0.4, 0.3], atol=1e-5)
