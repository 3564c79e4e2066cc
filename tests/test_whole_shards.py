"""Shards of a store in a bucket that are read as a whole: one download, not a request per label."""

from __future__ import annotations

from collections import Counter

import pytest

from clipzoo.errors import LostError
from clipzoo.files._remote import Remote
from clipzoo.labeling import export_labels
from clipzoo.store import Store
from making import Bright, Near, image, make_dataset
from serving import put, run

COUNT = 12


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of requests for each tar."""
    counts: Counter[str] = Counter()
    read = Remote.read

    def counted(self: Remote, offset: int, size: int) -> bytes:
        if self.suffix == ".tar":
            counts["/".join(self.parts[-3:])] += 1
        return read(self, offset, size)

    monkeypatch.setattr(Remote, "read", counted)
    return counts


def test_kept_labels_are_read_at_once(memory, tmp_path, reads):
    data = make_dataset(tmp_path / "data", shards=1, count=COUNT)
    poisoned = Bright(poison=[image(3)[0, 0].tobytes()])
    run(data, f"{memory}/labels", poisoned, max_failures=1)
    reads.clear()
    (report,) = run(data, f"{memory}/labels", Bright(), retry_failed=True)
    assert (report.labels, report.failures) == (COUNT, 0)
    assert reads == {"segmentation/test-bright/00000.tar": 1}


def test_a_column_that_another_expert_reads_is_downloaded_once(memory, tmp_path, reads):
    data = make_dataset(tmp_path / "data", shards=2, count=COUNT)
    run(data, f"{memory}/labels", Near())
    reads.clear()
    (report,) = run(data, f"{memory}/labels", "column:depth/test-near?fov=60&to=normals")
    assert report.labels == 2 * COUNT
    assert reads == {"depth/test-near/00000.tar": 1, "depth/test-near/00001.tar": 1}


def test_an_export_downloads_each_shard_once(memory, tmp_path, reads):
    data = make_dataset(tmp_path / "data", shards=2, count=COUNT)
    run(data, f"{memory}/labels", Bright())
    reads.clear()
    assert export_labels(f"{memory}/labels", data, "png", tmp_path / "png").pictures == 2 * COUNT
    assert set(reads.values()) == {1}


def test_an_export_does_not_download_shards_without_labels(memory, tmp_path, reads):
    data = put(make_dataset(tmp_path / "data", shards=3, count=COUNT), f"{memory}/data")
    run(data, tmp_path / "labels", Bright(), shards=["00001"])
    reads.clear()
    found = export_labels(tmp_path / "labels", data, "png", tmp_path / "png")
    assert (found.pictures, found.left_out, found.unread) == (COUNT, 0, 2)
    assert "00002\t\tsegmentation/test-bright\tleft out\tthe shard is not labeled\n" in found.listed.read_text()
    assert not [name for name in reads if name.endswith("00002.tar")]


def test_a_missing_tar_is_named(memory, tmp_path):
    data = make_dataset(tmp_path / "data", shards=1)
    run(data, f"{memory}/labels", Bright())
    (column,) = Store(f"{memory}/labels").columns()
    column.file("00000", ".tar").unlink()
    with pytest.raises(LostError, match=r"cannot read .*00000\.tar.*remove 00000\.parquet"), column.cached("00000"):
        pass
