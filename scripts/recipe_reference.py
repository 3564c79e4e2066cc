"""docs/recipe.md, written from the recipe's own types and docstrings: ``python scripts/recipe_reference.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from clipzoo import recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipe.md"
PARTS = {
    "": recipe.Recipe,
    "columns": recipe.ColumnRecipe,
    "labeling": recipe.LabelingRecipe,
    "student": recipe.StudentRecipe,
    "training": recipe.TrainingRecipe,
    "evaluation": recipe.EvaluationRecipe,
}
HEAD = """# Recipes

A recipe is a YAML file that describes a run completely. `clipzoo run recipe.yaml` goes through all of it. `train`,
`eval`, `run` and `demo` take `--set a.b=value` to override one value, as `--set training.steps=100` or
`--set columns.0.weight=2`. Unknown names and wrong values are all told at once. The complete recipe, defaults written
out, is kept as `recipe.yaml` in the run's folder, which `train` and `eval` take as well.
This page is written by `scripts/recipe_reference.py`.

Places in a recipe (`data`, `store`, the folders of `evaluation`, files of experts, `local-dir:`) count from the folder
in which clipzoo is started, as on a command line, not from the recipe's own; one that is found only beside the recipe
is an error that says so. No two of `data` and the splits of `evaluation` may share pictures: equal places, one inside
the other, and copies are refused before any work. `clipzoo new --store LABELS` writes a recipe that uses labels which
you have.

A recipe can name Python code (`python:`, `torchhub:`, `trust_remote_code`). Read that of others before you run it:
clipzoo asks once, or needs `--trust` ([security.md](security.md)).

`student.pretrained` may be a checkpoint of another trainer. Names under `module.` or `_orig_mod.`, half precision, an
optimizer in the same file and weights under `state_dict` or `model` do not matter. Weights of another architecture are
refused before any work; the message lists missing and unexpected tensors, and shapes that differ. Weights that were
trained from OpenAI's need an architecture with QuickGELU, such as `ViT-B-32-quickgelu`: a file does not say so.
"""


def page() -> str:
    return "\n".join([HEAD, *(line for name, model in PARTS.items() for line in _part(name, model))])


def _part(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## `{name}`" + (" (a list)" if name == "columns" else "") if name else "## The whole"
    yield ""
    yield _plain(model.__doc__ or "")
    yield ""
    yield "| field | default | what it is |"
    yield "| --- | --- | --- |"
    for field, info in model.model_fields.items():
        inner = "see below" if field in PARTS else _default(info)
        yield f"| `{field}` | {inner} | {_plain(info.description or '')} |"
    yield ""


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "none"
    if info.default is PydanticUndefined:
        return "**required**"
    return f"`{_yaml(info.default)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


def _plain(text: str) -> str:
    """A docstring on one line, its code marked as Markdown marks it."""
    return re.sub(r"\s+", " ", text).strip().replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
