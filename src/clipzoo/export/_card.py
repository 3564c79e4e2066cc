"""The README of an exported student: where it comes from, whose labels it has seen, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipzoo.recipe import Recipe
from clipzoo.store.manifest import Manifest

HEAD = """---
library_name: open_clip
tags: [clip, clipzoo]
---

# {name}

{what} The method is that of *CLIP meets Model Zoo Experts* (arXiv 2310.14108), by clipzoo {version}.

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
```

{{parity}}

"""
ARMS = {
    "clip": "The model {model}, as it came.",
    "clip-ft": "{model}, trained for {length} of {batch} images a step on the captions of {data}.",
    "clipzoo": "{model}, trained for {length} of {batch} images a step on the captions of {data} and the experts' "
    "labels of the same pictures.",
}


def card(
    recipe: Recipe,
    arm: str,
    seed: int,
    experts: Mapping[str, Manifest],
    results: Mapping[str, Any] | None,
    version: str,
) -> str:
    """Markdown; ``{parity}`` stands for a sentence that the export fills in.

    Args:
        recipe: of the run. arm, seed: which of its students.
        experts: column -> manifest of the labels that the arm was trained on.
        results: what ``results.json`` holds, if the run has been measured.
        version: of clipzoo.
    """
    what = ARMS[arm].format(
        model=_start(recipe), length=recipe.training.length, batch=recipe.training.batch_size, data=recipe.data
    )
    text = HEAD.format(name=f"{recipe.name}: {arm}, seed {seed}", what=what, version=version)
    return text + _experts(experts) + (_results(results) if results else "")


def _start(recipe: Recipe) -> str:
    student = recipe.student
    weights = "random weights" if student.random else student.pretrained
    return f"{student.model} ({weights})" if weights else student.model


def _experts(experts: Mapping[str, Manifest]) -> str:
    if not experts:
        return ""
    rows = [
        _row(name, m.expert["uri"], m.expert["licence"], m.expert["revision"] or "–", m.expert["weights_sha256"][:12])
        for name, m in experts.items()
    ]
    head = _row("labels", "expert", "licence", "revision", "weights' SHA-256") + _row(*["---"] * 5)
    return (
        "## Experts\n\n"
        + head
        + "".join(rows)
        + "\nThe licences are the experts' own, as their cards tell them; those of the start and of the pictures are "
        "for you to look up.\n\n"
    )


def _results(results: Mapping[str, Any]) -> str:
    arms = results["arms"]
    measures = list(dict.fromkeys(name for cells in arms.values() for name in cells))
    lines = [_row("measure", *arms), _row("---", *["---:"] * len(arms))]
    for name in measures:
        lines.append(_row(name, *(_cell(cells.get(name)) for cells in arms.values())))
    return f"## Results\n\nOn test, the mean over seeds, with a 95 % interval.\n\n{''.join(lines)}"


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    low, high = cell["ci"]
    better = {"higher": "↑", "lower": "↓"}[cell["direction"]]
    return f"{cell['mean']:.3f}{cell['unit']} ({low:.3f} to {high:.3f}) {better}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
