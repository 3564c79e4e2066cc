"""Outputs of ONNX models that do not fit their card, and numbers of cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipzoo.errors import ExpertError
from clipzoo.experts.onnx import label
from clipzoo.experts.onnx.card import BaseCard, read_yaml

DEPTH = {"task": "depth", "kind": "affine-depth"}
IDS = {"task": "segmentation", "classes": ["a", "b"]}
FRAME = "x-right,y-up,z-toward"
RAW = np.arange(60, dtype=np.float32).reshape(4, 5, 3)


def card(output: dict[str, object], **fields: object) -> BaseCard:
    return BaseCard.model_validate({"output": output, **fields})


@pytest.mark.parametrize(
    ("raw", "given", "says"),
    [
        (
            RAW[..., :1],
            card({}, **DEPTH),
            r"channels of the output \[4, 5, 1\] is 4, but depth has 1: set output.layout: NHWC",
        ),
        (RAW[..., :1], card({"kind": "ids"}, **IDS), "class ids have 1: set output.layout: NHWC"),
        (RAW, card({"frame": FRAME}, task="normals"), "is 4, but normals have 3: set output.layout: NHWC"),
        (RAW.transpose(2, 0, 1), card({}, **DEPTH), "is 3, but.*another output.*or set output.channels: 1"),
        (RAW.transpose(2, 0, 1)[:1], card({"layout": "NHWC"}, **DEPTH), "set output.layout: NCHW"),
        (RAW[..., 0], card({"frame": FRAME}, task="normals"), "is 1, but.*choose another output with output.index$"),
    ],
)
def test_an_output_with_other_channels_than_its_label_is_refused(raw: np.ndarray, given: BaseCard, says: str) -> None:
    with pytest.raises(ExpertError, match=says):
        label(raw, given, (4, 5))


def test_channels_and_layout_that_the_card_states_are_used() -> None:
    last = label(RAW[..., :1], card({"layout": "NHWC"}, **DEPTH), (4, 5))
    first = label(RAW.transpose(2, 0, 1), card({"channels": 1}, **DEPTH), (4, 5))
    assert np.array_equal(last.values, RAW[..., 0])
    assert np.array_equal(first.values, RAW[..., 0])


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_not_finite_leaves_the_others_of_minmax_known(broken: float) -> None:
    raw = np.linspace(-2, 6, 20, dtype=np.float32).reshape(4, 5)
    raw[1, 1] = broken
    found = label(raw, card({"activation": "minmax"}, **DEPTH), (4, 5))
    assert found.valid.sum() == 19
    assert not found.valid[1, 1]
    assert found.values[found.valid] == pytest.approx((raw[found.valid] + 2) / 8, abs=1e-6)
    assert not label(np.full((4, 5), broken, np.float32), card({"activation": "minmax"}, **DEPTH), (4, 5)).valid.any()


def test_numbers_without_a_point_before_their_exponent_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text("{a: 1e-3, b: -2E+1, c: .5e1, d: '1e-3', e: e-3, f: 1_0, g: 12e}")
    assert read_yaml(path) == {"a": 0.001, "b": -20.0, "c": 5.0, "d": "1e-3", "e": "e-3", "f": 10, "g": "12e"}


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 2.0**32, -1.0])
def test_an_id_that_is_no_class_is_unknown(broken: float, resize: bool) -> None:
    raw = np.ones((1, 2, 2), np.float32)
    raw[0, 0, 0] = broken
    found = label(raw, card({"kind": "ids", "resize": resize}, **IDS), (4, 4) if resize else (2, 2))
    assert found.valid.mean() == 0.75
    assert not found.valid[0, 0]
    assert (found.ids[found.valid] == 1).all()
