"""Exports of stores that do not fit the dataset, or that another person has prepared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from clipzoo.errors import StoreError
from clipzoo.labeling import export_labels
from clipzoo.pages import inspect
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from clipzoo.viewer.to_fiftyone import to_fiftyone
from making import Bright, encoded, image, make_dataset
from serving import run
from test_view import StandIn


@pytest.fixture
def rewritten(tmp_path: Path) -> tuple[Path, Path]:
    """A store and its dataset, in which a shard now has other pictures under the same keys."""
    data = make_dataset(tmp_path / "data")
    run(data, tmp_path / "labels", Bright())
    others = [(f"{i:06d}", {"png": encoded(image(i + 50, (20, 30))), "txt": b"other"}) for i in range(6, 12)]
    write_shard(data / "00001.tar", others)
    return tmp_path / "labels", data


@pytest.mark.parametrize("to", ["png", "hf", "webdataset"])
def test_labels_of_other_pictures_are_not_exported(rewritten, tmp_path, to):
    with pytest.raises(StoreError, match=r"shard '00001' has other samples in the dataset now"):
        export_labels(*rewritten, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_of_other_pictures_are_not_shown(rewritten, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", StandIn())
    with pytest.raises(StoreError, match=r"shard '00001' has other samples"):
        to_fiftyone(*rewritten, tmp_path / "images")
    with pytest.raises(StoreError, match=r"shard '00001' has other samples"):
        inspect(*rewritten, tmp_path / "page.html")


def test_labels_whose_meaning_was_edited_are_not_exported(tmp_path):
    data = make_dataset(tmp_path / "data")
    run(data, tmp_path / "labels", Bright())
    edit(tmp_path / "labels", convention={"classes": ["bright", "dark"]})
    with pytest.raises(StoreError, match="does not describe the labels of the shard"):
        export_labels(tmp_path / "labels", data, "png", tmp_path / "out")


def edit(store: Path, **values: object) -> None:
    (path,) = store.glob("*/*/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["../../../x", "/x", "a/b", "..", "", "x\\y"])
@pytest.mark.parametrize("field", ["slug", "task"])
def test_a_manifest_cannot_name_a_folder_elsewhere(tmp_path, name, field):
    data = make_dataset(tmp_path / "data", shards=1)
    run(data, tmp_path / "in/labels", Bright())
    edit(tmp_path / "in/labels", **{field: name})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=f"has {field}=.*, which is not the name of a folder"):
        export_labels(tmp_path / "in/labels", data, "png", tmp_path / "a/b/out")
    with pytest.raises(StoreError, match="not the name of a folder"):
        Store(tmp_path / "in/labels").columns()
    assert sorted(tmp_path.rglob("*")) == before
