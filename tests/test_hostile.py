"""The hostile corpus through everything that reads data: each item is used, or a row says why not; none is lost."""

from __future__ import annotations

import math
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import hostile
import test_training
from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import ClipzooError, DatasetError
from clipzoo.labeling import label
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store, verify
from clipzoo.training import read_log, train
from clipzoo.types import decode_image
from making import Bright, make_dataset, samples
from real import label_corpus, needs_weights

ITEMS = {one.name: one for one in hostile.items()}
PLAIN = {"caption-json", "caption-json-null", "caption-json-deep", "caption-json-surrogate", "caption-json-number"}


@pytest.fixture(scope="module", params=hostile.DATASETS)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(form, location)."""
    where = hostile.DATASETS[request.param](tmp_path_factory.mktemp(request.param))
    return request.param, where + ("?format=folder" if request.param == "folder" else "")


def usable(form: str) -> set[str]:
    """Names of the items that this form holds in a usable way."""
    found = {name for name, one in ITEMS.items() if one.usable}
    if form in ("table", "parquet"):  # a JSON caption is a plain one there
        found |= PLAIN
    if form == "parquet":  # text is sound Unicode there
        found |= {"caption-latin-1", "caption-utf-16"}
    return found


def test_the_corpus_is_large() -> None:
    assert len(ITEMS) + len(hostile.tars()) >= 120


def test_every_item_is_labeled_or_a_row_with_its_reason(corpus: tuple[str, str], tmp_path: Path) -> None:
    form, where = corpus
    (report,) = label(where, [Bright()], tmp_path, device="cpu", progress=False, max_failures=1)
    assert report.labels + report.failures == len(ITEMS)
    store = Store(tmp_path)
    assert verify(store, open_dataset(where)) == []
    reasons = {}
    for shard in open_dataset(where).shards:
        reasons |= {row["key"]: row["error"] for row in store.columns()[0].rows(shard).to_pylist()}
    labeled = {key for key, reason in reasons.items() if reason is None}
    assert labeled == usable(form), labeled ^ usable(form)
    assert all(len(reason) > 10 for reason in reasons.values() if reason)


def test_every_usable_item_is_trained_on(corpus: tuple[str, str]) -> None:
    form, where = corpus
    reader = open_dataset(where)
    plan = Plan.build(reader, {})
    data = TrainingSet(plan, reader, {}, Viewing((16, 16)))
    (batch,) = loader(data, len(plan), lambda texts: torch.zeros(len(texts), 4))
    assert len(batch.images) == len(usable(form))
    assert len(plan) + sum(plan.left_out.values()) == len(ITEMS)
    assert len(batch.images) + len(batch.skipped) == len(plan)


@pytest.mark.parametrize("crafted", hostile.tars(), ids=lambda one: one.name)
def test_a_crafted_tar_loses_nothing_silently(crafted: hostile.Crafted, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(crafted.data)
    if crafted.usable < 0:
        with pytest.raises(DatasetError):
            open_dataset(str(tmp_path))
        return
    reader = open_dataset(str(tmp_path))
    used = refused = 0
    for entry in reader.index("0"):
        try:
            decode_image(reader.read(entry).image)
            used += 1
        except ClipzooError:
            refused += 1
    assert (used, refused) == (crafted.usable, crafted.refused)


def test_crafted_tars_are_labeled_verified_and_trained_on(tmp_path: Path) -> None:
    crafted = [one for one in hostile.tars() if one.usable >= 0]
    for i, one in enumerate(crafted):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i:02d}.tar").write_bytes(one.data)
    reader = open_dataset(str(tmp_path / "data"))
    (report,) = label(
        str(tmp_path / "data"), [Bright()], tmp_path / "out", device="cpu", progress=False, max_failures=1
    )
    (column,) = Store(tmp_path / "out").columns()
    for i, one in enumerate(crafted):
        reasons = [row["error"] for row in column.rows(f"{i:02d}").to_pylist()]
        assert (reasons.count(None), len(reasons)) == (one.usable, one.usable + one.refused), one.name
    problems = verify(Store(tmp_path / "out"), reader)
    assert ["labels are equal" in one.message for one in problems] == [True]  # as the pictures are
    plan = Plan.build(reader, {column.name: column})
    data = TrainingSet(plan, reader, {column.name: LabelColumn(column)}, Viewing((16, 16)))
    (batch,) = loader(data, len(plan), lambda texts: torch.zeros(len(texts), 4))
    assert len(batch.images) == report.labels == sum(one.usable for one in crafted)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_that_claims_what_is_there_is_not_read_into_memory(kind: bytes, tmp_path: Path) -> None:
    """The file is as large as its header says, all holes."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 2**31
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**31 + 4096)
    (entry,) = open_dataset(str(tmp_path)).index("0")
    assert "a header claims 2147483648 bytes" in entry.error


# The machine -----------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[3])
from clipzoo.labeling import label
from clipzoo.errors import ClipzooError
from making import Bright, make_dataset, samples
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    label(sys.argv[1], [Bright()], sys.argv[2], device="cpu", progress=False)
except ClipzooError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("room", [100, pytest.param(12_000, marks=pytest.mark.slow)])
def test_a_full_disk_ends_in_a_clear_line_and_nothing_committed_is_lost(tmp_path: Path, room: int) -> None:
    data = make_dataset(tmp_path / "data", shards=3)
    write_shard(data / "00001.tar", samples(40, 6, (64, 64)))
    ended = child(LIMITED, data, tmp_path / "out", room)
    assert "StoreError: cannot write" in ended.stderr
    assert "File too large" in ended.stderr
    assert "rerun the command" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not [path for path in (tmp_path / "out").rglob("*.tmp") if path.suffixes != [".json", ".tmp"]]
    (report,) = label(str(data), [Bright()], tmp_path / "out", device="cpu", progress=False)
    assert report.labels == 6 + 40 + 6
    assert verify(Store(tmp_path / "out"), open_dataset(str(data))) == []


MEASURED = """
import sys
sys.path.insert(0, sys.argv[3])
from clipzoo.labeling import label
from making import Bright, peak
before = peak()
label(sys.argv[1], [Bright()], sys.argv[2], device="cpu", progress=False, max_failures=1)
print((peak() - before) // 1024)
"""


@pytest.mark.slow
def test_memory_is_bounded(corpus: tuple[str, str], tmp_path: Path) -> None:
    """Bombs of 50 MB to 8 EB are in the corpus; none may be unpacked."""
    ended = child(MEASURED, corpus[1], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 150


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    first, second, *rest = arguments
    command = [sys.executable, "-c", code, first, second, Path(__file__).parent, *rest]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_the_packaged_expert_and_the_training_loop_take_the_corpus(tmp_path: Path, tiny_clip: str) -> None:
    where = hostile.as_shards(tmp_path / "data")
    (report,) = label(where, ["demo:segmentation"], tmp_path / "labels", device="cpu", progress=False, max_failures=1)
    assert (report.labels, report.labels + report.failures) == (len(usable("shards")), len(ITEMS))
    settings = {"steps": 5, "checkpoint_every": 5, "max_failures": 1}
    job = test_training.job(Path(where), tmp_path / "labels", tiny_clip, tmp_path / "run", **settings)
    train(job)
    losses = [line["loss"] for line in read_log(tmp_path / "run") if "loss" in line]
    assert len(losses) == 5
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.slow
@needs_weights
def test_experts_with_real_weights_take_the_corpus(tmp_path: Path) -> None:
    label_corpus(hostile.as_shards(tmp_path / "data", 4), tmp_path / "labels")
