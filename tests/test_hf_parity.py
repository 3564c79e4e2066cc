"""Every family of Hugging Face transformers: labels are those of the library's own pipeline or post-processing.

Models are tiny, of the same architecture, with random weights. Several odd sizes of image; a batch is as one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

import hf_models as zoo
from clipzoo import experts, locations, tasks
from clipzoo.readers import open_dataset
from clipzoo.tasks import rle
from clipzoo.tasks.detection import Detection
from clipzoo.tasks.segmentation import Segmentation
from clipzoo.types import ImageArray, View, decode_image
from hf_models import NAMES, PROMPTS, Build, save

SIZES = ((58, 83), (97, 41), (33, 64))
VOID = 2
"""The class of `NAMES` that means 'not known'."""

Found = list[tuple[int, float, tuple[float, ...], Any]]
"""Class, score, box and mask of objects, in their order."""

Pictures = Sequence[ImageArray]
Reference = Callable[[Path, Pictures], list[Any]]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    yield
    t.utils.logging.set_verbosity_warning()
    t.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[list[ImageArray]]:
    """Of furnished rooms: two of the first of `SIZES`, one of each other."""
    folder = Path(locations.resolve("demo:test", tmp_path_factory.mktemp("rooms")))
    reader = open_dataset(str(folder / "images"))
    images = [decode_image(reader.read(entry).image) for entry in reader.index(reader.shards[0])[:2]]
    return [
        [View((0, 0.1, 1, 0.8), size).image(image) for image in images[: 2 if size == SIZES[0] else 1]]
        for size in SIZES
    ]


# What the library gives --------------------------------------------------------------------------------------


def made(task: str, folder: Path) -> Any:
    """A pipeline that is handed the model, as some releases of the library fail at loading one for it."""
    kind = getattr(t, t.AutoConfig.from_pretrained(folder).architectures[0])
    reads = t.AutoProcessor if (folder / "tokenizer_config.json").exists() else t.AutoImageProcessor
    processor = reads.from_pretrained(folder)
    parts = {"image_processor": processor}
    if reads is t.AutoProcessor:
        parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    return t.pipeline(task, kind.from_pretrained(folder), **parts, device="cpu")


def depth(folder: Path, pictures: Pictures) -> list[Any]:
    pipeline = made("depth-estimation", folder)
    with np.errstate(invalid="ignore"):  # it divides by the range for a picture that is not looked at
        return [pipeline(Image.fromarray(picture))["predicted_depth"].numpy() for picture in pictures]


def depth_without_pipeline(folder: Path, pictures: Pictures) -> list[Any]:
    """By the processor alone: the pipeline fails at a Depth Pro that has no field of view."""
    outputs = run(folder, pictures, "AutoModelForDepthEstimation")
    return [
        processor.post_process_depth_estimation(output, [picture.shape[:2]])[0]["predicted_depth"].numpy()
        for picture, (processor, _, output) in zip(pictures, outputs, strict=True)
    ]


def parts(folder: Path, pictures: Pictures, **options: Any) -> Iterator[list[tuple[int, float, Any]]]:
    """Class, score and mask of what the pipeline finds in each picture."""
    pipeline = made("image-segmentation", folder)
    names = {name: i for i, name in NAMES.items()}
    for picture in pictures:
        found = pipeline(Image.fromarray(picture), **options)
        yield [(names[part["label"]], part["score"], np.asarray(part["mask"]) > 0) for part in found]


def held(folder: Path, pictures: Pictures) -> Iterator[Any]:
    """Which pixels are in the mask that is surest of them: the library gives the others to it as well, but EoMT's."""
    texts = {"task_inputs": ["panoptic"]} if "oneformer" in str(folder) else {}
    outputs = run(folder, pictures, "AutoModelForUniversalSegmentation", **texts)
    for picture, (_, _, output) in zip(pictures, outputs, strict=True):
        best, own = np.zeros(picture.shape[:2]), np.ones(picture.shape[:2])
        logits = output.logits if "detr" in folder.name else output.class_queries_logits
        masks = output.pred_masks if "detr" in folder.name else output.masks_queries_logits
        for shares, mask in zip(logits[0].softmax(-1), masks[0], strict=True):
            score, kind = shares.max(0)
            if score > 0.3 and kind < len(shares) - 1 and "eomt" not in folder.name:
                grown = torch.nn.functional.interpolate(mask.sigmoid()[None, None], best.shape, mode="bilinear")[0, 0]
                wins = (weighed := float(score) * grown.numpy()) > best
                best, own = np.where(wins, weighed, best), np.where(wins, grown, own)
        yield own >= 0.5


def classes(folder: Path, pictures: Pictures, **options: Any) -> list[Any]:
    """The class of every pixel; -1 where none is found, or void."""
    maps = []
    found = parts(folder, pictures, **{"subtask": "semantic", **options})
    for picture, segments in zip(pictures, found, strict=True):
        maps.append(np.full(picture.shape[:2], -1))
        for kind, _, mask in segments:
            maps[-1][mask] = -1 if kind == VOID else kind
    return maps


PANOPTIC = {"subtask": "panoptic", "threshold": 0.3, "overlap_mask_area_threshold": 0.8}


def panoptic(folder: Path, pictures: Pictures) -> list[Any]:
    both = zip(classes(folder, pictures, **PANOPTIC), held(folder, pictures), strict=True)
    return [np.where(inside, ids, -1) for ids, inside in both]


def things(folder: Path, pictures: Pictures) -> list[Found]:
    both = zip(parts(folder, pictures, **PANOPTIC), held(folder, pictures), strict=True)
    return [
        boxed((kind, score, mask & inside) for kind, score, mask in found if kind in (3, 4)) for found, inside in both
    ]


def boxed(found: Any) -> Found:
    """Class, score, mask with the mask's box."""
    objects = []
    for kind, score, mask in found:
        rows, columns = np.nonzero(mask)
        if len(rows):
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            objects.append((kind, score, box, np.asarray(mask)))
    return objects


@torch.inference_mode()
def run(folder: Path, pictures: Pictures, auto: str, **texts: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The processor, its inputs and the model's outputs of each picture."""
    kind = t.AutoProcessor if texts else t.AutoImageProcessor
    processor = kind.from_pretrained(folder, **({"class_info_file": ""} if "task_inputs" in texts else {}))
    model = getattr(t, auto).from_pretrained(folder).eval()
    for picture in pictures:
        inputs = processor(images=Image.fromarray(picture), return_tensors="pt", **texts)
        yield processor, inputs, model(**inputs)


def instances(folder: Path, pictures: Pictures) -> list[Found]:
    texts = {"task_inputs": ["instance"]} if "oneformer" in str(folder) else {}
    apart = {"return_binary_maps": True} if folder.name in ("maskformer", "mask2former") else {}
    objects = []
    outputs = run(folder, pictures, "AutoModelForUniversalSegmentation", **texts)
    for picture, (processor, _, output) in zip(pictures, outputs, strict=True):
        found = processor.post_process_instance_segmentation(
            output, threshold=0.3, target_sizes=[picture.shape[:2]], **apart
        )[0]
        maps, infos = found["segmentation"].numpy(), found["segments_info"]
        masks = [maps[i] > 0 if apart else maps == info["id"] for i, info in enumerate(infos)]
        if "detr" in folder.name:
            inside = next(held(folder, [picture]))
            masks = [mask & inside for mask in masks]
        objects.append(boxed((info["label_id"], info["score"], mask) for info, mask in zip(infos, masks, strict=True)))
    return objects


def boxes(folder: Path, pictures: Pictures) -> list[Found]:
    pipeline = made("object-detection", folder)
    objects = []
    outputs = run(folder, pictures, "AutoModelForObjectDetection")
    for picture, (processor, _, output) in zip(pictures, outputs, strict=True):
        found = processor.post_process_object_detection(output, threshold=0.3, target_sizes=[picture.shape[:2]])[0]
        whole = pipeline(Image.fromarray(picture), threshold=0.3)
        corners = [[part["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for part in whole]
        assert corners == found["boxes"].int().tolist()  # the pipeline rounds
        objects.append(cut(picture, found["labels"], found["scores"], found["boxes"]))
    return objects


def owl(folder: Path, pictures: Pictures) -> list[Found]:
    texts = [list(PROMPTS)]
    objects = []
    outputs = run(folder, pictures, "AutoModelForZeroShotObjectDetection", text=texts)
    for picture, (processor, _, output) in zip(pictures, outputs, strict=True):
        found = processor.post_process_grounded_object_detection(
            output, threshold=0.3, target_sizes=[picture.shape[:2]], text_labels=texts
        )[0]
        kinds = [PROMPTS.index(name) for name in found["text_labels"]]
        objects.append(cut(picture, kinds, found["scores"], found["boxes"]))
    return objects


def grounding(folder: Path, pictures: Pictures) -> list[Found]:
    """Boxes of the library, classes by counting the full stops before the surest word."""
    objects = []
    outputs = run(folder, pictures, "AutoModelForZeroShotObjectDetection", text=[list(PROMPTS)])
    for picture, (processor, inputs, output) in zip(pictures, outputs, strict=True):
        everything = processor.post_process_grounded_object_detection(
            output, threshold=0, target_sizes=[picture.shape[:2]]
        )[0]
        words = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
        places = {i: words[:i].count(".") for i, word in enumerate(words) if word not in ("[CLS]", "[SEP]", ".")}
        assert max(places.values()) == len(PROMPTS) - 1
        scores, best = output.logits[0].sigmoid()[:, list(places)].max(-1)
        kept = scores > 0.3
        kinds = [list(places.values())[i] for i in best[kept].tolist()]
        objects.append(cut(picture, kinds, scores[kept], everything["boxes"][kept]))
    return objects


def cut(picture: ImageArray, kinds: Any, scores: Any, corners: Any) -> Found:
    """Boxes cut to the picture; those outside of it left out."""
    H, W = picture.shape[:2]
    found = []
    for kind, score, box in zip(kinds, scores, np.clip(corners.numpy(), 0, [W, H, W, H]).tolist(), strict=True):
        if box[2] - box[0] > 1 / 256 and box[3] - box[1] > 1 / 256:
            found.append((int(kind), float(score), tuple(box), None))
    return found


# The same ----------------------------------------------------------------------------------------------------


def agree(label: Any, theirs: Any, void: bool) -> None:
    """Assert that a label says what the library does; ``void`` if `VOID` is in the label space."""
    if isinstance(label, Detection):
        ids, scores, corners, masks = zip(*theirs, strict=True) if theirs else ((), (), np.zeros((0, 4)), ())
        assert label.ids.tolist() == list(ids)
        np.testing.assert_allclose(label.scores, scores, atol=1e-5)
        np.testing.assert_allclose(label.boxes, corners, atol=1 / 256)
        assert label.ignored.tolist() == [void and kind == VOID for kind in ids]
        if theirs and masks[0] is not None:
            for text, mask in zip(label.masks or (), masks, strict=True):
                assert np.mean(rle.decode(text, label.size) == mask) > 0.999
    elif isinstance(label, Segmentation):
        assert label.valid.shape == theirs.shape
        assert (
            np.mean(np.where(label.valid, label.ids.astype(int), -1) == theirs) > 0.999
        )  # ties fall another way in a batch
    else:
        assert label.values.shape == theirs.shape
        known = theirs > 0 if label.kind == "metric" else np.isfinite(theirs)
        assert np.array_equal(label.valid, known)
        ours, theirs = label.values[known], theirs[known]
        if label.kind == "metric":  # as Depth Pro predicts it: far away a digit of the inverse is many meters
            ours, theirs = 1 / ours, 1 / theirs
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def says_something(theirs: list[Any]) -> bool:
    """Whether what the library gives for several pictures can tell a right label from a wrong one."""
    if isinstance(theirs[0], list):
        objects = [one for found in theirs for one in found]
        return len(objects) > 1 and (objects[0][3] is not None or len({one[0] for one in objects}) > 1)
    if theirs[0].dtype.kind == "f":
        return all(np.ptp(found) > 1e-3 for found in theirs)
    return len(np.unique(np.concatenate([found.ravel() for found in theirs]))) > 1


def case(build: Build, reference: Reference, query: str = "") -> Any:
    name = f"{build.__name__}-{reference.__name__}"
    return pytest.param(build, reference, query, id=name, marks=[] if name in QUICK else [pytest.mark.slow])


SEEDS = {
    "depth_pro-depth": 1, "maskformer-classes": 1, "maskformer-things": 6, "mask2former-panoptic": 2,
    "mask2former-things": 6, "oneformer-panoptic": 2, "eomt-panoptic": 1, "eomt-things": 10,
    "detr_panoptic-panoptic": 2, "oneformer-things": 3, "oneformer-instances": 3, "detr-boxes": 1, "rt_detr-boxes": 5,
    "rt_detr_v2-boxes": 8,
}  # fmt: skip
"""Where random models that see something are found at once; the search begins at 0 elsewhere."""

QUICK = {
    "dpt-depth", "depth_anything-depth", "glpn-depth", "depth_pro-depth", "segformer-classes", "upernet-classes",
    "mask2former-classes", "eomt_semantic-classes", "oneformer-panoptic", "eomt-things", "maskformer-instances",
    "detr-boxes", "yolos-boxes", "rt_detr-boxes", "owlv2-owl", "grounding_dino-grounding",
}  # fmt: skip
"""A case of every form of output; the others are slow ones."""

ASKED = f"?classes={','.join(PROMPTS)}&threshold=0.3"
CASES = [
    case(zoo.dpt, depth, "?kind=affine-disparity"),
    *(case(build, depth) for build in (zoo.depth_anything, zoo.depth_anything_metric, zoo.prompt_depth_anything)),
    *(case(build, depth) for build in (zoo.zoedepth, zoo.glpn)),
    case(zoo.depth_pro, depth),
    case(zoo.depth_pro_without_fov, depth_without_pipeline),
    *(case(build, classes) for build in (zoo.segformer, zoo.beit_segmentation, zoo.upernet, zoo.dpt_segmentation)),
    *(case(build, classes, "?mode=semantic") for build in (zoo.maskformer, zoo.mask2former, zoo.oneformer)),
    case(zoo.eomt_semantic, classes),
    *(
        case(build, reference, f"?mode={mode}&threshold=0.3{more}")
        for build in (zoo.maskformer, zoo.mask2former, zoo.oneformer, zoo.eomt, zoo.eomt_dinov3, zoo.detr_panoptic)
        for reference, mode, more in (
            (panoptic, "panoptic", ""),
            (things, "panoptic", "&task=detection&things=3-4"),
            (instances, "instance", ""),
        )
    ),
    *(
        case(build, boxes, "?threshold=0.3")
        for build in (
            zoo.detr, zoo.conditional_detr, zoo.deformable_detr, zoo.rt_detr, zoo.rt_detr_v2, zoo.d_fine, zoo.yolos
        )
    ),
    *(case(build, owl, ASKED) for build in (zoo.owlvit, zoo.owlv2)),
    *(case(build, grounding, ASKED) for build in (zoo.grounding_dino, zoo.mm_grounding_dino)),
]  # fmt: skip


@pytest.mark.parametrize(("build", "reference", "query"), CASES)
def test_labels_are_those_of_the_library(
    build: Build, reference: Reference, query: str, pictures: list[list[ImageArray]], tmp_path: Path
) -> None:
    flat = [picture for same_size in pictures for picture in same_size]
    first = SEEDS.get(f"{build.__name__}-{reference.__name__}", 0)
    for seed in range(first, first + 12):
        folder = save(build, tmp_path / build.__name__, seed)
        theirs = reference(folder, flat)
        if says_something(theirs):
            break
    else:
        raise AssertionError("no random model sees anything")
    expert = experts.create(f"hf:{folder}{query}")
    expert.load()
    void = "void" in expert.card.convention.classes
    labels = [label for same_size in pictures for label in expert.predict(same_size)]
    alone = [label for picture in flat for label in expert.predict([picture])]
    for label, single, found in zip(labels, alone, theirs, strict=True):
        tasks.get(expert.card.task).check(label, expert.card.convention)
        agree(single, found, void)
        agree(label, found, void)
