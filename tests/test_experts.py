"""Experts of the zoos that need no download: onnx, python, demo."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file

from clipzoo import experts, tasks
from clipzoo.demo import expert as demo
from clipzoo.errors import ExpertError, PluginError
from clipzoo.experts.frames import parse_frame
from clipzoo.tasks.detection import Detection
from making import image

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SALIENT = {
    "task": "segmentation",
    "classes": ["background", "foreground"],
    "license": "Apache-2.0",
    "input": {"size": 32, "scale": "max", "mean": MEAN, "std": STD, "resample": "lanczos"},
    "output": {"kind": "probability", "activation": "minmax", "threshold": 0.5},
}


def model(path, out: int, batch: int | str = "B", side: int | str = 32) -> None:
    """One 3×3 convolution with random weights; a second output that nobody should take."""
    weights = np.random.default_rng(0).normal(size=(out, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "w"], ["maps"], pads=[1, 1, 1, 1]),
            helper.make_node("Neg", ["maps"], ["other"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, side, side])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, out, side, side])
            for name in ("maps", "other")
        ],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(made.SerializeToString())


def expert(folder, card: dict, out: int = 1, **shape):
    model(folder / "m.onnx", out, **shape)
    (folder / "m.yaml").write_text(yaml.safe_dump(card))
    made = experts.create(f"onnx:{folder}/m.onnx")
    made.load()
    return made


def by_hand(folder, picture, mean, std, output: str = "maps", scale: float | None = None) -> np.ndarray:
    """The model's raw output [C,32,32] for a picture, without clipzoo."""
    resized = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.LANCZOS), np.float32)
    values = ((resized / (scale or resized.max()) - np.float32(mean)) / np.float32(std)).astype(np.float32)
    session = ort.InferenceSession(str(folder / "m.onnx"), providers=["CPUExecutionProvider"])
    return session.run([output], {"picture": values.transpose(2, 0, 1)[None]})[0][0]


def test_a_salient_object_model_gives_foreground_by_threshold(tmp_path):
    made, picture = expert(tmp_path, SALIENT), image(3, (40, 56))
    (label,) = made.predict([picture])
    raw = by_hand(tmp_path, picture, MEAN, STD)[0]
    scaled = (raw - raw.min()) / (raw.max() - raw.min())
    assert np.array_equal(label.ids, scaled > 0.5)
    assert label.valid.all()
    chosen = np.where(scaled > 0.5, scaled, 1 - scaled)
    assert label.confidence == pytest.approx(chosen.mean(), abs=1e-6)
    tasks.get("segmentation").check(label, made.card.convention)


def test_the_card_is_known_before_loading(tmp_path):
    made = expert(tmp_path, SALIENT)
    card = experts.create(f"onnx:{tmp_path}/m.yaml").card
    assert card.weights_sha256 == made.card.weights_sha256 != ""
    assert card.convention.classes == ("background", "foreground")
    assert card.license == "Apache-2.0"
    assert card.slug.startswith("onnx-")
    assert card.preprocessing["input"]["size"] == [32, 32]


def test_logits_of_several_classes(tmp_path):
    card = {"task": "segmentation", "classes": list("abcd"), "input": {"size": [32, 32], "resample": "lanczos"}}
    made, picture = expert(tmp_path, card, out=4), image(4, (32, 48))
    (label,) = made.predict([picture])
    raw = torch.from_numpy(by_hand(tmp_path, picture, [0] * 3, [1] * 3, scale=255)).double()
    assert np.array_equal(label.ids, raw.argmax(0))
    assert label.confidence == pytest.approx(float(raw.softmax(0).max(0).values.mean()), abs=1e-5)


def test_labels_at_the_images_size_when_asked(tmp_path):
    card = {**SALIENT, "output": {**SALIENT["output"], "resize": True}}
    (label,) = expert(tmp_path, card).predict([image(3, (40, 56))])
    assert label.ids.shape == (40, 56)


@pytest.mark.parametrize("batch", ["B", 1])
def test_a_batch_gives_what_each_image_gives(tmp_path, batch):
    made = expert(tmp_path, {**SALIENT, "batch_size": 4}, batch=batch)
    assert made.batch_size == (4 if batch == "B" else 1)
    pictures = [image(i, (40, 40)) for i in range(3)]
    together, alone = made.predict(pictures), [made.predict([picture])[0] for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.ids, b.ids)


def test_depth_scaled_shifted_and_unknown_where_not_positive(tmp_path):
    card = {
        "task": "depth", "kind": "metric", "along": "z",
        "input": {"size": 32, "scale": "none", "resample": "lanczos", "channels": "bgr"},
        "output": {"name": "other", "multiply": 0.01, "add": 1.5},
    }  # fmt: skip
    made, picture = expert(tmp_path, card), image(5)
    (label,) = made.predict([picture])
    raw = by_hand(tmp_path, picture[..., ::-1].copy(), [0] * 3, [1] * 3, "other", 1)[0] * 0.01 + 1.5
    assert np.array_equal(label.valid, raw > 0)
    assert 0 < label.valid.mean() < 1
    assert label.values[label.valid] == pytest.approx(raw[raw > 0], abs=1e-4)
    tasks.get("depth").check(label, made.card.convention)


def test_affine_depth_at_the_pictures_own_size(tmp_path):
    card = {"task": "depth", "kind": "affine-disparity", "input": {"size": None}}
    (label,) = expert(tmp_path, card, side="S").predict([image(5, (20, 28))])
    assert label.values.shape == (20, 28)
    assert (label.kind, label.along) == ("affine-disparity", None)
    assert label.valid.all()


def test_normals_are_turned_into_our_frame(tmp_path):
    card = {
        "task": "normals",
        "input": {"size": 32, "resample": "lanczos"},
        "output": {"frame": "x-right,y-down,z-forward"},
    }
    made, picture = expert(tmp_path, card, out=3), image(6)
    (label,) = made.predict([picture])
    raw = by_hand(tmp_path, picture, [0] * 3, [1] * 3, scale=255) * np.array([1, -1, -1])[:, None, None]
    assert label.vectors == pytest.approx(raw / np.linalg.norm(raw, axis=0), abs=1e-4)
    tasks.get("normals").check(label, made.card.convention)


@pytest.mark.parametrize(
    ("frame", "wall"),
    [
        ("x-right,y-up,z-toward", (0, 0, 1)),
        ("x-right,y-down,z-forward", (0, 0, -1)),
        ("z-viewer,x-left,y-up", (1, 0, 0)),
    ],
)
def test_frames(frame, wall):
    assert (parse_frame(frame) @ np.float32(wall)).tolist() == [0, 0, 1]


@pytest.mark.parametrize("frame", ["x-right,y-up", "x-right,y-left,z-up", "x-right,y-up,z-sideways", ""])
def test_frames_that_are_none(frame):
    with pytest.raises(ValueError, match="does not name three axes"):
        parse_frame(frame)


def test_a_wrong_card_tells_all_findings_at_once(tmp_path):
    card = {
        "task": "segmentation",
        "classes": ["a"],
        "input": {"size": 0, "scael": "255", "std": [1, 0, 1]},
        "color": 1,
    }
    with pytest.raises(ExpertError) as error:
        expert(tmp_path, card)
    for place in ("input.scael", "color"):
        assert place in str(error.value)
    with pytest.raises(ExpertError, match=r"input: .*at least \[1, 1\]"):
        expert(tmp_path, {**SALIENT, "input": {"size": 0}})


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"task": "segmentation", "classes": ["a"]}, "needs classes"),
        ({"task": "segmentation", "classes": ["a", "b"], "output": {"kind": "values"}}, "logits, probability or ids"),
        ({"task": "segmentation", "classes": list("abc"), "output": {"threshold": 0.5}}, "for two classes"),
        ({"task": "depth"}, "needs kind"),
        ({"task": "depth", "kind": "metric"}, "needs along"),
        ({"task": "depth", "kind": "metric", "along": "z", "classes": ["a"]}, "are for segmentation"),
        ({"task": "normals"}, "need output.frame"),
        ({"task": "normals", "output": {"frame": "up"}}, "does not name three axes"),
        ({"task": "edges"}, "task"),
        ([], "card"),
    ],
)
def test_a_card_that_leaves_the_meaning_open_is_refused(tmp_path, card, message):
    with pytest.raises(ExpertError, match=message):
        expert(tmp_path, card)


def test_missing_files_and_wrong_models(tmp_path):
    with pytest.raises(ExpertError, match=r"there is no file .*m\.onnx"):
        experts.create(f"onnx:{tmp_path}/m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ExpertError, match="has no card"):
        experts.create(f"onnx:{tmp_path}/m.onnx")
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(ExpertError, match="cannot read the card"):
        experts.create(f"onnx:{tmp_path}/m.yaml")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(SALIENT))
    with pytest.raises(ExpertError, match="which does not exist"):
        experts.create(f"onnx:{tmp_path}/m.yaml")
    (tmp_path / "m.yaml").write_text("a: [")
    with pytest.raises(ExpertError, match="is not YAML"):
        experts.create(f"onnx:{tmp_path}/m.yaml")
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(SALIENT))
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ExpertError, match="cannot load"):
        experts.create(f"onnx:{tmp_path}/m.yaml").load()


def test_yaml_is_loaded_safely(tmp_path):
    (tmp_path / "m.yaml").write_text("!!python/object/apply:os.system ['touch owned']")
    with pytest.raises(ExpertError, match="is not YAML"):
        experts.create(f"onnx:{tmp_path}/m.yaml")


@pytest.mark.parametrize(("output", "message"), [({"name": "x"}, "one of maps, other"), ({"index": 7}, "no output 7")])
def test_an_output_that_is_not_there(tmp_path, output, message):
    with pytest.raises(ExpertError, match=message):
        expert(tmp_path, {**SALIENT, "output": {**SALIENT["output"], **output}})


def test_a_fixed_batch_of_several_is_refused(tmp_path):
    with pytest.raises(ExpertError, match=r"takes batches of exactly 4 images.*: export it with a dynamic batch"):
        expert(tmp_path, SALIENT, batch=4)


def test_channels_that_do_not_fit(tmp_path):
    with pytest.raises(ExpertError, match="3 channels for 2 classes"):
        expert(tmp_path, SALIENT, out=3).predict([image(0)])


def test_threads_by_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPZOO_ONNX_THREADS", "many")
    with pytest.raises(ExpertError, match="CLIPZOO_ONNX_THREADS='many'"):
        expert(tmp_path, SALIENT)
    monkeypatch.setenv("CLIPZOO_ONNX_THREADS", "1")
    expert(tmp_path, SALIENT)


# python: ---------------------------------------------------------------------------------------------------

OWN = """
from clipzoo.experts import Expert, ExpertCard
from clipzoo.tasks import Convention

class Mine(Expert):
    card = ExpertCard("mine", "normals", Convention())
    def load(self, device="cpu"): pass
    def predict(self, images): return []

class Cardless(Mine):
    card = None

class Picky(Mine):
    def __init__(self, size): pass

def helper(): pass
"""


def test_an_expert_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_expert_a.py").write_text(OWN)
    made = experts.create("python:own_expert_a:Mine")
    assert made.card.uri == "python:own_expert_a:Mine"
    assert made.card.slug == "python-own_expert_a-Mine"


def test_an_edited_expert_is_another_one_after_it_is_imported_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    revisions = []
    for comment in ("", "", "# edited"):
        (tmp_path / "own_expert_d.py").write_text(OWN + comment)
        if comment:
            with pytest.raises(ExpertError, match=r"has changed since this process imported it.*restart Python"):
                experts.create("python:own_expert_d:Mine")
            importlib.reload(sys.modules["own_expert_d"])
        revisions.append(experts.create("python:own_expert_d:Mine").card.revision)
    assert revisions[0] == revisions[1] != revisions[2]
    assert revisions[0].startswith("source ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_expert_b", "names no class"),
        ("own_expert_b:", "names no class"),
        ("nowhere_at_all:Mine", "cannot import 'nowhere_at_all'"),
        ("own_expert_b:Yours", "defines no Yours"),
        ("own_expert_b:helper", "make it a subclass"),
        ("own_expert_b:Cardless", "set it to an ExpertCard"),
        ("own_expert_b:Picky", "made without arguments"),
        ("own_expert_c:Mine", "SyntaxError"),
    ],
)
def test_what_is_no_expert_says_why(tmp_path, monkeypatch, name, message):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_expert_b.py").write_text(OWN)
    (tmp_path / "own_expert_c.py").write_text("class Mine(:")
    with pytest.raises(ExpertError, match=message):
        experts.create(f"python:{name}")


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        ("nothing", ExpertError, r"'nothing' is not the URI of an expert. Write <scheme>:<model> with one of [^;]*$"),
        ("onnx:", ExpertError, "is not the URI of an expert"),
        ("onx:a", PluginError, r"did you mean onnx\?"),
        ("u2netp.onnx?size=320", ExpertError, r"did you mean onnx:u2netp\.onnx\?size=320\?"),
        ("demo:dept", ExpertError, r"did you mean depth\?"),
    ],
)
def test_uris(uri, error, says):
    with pytest.raises(error, match=says):
        experts.create(uri)


# demo: -----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Random weights in the place of the packaged ones."""
    torch.manual_seed(0)
    (tmp_path / "experts").mkdir()
    (tmp_path / "rooms.json").write_text('{"classes": ["floor", "wall", "ceiling", "chair", "table"]}')
    monkeypatch.setattr(demo, "_resource", tmp_path.joinpath)
    for task in demo.CHANNELS:
        net = demo.TinyUNet(demo.CHANNELS[task](demo.convention_of(task)))
        save_file(demo.packed(net.state_dict()), tmp_path / f"experts/{task}.safetensors")
    return tmp_path


def test_packed_weights_are_within_half_a_step():
    state = demo.TinyUNet(3).state_dict()
    again = demo.unpacked(demo.packed(state))
    assert again.keys() == state.keys()
    for name, value in state.items():
        if value.ndim > 1:
            step = value.flatten(1).abs().amax(1) / 127
            assert ((again[name] - value).abs().flatten(1).amax(1) <= 0.51 * step).all()
        else:
            torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("task", demo.CHANNELS)
def test_demo_labels_keep_the_contract(package, task):
    made = experts.create(f"demo:{task}")
    made.load()
    pictures = [image(i, (40, 60)) for i in range(2)]
    labels = made.predict(pictures)
    for label in labels:
        tasks.get(task).check(label, made.card.convention)
        assert label.valid.shape == ((48, 48) if task == "detection" else (96, 96))
    assert len(made.card.weights_sha256) == 64
    (alone,) = made.predict(pictures[1:])
    name = {"segmentation": "ids", "detection": "boxes", "normals": "vectors"}.get(task, "values")
    assert np.allclose(getattr(alone, name), getattr(labels[1], name), atol=1e-4)


def test_boxes_of_which_the_expert_is_not_sure_are_ignored():
    scores = np.float32([0.9, demo.SURE, 0.3, demo.POSSIBLE, 0.1])
    boxes = np.float32([[0, 0, 4, 4]] * 5)
    found = demo.without_doubtful(Detection((8, 8), boxes, np.zeros(5, np.uint16), scores, np.zeros(5, bool)))
    assert found.ignored.tolist() == [False, False, True, True]


def test_demo_names_and_missing_weights(package):
    with pytest.raises(ExpertError, match="there are: segmentation, detection, depth, normals, edges"):
        experts.create("demo:captions")
    (package / "experts/depth.safetensors").unlink()
    with pytest.raises(ExpertError, match="reinstall clipzoo"):
        experts.create("demo:depth")


def test_onnx_models_of_this_file_are_sound(tmp_path):
    model(tmp_path / "m.onnx", 2)
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
