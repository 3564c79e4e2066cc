"""Stores in the hands of several people and machines: paths, folders without rights or manifests, names of machines."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import socket
from pathlib import Path
from tempfile import gettempdir

import pytest

import clipzoo
from clipzoo.data import Plan
from clipzoo.errors import PluginError, RemoteError, StoreError
from clipzoo.labeling import label
from clipzoo.readers import open_dataset
from clipzoo.store import Column, Store, merge, verify
from making import Bright, make_dataset
from test_store import column, fill, reader, whole  # noqa: F401

# ruff: noqa: F811


def test_a_store_is_used_by_its_path(tmp_path, whole, column):
    assert clipzoo.verify(str(tmp_path / "labels"), tmp_path / "data") == []
    (merged,) = clipzoo.merge([tmp_path / "labels"], str(tmp_path / "out"))
    assert repr(merged) == f"Column('{tmp_path}/out/segmentation/test-bright')"
    store = Store(tmp_path / "out")
    assert repr(store) == f"Store('{tmp_path}/out')"
    assert store.column("segmentation/test-bright").path == merged.path


def test_a_column_of_an_unknown_task_is_not_made(tmp_path):
    with pytest.raises(PluginError, match="there is no task 'segmentatoin'; did you mean segmentation"):
        Store(tmp_path / "out").create(dataclasses.replace(Bright().card, task="segmentatoin"), {})
    assert not (tmp_path / "out").exists()


def test_merge_names_folders_without_a_manifest(tmp_path, whole, column, caplog):
    other = Store(tmp_path / "other").create(Bright("second").card, column.manifest.dataset)
    fill(other)
    (other.path / "manifest.json").rename(tmp_path / "lost.json")
    Store(tmp_path / "other").create(Bright("third").card, column.manifest.dataset)
    merge([whole, Store(tmp_path / "other")], Store(tmp_path / "out"))
    assert f"{other.path} has shards and no manifest.json, so it is not read: copy the file" in caplog.text


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(whole, column, monkeypatch):
    scandir, closed = os.scandir, "segmentation"

    def refusing(path):
        if Path(path).name == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError):
        whole.columns()
    closed = "test-bright"
    with pytest.raises(PermissionError):
        column.committed()


@pytest.mark.parametrize("given", ["memory:/b/labels", Path("memory://b/labels"), Path("s3://b/labels")])
def test_an_address_with_one_slash_is_no_folder(tmp_path, monkeypatch, given):
    data = make_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    text = str(given).replace(":/", "://")
    with pytest.raises(RemoteError, match=f"{given} has one slash after .* Give the text {text}$"):
        label(data, Bright(), given, progress=False)
    with pytest.raises(RemoteError, match="has one slash"):
        open_dataset(given)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_temporary_folder_of_a_store_in_a_bucket_is_named(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = make_dataset(tmp_path / "data", shards=1)
    monkeypatch.setattr("clipzoo.files._copies.scratch", full)
    where = re.escape(f"in {gettempdir()} (TMPDIR), from where files are uploaded")
    with pytest.raises(StoreError, match=f"No space left on device.* {where}"):
        label(data, Bright(), "memory://full/labels", progress=False)


def test_a_protocol_that_fsspec_cannot_open_is_named():
    with pytest.raises(RemoteError, match=r"webhdfs:// cannot be opened \(.*host.*\)\. Copy the data to a disk"):
        open_dataset("webhdfs://machine/data")


def test_relative_folders_may_have_a_colon(tmp_path, monkeypatch):
    make_dataset(tmp_path / "at-12:30" / "data")
    monkeypatch.chdir(tmp_path)
    (report,) = label("at-12:30/data", Bright(), "run-12:30/labels", progress=False)
    assert report.labels == 12
    assert verify("run-12:30/labels", "at-12:30/data") == []
    column = Store("run-12:30/labels").columns()[0]
    plan = Plan.build(open_dataset("at-12:30/data"), {column.name: column})
    plan.save("run-12:30/plan.parquet")
    assert len(Plan.load("run-12:30/plan.parquet")) == 12


def test_a_shard_of_the_dataset_that_cannot_be_read_does_not_end_verification(tmp_path, whole, reader):
    (tmp_path / "data" / "00001.tar").unlink()
    (problem,) = verify(whole, reader)
    assert problem.shard == "00001"
    assert problem.message.startswith(f"cannot be compared with the dataset: cannot read {tmp_path}/data/00001.tar")


def test_a_column_in_use_names_the_machine(column):
    holder = rf"by process {os.getpid()} on {socket.gethostname()}: two runs"
    with column.lock(), pytest.raises(StoreError, match=holder), Column(column.path).lock():
        pass
