"""Labeling from end to end: resumable, bounded, honest about failures."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clipzoo.cli import app
from clipzoo.errors import DatasetError, ExpertError, RemoteError, StoreError, kind_of
from clipzoo.experts import ExpertInput
from clipzoo.labeling import Interrupted, import_labels, label
from clipzoo.labeling._batches import Batcher
from clipzoo.labeling._budget import Budget
from clipzoo.pages import inspect
from clipzoo.readers import open_dataset
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Column, Manifest, Store, runs, verify
from clipzoo.types import Failure
from making import Bright, Near, encoded, image, make_dataset, raw_tar, samples


def run(data, out, experts=None, **options):
    options = {"progress": False, "check": False, **options}
    return label(str(data), experts or [Bright()], str(out), device="cpu", **options)


def contents(out: Path) -> dict[str, bytes]:
    """Every byte of a store that is not a cost."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in (".tar", ".parquet")}


def hostile(folder: Path) -> Path:
    """Twelve samples, of which four are unusable in their own ways."""
    members = [
        (f"{key}.{ext}", data) for key, files in samples(8) for ext, data in files.items()
    ]  # fmt: skip
    members[4:4] = [("jpeg.jpg", encoded(image(1, (64, 64)), "JPEG")[:800]), ("jpeg.txt", b"broken")]
    members += [("mute.png", encoded(image(2))), ("../up.png", b"x"), ("../up.txt", b"x"), ("blank.png", b"")]
    members += [("blank.txt", b"words")]
    raw_tar(folder / "00000.tar", members)
    return folder


# The plain case --------------------------------------------------------------------------------------------


def test_two_experts_share_a_pass(tmp_path):
    data = make_dataset(tmp_path / "data", shards=3)
    bright, near = run(data, tmp_path / "out", [Bright(), Near()])
    assert (bright.task, bright.slug, bright.labels, bright.failures) == ("segmentation", "test-bright", 18, 0)
    assert (near.task, near.shards, near.labeled) == ("depth", 3, 18)
    assert near.bytes_per_image > 0
    assert near.seconds_per_image > 0
    store = Store(tmp_path / "out")
    assert verify(store, open_dataset(str(data))) == []
    column = store.column("segmentation", "test-bright")
    row = column.rows("00001").to_pylist()[2]
    assert np.array_equal(column.label("00001", row).ids, Bright.one(image(8)).ids)


def test_a_rerun_does_only_what_is_missing(tmp_path):
    data, first = make_dataset(tmp_path / "data"), Bright()
    run(data, tmp_path / "out", [first], shards=["00000"])
    assert len(first.calls) == 2
    second = Bright()
    (report,) = run(data, tmp_path / "out", [second])
    assert (report.labeled, report.labels) == (6, 12)
    third = Bright()
    (report,) = run(data, tmp_path / "out", [third])
    assert (third.loaded, report.labeled, report.labels) == (0, 0, 12)
    for shards in (["00009"], "00009"):
        with pytest.raises(DatasetError, match="no shard '00009'"):
            run(data, tmp_path / "new", shards=shards)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", [5, -0.1, "5%", math.nan])
def test_a_share_of_failures_is_checked(tmp_path, given):
    data = make_dataset(tmp_path / "data")
    with pytest.raises(ExpertError, match=r"max_failures=.* is no share of the samples. Give 0 to 1: 5 % is 0.05"):
        run(data, tmp_path / "out", max_failures=given)
    with pytest.raises(ExpertError, match="is no share"):
        import_labels(data, tmp_path, "files", {}, tmp_path / "out", max_failures=given)
    assert not (tmp_path / "out").exists()


def test_a_later_expert_gives_the_bytes_it_would_have_given_in_one_pass(tmp_path):
    data = make_dataset(tmp_path / "data")
    run(data, tmp_path / "together", [Bright(), Near()])
    run(data, tmp_path / "apart", [Near()])
    run(data, tmp_path / "apart", [Bright(), Near()])
    assert contents(tmp_path / "together") == contents(tmp_path / "apart")


def test_batches_hold_one_size_and_depend_on_the_shard_alone(tmp_path):
    mixed = [
        (f"{i:03d}", {"png": encoded(image(i, (8 + 4 * (i % 3), 16))), "txt": b"c"}) for i in range(20)
    ]  # fmt: skip
    write_shard(tmp_path / "data/0.tar", mixed)
    calls = []
    for name in "ab":
        expert = Bright()
        run(tmp_path / "data", tmp_path / name, [expert] if name == "a" else [Near(), expert])
        assert all(len(set(call)) == 1 and len(call) <= 4 for call in expert.calls)
        calls.append(expert.calls)
    assert calls[0] == calls[1]
    column = Store(tmp_path / "a").column("segmentation", "test-bright")
    assert column.rows("0")["key"].to_pylist() == [key for key, _ in mixed]


def test_waiting_images_are_bounded(monkeypatch):
    monkeypatch.setattr("clipzoo.labeling._batches.PENDING_PIXELS", 1000)
    taken = []
    batcher = Batcher(100, taken.append)
    for i in range(50):
        batcher.add(ExpertInput(str(i), image(i, (8, 8 + i))))
        assert sum(w.image.shape[0] * w.image.shape[1] for b in batcher._buckets.values() for w in b) <= 1000
    batcher.flush()
    assert sum(map(len, taken)) == 50


def test_batch_size_is_the_callers(tmp_path):
    expert = Bright()
    run(make_dataset(tmp_path / "data"), tmp_path / "out", [expert], batch_size=1)
    assert all(len(call) == 1 for call in expert.calls)


# Failures --------------------------------------------------------------------------------------------------


def test_unusable_samples_become_rows_and_the_rest_is_labeled(tmp_path):
    data = hostile(tmp_path / "data")
    (report,) = run(data, tmp_path / "out", max_failures=0.5)
    assert (report.labels, report.failures) == (8, 4)
    rows = Store(tmp_path / "out").columns()[0].rows("00000").to_pylist()
    reasons = {row["key"]: row["error"] for row in rows if row["error"]}
    assert set(reasons) == {"jpeg", "mute", "../up", "blank"}
    assert "cannot decode the image" in reasons["jpeg"]
    assert verify(Store(tmp_path / "out"), open_dataset(str(data))) == []


def test_kinds_of_failure_that_the_table_leaves_out_are_counted(tmp_path):
    words = ["label", str(hostile(tmp_path / "data")), "--expert", "demo:edges", "--out", str(tmp_path / "out")]
    output = CliRunner().invoke(app, [*words, "--max-failures", "0.5", "--no-check"], catch_exceptions=False).output
    assert output.count("│ 1 × ") == 3, output
    assert "and 1 more kind " in output, output


def test_of_a_failing_batch_only_the_guilty_one_fails(tmp_path):
    expert = Bright(poison=[image(2)[0, 0].tobytes()])
    (report,) = run(make_dataset(tmp_path / "data"), tmp_path / "out", [expert], max_failures=0.2)
    assert (report.labels, report.failures) == (11, 1)
    rows = Store(tmp_path / "out").columns()[0].rows("00000").to_pylist()
    assert rows[2]["error"] == "the expert failed: RuntimeError: out of luck (on purpose)"
    assert [row["error"] is None for row in rows] == [True, True, False, True, True, True]


@pytest.mark.parametrize("what", ["nothing", "foreign", "too few"])
def test_what_is_no_label_is_a_row(tmp_path, monkeypatch, what):
    gives = {"nothing": lambda x: [None] * len(x), "foreign": lambda x: [42] * len(x), "too few": lambda x: []}
    expert = Bright()
    monkeypatch.setattr(expert, "predict", gives[what])
    with pytest.raises(ExpertError, match="segmentation/test-bright has no label: all 6 samples"):
        run(make_dataset(tmp_path / "data", shards=1), tmp_path / "out", [expert], max_failures=1)
    assert Store(tmp_path / "out").columns()[0].manifest.counts.failures == 6


def test_kinds_of_failure_say_what_failed():
    assert kind_of("the image (jpg) is empty: 0 bytes") == "the image is empty"
    assert kind_of("(odd)") == "(odd)"


def failed(message: str) -> str:
    return "the expert failed: " + message


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (failed("RuntimeError: (1)\nmore"), failed("RuntimeError")),
        (failed("RuntimeError: CUDA error: out of memory (3)\n2"), failed("RuntimeError: CUDA error: out of memory")),
        (failed("Timeout: no answer in 30 s"), failed("Timeout: no answer in … s")),
        ("an id of no class: 7 in a/1.png", "an id of no class"),
        (failed("OSError: cannot open /data/a/3.png: no"), failed("OSError: cannot open …: no")),
        (failed("FileNotFoundError: [Errno 2] None: 'x/3.png'"), failed("FileNotFoundError: [Errno …] None: …")),
        (failed("RuntimeError: <X object at 0x7f3a12> died"), failed("RuntimeError: <X object at …> died")),
        ("class id 7 of 2; mend", "class id … of …"),
        ("cannot read the label: m/1.png: OSError: truncated (9 bytes)", "cannot read the label: OSError: truncated"),
        ("cannot read the label: m/2.png: OSError: truncated (3 bytes)", "cannot read the label: OSError: truncated"),
        ("OSError: it is gone", "OSError: it is gone"),
        (failed("ValueError: " + "word " * 200), (failed("ValueError: ") + "word " * 200)[:119] + "…"),
    ],
)  # fmt: skip
def test_kinds_of_failure_keep_what_to_act_on(reason, kind):
    assert kind_of(reason) == kind


def test_one_expert_needs_no_list(tmp_path):
    (report,) = run(make_dataset(tmp_path / "data"), tmp_path / "out", Bright())
    assert report.labels == 12


def test_equal_faults_give_equal_bytes(tmp_path, monkeypatch):
    """Reasons that hold an address in memory would differ from run to run."""
    data, stores = make_dataset(tmp_path / "data", shards=1), []
    for name in ("a", "b"):
        expert = Bright()
        monkeypatch.setattr(expert, "predict", lambda images: [object() for _ in images])
        with pytest.raises(ExpertError, match="has no label"):
            run(data, tmp_path / name, [expert], max_failures=1)
        stores.append(contents(tmp_path / name))
    assert stores[0] == stores[1]


def test_an_expert_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    expert = Bright()
    monkeypatch.setattr(expert, "load", lambda device: 1 / 0)
    with pytest.raises(ExpertError, match=r"test:bright cannot be loaded on cpu: ZeroDivisionError"):
        run(make_dataset(tmp_path / "data"), tmp_path / "out", [expert])


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        run(make_dataset(tmp_path / "data"), tmp_path / "out")


def test_a_label_outside_its_label_space_is_a_row(tmp_path, monkeypatch):
    from clipzoo.tasks.segmentation import Segmentation

    expert, wrong = Bright(), Segmentation(np.full((2, 2), 7, np.uint16), np.ones((2, 2), bool))
    monkeypatch.setattr(expert, "predict", lambda images: [wrong] * len(images))
    with pytest.raises(
        ExpertError, match="Example: 00000/000000: the expert gave no sound label: class id 7 is outside"
    ):
        run(make_dataset(tmp_path / "data", shards=1), tmp_path / "out", [expert], max_failures=1)


def test_a_column_without_a_label_is_an_error_until_it_has_one(tmp_path):
    data, everything = make_dataset(tmp_path / "data"), [image(i)[0, 0].tobytes() for i in range(12)]
    for _ in range(2):  # it is no less of one when there is nothing left to do
        with pytest.raises(ExpertError, match=r"all 12 .*: 00000/000000: the expert failed: RuntimeError: out of luck"):
            run(data, tmp_path / "out", [Bright(poison=everything)], max_failures=1)
    assert Store(tmp_path / "out").columns()[0].committed() == {"00000", "00001"}
    with pytest.raises(ExpertError, match="--retry-failed"):
        run(data, tmp_path / "out", [Bright()], max_failures=1)
    (report,) = run(data, tmp_path / "out", [Bright(poison=everything[1:])], max_failures=1, retry_failed=True)
    assert (report.labels, report.failures) == (1, 11)
    assert report.reasons == {"expert-failed: RuntimeError: out of luck": 11}
    told = "00000/000001: the expert failed: RuntimeError: out of luck (on purpose)"
    assert report.examples == {"expert-failed: RuntimeError: out of luck": told}


def test_what_cannot_be_reached_is_no_failure_of_a_sample(tmp_path, monkeypatch):
    """Nor where it is the expert that asks for it, as `rows:` does."""
    expert = Bright()

    def away(images):
        raise RemoteError("the host cannot be reached")

    monkeypatch.setattr(expert, "predict", away)
    with pytest.raises(RemoteError, match="cannot be reached"):
        run(make_dataset(tmp_path / "data"), tmp_path / "out", [expert], max_failures=1)
    assert contents(tmp_path / "out") == {}


def test_the_budget_stops_early_and_says_why(tmp_path, monkeypatch):
    data = make_dataset(tmp_path / "data", shards=3, count=80)
    expert = Bright(poison=[image(i)[0, 0].tobytes() for i in range(90, 240)])
    with pytest.raises(ExpertError, match=r"of segmentation/test-bright failed.*\n  \d+ × the expert failed: .*\w"):
        run(data, tmp_path / "out", [expert])
    (column,) = Store(tmp_path / "out").columns()
    assert column.committed() == {"00000"}
    assert column.manifest.counts.labels == 80
    assert len(expert.calls) < 60


def test_the_budget_of_a_small_dataset_is_judged_at_its_end(tmp_path):
    data = hostile(tmp_path / "data")
    with pytest.raises(DatasetError, match="4 of 12 samples"):
        run(data, tmp_path / "out")
    assert contents(tmp_path / "out") == {}
    run(data, tmp_path / "out", max_failures=0.34)


def test_a_budget_counts_earlier_runs(tmp_path):
    budget = Budget("c", 0.05, samples=1000, failed=49)
    budget.note(Failure("expert-failed", "x"))
    with pytest.raises(ExpertError, match="51 of 1002"):
        budget.note(Failure("expert-failed", "x"))


def test_failures_are_retried_when_asked_and_the_rest_is_kept(tmp_path):
    data, poison = make_dataset(tmp_path / "data"), [image(2)[0, 0].tobytes()]
    run(data, tmp_path / "out", [Bright(poison=poison)], max_failures=0.2)
    run(data, tmp_path / "whole")
    healed = Bright()
    assert run(data, tmp_path / "out", [healed])[0].failures == 1
    (report,) = run(data, tmp_path / "out", [healed], retry_failed=True)
    assert (report.labels, report.failures, report.labeled) == (12, 0, 1)
    assert healed.calls == [[(12, 16, 3)]]
    a, b = (Store(tmp_path / name).columns()[0] for name in ("out", "whole"))
    drop = ["offset"]
    assert a.rows("00000").drop_columns(drop) == b.rows("00000").drop_columns(drop)
    assert verify(Store(tmp_path / "out")) == []


def test_a_column_that_another_run_has_replaced_meanwhile_gets_no_labels(tmp_path, monkeypatch):
    """After the column was opened, and before its lock was taken."""
    data, own = make_dataset(tmp_path / "data"), Store.create

    def replaced(store, card, dataset, *rest, **options):
        column = own(store, card, dataset, *rest, **options)
        Manifest.of(replace(card, weights_sha256="ff"), dataset).write(column.path)
        return column

    monkeypatch.setattr(Store, "create", replaced)
    with pytest.raises(StoreError, match="was made with weights_sha256 = 'ff', the expert now has '00'"):
        run(data, tmp_path / "out")
    assert not Store(tmp_path / "out").columns()[0].committed()


def test_damaged_labels_are_not_kept(tmp_path):
    """They would get a new checksum."""
    data, poison = make_dataset(tmp_path / "data"), [image(2)[0, 0].tobytes()]
    run(data, tmp_path / "out", [Bright(poison=poison)], max_failures=0.2)
    (column,) = Store(tmp_path / "out").columns()
    tar, row = column.file("00000", ".tar"), column.rows("00000").to_pylist()[0]
    with tar.open("r+b") as file:
        file.seek(row["offset"] + row["size"] - 1)
        file.write(b"\xff")
    damaged = tar.read_bytes()
    with pytest.raises(StoreError, match=r"00000\.tar has changed .*Remove 00000\.parquet and label again"):
        run(data, tmp_path / "out", [Bright()], retry_failed=True)
    assert tar.read_bytes() == damaged


# Refusals --------------------------------------------------------------------------------------------------


def test_a_store_of_another_dataset_is_refused(tmp_path):
    run(make_dataset(tmp_path / "a"), tmp_path / "out")
    with pytest.raises(StoreError, match="another dataset"):
        run(make_dataset(tmp_path / "b", shards=3, count=5), tmp_path / "out")


@pytest.mark.parametrize("out", ["data", "data/labels"])
def test_a_store_inside_the_dataset_is_refused(tmp_path, out):
    with pytest.raises(StoreError, match="is inside of the dataset"):
        run(make_dataset(tmp_path / "data"), tmp_path / out)


@pytest.mark.parametrize("data", ["both.yaml", "shards/**/*.tar", "sh*/**/*.tar"])
def test_a_store_inside_what_is_read_whole_is_refused(tmp_path, data):
    """Its tars would be shards of the next run."""
    make_dataset(tmp_path / "shards")
    (tmp_path / "both.yaml").write_text("datasets:\n  web: shards\n")
    with pytest.raises(StoreError, match="is inside of the dataset"):
        run(tmp_path / data, tmp_path / "shards" / "labels")
    run(tmp_path / "shards" / "*.tar", tmp_path / "shards" / "labels")


def test_shards_are_chosen_by_names_and_patterns(tmp_path, monkeypatch):
    data = make_dataset(tmp_path / "data", shards=4, count=2)
    (tmp_path / "few.py").write_text("from making import Bright\nclass Few(Bright):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["label", str(data), "--expert", "python:few:Few", "--out", "out", "--device", "cpu", "--no-check"]
    CliRunner().invoke(app, [*words, "--shards", "00003", "--shards", "0000[01]"], catch_exceptions=False)
    assert Store("out").columns()[0].committed() == {"00000", "00001", "00003"}


def test_no_expert_or_one_twice_is_refused(tmp_path):
    data = make_dataset(tmp_path / "data")
    with pytest.raises(ExpertError, match="Give each expert once"):
        run(data, tmp_path / "out", [Bright(), Bright()])
    with pytest.raises(ExpertError, match="no expert was given"):
        label(str(data), [], tmp_path / "out")
    with pytest.raises(ExpertError, match="batch_size=0"):
        run(data, tmp_path / "out", batch_size=0)


def test_two_runs_on_one_store(tmp_path):
    data, inner = make_dataset(tmp_path / "data"), []
    outer = Bright()
    predict = outer.predict

    def meanwhile(images):
        try:
            run(data, tmp_path / "out")
        except StoreError as error:
            inner.append(str(error))
        return predict(images)

    outer.predict = meanwhile
    (report,) = run(data, tmp_path / "out", [outer])
    assert report.labels == 12
    assert all(f"in use by process {os.getpid()}" in line and "\n" not in line for line in inner)
    assert inner


# Stops -----------------------------------------------------------------------------------------------------

CHILD = """
import sys, time
sys.path.insert(0, sys.argv[3])
from making import Bright
from clipzoo.labeling import label

class Slow(Bright):
    def predict(self, images):
        print("predicting", flush=True)
        time.sleep(0.05)
        return super().predict(images)

label(sys.argv[1], [Slow()], sys.argv[2], device="cpu", progress=False, check=False)
"""


def child(data: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(data), str(out), str(Path(__file__).parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_then_resume_is_byte_identical(tmp_path):
    data = make_dataset(tmp_path / "data", shards=6, count=8)
    run(data, tmp_path / "whole")
    victim = child(data, tmp_path / "out")
    for _ in range(6):
        assert victim.stdout.readline() == "predicting\n"
    victim.kill()
    victim.communicate()
    column = Store(tmp_path / "out").columns()[0]
    assert 0 < len(column.committed()) < 6
    assert list(column.path.glob("*.tmp"))
    (report,) = run(data, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(column.path.glob("*.tmp"))
    assert report.labels == 48
    assert 0 < report.labeled < 48


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_cleanly_and_says_how_to_go_on(tmp_path, sent):
    data = make_dataset(tmp_path / "data", shards=6, count=8)
    victim = child(data, tmp_path / "out")
    for _ in range(5):
        victim.stdout.readline()
    victim.send_signal(sent)
    _, errors = victim.communicate(timeout=30)
    assert victim.returncode != 0
    assert f"stopped by {sent.name}" in errors
    assert "Rerun the command to resume" in errors
    column = Store(tmp_path / "out").columns()[0]
    assert not list(column.path.glob("*.tmp"))
    assert column.manifest.counts.shards == len(column.committed()) > 0
    before = column.manifest.seconds
    (report,) = run(data, tmp_path / "out")
    assert report.labels == 48
    spent = Column(column.path).manifest.seconds
    assert spent > before > 0
    assert 0 < report.seconds <= spent, "what was in work when the signal came went into no label"


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    expert = Bright()
    predict = expert.predict
    expert.predict = lambda images: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.01), predict(images))[2]
    with pytest.raises(Interrupted, match="1 of 1 shards remain"):
        run(make_dataset(tmp_path / "data", shards=1, count=8), tmp_path / "out", [expert])
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_a_thread(tmp_path):
    data, found = make_dataset(tmp_path / "data"), []
    thread = threading.Thread(target=lambda: found.extend(run(data, tmp_path / "out")))
    thread.start()
    thread.join()
    assert found[0].labels == 12


def test_counts_are_mended_after_a_kill_before_the_end(tmp_path):
    data = make_dataset(tmp_path / "data")
    run(data, tmp_path / "out")
    column = Store(tmp_path / "out").columns()[0]
    stale = column.manifest.model_copy(update={"counts": type(column.manifest.counts)()})
    stale.write(column.path)
    assert run(data, tmp_path / "out")[0].labels == 12
    assert Column(column.path).manifest.counts.labels == 12


def test_counts_are_mended_after_a_kill_while_failures_were_retried(tmp_path):
    """All shards were there before, and are after."""
    data = make_dataset(tmp_path / "data")
    run(data, tmp_path / "out", [Bright(poison=[image(2)[0, 0].tobytes()])], max_failures=0.2)
    column = Store(tmp_path / "out").columns()[0]
    stale = (column.path / "manifest.json").read_bytes()
    run(data, tmp_path / "out", retry_failed=True)
    (column.path / "manifest.json").write_bytes(stale)
    lines = (column.path / "runs.jsonl").read_text().splitlines(keepends=True)
    (column.path / "runs.jsonl").write_text("".join(lines[:-1]))
    (report,) = run(data, tmp_path / "out")
    assert (report.labels, report.failures) == (12, 0)
    run(data, tmp_path / "out")
    assert len([*runs(column.path)]) == len(lines), "once"


def test_progress_goes_to_standard_error(tmp_path, capsys):
    label(str(make_dataset(tmp_path / "data")), [Bright()], tmp_path / "out", device="cpu")
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "12 images" in seen.err


# Gallery ---------------------------------------------------------------------------------------------------


def test_gallery(tmp_path):
    data = hostile(tmp_path / "data")
    evil = [("<script>alert(1)</script>", {"png": encoded(image(1)), "txt": b"<img src=x onerror=alert(2)>"})]
    write_shard(data / "00001.tar", evil)
    run(data, tmp_path / "out", [Bright(), Near()], max_failures=0.5)
    gallery = inspect(tmp_path / "out", str(data), tmp_path / "page.html", count=4)
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/jpeg;base64,") == 4 * 3
    assert len(gallery.keys) == 4
    assert {key for _, _, key, _ in gallery.failures} == {"jpeg", "mute", "../up", "blank"}
    assert "../up" in page
    assert [column["labels"] for column in gallery.columns] == ["9", "9"]


def test_gallery_of_nothing(tmp_path):
    with pytest.raises(StoreError, match=r"there is no label store at .*: it has no column .*labels ls FOLDER"):
        inspect(tmp_path, str(make_dataset(tmp_path / "data")), tmp_path / "page.html")


def test_gallery_asked_for_wrongly(tmp_path):
    with pytest.raises(StoreError, match="count=0"):
        inspect(tmp_path, "unread", tmp_path / "page.html", 0)
    data = make_dataset(tmp_path / "data", shards=1)
    run(data, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        inspect(tmp_path / "out", str(data), tmp_path / "file" / "page.html")


def test_gallery_of_another_dataset_is_refused(tmp_path):
    run(make_dataset(tmp_path / "data"), tmp_path / "out")
    other = make_dataset(tmp_path / "other", shards=1)
    with pytest.raises(StoreError, match="another dataset"):
        inspect(tmp_path / "out", str(other), tmp_path / "page.html")
