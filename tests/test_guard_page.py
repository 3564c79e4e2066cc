"""The report on the guard in words, on tasks in the recipe's order, and without the arm that is trained on captions."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from clipzoo.pages import takeaways, words, write_page
from test_report import results, runs  # noqa: F401

GUARD = {
    "measure": "zero_shot/top1", "samples": 500, "max_loss": 0.01, "action": "warn", "start": 0.7, "alarms": 1,
    "rate_factor": 1.0, "events": [], "measured": [{"step": 50, "value": 0.65}, {"step": 100, "value": 0.7}],
}  # fmt: skip
ROLLBACK = {"step": 49, "event": "rollback", "returned_to": 25, "value": 0.5, "rate_factor": 0.5}
STOP = {"step": 74, "event": "end", "returned_to": 25, "value": None, "rate_factor": 0.5}


@pytest.mark.parametrize(
    ("changes", "says", "badge"),
    [
        ({}, "The guard warned once, and training continued: −5.0 points after step 50.", "the guard acted"),
        ({"alarms": 0, "measured": [{"step": 9, "value": 0.7}]}, "Every measurement was within", "within the limit"),
        ({"measured": [{"step": 9, "value": 0.6}]}, "the change was −10.0 points: over the limit.", "over the limit"),
        (
            {"action": "rollback", "events": [ROLLBACK]},
            "The guard rolled training back: the change was −20.0 points after step 50. Training continued from step "
            "25 at 0.5 of the learning rates.",
            "the guard acted",
        ),
        (
            {"action": "rollback", "events": [ROLLBACK, STOP]},
            "The guard ended training: a gradient was not finite after step 75. The student is that of step 25.",
            "the guard acted",
        ),
    ],
)
def test_the_page_says_what_the_guard_did(
    results: dict[str, object],  # noqa: F811
    tmp_path: Path,
    changes: dict[str, object],
    says: str,
    badge: str,
) -> None:
    guarded = results | {"guard": {"clipzoo": {"0": GUARD | changes}}}
    page = write_page(guarded, tmp_path / "page.html").read_text()
    (training,) = re.findall(r'<section id="curves">.*?</section>', page, re.DOTALL)
    assert says in training
    assert badge in training


def test_without_a_guard_the_page_has_no_card(results: dict[str, object], tmp_path: Path) -> None:  # noqa: F811
    assert "The guard of zero-shot recognition" not in write_page(results, tmp_path / "page.html").read_text()


def test_tasks_are_in_the_order_of_the_recipe(results: dict[str, object], tmp_path: Path) -> None:  # noqa: F811
    def order(tasks: list[str]) -> list[str]:
        page = write_page(results, tmp_path / "page.html", tasks=tasks).read_text()
        tiles = re.findall(r'<article class="tile \w+">\n<h2>([\w -]+)', page)
        tables = re.findall(r"<summary>All numbers: ([\w -]+?)(?: <small>|</summary>)", page)
        assert tiles == tables
        return tables

    assert order(["normals", "depth", "segmentation"]) == ["surface normals", "depth", "segmentation", "zero-shot"]
    assert order(["segmentation", "normals"]) == ["segmentation", "surface normals", "depth", "zero-shot"]


def test_without_clip_ft_the_pretrained_model_is_the_reference(
    results: dict[str, object],  # noqa: F811
    tmp_path: Path,
) -> None:
    alone = copy.deepcopy(results)
    for part in ("arms", "differences"):
        alone[part] = {name: cells for name, cells in alone[part].items() if "clip-ft" not in name}
    text = words.headline(alone)
    both = "raining on captions and pseudo-labels"
    assert text.startswith(f"T{both} improved all 3 dense tasks over the pretrained model (segmentation +")
    assert words.title(alone) == f"Effect of t{both}"
    assert f"<title>Effect of t{both}</title>" in write_page(alone, tmp_path / "page.html").read_text()
    uncaptioned = alone | {"protocol": {"contrastive_weight": 0.0}}
    assert words.headline(uncaptioned).startswith("Pseudo-labels improved all 3 dense tasks over the pretrained model")
    assert words.title(uncaptioned) == words.title(results) == "Effect of pseudo-labels"
    assert {one["title"] for one in takeaways.takeaways(alone)} >= {"Segmentation, mIoU", "Depth, δ1"}
