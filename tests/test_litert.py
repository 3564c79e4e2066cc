"""The example of MediaPipe's models: anchors, boxes and masks always, the weights where they were fetched."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from clipzoo import experts, tasks
from clipzoo.errors import ExpertError
from clipzoo.types import ImageArray
from making import image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def litert(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES / "mediapipe")
    return importlib.import_module("litert")


@pytest.fixture
def any_weights(litert: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are no models: enough for what follows a model."""
    monkeypatch.setattr(litert, "FOLDER", tmp_path)
    for name in ("objects", "person"):
        (tmp_path / f"{name}.tflite").write_bytes(b"weights")


def test_anchors_are_those_of_the_paper(litert: ModuleType) -> None:
    """SSD's section 2.2, with the finest map reduced: by hand, the first and last cells of the first and last maps."""
    found = litert.anchors().numpy().astype(np.float64)
    root = np.sqrt([2, 3, 0.35 * 0.5, 0.95])
    wide = [[0.2 * root[0], 0.2 / root[0]], [0.2 / root[0], 0.2 * root[0]]]
    np.testing.assert_allclose(found[:3], [[0.5 / 19, 0.5 / 19, *s] for s in ([0.1, 0.1], *wide)], atol=1e-6)
    np.testing.assert_allclose(found[3, :2], [1.5 / 19, 0.5 / 19], atol=1e-6)
    np.testing.assert_allclose(found[1080, :2], [18.5 / 19, 18.5 / 19], atol=1e-6)
    np.testing.assert_allclose(found[1083], [0.05, 0.05, 0.35, 0.35], atol=1e-6)
    np.testing.assert_allclose(found[1088], [0.05, 0.05, root[2], root[2]], atol=1e-6)
    np.testing.assert_allclose(found[1911], [0.5, 0.5, 0.95, 0.95], atol=1e-6)
    np.testing.assert_allclose(found[1914], [0.5, 0.5, 0.95 * root[1], 0.95 / root[1]], atol=1e-6)
    np.testing.assert_allclose(found[1916], [0.5, 0.5, root[3], root[3]], atol=1e-6)
    assert len(found) == 3 * 19**2 + 6 * (10**2 + 5**2 + 3**2 + 2**2 + 1) == 1917


def test_boxes_are_decoded_as_they_were_encoded(litert: ModuleType) -> None:
    """Shifts are in tenths of the anchor, sizes are logarithms, times five."""
    rng = np.random.default_rng(0)
    anchors = np.concatenate([rng.random((50, 2)), rng.uniform(0.1, 1, (50, 2))], 1)
    x, y, w, h = np.concatenate([rng.random((50, 2)), rng.uniform(0.1, 1, (50, 2))], 1).T
    cx, cy, cw, ch = anchors.T
    raw = np.stack([10 * (y - cy) / ch, 10 * (x - cx) / cw, 5 * np.log(h / ch), 5 * np.log(w / cw)], 1)
    found = litert.decoded(torch.from_numpy(raw), torch.from_numpy(anchors)).numpy()
    np.testing.assert_allclose(found, np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), atol=1e-6)


@pytest.mark.usefixtures("any_weights")
@pytest.mark.parametrize("size", [(240, 320), (1, 10_000)])
def test_raw_outputs_become_objects(litert: ModuleType, size: tuple[int, int]) -> None:
    expert = experts.create("python:litert:Objects")
    logits = torch.full((1917, 24), -9.0)
    for anchor, channel, logit in (
        (1911, 4, 2.0),  # nearly all of the picture
        (1916, 5, 1.5),  # as much, less sure
        (1083, 23, -0.5),  # about the upper left corner, unsure
        (1077, 13, -1.5),  # below the floor
        (900, 0, 9.0),  # background
    ):
        logits[anchor, channel] = logit
    found = expert.label([torch.zeros(1917, 4), logits], size)
    tasks.get("detection").check(found, expert.card.convention)
    assert [expert.card.convention.classes[i] for i in found.ids] == ["Person", "Car"]
    np.testing.assert_allclose(found.shares, [[0.025, 0.025, 0.975, 0.975], [0, 0, 0.225, 0.225]], atol=4e-3)
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp([-2, 0.5])), atol=1e-6)
    assert found.ignored.tolist() == [False, True]
    nothing = expert.label([torch.zeros(1917, 4), torch.full((1917, 24), -9.0)], size)
    tasks.get("detection").check(nothing, expert.card.convention)
    assert len(nothing.ids) == 0


@pytest.mark.usefixtures("any_weights")
def test_probabilities_become_a_mask(litert: ModuleType) -> None:
    expert = experts.create("python:litert:Person")
    p = torch.tensor([[0.1, 0.5], [0.9, 0.4]])
    found = expert.label([p[..., None]], (480, 640))
    tasks.get("segmentation").check(found, expert.card.convention)
    assert found.ids.tolist() == [[0, 1], [1, 0]]
    assert found.confidence == pytest.approx((0.9 + 0.5 + 0.9 + 0.6) / 4)


def test_without_weights_it_says_how_to_get_them(litert: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(litert, "FOLDER", tmp_path)
    with pytest.raises(ExpertError, match=r"fetch\.py person` once"):
        experts.create("python:litert:Person")


@pytest.mark.usefixtures("any_weights")
def test_it_has_to_be_loaded(litert: ModuleType) -> None:
    with pytest.raises(ExpertError, match="not loaded"):
        litert.Person().predict([image(0)])


@pytest.fixture
def astronaut() -> ImageArray:
    """The photograph beside the edges in the other example's picture: NASA's, public domain."""
    with Image.open(EXAMPLES / "hed" / "edges.jpg") as three:
        return np.asarray(three.crop((0, 0, 320, 240)))


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_real_weights_find_a_person(litert: ModuleType, astronaut: ImageArray, mirrored: bool) -> None:
    pytest.importorskip("ai_edge_litert")
    if not all((EXAMPLES / "mediapipe" / f"{name}.tflite").is_file() for name in ("objects", "person")):
        pytest.skip("no weights here: make experts")
    picture = astronaut[:, ::-1].copy() if mirrored else astronaut
    truth = torch.tensor([[80.0, 0, 307, 240]] if mirrored else [[13.0, 0, 240, 240]])
    box, mask = litert.Objects(), litert.Person()
    for expert in (box, mask):
        expert.load()
    (boxes,), (label,) = box.predict([picture]), mask.predict([picture])
    for expert, lowest in ((box, -1), (mask, 0)):
        given = expert.interpreter.get_tensor(expert.interpreter.get_input_details()[0]["index"])
        np.testing.assert_allclose([given.min(), given.max()], [lowest, 1], atol=0.05)
    found = boxes.take(~boxes.ignored)
    assert [box.card.convention.classes[i] for i in found.ids] == ["Person"]
    assert box_iou(torch.from_numpy(found.boxes), truth).item() > 0.9
    ids = label.ids[:, ::-1] if mirrored else label.ids
    assert ids[100:, 60:128].mean() > 0.99, "the suit"
    assert ids[:64, :60].mean() < 0.01, "the flag"
    assert ids[:64, 170:].mean() < 0.01, "the model of a shuttle"
