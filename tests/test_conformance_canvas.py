"""Experts that pad pictures into a canvas and give the canvas' labels for the picture's: the kit finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clipzoo import tasks
from clipzoo.types import View
from oracles import Oracle, checked

FILLS = [(1.0, 0.75), (0.75, 1.0), (0.6, 0.6), (0.5, 0.8)]
"""Shares of the canvas' width and height that pictures fill."""


def on_canvas(fills: tuple[float, float], centered: bool) -> Callable[[Any], Any]:
    """A label of the picture -> that of a canvas around it, which claims to be the picture's."""

    def wrong(label: Any) -> Any:
        (x, y), half = fills, 0.5 if centered else 0.0
        left, top = half * (1 - x), half * (1 - y)
        if hasattr(label, "boxes"):
            H, W = label.size
            boxes = label.boxes * np.float32([x, y, x, y]) + np.float32([left * W, top * H] * 2)
            return replace(label, boxes=boxes.astype(np.float32), masks=None)
        H, W = label.valid.shape
        small = tasks.get(task_of(label)).crop_resize(
            label, View((0, 0, 1, 1), (max(1, round(H * y)), max(1, round(W * x))))
        )
        rows, columns = round(H * top), round(W * left)
        maps = {name: value for name, value in vars_of(small).items() if isinstance(value, np.ndarray)}
        return replace(small, **{name: grown(value, (H, W), rows, columns) for name, value in maps.items()})

    return wrong


def vars_of(label: Any) -> dict[str, Any]:
    return {name: getattr(label, name) for name in label.__dataclass_fields__}


def task_of(label: Any) -> str:
    return {"Segmentation": "segmentation", "Depth": "depth", "Edges": "edges", "Normals": "normals"}[
        type(label).__name__
    ]


def grown(values: np.ndarray, size: tuple[int, int], row: int, column: int) -> np.ndarray:
    """A map on a canvas, with the nearest value of the picture where it is not."""
    below, right = size[0] - row - values.shape[-2], size[1] - column - values.shape[-1]
    sides = [(0, 0)] * (values.ndim - 2) + [(row, below), (column, right)]
    return np.pad(values, sides, mode="edge")


@pytest.mark.parametrize(
    ("task", "centered"),
    [("segmentation", False), ("segmentation", True), ("detection", False), ("detection", True), ("depth", False)],
)  # a room's depth is too smooth to tell a canvas that leaves its middle where it is
@pytest.mark.parametrize("fills", FILLS, ids=str)
def test_labels_of_a_canvas_are_found(task: str, fills: tuple[float, float], centered: bool) -> None:
    report = checked(Oracle(task, on_canvas(fills, centered)), quick=True)
    verdict = report["frame"]
    assert verdict.status == "fail", [str(line) for line in report.lines]
    assert "labels cover padding" in verdict.cause
    assert not report.ok


def test_the_share_that_the_picture_fills_is_told() -> None:
    verdict = checked(Oracle("detection", on_canvas((1.0, 0.75), False)), quick=True)["frame"]
    assert verdict.cause == (
        "labels cover padding below or right: the picture fills 100% of their width and 75% of their height"
    )
