"""Pictures and texts of measurements, encoded by several processes: the numbers are those of one, to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from clipzoo.benchmarks import Split, open_benchmark, read_split
from clipzoo.evaluation import retrieval, zero_shot
from clipzoo.evaluation.base import embed_texts, feature_batches, features
from clipzoo.models import Student
from clipzoo.training import Recognition, read_log, train
from clipzoo.training.processes import ranks, spread
from forking import on_ranks
from test_pipeline import write_benchmark
from test_training import job

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark(folder, 22, 0)
    return read_split(open_benchmark(folder, "webdataset"), (32, 32))


def student_of(model: str) -> Student:
    return Student.create(model).eval()


def encoded_on(student: Student) -> list[int]:
    """Sizes of the batches that the vision tower of this process sees from now on."""
    sizes: list[int] = []
    student.clip.visual.conv1.register_forward_hook(lambda module, given, output: sizes.append(len(given[0])))
    return sizes


def values(student: Student, split: Split) -> dict[str, torch.Tensor]:
    some = split.select(list(range(21, -1, -1)))
    return {
        "maps": features(student, some, (-1,), batch=4),
        "extended": torch.cat(list(feature_batches(student, split.extended(some), (0, -1), batch=8))),
        "texts": embed_texts(student, [f"picture {i}" for i in range(11)], batch=3),
        "zero_shot": torch.from_numpy(zero_shot.evaluate(student, split, batch=4).statistics),
        "retrieval": torch.from_numpy(retrieval.evaluate(student, split.captioned(), batch=5).statistics),
    }


@pytest.mark.parametrize("count", [2, 3])
def test_processes_encode_their_share_and_the_numbers_are_those_of_one(
    tiny_clip: str, split: Split, count: int
) -> None:
    expected = values(student_of(tiny_clip), split)

    def spread_out() -> tuple[dict[str, torch.Tensor] | None, int]:
        student = student_of(tiny_clip)
        seen = encoded_on(student)
        if ranks.is_main():
            return spread.lead(student, lambda: values(student, split)), sum(seen)
        spread.follow(student)
        return None, sum(seen)

    results = on_ranks(count, spread_out)
    ours = results[0][0]
    assert ours is not None
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
        assert ours[name].stride() == value.stride(), name
    pictures = [seen for _, seen in results]
    assert sum(pictures) == 22 + 44 + 22 + 22
    assert min(pictures) > 0.2 * sum(pictures)


def test_a_split_that_cannot_be_pickled_is_encoded_by_the_main_process(tiny_clip: str, split: Split) -> None:
    class Local(list):  # type: ignore[type-arg]
        """Pickle finds no local classes."""

    def alone() -> torch.Tensor | None:
        student, own = student_of(tiny_clip), replace(split, images=Local(split.images))
        if ranks.is_main():
            return spread.lead(student, lambda: features(student, own, batch=4))
        spread.follow(student)
        return None

    ours = on_ranks(2, alone)[0]
    assert ours is not None
    assert torch.equal(ours, features(student_of(tiny_clip), split, batch=4))


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_measurements_during_training_are_spread_over_replicas(
    dataset: Path, labels: Path, tiny_clip: str, tmp_path: Path, split: Split, mode: str
) -> None:
    def measured(out: Path) -> int:
        made = job(
            dataset, labels, tiny_clip, out, steps=4, evaluate_every=2, sharding=mode, deterministic=True,
            guard={"every": 2, "action": "warn"},
        )  # fmt: skip
        seen: list[int] = []

        def evaluate(student: Student) -> Iterator[tuple[str, float]]:
            scored = zero_shot.evaluate(student, split, batch=4)
            yield from scored.compute().items()
            embedded = student.encode_text(["a picture"])  # of one batch, which the main process encodes
            yield "sum", float(embedded.detach().sum())

        def recognize(student: Student) -> float:
            return retrieval.evaluate(student, split.captioned(), batch=4).compute()["retrieval/r1"]

        made.student.clip.visual.register_forward_hook(
            lambda module, given, output: seen.append(len(given[0])) if not module.training else None
        )
        train(replace(made, evaluate=evaluate, recognition=Recognition("retrieval/r1", 22, recognize)))
        return sum(seen)

    whole = measured(tmp_path / "one")
    halves = on_ranks(2, partial(measured, tmp_path / "two"))
    one, two = ([line for line in read_log(tmp_path / n) if "zero_shot/top1" in line] for n in ("one", "two"))
    assert [line["step"] for line in one] == [line["step"] for line in two] == [2 - 1, 4]
    assert [line["sum"] for line in two] == pytest.approx([line["sum"] for line in one], abs=1e-3)
    assert whole == 5 * 22
    if mode == "ddp":
        assert sum(halves) == whole
        assert halves[1] > 0.4 * whole
    assert np.isfinite(two[-1]["zero_shot/top1"])
