"""Training on several datasets with weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from clipzoo.data import Plan, TrainingSet, Viewing, loader
from clipzoo.data.mixture import CYCLE, Mixture, _apportioned
from clipzoo.data.sampling import MixtureSampler
from clipzoo.errors import PlanError, RecipeError
from clipzoo.models import Student
from clipzoo.readers import open_dataset
from clipzoo.recipe import TrainingRecipe, parse
from clipzoo.runs import Run
from clipzoo.training import Job, Training, train
from making import make_dataset


@pytest.fixture(scope="module")
def both(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file that names 48 samples as ``web`` and 12 as ``art``."""
    folder = tmp_path_factory.mktemp("both")
    reader = open_dataset(str(make_dataset(folder / "art")))
    assert sum(len(reader.index(shard)) for shard in reader.shards) == 12
    (folder / "both.yaml").write_text(f"datasets:\n  web: {dataset}\n  art: {folder / 'art'}\n")
    return folder / "both.yaml"


@pytest.fixture(scope="module")
def plan(both: Path) -> Plan:
    return Plan.build(open_dataset(str(both)), {})


def datasets(plan: Plan, positions: list[tuple[int, int]]) -> Counter[str]:
    shards = plan.table["shard"].to_pylist()
    return Counter(shards[row].partition("/")[0] for _, row in positions)


def test_samples_are_seen_as_often_as_the_weights_say(plan: Plan) -> None:
    found = datasets(plan, Mixture(plan, {"art": 4}, 0).positions(range(960)))
    assert found == {"web": 480, "art": 480}
    assert datasets(plan, Mixture(plan, {"art": 2, "web": 0.5}, 0).positions(range(960))) == found
    assert datasets(plan, Mixture(plan, {"art": 1}, 0).positions(range(600))) == {"web": 480, "art": 120}


def test_datasets_alternate_evenly(plan: Plan) -> None:
    mixture = Mixture(plan, {"art": 4}, 0)
    for first in range(0, 400, 8):
        assert datasets(plan, mixture.positions(range(first, first + 8))) == {"web": 4, "art": 4}


def test_every_sample_of_an_epoch_comes_once_and_epochs_differ(plan: Plan) -> None:
    positions = Mixture(plan, {"art": 4}, 0).positions(range(192))
    seen = Counter(positions)
    assert max(seen.values()) == 1, "no view is repeated"
    art = [(epoch, row) for epoch, row in positions if datasets(plan, [(epoch, row)])["art"]]
    epochs = [[row for e, row in art if e == epoch] for epoch in range(8)]
    assert all(len(set(rows)) == 12 for rows in epochs)
    assert epochs[0] != epochs[1]


def test_a_position_does_not_depend_on_earlier_ones_even_in_later_cycles(plan: Plan) -> None:
    whole = Mixture(plan, {"art": 3}, 5).positions(range(CYCLE - 50, CYCLE + 150))
    assert Mixture(plan, {"art": 3}, 5).positions(range(CYCLE + 7, CYCLE + 17)) == whole[57:67]
    assert Mixture(plan, {"art": 3}, 6).positions(range(CYCLE - 50, CYCLE + 150)) != whole


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_the_batches_of_one_process(plan: Plan, ranks: int) -> None:
    def batches(ranks: int) -> list[list[tuple[int, int]]]:
        steps: list[list[list[tuple[int, int]]]] = []
        for rank in range(ranks):
            sampler = MixtureSampler(plan, 16 // ranks, 0, 3, 9, rank, ranks)
            sampler.weights = {"art": 2}
            steps.append(list(sampler))
        return [sorted(chain.from_iterable(parts)) for parts in zip(*steps, strict=True)]

    assert batches(ranks) == batches(1)


def test_shares_are_apportioned_and_none_is_lost() -> None:
    counts = _apportioned(np.array([1e-9, 1.0, 2.0]))
    assert counts.sum() == CYCLE
    assert counts[0] == 1
    assert counts[2] == pytest.approx(2 * counts[1], abs=3)
    assert _apportioned(np.array([1.0, *[1e-9] * 5])).sum() == CYCLE


def mixed(both: Path, model: str, out: Path) -> Training:
    reader = open_dataset(str(both))
    data = TrainingSet(Plan.build(reader, {}), reader, {}, Viewing((32, 32)), 0, {"art": 4})
    settings = TrainingRecipe(steps=8, batch_size=8, log_every=1, checkpoint_every=2, mixture={"art": 4})
    return Training(Job(settings, rate=1e-3, steps=8, out=out), Student.create(model), data)


def test_a_training_sees_the_mixture_and_resumes_in_it(tiny_clip: str, both: Path, tmp_path: Path) -> None:
    made = mixed(both, tiny_clip, tmp_path)
    keys = [key for batch in loader(made.dataset, 8, made.student.tokenize, steps=8) for key in batch.keys]
    assert len(keys) == 64
    assert Counter(len(key) for key in keys)[4] == 32, "keys of web have four characters"
    train(mixed(both, tiny_clip, tmp_path / "whole"))

    def stop(step: int, values: object) -> None:
        if step == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(replace(mixed(both, tiny_clip, tmp_path / "resumed"), on_step=stop))
    train(mixed(both, tiny_clip, tmp_path / "resumed"))
    name = "student/open_clip_model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()


def test_a_dataset_without_samples_in_the_plan_is_an_error(both: Path) -> None:
    plan = Plan.build(open_dataset(str(both)), {}, max_samples=12)
    with pytest.raises(PlanError, match=r"mixture has 'web', but the plan has no sample of this dataset"):
        Mixture(plan, {"web": 2}, 0)


def test_unknown_datasets_are_refused_before_any_work(
    both: Path, dataset: Path, tiny_clip: str, tmp_path: Path
) -> None:
    def run(data: Path | str) -> Run:
        training = {"steps": 1, "mixture": {"arts": 2}}
        values = {"name": "x", "data": str(data), "student": {"model": tiny_clip}, "training": training}
        return Run(parse({**values, "arms": ["clip-ft"]}), tmp_path / "run")

    with pytest.raises(RecipeError, match="mixture has 'arts', but data has no such dataset; did you mean art"):
        run(both)
    for alone in (dataset, "demo:captioned"):
        with pytest.raises(RecipeError, match="it names no datasets"):
            run(alone)
    assert not (tmp_path / "run").exists()
