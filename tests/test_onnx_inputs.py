"""ONNX models whose weights are in further files, and inputs of other types and layouts than float32 NCHW."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from clipzoo import experts
from clipzoo.errors import ExpertError
from clipzoo.experts.base import sha256
from clipzoo.experts.onnx.files import external, weights_sha256
from making import image

CARD = {
    "task": "depth", "kind": "affine-depth", "license": "mine",
    "input": {"size": 16}, "output": {"resize": False},
}  # fmt: skip


def convolution(seed: int = 0, kind: int = TensorProto.FLOAT, last: bool = False) -> onnx.ModelProto:
    """Nine weights a channel; the input of another type is made float32, and one with channels last transposed."""
    weights = np.random.default_rng(seed).normal(size=(1, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Cast", ["picture"], ["cast"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Transpose", ["cast"], ["first"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3])]
    nodes += [helper.make_node("Conv", ["first", "w"], ["map"], pads=[1, 1, 1, 1])]
    shape = ["B", 16, 16, 3] if last else ["B", 3, 16, 16]
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("picture", kind, shape)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["B", 1, 16, 16])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def saved(folder: Path, model: onnx.ModelProto, card: Any = CARD, apart: bool = False) -> Path:
    """The model and its card in a new folder, its weights in a file of their own if ``apart``."""
    folder.mkdir(parents=True)
    (folder / "m.yaml").write_text(yaml.safe_dump(card))
    more = {"save_as_external_data": True, "location": "m.onnx.data", "size_threshold": 0} if apart else {}
    onnx.save(model, folder / "m.onnx", **more)
    return folder / "m.onnx"


def loaded(path: Path) -> Any:
    expert = experts.create(f"onnx:{path}")
    expert.load()
    return expert


# Files of weights ------------------------------------------------------------------------------------------


def test_other_weights_in_a_second_file_are_another_model(tmp_path: Path) -> None:
    """Though the graphs are equal to the byte."""
    paths = [saved(tmp_path / str(seed), convolution(seed), apart=True) for seed in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    cards = [experts.create(f"onnx:{path}").card for path in paths]
    assert cards[0].weights_sha256 != cards[1].weights_sha256
    assert all(len(card.weights_sha256) == 64 for card in cards)
    labels = [loaded(path).predict([image(0)])[0] for path in paths]
    assert not np.allclose(labels[0].values, labels[1].values)
    again = saved(tmp_path / "again", convolution(0), apart=True)
    assert experts.create(f"onnx:{again}").card.weights_sha256 == cards[0].weights_sha256


def test_a_model_of_one_file_has_the_digest_of_that_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "one", convolution())
    assert experts.create(f"onnx:{path}").card.weights_sha256 == sha256(path)
    assert external(path) == set()


def elsewhere(name: str) -> onnx.TensorProto:
    """A tensor whose values are in the file ``name``."""
    tensor = TensorProto(name="t" + name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", name), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_weights_are_found_wherever_a_graph_may_have_them(tmp_path: Path) -> None:
    """In initializers, dense and sparse, in attributes, in subgraphs, in functions."""
    model = convolution()
    node = model.graph.node.add(op_type="Constant")
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(elsewhere("attribute"))
    node.attribute.add(name="values", type=onnx.AttributeProto.TENSORS).tensors.append(elsewhere("attributes"))
    inner = model.graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
    inner.g.initializer.append(elsewhere("subgraph"))
    deeper = inner.g.node.add(op_type="Scan").attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS)
    deeper.graphs.add().initializer.append(elsewhere("deeper"))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(elsewhere("values"))
    sparse.indices.CopyFrom(elsewhere("indices"))
    own = model.functions.add(name="f", domain="d").node.add(op_type="Constant")
    own.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(elsewhere("function"))
    model.graph.initializer.append(elsewhere("initializer"))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert external(path) == {
        "attribute", "attributes", "subgraph", "deeper", "values", "indices", "function", "initializer",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../w.data", "/w.data", "a/../../w.data", "C:\\w.data", "..\\w.data"])
def test_weights_outside_of_the_models_folder_are_refused(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m", convolution())
    (tmp_path / "w.data").write_bytes(b"\0" * 4)
    model = convolution()
    model.graph.initializer.append(elsewhere(name))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExpertError, match="outside its folder"):
        experts.create(f"onnx:{path}")


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", convolution(), apart=True)
    (path.parent / "m.onnx.data").unlink()
    with pytest.raises(ExpertError, match=r"weights in 'm\.onnx\.data', which is not in its folder: copy both"):
        experts.create(f"onnx:{path}")


def test_weights_of_a_hubs_cache_are_read_through_its_links(tmp_path: Path) -> None:
    """There each file is a link to another folder, where it has another name."""
    path = saved(tmp_path / "plain", convolution(), apart=True)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for file in path.parent.iterdir():
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    assert weights_sha256(snapshot / "m.onnx") == weights_sha256(path)


@pytest.mark.parametrize("bytes_", [b"", b"no model", b"\xff" * 40, b"\x3a\xff\xff\xff\x7f"])
def test_a_file_that_is_no_model_is_told_at_loading(bytes_: bytes, tmp_path: Path) -> None:
    path = saved(tmp_path / "m", convolution())
    path.write_bytes(bytes_)
    with pytest.raises(ExpertError, match="ONNX Runtime cannot load"):
        experts.create(f"onnx:{path}").load()


# Inputs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_an_input_of_another_precision_is_given_that(kind: int, tmp_path: Path) -> None:
    pictures = [image(i) for i in range(3)]
    plain = loaded(saved(tmp_path / "float", convolution())).predict(pictures)
    other = loaded(saved(tmp_path / "other", convolution(kind=kind))).predict(pictures)
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_allclose(a.values, b.values, atol=1e-2)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
def test_an_input_of_whole_numbers_is_given_the_pixels(kind: int, tmp_path: Path) -> None:
    card = {**CARD, "input": {"size": 16, "scale": "none"}}
    plain = loaded(saved(tmp_path / "float", convolution(), card)).predict([image(0)])[0]
    whole = loaded(saved(tmp_path / "whole", convolution(kind=kind), card)).predict([image(0)])[0]
    assert np.ptp(whole.values) > 10
    np.testing.assert_allclose(plain.values, whole.values, rtol=1e-5)
    scaled = saved(tmp_path / "scaled", convolution(kind=kind))
    with pytest.raises(ExpertError, match=r"pixels from 0 to 255, but.*set scale: none"):
        loaded(scaled)


def test_an_input_of_a_type_that_pictures_do_not_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExpertError, match=r"takes tensor\(int8\), but clipzoo gives images only as float, float16"):
        loaded(saved(tmp_path / "m", convolution(kind=TensorProto.INT8)))


def test_a_layout_and_a_size_that_the_model_does_not_have_are_told(tmp_path: Path) -> None:
    last = {**CARD, "input": {"size": 16, "layout": "NHWC"}, "output": {"layout": "NCHW"}}
    first = loaded(saved(tmp_path / "first", convolution())).predict([image(0)])[0]
    ours = loaded(saved(tmp_path / "last", convolution(last=True), last)).predict([image(0)])[0]
    np.testing.assert_allclose(first.values, ours.values, rtol=1e-5)
    with pytest.raises(ExpertError, match=r"takes \['B', 16, 16, 3\], but its card says NCHW: set layout: NHWC"):
        loaded(saved(tmp_path / "a", convolution(last=True)))
    with pytest.raises(ExpertError, match=r"but its card says NHWC: set layout: NCHW"):
        loaded(saved(tmp_path / "b", convolution(), last))
    for told, seen in (({}, "no size"), ({"size": 8}, r"size \[8, 8\]")):
        with pytest.raises(ExpertError, match=rf"its card says {seen}: set size: \[16, 16\]"):
            loaded(saved(tmp_path / f"size{len(told)}", convolution(), {**CARD, "input": told}))


def test_a_second_input_that_is_required_is_reported_at_loading(tmp_path: Path) -> None:
    model = convolution()
    model.graph.input.append(helper.make_tensor_value_info("focal", TensorProto.FLOAT, ["B", 1, 1, 1]))
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(helper.make_node("Mul", ["plain", "focal"], ["map"]))
    with pytest.raises(ExpertError, match=r"needs focal in addition to picture.*export it with these inputs"):
        loaded(saved(tmp_path / "m", model))


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_cuda_that_cannot_be_loaded_is_reported(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    import onnxruntime

    path = saved(tmp_path / "m", convolution())
    experts.create(f"onnx:{path}").load("cpu")
    assert caplog.text == ""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    expert = experts.create(f"onnx:{path}")
    expert.load("cuda")
    assert "cannot load its CUDA provider: running on the CPU" in caplog.text
    assert "onnxruntime-gpu[cuda,cudnn]" in caplog.text
    assert len(expert.predict([image(0, (16, 16))])) == 1
