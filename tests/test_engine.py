"""The labeling engine at work: short of memory, in other precisions, ahead of the expert; and what it says of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from clipzoo import experts
from clipzoo.cli import app
from clipzoo.cli._options import as_share
from clipzoo.errors import DatasetError, ExpertError, StoreError
from clipzoo.experts import Expert, ExpertCard
from clipzoo.experts.calls import out_of_memory
from clipzoo.labeling import Tuning, engine, estimate, label
from clipzoo.labeling import report as report_of
from clipzoo.labeling._progress import COMMIT, DATA, WRITING, Drift, Meter, Progress
from clipzoo.labeling.ray.worker import Order, Worker
from clipzoo.locations import open_dataset, resolve_data
from clipzoo.readers import fingerprint
from clipzoo.readers.webdataset import write_shard
from clipzoo.store import Store, runs
from clipzoo.tasks import Convention
from clipzoo.tasks.depth import Depth
from clipzoo.types import ImageArray
from making import Bright, Near, encoded, image, make_dataset, raw_tar, samples


def run(data: Path, out: Path, experts: Sequence[Any] = (), **options: Any) -> list[Any]:
    return label(str(data), experts or [Bright()], out, device="cpu", **{"progress": False, "check": False, **options})


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in (".tar", ".parquet")}


# Memory ----------------------------------------------------------------------------------------------------


def too_much_for_the_cpu() -> None:
    torch.empty(1 << 50)


def too_much_for_numpy() -> None:
    np.empty(1 << 55, np.uint8)


def too_much_for_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has …")


class Tight(Bright):
    """Has memory for so many images."""

    def __init__(self, room: int, fails=too_much_for_the_cpu) -> None:
        super().__init__(batch_size=8)
        self.room, self.fails = room, fails

    def predict(self, images: Sequence[ImageArray]) -> list[Any]:
        labels = super().predict(images)
        if len(images) > self.room:
            self.fails()
        return labels


@pytest.mark.parametrize("fails", [too_much_for_the_cpu, too_much_for_numpy, too_much_for_cuda])
def test_without_memory_batches_are_halved_for_the_rest_of_the_run(tmp_path, fails, caplog):
    data, expert = make_dataset(tmp_path / "data", shards=2, count=16), Tight(3, fails)
    (report,) = run(data, tmp_path / "out", [expert])
    assert [len(call) for call in expert.calls] == [8, 4, 2, 2, 2, 2, *[2] * 4, *[2] * 8]
    assert (report.labels, report.failures, report.halved_to) == (32, 0, 2)
    lines = [line for line in runs(report.path) if line["event"] == "out of memory"]
    assert [(line["shard"], line["batch_size"]) for line in lines] == [("00000", 4), ("00000", 2)]
    assert "Batches of images with 192 pixels or more now have at most 2 images" in caplog.text
    run(data, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")  # of an expert that does not mind
    (again,) = run(data, tmp_path / "out")
    assert again.halved_to == 2  # the column still says so
    assert run(data, tmp_path / "whole")[0].halved_to is None


def test_smaller_images_keep_their_batches_when_larger_ones_have_no_memory(tmp_path):
    class Small(Bright):
        def predict(self, images: Sequence[ImageArray]) -> list[Any]:
            if sum(image.shape[0] * image.shape[1] for image in images) > 8 * 12 * 16:
                too_much_for_the_cpu()
            return super().predict(images)

    large = [(f"l{i}", {"jpg": encoded(np.full((60, 80, 3), i, np.uint8)), "txt": b"a room"}) for i in range(4)]
    write_shard(tmp_path / "data" / "00000.tar", [*large, *samples(16)])
    (report,) = run(tmp_path / "data", tmp_path / "out", [expert := Small(batch_size=8)], max_failures=1)
    assert report.halved_to == 1
    assert (report.labels, report.failures) == (16, 4)
    assert [len(call) for call in expert.calls] == [8, 8]


def test_an_image_that_is_too_large_alone_is_a_failure(tmp_path):
    expert = Tight(0)
    with pytest.raises(ExpertError, match=r"all 4 samples .* can't allocate memory"):
        run(make_dataset(tmp_path / "data", 1, 4), tmp_path / "out", [expert], max_failures=1)
    (column,) = Store(tmp_path / "out").columns()
    assert report_of(column).halved_to == 1
    assert all("can't allocate memory" in failure.detail for _, _, failure in column.failures())


def test_other_failures_do_not_halve(tmp_path):
    expert = Bright(poison=[image(2)[0, 0].tobytes()])
    (report,) = run(make_dataset(tmp_path / "data"), tmp_path / "out", [expert], max_failures=1)
    assert report.halved_to is None
    assert max(len(call) for call in expert.calls[-2:]) == 4
    assert not out_of_memory(RuntimeError("the size of tensor a must match"))


# Precision and layout --------------------------------------------------------------------------------------


class Net(nn.Module):
    """Brightness; says in which type it worked."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.conv.weight, 1 / 27)
        self.inside: torch.dtype | None = None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found = self.conv(images)
        self.inside = found.dtype
        return {"depth": found, "count": torch.tensor(len(images))}


class InTorch(Expert):
    """Depth from a `Net`."""

    batch_size = 4

    def __init__(self) -> None:
        self.card = ExpertCard("test:net", "depth", Convention(kind="metric", along="z"), preprocessing={"size": 8})
        self.net: Net | None = None

    @property
    def module(self) -> Net | None:
        return self.net

    def load(self, device: str = "cpu") -> None:
        self.net = Net().eval()

    def predict(self, images: Sequence[ImageArray]) -> list[Depth]:
        assert self.net is not None
        with torch.inference_mode():
            found = self.net(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)
        assert found["count"].dtype == torch.int64
        return [Depth(m.numpy() + 1, np.ones(m.shape, bool), "metric", "z") for m in found["depth"][:, 0]]


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_the_modules_and_stands_in_the_manifest(tmp_path, precision, inside):
    data, expert = make_dataset(tmp_path / "data"), InTorch()
    run(data, tmp_path / "out", [expert], tuning=Tuning(precision))
    assert expert.net.inside == inside
    told = Store(tmp_path / "out").columns()[0].manifest.expert["preprocessing"]
    assert told == {"size": 8} if precision == "fp32" else {"size": 8, "precision": "bf16"}
    assert expert.card.preprocessing == {"size": 8}
    other = Tuning("fp32" if precision == "bf16" else "bf16")
    with pytest.raises(StoreError, match="was made with preprocessing"):
        run(data, tmp_path / "out", [InTorch()], tuning=other)


def test_columns_made_of_labels_record_their_precision(tmp_path):
    """In one call with their expert, later without it, and on a worker of a cluster."""
    data, out, tuning = make_dataset(tmp_path / "data"), tmp_path / "out", Tuning("bf16")
    normals = "column:depth/test-net?to=normals&fov=60"
    assert len(run(data, out, [normals, InTorch()], tuning=tuning)) == 2
    made = Store(out).column("normals", "column-depth-test-net-fov-60-to-normals")
    assert made.manifest.expert["preprocessing"]["reads"]["depth/test-net"]["preprocessing"]["precision"] == "bf16"
    (again,) = run(data, out, [normals])
    assert again.labeled == 0
    identity = fingerprint(open_dataset(str(data)))
    order = Order(str(data), [normals], "cpu", None, tuning, 1, [made.path], dataset=identity, witness=tmp_path)
    Worker(order).setup()


def test_layout(tmp_path):
    data, expert = make_dataset(tmp_path / "data"), InTorch()
    run(data, tmp_path / "out", [expert], tuning=Tuning(channels_last=True))
    assert expert.net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert Store(tmp_path / "out").columns()[0].manifest.expert["preprocessing"]["channels_last"] is True


@pytest.mark.slow
def test_compiled(tmp_path):
    data = make_dataset(tmp_path / "data")
    run(data, tmp_path / "eager", [InTorch()])
    run(data, tmp_path / "compiled", [InTorch()], tuning=Tuning("bf16", compile=True))
    a, b = (Store(tmp_path / name).columns()[0] for name in ("eager", "compiled"))
    for one, other in zip(a.rows("00000").to_pylist(), b.rows("00000").to_pylist(), strict=True):
        np.testing.assert_allclose(a.label("00000", one).values, b.label("00000", other).values, rtol=0.02)


def test_what_is_no_module_is_said_and_left_alone(tmp_path, caplog):
    run(make_dataset(tmp_path / "data"), tmp_path / "out", [Bright()], tuning=Tuning("bf16", compile=True))
    assert "test:bright is not a torch module: precision, compile has no effect on it" in caplog.text
    assert Store(tmp_path / "out").columns()[0].manifest.expert["preprocessing"] == {}


def test_a_model_of_transformers_in_bf16(tmp_path):
    from hf_models import segformer

    torch.manual_seed(0)
    for part in segformer():
        part.save_pretrained(tmp_path / "model")
    data = make_dataset(tmp_path / "data", shards=1)
    found = []
    for precision in ("fp32", "bf16"):
        run(data, tmp_path / precision, [f"hf:{tmp_path / 'model'}"], tuning=Tuning(precision))
        column = Store(tmp_path / precision).columns()[0]
        found.append(column.rows("00000")["confidence"].to_numpy())
    assert np.abs(found[0] - found[1]).max() < 0.02
    assert (found[0] != found[1]).all()


@pytest.mark.parametrize(
    ("wrong", "says"), [({"precision": "int8"}, "fp32, bf16, fp16"), ({"threads": 0}, "1 or more")]
)
def test_settings_that_are_none(wrong, says):
    with pytest.raises(ExpertError, match=says):
        Tuning(**wrong)


def test_threads_are_fixed_noted_and_given_back(tmp_path):
    seen: list[int] = []

    class Seeing(Bright):
        def predict(self, images):
            seen.append(torch.get_num_threads())
            return super().predict(images)

    before = torch.get_num_threads()
    (report,) = run(make_dataset(tmp_path / "data"), tmp_path / "out", [Seeing()], tuning=Tuning(threads=before + 1))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    assert next(runs(report.path))["threads"] == before + 1


# Ahead of the expert ---------------------------------------------------------------------------------------


def test_the_next_batch_is_decoded_while_one_is_predicted(tmp_path, monkeypatch):
    """Else the expert waits for a batch's decode before each of its batches."""
    import clipzoo.readers.decode as batches

    count, enough = [0], threading.Event()
    decode_image = batches.decode_image

    def counted(data: bytes, **options: Any) -> ImageArray:
        count[0] += 1
        if count[0] >= 32:
            enough.set()
        return decode_image(data, **options)

    class Waiting(Bright):
        def predict(self, images):
            assert enough.wait(20), f"{count[0]} images are decoded"
            return super().predict(images)

    monkeypatch.setattr(batches, "decode_image", counted)
    data = make_dataset(tmp_path / "data", shards=1, count=40)
    (report,) = run(data, tmp_path / "out", [Waiting(batch_size=16)])
    assert report.labels == 40


# What it says ----------------------------------------------------------------------------------------------


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_log_has_a_line_a_shard_with_where_the_time_went(tmp_path):
    data, log = make_dataset(tmp_path / "data", shards=3, count=10), tmp_path / "deep" / "log.jsonl"
    run(data, tmp_path / "out", [Bright(), Near()], log=log)
    *shards, end = logged(log)
    assert [line["shard"] for line in shards] == ["00000", "00001", "00002"]
    assert (end["event"], end["images"], end["failures"], end["seconds_left"]) == ("end", 30, 0, 0)
    assert end["experts"]["depth/test-near"]["images"] == 30
    spent = sum(line["seconds"] for line in shards)
    assert end["seconds"] / 2 < spent < end["seconds"] + 1e-3  # less what lies between two shards
    for line in shards:
        assert set(line["shares"]) == {"waiting for data", "experts", "writing"}
        assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-3)
        experts = line["experts"].values()
        assert sum(one["seconds"] for one in experts) < line["seconds"]
        assert all(one["images_per_second"] == pytest.approx(10 / one["seconds"], rel=0.01) for one in experts)


def test_the_look_at_experts_is_no_time_of_labeling(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "quick_check", lambda *_: time.sleep(2) or [])
    data, log = make_dataset(tmp_path / "data", shards=1, count=4), tmp_path / "log.jsonl"
    began = time.monotonic()
    run(data, tmp_path / "out", [Bright()], log=log, check=True)
    assert time.monotonic() - began > 2
    assert logged(log)[-1]["seconds"] < 1.9


def test_failures_are_samples_whatever_number_of_experts(tmp_path, capsys):
    members = [(f"{key}.{ext}", data) for key, files in samples(4) for ext, data in files.items()]
    raw_tar(tmp_path / "data" / "0.tar", [*members, ("blank.png", b""), ("blank.txt", b"words")])
    poisoned = Bright(poison=[image(2)[0, 0].tobytes()])
    log = tmp_path / "log.jsonl"
    run(tmp_path / "data", tmp_path / "out", [poisoned, Near()], max_failures=1, log=log, progress=True)
    end = logged(log)[-1]
    assert end["failures"] == 2
    assert end["reasons"] == {"empty": 1, "expert-failed: RuntimeError: out of luck": 1}
    assert [one["failures"] for one in end["experts"].values()] == [2, 1]
    shown = capsys.readouterr().err
    assert "2 failed" in shown
    assert "1 × empty" in shown
    assert "waiting for data" in shown


def test_a_log_that_cannot_be_written_ends_the_run_before_it_begins(tmp_path):
    (tmp_path / "file").touch()
    expert = Bright()
    with pytest.raises(StoreError, match="cannot write"):
        run(make_dataset(tmp_path / "data"), tmp_path / "out", [expert], log=tmp_path / "file" / "log.jsonl")
    assert expert.calls == []


def meter(rate: float, data: float = 0.1) -> Meter:
    one = Meter(["c"])
    one.images, one.elapsed = 100, 100 / rate
    one.seconds.update({DATA: data * one.elapsed, "c": 0.5 * one.elapsed, WRITING: 0.0, COMMIT: 0.01})
    return one


def test_a_fall_of_throughput_is_warned_of_once():
    drift = Drift()
    said = [drift.note(meter(rate)) for rate in (10, 11, 9, 10, 10, 10, 2, 10, 10)]
    assert not any(said)  # one slow shard is none
    said = [drift.note(meter(3, data=0.9)) for _ in range(6)]
    assert [bool(line) for line in said] == [False, False, True, False, False, False]
    assert "slowed down to 3.0 images/s over the last 3 shards, from 10.0" in said[2]
    assert "The largest increase is in waiting for data" in said[2]
    assert not any(drift.note(meter(10)) for _ in range(3))
    assert any(drift.note(meter(1)) for _ in range(3))


def test_a_run_that_slows_down_says_so(caplog):
    with Progress(["c"], 20) as progress:
        for rate in [10] * 6 + [1] * 4:
            progress.begin()
            progress.shard("s", meter(rate))
    assert caplog.text.count("has slowed down") == 1


@pytest.mark.parametrize(("given", "share"), [("1%", 0.01), ("0.01", 0.01), ("100%", 1), ("0", 0), (0.05, 0.05)])
def test_shares(given, share):
    assert as_share(given) == pytest.approx(share)


@pytest.mark.parametrize("given", ["5", "-1%", "101%", "few", "%"])
def test_what_is_no_share(given):
    with pytest.raises(typer.BadParameter, match=r"give 5% or 0\.05"):
        as_share(given)


# Estimates -------------------------------------------------------------------------------------------------


def test_bytes_are_foreseen(tmp_path):
    """Pictures of many sizes, of which some are broken, in shards of unequal lengths."""
    rng = np.random.default_rng(0)
    for shard, count in enumerate((90, 140, 60)):
        members = [
            (f"{shard}-{i}", {"png": encoded(image(i, tuple(rng.integers(8, 40, 2)))), "txt": b"c"})
            for i in range(count)
        ]
        broken = [(f"{shard}-broken-{i}", {"png": b"none", "txt": b"c"}) for i in range(count // 10)]
        write_shard(tmp_path / f"data/{shard}.tar", members + broken)
    data = tmp_path / "data"
    guess = estimate(str(data), [Bright(), Near()], device="cpu")
    reports = run(data, tmp_path / "out", [Bright(), Near()], max_failures=1)
    assert guess.samples == 319
    assert [c.name for c in guess.columns] == ["segmentation/test-bright", "depth/test-near"]
    for column, report in zip(guess.columns, reports, strict=True):
        assert column.bytes == pytest.approx(report.bytes, rel=0.15)
        assert column.failures == pytest.approx(29 / 319, abs=0.02)
    assert guess.price(3600) == pytest.approx(guess.seconds)


def test_time_is_foreseen_where_it_is_the_experts(tmp_path):
    class Slow(Bright):
        def predict(self, images):
            threading.Event().wait(0.02 * len(images))
            return super().predict(images)

    data = make_dataset(tmp_path / "data", shards=4, count=12)
    guess = estimate(str(data), [Slow()], device="cpu")
    assert 0.02 <= guess.columns[0].seconds_per_image <= guess.seconds / 48 < 1


@pytest.mark.slow
def test_bytes_of_the_demo_are_foreseen_from_a_part(tmp_path, monkeypatch):
    """A hundred pictures of 600 tell within 15 %."""
    monkeypatch.setattr("clipzoo.labeling.estimating.IMAGES", 100)
    monkeypatch.setattr("clipzoo.labeling.estimating.SECONDS", 0.0)
    data = resolve_data("demo:test", tmp_path)
    expert = experts.create("demo:segmentation")
    expert.batch_size = 16
    guess = estimate(data, [expert], device="cpu")
    (report,) = label(data, ["demo:segmentation"], tmp_path / "out", device="cpu", progress=False)
    assert guess.samples == report.labels > 2 * guess.measured
    assert guess.bytes == pytest.approx(report.bytes, rel=0.15)


def test_estimate_on_the_command_line_writes_no_label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from making import Bright as B\nclass Bright(B): pass\n")
    data = make_dataset(tmp_path / "data")
    said = CliRunner().invoke(
        app,
        ["label", str(data), "--expert", "python:mine:Bright", "--out", "out", "--device", "cpu", "--max-failures",
         "1%", "--estimate", "--price", "3.5"],
        catch_exceptions=False,
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "12 samples:" in said.output
    assert "at 3.5 per hour" in said.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_an_estimate_is_of_the_chosen_shards_and_codec(tmp_path):
    rng = np.random.default_rng(0)
    for shard in range(4):
        noise = [
            (f"{i}", {"png": encoded(rng.integers(0, 256, (200, 200, 3), np.uint8)), "txt": b"c"}) for i in range(3)
        ]
        write_shard(tmp_path / f"data/{shard}.tar", noise)
    plain = estimate(str(tmp_path / "data"), [Near()], device="cpu", shards=["[01]"])
    levels = estimate(str(tmp_path / "data"), [Near()], device="cpu", shards=["0", "1"], codec="png-levels")
    assert (plain.samples, levels.samples) == (6, 6)
    assert levels.bytes > plain.bytes
    with pytest.raises(DatasetError, match="has no shard '7'"):
        estimate(str(tmp_path / "data"), [Near()], device="cpu", shards=["7"])


def test_estimate_of_an_expert_that_reads_other_columns_is_refused(tmp_path):
    expert = Bright()
    expert.reads = ("depth/x",)
    with pytest.raises(ExpertError, match="reads the column depth/x"):
        estimate(str(make_dataset(tmp_path / "data")), [expert], device="cpu")


def test_an_estimate_of_shards_with_equal_keys(tmp_path):
    for shard in range(3):
        members = [(f"{i:06d}", {"png": encoded(image(9 * shard + i)), "txt": b"c"}) for i in range(4)]
        write_shard(tmp_path / f"data/{shard}.tar", members)
    expert = Bright(batch_size=1)
    seen: list[bytes] = []
    expert.one = lambda pixels: seen.append(pixels.tobytes()) or Bright.one(pixels)  # type: ignore[method-assign]
    guess = estimate(str(tmp_path / "data"), [expert], device="cpu")
    assert (guess.samples, guess.measured, guess.columns[0].failures) == (12, 12, 0)
    assert set(seen) == {image(9 * shard + i).tobytes() for shard in range(3) for i in range(4)}
