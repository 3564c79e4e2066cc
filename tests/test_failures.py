"""Failures as data: codes from readers to the store, grouping by code, and stores without codes."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

import clipzoo
from clipzoo.errors import Code, ImageError, SampleError
from clipzoo.labeling import label, report
from clipzoo.labeling._budget import Budget
from clipzoo.readers import fingerprint, open_dataset
from clipzoo.store import Column, ColumnWriter, Store, merge, verify
from clipzoo.types import Failure, decode_image
from making import Bright, encoded, image, make_dataset, raw_tar

REASON = Failure("no-caption", "the sample has no caption: it has png")


def test_a_failure_groups_by_its_code_and_experts_by_what_they_say() -> None:
    assert REASON.kind == "no-caption"
    assert str(REASON) == REASON.detail
    assert Failure("expert-failed", "the expert failed: OSError: no /a/b 3").kind == "expert-failed: OSError: no … …"
    assert Failure("unsound-label", "its label cannot be used: an id of no class: 7").kind == (
        "unsound-label: an id of no class"
    )
    assert Failure("unusable", "the plugin says (3)").kind == "unusable: the plugin says"


def test_an_error_of_a_sample_has_a_code() -> None:
    assert Failure.of(SampleError("x")) == Failure("unusable", "x")
    assert Failure.of(SampleError("x", "no-label")) == Failure("no-label", "x")
    with pytest.raises(ImageError) as error:
        decode_image(b"no picture")
    assert error.value.code == "cannot-decode"
    with pytest.raises(ImageError) as error:
        decode_image(encoded(image(0)), max_pixels=2)
    assert error.value.code == "too-large"


def test_readers_and_experts_give_codes_that_reach_the_store(tmp_path: Path) -> None:
    words, picture = b"words", encoded(image(0))
    members = [
        *[("sound.png", encoded(image(1))), ("sound.txt", words)], *[("mute.png", picture)], *[("blank.txt", words)],
        *[("empty.png", b""), ("empty.txt", words)], *[("odd.png", b"none"), ("odd.txt", words)],
        *[("poison.png", encoded(image(2))), ("poison.txt", words), ("white.png", picture), ("white.txt", b" ")],
        *[("sound.png", picture), ("sound.txt", words)],
    ]  # fmt: skip
    raw_tar(tmp_path / "data" / "0.tar", members)
    expert = Bright(poison=[image(2)[0, 0].tobytes()])
    label(tmp_path / "data", [expert], tmp_path / "out", device="cpu", max_failures=1, check=False, progress=False)
    (column,) = Store(tmp_path / "out").columns()
    assert {key: failure.code for _, key, failure in column.failures()} == {
        "mute": "no-caption", "blank": "no-image", "empty": "empty", "odd": "cannot-decode", "white": "no-caption",
        "poison": "expert-failed", "sound#2": "duplicate-key",
    }  # fmt: skip
    assert report(column).reasons["no-caption"] == 2
    assert set(report(column).reasons) >= {"no-image", "expert-failed: RuntimeError: out of luck"}


def test_a_budget_does_not_count_what_was_not_downloaded() -> None:
    budget = Budget("c", 0.0)
    budget.note(Failure("not-downloaded", "any text"), by_sample=True)
    assert (budget.samples, budget.failed, budget.by_sample) == (0, 0, 0)


def _filled(tmp_path: Path, name: str, failure: Failure = REASON, labeled: int = 5) -> Column:
    """A column with labeled samples and one failure."""
    data = make_dataset(tmp_path / "data", shards=1)
    column = Store(tmp_path / name).create(Bright().card, fingerprint(open_dataset(str(data))))
    with ColumnWriter(column, "00000") as writer:
        for i in range(labeled):
            writer.add(f"{i:06d}", Bright.one(image(i)))
        writer.fail(f"{labeled:06d}", failure)
    column.finish()
    return Column(column.path)


def _without_codes(column: Column) -> None:
    """Rewrite the rows as they were before failures had codes."""
    path = Path(str(column.file("00000", ".parquet")))
    pq.write_table(pq.read_table(path).drop_columns("code"), path, compression="zstd")


def test_a_store_without_codes_stays_readable(tmp_path: Path) -> None:
    column = _filled(tmp_path, "old")
    marks = column.marks("00000")
    _without_codes(column)
    assert column.marks("00000") == marks
    assert list(column.failures()) == [("00000", "000005", Failure("unusable", REASON.detail))]
    assert report(column).reasons == {"unusable: the sample has no caption": 1}
    assert verify(Store(tmp_path / "old"), open_dataset(str(tmp_path / "data"))) == []


def test_what_was_not_downloaded_is_known_in_a_store_without_codes(tmp_path: Path) -> None:
    column = _filled(tmp_path, "old", Failure("not-downloaded", "not downloaded: failed_to_download"))
    _without_codes(column)
    assert [failure.code for _, _, failure in column.failures()] == ["not-downloaded"]


def test_shards_with_and_without_codes_merge_where_they_are_equal(tmp_path: Path) -> None:
    _without_codes(_filled(tmp_path, "old"))
    _filled(tmp_path, "new")
    merge([Store(tmp_path / "new")], Store(tmp_path / "old"))
    _filled(tmp_path, "text", Failure("no-caption", "the text of another version"))
    merge([Store(tmp_path / "text")], Store(tmp_path / "old"))
    _filled(tmp_path, "other", labeled=4)
    with pytest.raises(clipzoo.errors.StoreError, match="have different labels for the shard '00000'"):
        merge([Store(tmp_path / "other")], Store(tmp_path / "old"))


def test_every_code_is_used_and_documented() -> None:
    root = Path(clipzoo.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")]
    used = Counter(node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    docs = (Path(__file__).parents[1] / "docs" / "labels.md").read_text(encoding="utf-8")
    for code in get_args(Code):
        assert used[code] > 1, code  # once where the codes are listed
        assert f"`{code}`" in docs, code
