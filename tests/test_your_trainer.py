"""docs/your-trainer.md: its code runs as it stands, learns, and computes what clipzoo's own loop computes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from clipzoo.data import Batch
from clipzoo.models import Student
from clipzoo.training import objectives

PAGE = Path(__file__).parent.parent / "docs" / "your-trainer.md"


@pytest.fixture(scope="module")
def ran(dataset: Path, labels: Path, tiny_clip: str) -> dict[str, Any]:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    torch.manual_seed(0)
    names: dict[str, Any] = {"data": str(dataset), "labels": str(labels), "model": tiny_clip}
    exec(found[1], names)
    return names


def test_every_term_is_learned(ran: dict[str, Any]) -> None:
    log = ran["log"]
    assert len(log) == 12
    assert set(log[0]) == {"clip", "segmentation/test-truth", "depth/test-truth"}
    for name in ("segmentation/test-truth", "depth/test-truth"):
        assert log[-1][name] < log[0][name]


def test_its_terms_are_those_of_clipzoos_own_loop(ran: dict[str, Any], tiny_clip: str) -> None:
    torch.manual_seed(0)  # the heads are drawn as the page's were
    fresh = Student.create(tiny_clip, specs=ran["student"].specs)
    batch: Batch = next(iter(ran["loader"](ran["dataset"], 16, fresh.tokenize)))
    own = objectives.terms(objectives.build(fresh), fresh(batch.images, batch.tokens), batch)
    first = dict(ran["log"][0])
    assert own.pop("contrastive").item() == pytest.approx(first.pop("clip"), rel=1e-5)
    assert {name: term.item() for name, term in own.items()} == pytest.approx(first, rel=1e-5)


def test_the_result_is_an_openclip_folder(ran: dict[str, Any], tmp_path: Path) -> None:
    import open_clip

    ran["student"].save(tmp_path)
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    trained = ran["student"].clip.state_dict()
    assert all(torch.equal(value, trained[name].cpu()) for name, value in model.state_dict().items())
