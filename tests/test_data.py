"""The plan and its batches: joins, order, views, resume."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipzoo.data import LabelColumn, Plan, TrainingSet, Viewing, loader
from clipzoo.errors import ImageError, PlanError, StoreError
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store
from clipzoo.types import decode_image

TOKENS = lambda texts: torch.zeros(len(texts), 4, dtype=torch.long)  # noqa: E731


def training_set_of(dataset: Path, labels: Path) -> TrainingSet:
    reader, store = open_dataset(str(dataset)), Store(labels)
    columns = {c.name: c for c in store.columns()}
    plan = Plan.build(reader, columns)
    return TrainingSet(plan, reader, {n: LabelColumn(c) for n, c in columns.items()}, Viewing((32, 32)), seed=3)


@pytest.fixture
def training_set(dataset: Path, labels: Path) -> TrainingSet:
    return training_set_of(dataset, labels)


def test_join_keeps_every_sample_and_knows_what_is_missing(training_set: TrainingSet) -> None:
    assert len(training_set.plan) == 48
    coverage = training_set.plan.coverage()
    assert coverage["segmentation/test-truth"] == 1
    assert coverage["depth/test-truth"] == pytest.approx(1 - 9 / 48)


@pytest.mark.parametrize("name", ["plan.arrow", "plan.parquet"])
def test_plan_survives_saving(training_set: TrainingSet, tmp_path: Path, name: str) -> None:
    training_set.plan.save(tmp_path / name)
    loaded = Plan.load(tmp_path / name)
    assert loaded.table.equals(training_set.plan.table)
    assert loaded.left_out == training_set.plan.left_out


def test_unusable_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [("a", {"png": b"x", "txt": b"t"}), ("b", {"png": b"x"}), ("c", {"txt": b"t"})])
    plan = Plan.build(open_dataset(str(tmp_path)), {})
    assert len(plan) == 1
    assert sum(plan.left_out.values()) == 2


def test_labels_of_another_dataset_are_refused(labels: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "other.tar", [("a", {"png": b"x", "txt": b"t"})])
    columns = {c.name: c for c in Store(labels).columns()}
    with pytest.raises(StoreError, match="another dataset"):
        Plan.build(open_dataset(str(tmp_path)), columns)


def test_order_is_a_permutation_fixed_by_seed_and_epoch(training_set: TrainingSet) -> None:
    plan = training_set.plan
    first = plan.order(0, 0)
    assert sorted(first) == list(range(48))
    np.testing.assert_array_equal(first, plan.order(0, 0))
    assert (first != plan.order(0, 1)).any()
    assert (first != plan.order(1, 0)).any()
    local = plan.order(0, 0, group=1) // 16
    assert (np.diff(local) != 0).sum() == 2, "with groups of one shard, a shard is read to its end"


def test_ranks_share_an_epoch_evenly_and_without_overlap(training_set: TrainingSet) -> None:
    seen = [
        [row for batch in loader(training_set, 8, TOKENS, rank=r, ranks=2).batch_sampler for _, row in batch]
        for r in range(2)
    ]
    assert len(seen[0]) == len(seen[1]) == 24
    assert not set(seen[0]) & set(seen[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_at_the_exact_sample(training_set: TrainingSet, workers: int) -> None:
    whole = list(loader(training_set, 8, TOKENS, steps=10))
    rest = list(loader(training_set, 8, TOKENS, start=4, steps=10, workers=workers))
    assert len(whole) == 10
    for a, b in zip(whole[4:], rest, strict=True):
        assert torch.equal(a.images, b.images)
        for column, target in a.targets.items():
            for name, value in target.items():
                assert torch.equal(value.nan_to_num(), b.targets[column][name].nan_to_num())


def test_image_and_labels_are_seen_through_one_view(training_set: TrainingSet) -> None:
    batch = next(iter(loader(training_set, 16, TOKENS)))
    target = batch.targets["segmentation/test-truth"]
    square = batch.images.amax(-1)[:, 1::2, 1::2] > 130
    agree = (square == (target["ids"] == 1))[target["valid"]].float().mean()
    assert agree > 0.97
    depth = batch.targets["depth/test-truth"]
    known = depth["valid"] & target["valid"]
    near = depth["values"].squeeze() < 2
    assert (near == (target["ids"] == 1))[known].float().mean() > 0.97


def test_missing_labels_are_invalid_not_dropped(training_set: TrainingSet) -> None:
    batches = list(loader(training_set, 16, TOKENS))
    valid = torch.cat([b.targets["depth/test-truth"]["valid"] for b in batches])
    assert len(valid) == 48
    assert int((~valid.flatten(1).any(1)).sum()) == 9


def test_unreadable_images_are_listed_not_fatal(dataset: Path, tmp_path: Path) -> None:
    entry = open_dataset(str(dataset)).index("00000")[0]
    good = open_dataset(str(dataset)).read(entry).image
    write_shard(tmp_path / "0.tar", [(str(i), {"png": good if i else good[:40], "txt": b"t"}) for i in range(4)])
    reader = open_dataset(str(tmp_path))
    batch = next(iter(loader(TrainingSet(Plan.build(reader, {}), reader, {}, Viewing((32, 32))), 4, TOKENS)))
    assert len(batch.images) == 3
    assert [(one.shard, one.key) for one in batch.skipped] == [("0", "0")]


def test_a_batch_larger_than_the_dataset_is_an_error(training_set: TrainingSet) -> None:
    with pytest.raises(PlanError, match="batch_size to at most 48"):
        loader(training_set, 64, TOKENS)


def test_wrong_arguments_are_named_before_the_first_batch(training_set: TrainingSet) -> None:
    plan, reader, labels = training_set.plan, training_set.reader, training_set.labels
    depth = labels["depth/test-truth"]
    with pytest.raises(PlanError, match=r"the plan has no column 'depth'; there are: depth/test-truth, seg"):
        TrainingSet(plan, reader, {"depth": depth}, Viewing((32, 32)))
    with pytest.raises(PlanError, match=r"the plan has no column 'depth/test-truth'; there are: none"):
        TrainingSet(Plan.build(reader, {}), reader, labels, Viewing((32, 32)))
    for stride in (0, 33):
        with pytest.raises(PlanError, match=rf"depth/test-truth has stride={stride}.* Give 1 to 32"):
            TrainingSet(plan, reader, {"depth/test-truth": LabelColumn(depth.column, stride)}, Viewing((64, 32)))
    for wrong in ({"batch_size": 0}, {"rank": 2, "ranks": 2}, {"rank": -1}):
        with pytest.raises(PlanError, match="do not fit: give a batch size"):
            loader(training_set, **{"batch_size": 4, "tokenize": TOKENS, **wrong})
    with pytest.raises(PlanError, match=r"start=13 is not between 0 and the last step, 12\. .*an epoch has 12 steps"):
        loader(training_set, 4, TOKENS, start=13)
    assert len(loader(training_set, 4, TOKENS, start=12)) == 0
    assert len(loader(training_set, 4, TOKENS, start=12, steps=24)) == 12


def test_a_damaged_label_is_a_mask_and_a_line_not_the_end(dataset: Path, labels: Path, tmp_path: Path) -> None:
    store = tmp_path / "labels"
    shutil.copytree(labels, store)
    tar = next((store / "depth").rglob("00000.tar"))
    data = bytearray(tar.read_bytes())
    at = data.index(b"IDAT") + 8
    data[at : at + 8] = b"\0" * 8
    tar.write_bytes(data)
    batches = list(loader(training_set_of(dataset, store), 16, TOKENS))
    assert [len(batch.images) for batch in batches] == [16, 16, 16]
    (one,) = [one for batch in batches for one in batch.skipped]
    assert one.shard == "00000"
    assert one.reason.startswith("depth/test-truth: cannot read the depth label")


def test_an_image_format_that_would_run_another_program_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(ImageError, match="cannot decode"):
        decode_image(file.getvalue())
