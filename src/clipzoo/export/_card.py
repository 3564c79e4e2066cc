"""The README of an exported student: training, experts and results."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from clipzoo.errors import visible
from clipzoo.evaluation.results import Cell, Results
from clipzoo.recipe import Recipe
from clipzoo.store import Manifest

HEAD = """---
library_name: {{library}}
tags: [clip, clipzoo]
{license}---

# {name}

{summary} Method: *CLIP meets Model Zoo Experts* (arXiv 2310.14108), implemented by clipzoo {version}.

{{usage}}

{{parity}}

"""
LIMITS = """## Limits

- Pseudo-labels are predictions: the student can learn an expert's errors and biases.
- Only the measures of this card were measured, on the data named here. Without a table of results, none were.
- Embeddings and heads were compared with the trained student on a few samples, not on every input.

"""
PERMISSIVE = re.compile(
    r"(apache[- ](license,? )?(version )?2(\.0)?( with llvm-exception)?|mit(-0)?|bsd([- ][0-4][- ]clause(-clear)?)?|"
    r"isc|cc0([- ]1\.0)?( universal)?|cc[- ]by[- ]4\.0( international)?|(the )?unlicense|public domain)( licen[cs]e)?"
)
"""Licenses as a whole, in lower case, that do not restrict the use of a model."""

ARMS = {
    "clip": "The pretrained model {model}, unchanged.",
    "clip-ft": "{model}, trained for {length} with a batch size of {batch} on the captions of {data}.",
    "clipzoo": "{model}, trained for {length} with a batch size of {batch} on the captions of {data} and "
    "pseudo-labels of the same images.",
    "labels": "{model}, trained for {length} with a batch size of {batch} on pseudo-labels of the images of {data}, "
    "without captions. The text tower was not trained.",
}
"""Arm -> its training; ``labels`` is the arm ``clipzoo`` with a contrastive weight of 0."""


def card(
    recipe: Recipe,
    arm: str,
    title: str,
    experts: Mapping[str, Manifest],
    results: Results | None,
    version: str,
    note: str = "",
) -> str:
    """Return the README as Markdown, with ``{library}``, ``{usage}`` and ``{parity}`` for the target.

    Text of recipes and manifests is escaped.

    Args:
        recipe: of the run.
        arm: of the student.
        title: with the run, the arm and the seed.
        experts: column -> manifest of the labels that the arm was trained on.
        results: the content of ``results.json``, if the run has been measured.
        version: of clipzoo.
        note: sentence after the description of the training.
    """
    summary = ARMS["labels" if _only_labels(recipe, arm) else arm.removesuffix("-best")].format(
        model=_text(_start(recipe)),
        length=recipe.training.length,
        batch=recipe.training.batch_size,
        data=_text(", ".join(recipe.datasets.values())),
    )
    summary = f"{summary} {note}".rstrip()
    stated = f"license: {json.dumps(recipe.license)}\n" if recipe.license else ""
    text = HEAD.format(license=stated, name=_text(title), summary=summary, version=version)
    parts = [_license(recipe, arm, experts), _experts(experts), _results(results) if results else "", LIMITS]
    return text + "".join(parts)


def _only_labels(recipe: Recipe, arm: str) -> bool:
    return arm.startswith("clipzoo") and recipe.training.contrastive_weight == 0


def _start(recipe: Recipe) -> str:
    student = recipe.student
    weights = "random weights" if student.random else student.pretrained
    return f"{student.model} ({weights})" if weights else student.model


def _license(recipe: Recipe, arm: str, experts: Mapping[str, Manifest]) -> str:
    """Return the section on the license of the student, and on what it derives from."""
    sources = [f"the pretrained model {_text(_start(recipe))}"]
    sources += [f"pseudo-labels of {len(experts)} expert{'s' if len(experts) > 1 else ''} (below)"] if experts else []
    pictures = "images" if _only_labels(recipe, arm) else "images and captions"
    sources += [f"the {pictures} of {_text(', '.join(recipe.datasets.values()))}"]
    stated = (
        f"This student is published under {_text(recipe.license)}."
        if recipe.license
        else "No license is stated for this student (field license of the recipe): it grants no permission to use it."
    )
    return (
        f"## License\n\n{stated} It derives from {', '.join(sources[:-1])} and {sources[-1]}, whose licenses apply, "
        "too. clipzoo does not check whether they permit this license.\n\n"
    )


def _experts(experts: Mapping[str, Manifest]) -> str:
    if not experts:
        return ""
    rows = []
    for name, manifest in experts.items():
        facts = [str(manifest.expert.get(key) or "–") for key in ("uri", "licence", "revision")]
        rows.append(_row(*map(_text, [name, *facts, str(manifest.expert.get("weights_sha256") or "–")[:12]])))
    head = _row("labels", "expert", "license", "revision", "weights' SHA-256") + _row(*["---"] * 5)
    return (
        "## Experts\n\n"
        + head
        + "".join(rows)
        + "\nThe licenses are those of the experts' model cards. Check the licenses of the pretrained model and of the "
        "images yourself.\n\n" + _restrictions(experts) + _cost(experts)
    )


def _restrictions(experts: Mapping[str, Manifest]) -> str:
    """Return a warning about licenses that may restrict the student, "" if there are none."""
    licenses = {name: str(manifest.expert.get("licence") or "unknown") for name, manifest in experts.items()}
    found = [f"{_text(name)} ({_text(text)})" for name, text in licenses.items() if not _is_permissive(text)]
    if not found:
        return ""
    return (
        "**License warning:** the student was trained on labels of experts whose license is unknown or may restrict "
        f"its use, for example to research: {', '.join(found)}. Read these licenses before you use or share it.\n\n"
    )


def _is_permissive(text: str) -> bool:
    """Return True if every license of a text such as "MIT or Apache-2.0" is permissive."""
    parts = re.split(r"\s(?:and|or)\s", text.lower())
    return all(PERMISSIVE.fullmatch(part.strip("() \t\n")) for part in parts)


def _cost(experts: Mapping[str, Manifest]) -> str:
    rows = [
        _row(_text(name), str(one.counts.labels), str(one.counts.failures), str(one.counts.bytes), f"{one.seconds:.0f}")
        for name, one in experts.items()
    ]
    head = _row("labels", "images", "failures", "bytes", "seconds") + _row("---", *["---:"] * 4)
    return f"## Cost of the labels\n\n{head}{''.join(rows)}\n"


def _results(results: Results) -> str:
    arms = results["arms"]
    measures = list(dict.fromkeys(name for cells in arms.values() for name in cells))
    lines = [_row("measure", *map(_text, arms)), _row("---", *["---:"] * len(arms))]
    for name in measures:
        lines.append(_row(_text(name), *(_cell(cells.get(name)) for cells in arms.values())))
    return f"## Results\n\nMean over seeds on the test split, with 95 % intervals.\n\n{''.join(lines)}\n"


def _cell(cell: Cell | None) -> str:
    if cell is None or cell["mean"] is None:
        return "–"
    low, high = cast(Sequence[float], cell["ci"])  # a mean has an interval
    better = {"higher": "↑", "lower": "↓"}[cell["direction"]]
    return f"{cell['mean']:.3f}{_text(cell['unit'])} ({low:.3f} to {high:.3f}) {better}"


def _text(text: str) -> str:
    """Return a text as one line, escaped so that it makes no cell, link or tag in Markdown or HTML."""
    line = html.escape(visible(" ".join(str(text).split())), quote=False)
    return re.sub(r"([\\`*|\[\]])", r"\\\1", line).replace("{", "&#123;").replace("}", "&#125;")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
