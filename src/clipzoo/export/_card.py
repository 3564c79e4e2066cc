"""The README of an exported student: where it comes from, whose labels it has seen, what was measured."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from clipzoo.errors import visible
from clipzoo.recipe import Recipe
from clipzoo.store import Manifest

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
    """Markdown, in which words of recipes and manifests are text alone; ``{parity}`` is for a sentence of the export.

    Args:
        recipe: of the run. arm, seed: which of its students.
        experts: column -> manifest of the labels that the arm was trained on.
        results: what ``results.json`` holds, if the run has been measured.
        version: of clipzoo.
    """
    what = ARMS[arm].format(
        model=_text(_start(recipe)),
        length=recipe.training.length,
        batch=recipe.training.batch_size,
        data=_text(recipe.data),
    )
    text = HEAD.format(name=f"{_text(recipe.name)}: {arm}, seed {seed}", what=what, version=version)
    return text + _experts(experts) + (_results(results) if results else "")


def _start(recipe: Recipe) -> str:
    student = recipe.student
    weights = "random weights" if student.random else student.pretrained
    return f"{student.model} ({weights})" if weights else student.model


def _experts(experts: Mapping[str, Manifest]) -> str:
    if not experts:
        return ""
    rows = []
    for name, manifest in experts.items():
        told = [str(manifest.expert.get(key) or "–") for key in ("uri", "licence", "revision")]
        rows.append(_row(*map(_text, [name, *told, str(manifest.expert.get("weights_sha256") or "–")[:12]])))
    head = _row("labels", "expert", "license", "revision", "weights' SHA-256") + _row(*["---"] * 5)
    return (
        "## Experts\n\n"
        + head
        + "".join(rows)
        + "\nThe licenses are the experts' own, as their cards tell them; those of the start and of the pictures are "
        "for you to look up.\n\n"
    )


def _results(results: Mapping[str, Any]) -> str:
    arms = results["arms"]
    measures = list(dict.fromkeys(name for cells in arms.values() for name in cells))
    lines = [_row("measure", *map(_text, arms)), _row("---", *["---:"] * len(arms))]
    for name in measures:
        lines.append(_row(_text(name), *(_cell(cells.get(name)) for cells in arms.values())))
    return f"## Results\n\nOn test, the mean over seeds, with a 95 % interval.\n\n{''.join(lines)}"


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    low, high = cell["ci"]
    better = {"higher": "↑", "lower": "↓"}[cell["direction"]]
    return f"{cell['mean']:.3f}{_text(cell['unit'])} ({low:.3f} to {high:.3f}) {better}"


def _text(told: str) -> str:
    """Words of others as one line that Markdown and HTML show as it is: they end no cell and make no link or tag."""
    line = html.escape(visible(" ".join(str(told).split())), quote=False)
    return re.sub(r"([\\`*|\[\]])", r"\\\1", line).replace("{", "&#123;").replace("}", "&#125;")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
