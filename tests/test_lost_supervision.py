"""Supervision that is lost, exchanged or of other pictures ends a training in a sentence; what is missing is said."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipzoo.data import LabelColumn, Plan, Skipped, TrainingSet, Viewing, batches, kept_plan, loader
from clipzoo.errors import CheckpointError, DatasetError, LostError, RemoteError, StoreError
from clipzoo.experts.base import ExpertCard
from clipzoo.labeling import label
from clipzoo.models import HeadSpec, Student
from clipzoo.readers import Reader, fingerprint, open_dataset, shard_fingerprint
from clipzoo.readers.webdataset import write_shard
from clipzoo.recipe import TrainingRecipe
from clipzoo.store import Column, ColumnWriter, Store, merge
from clipzoo.store.dataset import COMPARED
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.training import Job, Training, health, read_log, supervision, train
from conftest import picture
from making import Bright

NAME, SHARDS, COUNT = "depth/test-truth", 4, 8
METRIC = Convention(kind="metric", along="z")


def write_pictures(path: Path, seed: int, size: int = 32) -> None:
    rng, samples = np.random.default_rng(seed), []
    for i in range(COUNT):
        image, caption, _ = picture(rng, size)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        samples.append((f"{path.stem}-{i}", {"png": file.getvalue(), "txt": caption.encode()}))
    write_shard(path, samples)


def depth(near: float) -> Depth:
    values = np.full((32, 32), 3.0, np.float32)
    values[8:20, 8:20] = near
    return Depth(values, np.ones(values.shape, bool), "metric", "z")


def write_labels(column: Column, reader: Reader, shard: str, near: float = 1.0, marked: bool = True) -> None:
    entries = reader.index(shard)
    source = shard_fingerprint(reader, shard, entries) if marked else ""
    with ColumnWriter(column, shard, [e.key for e in entries], source) as writer:
        for i, entry in enumerate(entries):
            writer.add(entry.key, depth(near + i / 10))


def make_store(data: Path, out: Path, near: float = 1.0, marked: bool = True) -> Path:
    reader = open_dataset(str(data))
    column = Store(out).create(ExpertCard("test:truth", "depth", METRIC), fingerprint(reader))
    for shard in reader.shards:
        write_labels(column, reader, shard, near, marked)
    column.finish()
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i in range(SHARDS):
        write_pictures(tmp_path / "data" / f"{i:05d}.tar", i)
    return tmp_path / "data"


@pytest.fixture
def store(data: Path, tmp_path: Path) -> Path:
    return make_store(data, tmp_path / "labels")


def files_of(store: Path, suffix: str) -> list[Path]:
    return sorted((store / NAME).glob(f"*{suffix}"))


def training_set(data: Path, store: Path) -> TrainingSet:
    columns = {column.name: column for column in Store(store).columns()}
    reader = open_dataset(str(data))
    labels = {name: LabelColumn(column) for name, column in columns.items()}
    return TrainingSet(Plan.build(reader, columns), reader, labels, Viewing((32, 32)))


def job(dataset: TrainingSet, model: str, out: Path, **settings: object) -> Training:
    torch.manual_seed(0)
    column = dataset.labels[NAME].column
    student = Student.create(model, specs={NAME: HeadSpec(column.task, column.convention, "linear")})
    values = {"steps": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 1, **settings}
    return Training(Job(TrainingRecipe.model_validate(values), 1e-3, values["steps"], out), student, dataset)


def meanwhile(made: Training, act: Callable[[], object], at: int = 2) -> Training:
    """The job, with something that happens to its files after a step."""
    return replace(made, on_step=lambda step, values: act() if step == at else None)


# Labels that are gone, or cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_store_that_disappears_in_mid_training_ends_it_and_it_resumes_when_the_store_is_back(
    data: Path, store: Path, tiny_clip: str, tmp_path: Path, workers: int
) -> None:
    out, aside = tmp_path / "out", tmp_path / "aside"
    gone = meanwhile(
        job(training_set(data, store), tiny_clip, out, workers=workers, steps=40), lambda: store.rename(aside)
    )
    with pytest.raises(StoreError) as raised:
        train(gone)
    assert "cannot read" in str(raised.value)
    assert "Mount or restore the store" in str(raised.value)
    assert "Traceback" not in str(raised.value), "torch puts a worker's into the message"
    assert not (out / "student").exists()
    aside.rename(store)
    train(job(training_set(data, store), tiny_clip, out, steps=40))
    train(job(training_set(data, store), tiny_clip, tmp_path / "whole", steps=40))
    resumed, whole = ([line["loss"] for line in read_log(tmp_path / name)] for name in ("out", "whole"))
    assert resumed == whole


def test_labels_of_which_too_many_cannot_be_read_end_a_training(
    data: Path, store: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = training_set(data, store)
    for tar in files_of(store, ".tar"):
        tar.write_bytes(tar.read_bytes()[:100])
    with pytest.raises(
        StoreError, match=r"at step 6: 56 of the last 56 labels of depth/test-truth cannot .*\(100.0%\)"
    ):
        train(job(dataset, tiny_clip, tmp_path / "few"))
    monkeypatch.setattr(health, "EARLIEST", 100)
    with pytest.raises(StoreError, match=r"at step 0: 8 of .*it is truncated.*\n.*labels verify .*labels"):
        train(job(dataset, tiny_clip, tmp_path / "many"))
    train(job(dataset, tiny_clip, tmp_path / "allowed", max_failures=1.0))
    lines = [json.loads(line) for line in (tmp_path / "allowed" / "skipped.jsonl").read_text().splitlines()]
    assert {tuple(line) for line in lines} == {("step", "shard", "key", "reason")}
    assert {line["shard"] for line in lines} == {tar.stem for tar in files_of(store, ".tar")}
    said: list[str] = []
    train(replace(job(dataset, tiny_clip, tmp_path / "told", max_failures=1.0), say=said.append))
    why = "skipped.jsonl lists the reasons. A sample is read once in each epoch"
    assert said == [f"64 reads of labels of {NAME} failed during training; {why}"]  # of 32 labels, in two epochs
    found = supervision(tmp_path / "told")
    assert found is not None
    assert found["columns"] == {NAME: {"labels": 32, "unreadable": 64}}
    assert found["samples"] == 32


def test_samples_of_which_too_many_cannot_be_read_end_a_training(
    data: Path, store: Path, tiny_clip: str, tmp_path: Path
) -> None:
    dataset = training_set(data, store)
    (data / "00002.tar").unlink()
    with pytest.raises(DatasetError, match=r"16 of the last 64 samples cannot be read \(25.0%\).*00002"):
        train(job(dataset, tiny_clip, tmp_path / "out"))


def test_the_window_forgets_what_was_long_ago_and_a_few_failures_are_allowed() -> None:
    seen = health.Health(0.05, {})
    batch = batches.Batch(
        torch.zeros(0), torch.zeros(0), [], {}, [Skipped("00000", "k", "it is damaged")], {"": (40, 1000)}
    )
    good = replace(batch, skipped=[], unreadable={"": (0, 1000)})
    for step in range(30):
        seen.count(batch)
        seen.check(step, last=False)
    for _ in range(20):
        seen.count(good)
    assert seen._sums == {"": [0, health.WINDOW]}
    for step in range(20):
        seen.count(replace(batch, unreadable={"": (60, 1000)}))
        if step < 8:
            seen.check(step, last=False)
    with pytest.raises(DatasetError, match=r"600 of the last 10,000 samples .*\(6.0%\).*k: it is damaged"):
        seen.check(20, last=False)


class Away(Reader):
    """A dataset whose place cannot be reached."""

    def __init__(self, inner: Reader) -> None:
        self.inner, self.location, self.shards, self.threads = inner, inner.location, inner.shards, 2

    def index(self, shard):
        return self.inner.index(shard)

    def read(self, entry):
        raise RemoteError("s3://away cannot be reached")


def test_an_outage_is_no_fault_of_a_sample(data: Path, store: Path) -> None:
    made = training_set(data, store)
    away = TrainingSet(made.plan, Away(made.reader), made.labels, made.viewing)
    tokens = lambda texts: torch.zeros(len(texts), 4, dtype=torch.long)  # noqa: E731
    for read in (
        lambda: away[0],
        lambda: list(loader(away, 8, tokens)),
        lambda: away.collate(away.__getitems__([(0, 0)]), tokens),
    ):
        with pytest.raises(RemoteError, match="cannot be reached"):
            read()


# Labels that are exchanged ----------------------------------------------------------------------------------


def test_a_column_made_anew_in_mid_training_ends_it(
    data: Path, store: Path, tiny_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CHECK", 0.0)
    counts = Store(store).columns()[0].manifest.counts

    def exchange() -> None:
        shutil.rmtree(store)
        make_store(data, store, near=2.0)

    with pytest.raises(LostError, match=r"other labels than when the plan was made.*another --out"):
        train(meanwhile(job(training_set(data, store), tiny_clip, tmp_path / "out"), exchange))
    assert Store(store).columns()[0].manifest.counts.labels == counts.labels


def test_an_offset_that_leads_to_another_label_is_noticed_by_its_header(data: Path, store: Path) -> None:
    """Old plans hold no checksums; the member's name and size are read with it."""
    dataset = training_set(data, store)
    old = TrainingSet(replace(dataset.plan, tars={}), dataset.reader, dataset.labels, dataset.viewing)
    column = dataset.labels[NAME].column
    with ColumnWriter(column, "00000", None) as writer:
        for i, entry in reversed(list(enumerate(dataset.reader.index("00000")))):
            writer.add(entry.key, depth(1 + i / 10))
    damaged = [seen.damaged.get(NAME, "") for seen in old.__getitems__([(0, i) for i in range(COUNT)])]
    assert all("rows and tar are from different runs" in reason for reason in damaged)


@pytest.mark.parametrize("key", ["Änderung/größe", "x" * 120, "plain", "y" * 600])
def test_members_of_all_names_are_verified(tmp_path: Path, key: str) -> None:
    column = Store(tmp_path).create(ExpertCard("test:truth", "depth", METRIC), {})
    with ColumnWriter(column, "0") as writer:
        for i, name in enumerate((key, f"{key}2", f"z{key[1:]}")):
            writer.add(name, depth(1.0 + i))
    rows = column.rows("0").to_pylist()
    for row in rows:
        assert column.label("0", row).valid.all()
    if len(key) < 200:
        with pytest.raises(Exception, match="rows and tar are from different runs"):
            column.member("0", key, rows[2]["offset"], rows[2]["size"])


# A plan that is kept ----------------------------------------------------------------------------------------


def plan_of(data: Path, store: Path, out: Path, trained: bool = True) -> Plan:
    columns = {column.name: column for column in Store(store).columns()}
    reader = open_dataset(str(data))
    out.mkdir(exist_ok=True)
    return kept_plan(out, reader, columns, lambda path: Plan.build(reader, columns, path=path), trained)


def anew(data: Path, store: Path) -> None:
    shutil.rmtree(store)
    make_store(data, store, near=2.0)


def edited(data: Path, store: Path) -> None:
    path = store / NAME / "manifest.json"
    values = json.loads(path.read_text())
    values["convention"]["kind"] = "affine-disparity"
    path.write_text(json.dumps(values))


def repainted(data: Path, store: Path) -> None:
    write_pictures(data / "00002.tar", 77, size=40)


def recaptioned(data: Path, store: Path) -> None:
    """Pictures and keys are the same, and lie elsewhere in the tar."""
    reader = open_dataset(str(data))
    samples = [reader.read(entry) for entry in reader.index("00002")]
    write_shard(data / "00002.tar", [(s.key, {"png": s.image, "txt": b"a photo " * 99}) for s in samples])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (anew, NAME),
        (edited, NAME),
        (repainted, "1 shards .the first is '00002'"),
        (recaptioned, "1 shards .the first is '00002'"),
    ],
)
def test_a_kept_plan_of_other_labels_or_samples_is_refused_once_arms_are_trained(
    data: Path, store: Path, tmp_path: Path, change: Callable[[Path, Path], None], says: str
) -> None:
    first = plan_of(data, store, tmp_path / "run")
    assert plan_of(data, store, tmp_path / "run").table.equals(first.table)
    change(data, store)
    with pytest.raises(CheckpointError, match=f"{says}.* changed since"):
        plan_of(data, store, tmp_path / "run")
    if change in (anew, recaptioned):
        again = plan_of(data, store, tmp_path / "run", trained=False)
        assert again.tars != first.tars or again.places != first.places
        plan_of(data, store, tmp_path / "run")
        return
    with pytest.raises(StoreError):
        plan_of(data, store, tmp_path / "run", trained=False)


def test_a_dataset_that_was_copied_is_the_same(data: Path, store: Path, tmp_path: Path, monkeypatch) -> None:
    plan_of(data, store, tmp_path / "run")
    for tar in data.glob("*.tar"):
        tar.write_bytes(tar.read_bytes())
    plan_of(data, store, tmp_path / "run")
    indexed: list[str] = []
    index = type(open_dataset(str(data))).index
    monkeypatch.setattr(type(open_dataset(str(data))), "index", lambda self, s: indexed.append(s) or index(self, s))
    plan_of(data, store, tmp_path / "run")
    assert set(indexed) == {"00000"}, "the fingerprint's; files that have not changed are not indexed again"


def test_a_plan_of_an_earlier_clipzoo_is_used_and_that_is_said_once(
    data: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    table = plan_of(data, store, run).table
    as_text = [pa.field(f.name, f.type if f.type == pa.int64() else pa.string()) for f in table.schema]
    (run / "plan.arrow").unlink()
    pq.write_table(table.cast(pa.schema(as_text)).replace_schema_metadata({"left_out": ""}), run / "plan.parquet")
    made_of = json.loads((run / "plan.json").read_text())
    for name in ("meaning", "tars"):
        del made_of[NAME][name]
    (run / "plan.json").write_text(json.dumps(made_of))
    for _ in range(2):
        old = plan_of(data, store, run)
        assert old.table.equals(table)
        assert list(old.summary()) == [f"{NAME}: 32 of 32 samples have a label (100 %)"]
    assert caplog.text.count("stored no checksums of labels and samples") == 1
    anew(data, store)
    with pytest.raises(CheckpointError, match="changed since"):
        plan_of(data, store, run)


@pytest.mark.parametrize("name", ["plan.json", "plan.arrow"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_plan_is_said_with_the_fix(
    data: Path, store: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    run = tmp_path / "run"
    rows = plan_of(data, store, run).table.to_pylist()  # the table itself is mapped from the file
    (run / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"(?i)delete"):
        plan_of(data, store, run)
    for one in ("plan.json", "plan.arrow"):
        (run / one).unlink()
    assert plan_of(data, store, run).table.to_pylist() == rows


def test_text_of_a_plan_may_exceed_two_gigabytes(data: Path, store: Path, tmp_path: Path) -> None:
    """Arrow's plain text cannot be joined beyond 2^31 bytes."""
    plan = training_set(data, store).plan
    plan.save(tmp_path / "plan.parquet")
    plan.save(tmp_path / "plan.arrow")
    for one in (plan, Plan.load(tmp_path / "plan.parquet"), Plan.load(tmp_path / "plan.arrow")):
        assert pa.string() not in one.table.schema.types
        for epoch in range(2):
            many = replace(one, table=pa.concat_tables([one.table.slice(i, 5) for i in range(0, 32, 5)]))
            assert many.table["key"].num_chunks > 1
            np.testing.assert_array_equal(many.order(0, epoch, group=2), plan.order(0, epoch, group=2))
            assert many.rows([31, 0, 7]) == plan.rows([31, 0, 7])


# Coverage ---------------------------------------------------------------------------------------------------


def test_coverage_is_told_and_shards_that_are_not_labeled(data: Path, store: Path) -> None:
    for shard in ("00001", "00002", "00003"):
        for suffix in (".tar", ".parquet"):
            (store / NAME / f"{shard}{suffix}").unlink()
    assert list(training_set(data, store).plan.summary()) == [
        f"{NAME}: 8 of 32 samples have a label (25 %); 3 of 4 shards are not labeled"
    ]


# Labels of other pictures -----------------------------------------------------------------------------------


def test_pictures_of_any_shard_that_were_replaced_are_refused_by_training(data: Path, store: Path) -> None:
    repainted(data, store)
    with pytest.raises(StoreError, match=r"the shard '00002' has other samples .*00002.parquet and 00002.tar"):
        training_set(data, store)


def test_a_manifest_that_was_edited_is_refused_with_the_fix(data: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "sound")
    edited(data, store)
    with pytest.raises(
        StoreError, match=r"manifest.json does not describe .*'00000'.*Restore these fields of the manifest: task, con"
    ):
        training_set(data, store)
    with pytest.raises(StoreError, match="manifest"):
        merge([Store(store)], Store(tmp_path / "merged"))


def labeled(data: Path, out: Path) -> None:
    label(str(data), [Bright()], out, progress=False, check=False, device="cpu", max_failures=1.0)


def test_pictures_of_any_shard_that_were_replaced_are_refused_by_labeling(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    labeled(data, out)
    repainted(data, out)
    with pytest.raises(StoreError, match="the shard '00002' has other samples"):
        labeled(data, out)


def test_shards_that_have_not_changed_are_compared_once(data: Path, tmp_path: Path, monkeypatch) -> None:
    out, compared = tmp_path / "out", []
    labeled(data, out)
    monkeypatch.setattr(
        "clipzoo.store.dataset.shard_fingerprint",
        lambda reader, shard: compared.append(shard) or shard_fingerprint(reader, shard),
    )
    for _ in range(2):
        labeled(data, out)
    assert compared == [f"{i:05d}" for i in range(SHARDS)]
    (out / "segmentation" / "test-bright" / COMPARED).write_bytes(b"\xff{")
    labeled(data, out)
    assert len(compared) == 2 * SHARDS


def test_stores_of_other_pictures_in_a_shard_are_not_merged(data: Path, tmp_path: Path) -> None:
    make_store(data, tmp_path / "a")
    repainted(data, tmp_path)
    make_store(data, tmp_path / "b")
    for name, shard in (("a", "00003"), ("b", "00001")):  # no shard is in both
        for suffix in (".tar", ".parquet"):
            (tmp_path / name / NAME / f"{shard}{suffix}").unlink()
    with pytest.raises(StoreError, match=r"the shard '00002' has other images in .*b.* than in .*a"):
        merge([Store(tmp_path / "a"), Store(tmp_path / "b")], Store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_stores_without_marks_stay_usable_and_that_is_said_once(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(data, tmp_path / "labels", marked=False)
    with caplog.at_level(logging.WARNING):
        dataset = training_set(data, store)
    assert len(dataset.plan) == 32
    assert caplog.text.count("stored no fingerprint of their images") == 1
    merge([Store(store)], Store(tmp_path / "merged"))
