"""Conditions on the statistics of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clipzoo.data import Plan
from clipzoo.data.filters import Where
from clipzoo.errors import PlanError, RecipeError
from clipzoo.readers import open_dataset
from clipzoo.recipe import parse
from clipzoo.runs import Run
from clipzoo.store import Store

DEPTH = "depth/test-truth"


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("valid > 0.3", [False, True, True]),
        ("valid>=.3 and valid < 9e-1", [True, True, False]),
        ("confidence == 0.5", [True, False, True]),
        ("bytes != 10", [False, True, True]),
        ("valid >= 0 and confidence <= 0.6 and bytes < 1e3", [True, False, True]),
    ],
)
def test_all_clauses_must_hold_and_an_unknown_statistic_meets_them(text: str, held: list[bool]) -> None:
    rows: list[dict[str, Any]] = [
        {"valid_share": 0.3, "confidence": 0.5, "size": 10},
        {"valid_share": 0.5, "confidence": 0.7, "size": 20},
        {"valid_share": 1.0, "confidence": None, "size": 30},
    ]
    where = Where.parse(text)
    assert where.mask(pa.Table.from_pylist(rows)).to_pylist() == held


@pytest.mark.parametrize("text", ["valid > 2", "bytes > 10 and confidence >= 50", "valid > -1"])
def test_a_share_is_compared_with_a_share(text: str) -> None:
    with pytest.raises(RecipeError, match="is a share from 0 to 1"):
        Where.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "valid", "valid > ", "0.3 < valid", "valid > 0.3 or valid < 0.1", "valid > 0.3 and", "valid > confidence",
     "__import__('os') > 1", "valid > 1; 2", "valid => 1", "0 < valid < 1"],
)  # fmt: skip
def test_other_texts_are_refused_with_the_form(text: str) -> None:
    with pytest.raises(RecipeError, match=r"is not a condition: write NAME COMPARISON NUMBER, such as valid > 0.3"):
        Where.parse(text)


def test_an_unknown_statistic_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="no statistic 'vald'; did you mean valid"):
        Where.parse("vald > 0.3")


def test_labels_that_do_not_meet_the_condition_are_missing(dataset: Path, labels: Path) -> None:
    columns = {column.name: column for column in Store(labels).columns()}
    reader = open_dataset(str(dataset))
    sizes = [row["size"] for shard in reader.shards for row in columns[DEPTH].rows(shard).to_pylist() if row["size"]]
    middle = sorted(sizes)[len(sizes) // 2]
    plan = Plan.build(reader, columns, where={DEPTH: Where.parse(f"bytes > {middle}")})
    kept = [size for size in plan.table[f"{DEPTH}:size"].to_pylist() if size is not None]
    assert sorted(kept) == sorted(size for size in sizes if size > middle)
    assert len(plan) == 48
    assert plan.labeled()["segmentation/test-truth"] == 48


def test_a_condition_that_no_label_meets_is_an_error(dataset: Path, labels: Path) -> None:
    columns = {column.name: column for column in Store(labels).columns()}
    with pytest.raises(PlanError, match=rf"no label of {DEPTH} meets its condition where: 'valid > 1'"):
        Plan.build(open_dataset(str(dataset)), columns, where={DEPTH: Where.parse("valid > 1")})


def values(dataset: Path, labels: Path, model: str, where: str) -> dict[str, Any]:
    return {
        "name": "x", "data": str(dataset), "store": str(labels), "student": {"model": model},
        "columns": [{"column": DEPTH, "where": where}], "training": {"steps": 1}, "arms": ["clipzoo"],
    }  # fmt: skip


def test_a_run_trains_on_labels_that_meet_the_condition(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path
) -> None:
    whole = Run(parse(values(dataset, labels, tiny_clip, "valid > 0")), tmp_path / "a").plan.labeled()[DEPTH]
    sizes = Run(parse(values(dataset, labels, tiny_clip, "bytes > 0")), tmp_path / "b").plan.table[f"{DEPTH}:size"]
    middle = sorted(size for size in sizes.to_pylist() if size)[5]
    some = Run(parse(values(dataset, labels, tiny_clip, f"bytes >= {middle}")), tmp_path / "c").plan.labeled()[DEPTH]
    assert 0 < some < whole


def test_a_recipe_reports_a_condition_with_its_place() -> None:
    with pytest.raises(RecipeError, match=r"columns.0.where: 'valid is 3' is not a condition"):
        parse(values(Path("d"), Path("l"), "demo:clip", "valid is 3"))
