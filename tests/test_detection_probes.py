"""Detection presets: FCOS and Mask R-CNN of torchvision on a simple feature pyramid, and their metrics."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from clipzoo import encoders, probing, tasks
from clipzoo.benchmarks import open_benchmark
from clipzoo.cli import app
from clipzoo.errors import ClipzooError, LabelError
from clipzoo.evaluation.measure import Scored, metric_of
from clipzoo.probing import Preset, ProbeJob
from clipzoo.probing._engine import training
from clipzoo.probing._engine.detector import DetectorModule, Pyramid
from clipzoo.probing._engine.pictures import augmented
from clipzoo.probing.base import Detector
from clipzoo.tasks import rle
from clipzoo.tasks.base import Convention
from clipzoo.tasks.detection import Detection
from test_encoders import models  # noqa: F401

TWO = Convention(("cat", "dog"))
NAMES = ("aeroplane", "sheep")
TINY = Preset(
    "detection", "these tests", (64, 64), 4, 2e-3, 0.0, 0.1, 6, norm=True, test="pad", long_side=(48, 96),
    detector=Detector("fcos", 64), metrics=("voc",),
)  # fmt: skip


def drawn(seed: int) -> tuple[np.ndarray, list[tuple[int, int, int, int, int]]]:
    """Return a dark picture with one bright square, red or green, and its class and inclusive corners from 1."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (48, 64, 3), np.uint8)
    kind, side = int(rng.integers(2)), int(rng.integers(16, 32))
    y, x = int(rng.integers(48 - side)), int(rng.integers(64 - side))
    image[y : y + side, x : x + side, kind] = 255
    return image, [(kind, x + 1, y + 1, x + side, y + side)]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("devkit") / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    keys = [f"2008_{i:06d}" for i in range(16)]
    for i, key in enumerate(keys):
        image, objects = drawn(i)
        Image.fromarray(image).save(root / f"JPEGImages/{key}.jpg", quality=95)
        found = "".join(
            f"<object><name>{NAMES[kind]}</name><difficult>{int(i == 3)}</difficult><bndbox><xmin>{x0}</xmin>"
            f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for kind, x0, y0, x1, y1 in objects
        )
        size = "<size><width>64</width><height>48</height></size>"
        (root / f"Annotations/{key}.xml").write_text(f"<annotation>{size}{found}</annotation>")
    (root / "ImageSets/Main/train.txt").write_text("\n".join(keys[:10]))
    (root / "ImageSets/Main/val.txt").write_text("\n".join(keys[10:]))
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, start in (("train2017", 0), ("val2017", 10)):
        (root / split).mkdir()
        images, objects = [], []
        for i in range(start, start + 6):
            image, found = drawn(i)
            Image.fromarray(image).save(root / split / f"{i:012d}.jpg", quality=95)
            images.append({"id": i, "file_name": f"{i:012d}.jpg", "height": 48, "width": 64})
            for kind, x0, y0, x1, y1 in found:
                x, y, w, h = x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1
                outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                objects.append(
                    {"id": len(objects) + 1, "image_id": i, "category_id": kind + 1, "bbox": [x, y, w, h],
                     "area": w * h, "segmentation": outline, "iscrowd": 0}
                )  # fmt: skip
        categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "toothbrush"}]
        whole = {"images": images, "annotations": objects, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(whole))
    return root


def model(models: Path) -> encoders.Encoder:  # noqa: F811
    return encoders.create(f"timm:local-dir:{models / 'timm'}?size=64&norm=yes")


def job(preset: Preset, models: Path, out: Path, losses: list[float] | None = None) -> ProbeJob:  # noqa: F811
    kept = [] if losses is None else losses
    return ProbeJob(preset, model(models), "x", out, step=lambda done, total, loss: kept.append(loss))


# Metrics ---------------------------------------------------------------------------------------------------


def random_pairs(seed: int, count: int = 12) -> list[tuple[Detection, Detection]]:
    """Detections near the true boxes, some of them double, and true boxes some of which are ignored."""
    rng, pairs = np.random.default_rng(seed), []
    for _ in range(count):
        true = int(rng.integers(0, 6))
        low, side = rng.uniform(0, 50, (true, 2)), rng.uniform(6, 40, (true, 2))
        boxes = np.concatenate([low, np.minimum(low + side, 100)], 1).astype(np.float32).reshape(-1, 4)
        ids = rng.integers(0, 2, true).astype(np.uint16)
        truth = Detection((100, 100), boxes, ids, np.ones(true, np.float32), rng.random(true) < 0.2, masked(boxes))
        near = np.repeat(boxes, 2, 0) + rng.normal(0, 4, (2 * true, 4))
        near = np.concatenate([near, rng.uniform(0, 90, (2, 2)).repeat(2, 1) + [[0, 0, 9, 9]] * 2]).astype(np.float32)
        near = np.clip(near, 0, 100)
        near = near[(near[:, 2:] > near[:, :2] + 1).all(1)]
        kinds = rng.integers(0, 2, len(near)).astype(np.uint16)
        scores = rng.permutation(np.linspace(0.1, 0.9, len(near))).astype(np.float32)
        found = Detection((100, 100), near, kinds, scores, np.zeros(len(near), np.bool_), masked(near))
        pairs.append((found, truth))
    return pairs


def masked(boxes: np.ndarray) -> tuple[str, ...]:
    """Return ellipses that touch the sides of the boxes."""
    y, x = np.mgrid[:100, :100] + 0.5
    masks = []
    for x0, y0, x1, y1 in boxes.tolist():
        inside = ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2 <= 0.25
        masks.append(rle.encode(inside))
    return tuple(masks)


def voc_ap(pairs: list[tuple[Detection, Detection]], kind: int) -> float:
    """``VOCevaldet.m`` and ``VOCap.m`` of the development kit of 2010 to 2012, line by line."""
    rows = [
        (float(score), i, box.astype(np.float64))
        for i, (found, _) in enumerate(pairs)
        for box, score in zip(found.boxes[found.ids == kind], found.scores[found.ids == kind], strict=True)
    ]
    rows.sort(key=lambda row: -row[0])
    taken = [np.zeros(int((truth.ids == kind).sum()), bool) for _, truth in pairs]
    right, wrong = np.zeros(len(rows)), np.zeros(len(rows))
    for d, (_, i, box) in enumerate(rows):
        truth = pairs[i][1].take(pairs[i][1].ids == kind)
        best, at = -np.inf, -1
        for j, other in enumerate(truth.boxes.astype(np.float64)):
            w, h = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
            if w > 0 and h > 0:
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
                overlap = w * h / (sum(areas) - w * h)
                if overlap > best:
                    best, at = overlap, j
        if best >= 0.5:
            if not truth.ignored[at]:
                right[d], wrong[d] = (0, 1) if taken[i][at] else (1, 0)
                taken[i][at] = True
        else:
            wrong[d] = 1
    count = sum(int(((truth.ids == kind) & ~truth.ignored).sum()) for _, truth in pairs)
    recall, precision = np.cumsum(right) / count, np.cumsum(right) / np.maximum(np.cumsum(right + wrong), 1)
    mrec, mpre = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    at = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return float(((mrec[at] - mrec[at - 1]) * mpre[at]).sum())


@pytest.mark.parametrize("seed", range(4))
def test_ap50_of_voc_equals_the_development_kits(seed):
    pairs = random_pairs(seed)
    metric = tasks.get("detection").metrics(TWO)["voc"]
    value = metric.of(np.stack([metric.statistics(*pair) for pair in pairs]))["ap50"]
    assert value == pytest.approx(np.mean([voc_ap(pairs, kind) for kind in (0, 1)]), abs=1e-12)
    assert 0.1 < value < 0.9


def coco_ap(pairs: list[tuple[Detection, Detection]], kind: str) -> tuple[float, float]:
    """Return AP50 and AP of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entry(label: Detection, i: int, n: int) -> dict[str, object]:
        x0, y0, x1, y1 = label.boxes[n].tolist()
        mask = {"size": list(label.size), "counts": (label.masks or ())[n]}
        area = float(rle.decode(mask["counts"], label.size).sum()) if kind == "segm" else (x1 - x0) * (y1 - y0)
        common = {"image_id": i, "category_id": int(label.ids[n]) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        return {**common, "segmentation": mask, "area": area}

    truths, found = [], []
    for i, (one, truth) in enumerate(pairs):
        for n in range(len(truth.ids)):
            truths.append({**entry(truth, i, n), "iscrowd": int(truth.ignored[n]), "id": len(truths) + 1})
        found += [{**entry(one, i, n), "score": float(one.scores[n])} for n in range(len(one.ids))]
    images = [{"id": i, "height": 100, "width": 100} for i in range(len(pairs))]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools on numpy 2
        whole = COCO()
        categories = [{"id": n, "name": str(n)} for n in (1, 2)]
        whole.dataset = {"images": images, "annotations": truths, "categories": categories}
        whole.createIndex()
        results = whole.loadRes(found)
        evaluated = COCOeval(whole, results, kind)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return float(evaluated.stats[1]), float(evaluated.stats[0])


@pytest.mark.parametrize(("name", "kind"), [("masks", "segm"), ("", "bbox")])
def test_ap_of_masks_and_boxes_equals_pycocotools(name, kind):
    pairs, task = random_pairs(7, 24), tasks.get("detection")
    metric = task.metrics(TWO)[name] if name else task.metric(TWO)
    values = metric.of(np.stack([metric.statistics(*pair) for pair in pairs]))
    assert (values["ap50"], values["ap"]) == pytest.approx(coco_ap(pairs, kind), abs=1e-9)


def test_an_object_without_a_mask_has_no_overlap_of_masks():
    found, truth = next((pair for pair in random_pairs(0) if len(pair[1].ids)), random_pairs(0)[0])
    with pytest.raises(LabelError, match="an object has no mask"):
        tasks.get("detection").metrics(TWO)["masks"].statistics(found, replace(truth, masks=None))


def test_scores_of_further_metrics_are_kept_in_files(tmp_path):
    metric = metric_of("detection_voc", TWO)
    rows = np.stack([metric.statistics(*pair) for pair in random_pairs(1)])
    scored = Scored("detection_voc", tuple(map(str, range(len(rows)))), rows, metric, TWO)
    scored.save(tmp_path / "x.npz")
    assert Scored.load(tmp_path / "x.npz").compute() == scored.compute()
    assert set(scored.compute()) == {"detection_voc/ap50"}


# Detectors -------------------------------------------------------------------------------------------------


def test_the_pyramid_has_the_strides_of_vitdet():
    levels = Pyramid(32, 8, (4.0, 2.0, 1.0, 0.5, 0.25))(torch.rand(1, 32, 8, 8))
    assert [tuple(level.shape[1:]) for level in levels] == [(8, n, n) for n in (32, 16, 8, 4, 2)]


def test_a_padded_crop_moves_boxes_and_masks_with_the_picture():
    image, ((kind, x0, y0, x1, y1),) = drawn(1)
    mask = np.zeros((48, 64), np.bool_)
    mask[y0 - 1 : y1, x0 - 1 : x1] = True
    boxes = np.array([[x0 - 1, y0 - 1, x1, y1]], np.float32)
    one = np.ones(1, np.float32)
    label = Detection((48, 64), boxes, np.array([kind], np.uint16), one, one == 0, (rle.encode(mask),))
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop, cut = augmented(image, label, tasks.get("detection"), TINY, (64, 64), rng)
        assert isinstance(cut, Detection)
        assert (crop.shape[:2], cut.size) == ((64, 64), (64, 64))
        if len(cut.ids) and not cut.ignored[0]:
            bright = crop[..., kind] > 150
            ys, xs = np.nonzero(bright)
            assert cut.boxes[0] == pytest.approx([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], abs=1.5)
            assert (rle.decode((cut.masks or ("",))[0] or "", (64, 64)) == bright).mean() > 0.97


def test_objects_that_a_training_crop_cuts_stay_objects():
    """Also those of which little is left; the crowd of the whole picture is removed."""
    image = np.zeros((64, 64, 3), np.uint8)
    boxes = np.array([[0, 0, 64, 64], [0, 0, 8, 8]], np.float32)
    whole = rle.encode(np.ones((64, 64), np.bool_))
    label = Detection(
        (64, 64), boxes, np.zeros(2, np.uint16), np.ones(2, np.float32), np.array([False, True]), (whole, whole)
    )
    near = replace(TINY, short_side=(640, 640), long_side=None)
    _, cut = augmented(image, label, tasks.get("detection"), near, (64, 64), np.random.default_rng(0))
    assert isinstance(cut, Detection)
    assert cut.boxes.tolist() == [[0, 0, 64, 64]]  # one percent of the object
    assert not cut.ignored.any()


def test_an_object_without_a_pixel_in_the_crop_is_no_target(models):  # noqa: F811
    module = DetectorModule(
        replace(TINY, detector=Detector("mask-rcnn", 64)), tasks.get("detection"), TWO, model(models)
    )
    corner, empty = np.zeros((64, 64), np.bool_), np.zeros((64, 64), np.bool_)
    corner[:4, :4] = True
    boxes = np.array([[0, 0, 8, 8], [0, 0, 9, 9]], np.float32)
    masks = rle.encode(corner), rle.encode(empty)
    sure = np.ones(2, np.float32)
    target = module._target(
        Detection((64, 64), boxes, np.zeros(2, np.uint16), sure, sure == 0, masks), torch.device("cpu")
    )
    assert target["boxes"].tolist() == [[0, 0, 8, 8]]
    assert target["masks"].shape == (1, 64, 64)


@pytest.mark.parametrize("kind", ["fcos", "mask-rcnn"])
def test_detections_return_to_the_frame_of_the_truth(kind, models, monkeypatch):  # noqa: F811
    """The picture of 48×64 fills the upper 48 of 64 rows of its crop; its label has twice its size."""
    preset = replace(TINY, detector=Detector(kind, 64))
    module = DetectorModule(preset, tasks.get("detection"), TWO, model(models)).eval()
    found = {
        "boxes": torch.tensor([[8.0, 4.0, 40.0, 36.0], [0.0, 40.0, 64.0, 64.0], [0.0, 50.0, 9.0, 60.0]]),
        "labels": torch.tensor([1, 0, 0]) + (kind == "mask-rcnn"), "scores": torch.tensor([0.9, 0.8, 0.7]),
    }  # fmt: skip
    if kind == "mask-rcnn":
        found["masks"] = torch.ones(3, 1, 28, 28)
    monkeypatch.setattr(type(module.detector), "forward", lambda self, images: [found])
    label = module.detect(np.zeros((48, 64, 3), np.uint8), (96, 128))
    assert label.boxes.tolist() == [[16, 8, 80, 72], [0, 80, 128, 96]], "a box below the picture is dropped"
    assert label.ids.tolist() == [1, 0]
    tasks.get("detection").check(label, TWO)
    if kind == "mask-rcnn":
        mask = rle.decode((label.masks or ("",))[0] or "", (96, 128))
        assert mask.sum() == pytest.approx(64 * 64, rel=0.08)
        assert mask[12:68, 20:76].all()


@pytest.mark.parametrize(
    ("detector", "steps"),
    [
        (Detector("fcos", 64), 6),
        (Detector("fcos", 64, True), 4),
        pytest.param(Detector("mask-rcnn", 16), 4, marks=pytest.mark.slow),
    ],
)
def test_a_detector_resumes_bit_for_bit(detector, steps, coco, models, tmp_path, monkeypatch):  # noqa: F811
    preset, benchmark = (
        replace(TINY, detector=detector, steps=steps, batch=2),
        open_benchmark(f"coco:{coco}?split=train2017"),
    )
    losses: list[float] = []
    first = job(preset, models, tmp_path / "whole", losses)
    before = [value.clone() for value in first.model.parameters()]  # type: ignore[attr-defined]
    whole = probing.train(first, benchmark)
    assert len(losses) == steps
    moved = any((a != b).any() for a, b in zip(before, first.model.parameters(), strict=True))  # type: ignore[attr-defined]
    assert moved == detector.tuned, "the encoder changes if and only if it is tuned"
    assert any("encoder" in name for name in whole.state_dict()) == detector.tuned

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "EVERY_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        probing.train(replace(job(preset, models, tmp_path / "stopped"), step=stop), benchmark)
    resumed = probing.train(job(preset, models, tmp_path / "stopped"), benchmark)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_detector_learns_squares(voc, models, tmp_path):  # noqa: F811
    preset = replace(TINY, steps=40, batch=4, rate=5e-3, long_side=(60, 70), detector=Detector("fcos", 64, tuned=True))
    losses: list[float] = []
    wanted = job(preset, models, tmp_path, losses)
    train = open_benchmark(f"voc:{voc}?split=train&task=detection")
    module = probing.train(wanted, train)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    scored = probing.score(preset, module, wanted.model, train)
    assert set(scored) == {"detection", "detection_voc"}
    assert scored["detection_voc"].compute()["detection_voc/ap50"] > 0.05


def test_mask_rcnn_needs_masks(voc, models, tmp_path):  # noqa: F811
    preset = replace(TINY, detector=Detector("mask-rcnn", 16))
    with pytest.raises(ClipzooError, match=r"needs\. Choose a preset with fcos, or a benchmark with instance masks"):
        probing.train(job(preset, models, tmp_path), open_benchmark(f"voc:{voc}?split=train&task=detection"))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("voc-fcos", {"detection", "detection_voc"}),
        pytest.param("paper-coco-mask-rcnn", {"detection", "detection_masks"}, marks=pytest.mark.slow),
    ],
)
def test_a_preset_of_detection_runs_from_the_command_line(name, groups, voc, coco, models, tmp_path, monkeypatch):  # noqa: F811
    module = probing.PLUGINS.load(name.replace("-", "_"))
    narrow = replace(module.PRESET.detector, width=64 if "fcos" in name else 16)
    small = replace(module.PRESET, crop=(64, 64), batch=2, long_side=(48, 96), detector=narrow)
    monkeypatch.setattr(module, "PRESET", small)
    probe, test = (
        (f"voc:{voc}?split=train&task=detection", f"voc:{voc}?split=val&task=detection")
        if "voc" in name
        else (f"coco:{coco}?split=train2017", f"coco:{coco}?split=val2017")
    )
    options = ["eval", "--model", f"timm:local-dir:{models / 'timm'}", "--preset", name, "--steps", "2"]
    done = CliRunner().invoke(app, [*options, "--probe", probe, "--test", test, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, (done.output, done.exception)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (arm,) = results["arms"].values()
    assert {metric.split("/")[0] for metric in arm} == groups
    assert all(0 <= cell["mean"] <= 1 for cell in arm.values())
    assert results["protocol"]["preset"] == f"{name}, version 2, 2 steps instead of its own"
    assert results["protocol"]["detector"]["kind"] in name


def test_digests_of_other_presets_have_not_changed():
    """Checkpoints that were written before there were detectors are resumed."""
    wanted = ProbeJob(probing.get("dinov3-ade-linear"), None, "x", Path("out"))  # type: ignore[arg-type]
    assert training._digest(wanted, 0) == "ee92901fa6e3a54b49346da884ec02b238c91e9c92f3a2b26bdead56ff939e1a"
