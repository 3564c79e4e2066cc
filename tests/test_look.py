"""Before a column's first shard, labeling looks at what an expert makes of a few pictures, and warns."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from clipzoo.errors import ExpertError
from clipzoo.labeling import label
from making import Bright, make_dataset


class Restless(Bright):
    """Gives another label at each call."""

    def predict(self, images):
        found = super().predict(images)
        for one in found:
            one.ids[:] = np.random.default_rng().integers(0, 2, one.ids.shape)
        return found


class Counting(Bright):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def predict(self, images):
        self.seen += len(images)
        return super().predict(images)


class Reading(Restless):
    """Looks at captions, too."""

    needs_sample = True

    def predict_inputs(self, inputs):
        assert all(sample.caption for sample in inputs)
        return super().predict([sample.image for sample in inputs])


@pytest.mark.parametrize("kind", [Restless, Reading])
def test_an_expert_that_does_not_repeat_itself_is_warned_of(
    kind: type[Bright], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dataset(tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        label(str(data), [kind()], tmp_path / "labels", device="cpu", progress=False)
    assert "determinism" in caplog.text
    assert "clipzoo experts check" in caplog.text


def test_a_sound_expert_is_not_warned_of_and_looked_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_dataset(tmp_path / "data")
    first, then = Counting(), Counting()
    with caplog.at_level(logging.WARNING):
        label(str(data), [first], tmp_path / "labels", device="cpu", progress=False, shards=["00000"])
        label(str(data), [then], tmp_path / "labels", device="cpu", progress=False)
    assert caplog.text == ""
    (report,) = label(str(data), [Counting()], tmp_path / "labels", device="cpu", progress=False)
    assert then.seen + first.seen - report.labels in range(1, 50)  # what the look cost
    assert then.seen < report.labels


def test_a_dataset_of_broken_pictures_is_no_reason_to_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").mkdir()
    for i in range(3):
        (tmp_path / "data" / f"{i}.png").write_bytes(b"none")
        (tmp_path / "data" / f"{i}.txt").write_text("a caption")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ExpertError, match=r"all 3 samples .* cannot decode the image"),
    ):
        label(str(tmp_path / "data"), [Bright()], tmp_path / "labels", device="cpu", progress=False, max_failures=1)
    assert caplog.text == ""
