"""clipzoo teaches CLIP where things are.

Experts from public model zoos pseudo-label an image–caption dataset as it is; CLIP is trained on the captions and the
pseudo-labels together, measured, and exported as an ordinary OpenCLIP checkpoint. Method: *CLIP meets Model Zoo
Experts: Pseudo-Supervision for Visual Enhancement* (arXiv 2310.14108).

The public names are loaded when they are first used, so that ``import clipzoo`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the types of the public names, for editors and type checkers
    from clipzoo.data import Plan, TrainingSet
    from clipzoo.errors import ClipzooError
    from clipzoo.labeling import import_labels, label
    from clipzoo.locations import open_dataset
    from clipzoo.models import Student, load
    from clipzoo.pages import inspect
    from clipzoo.pages.check import check
    from clipzoo.recipe import Recipe
    from clipzoo.recipe import load as load_recipe
    from clipzoo.runs import Run, evaluate, report, run, train
    from clipzoo.runs.showing import show
    from clipzoo.splitting import split
    from clipzoo.store import Store
    from clipzoo.store.merge import merge
    from clipzoo.store.verify import verify
    from clipzoo.types import View

_WHERE = {
    "ClipzooError": "clipzoo.errors",
    "Plan": "clipzoo.data",
    "Recipe": "clipzoo.recipe",
    "Run": "clipzoo.runs",
    "Store": "clipzoo.store",
    "Student": "clipzoo.models",
    "TrainingSet": "clipzoo.data",
    "View": "clipzoo.types",
    "check": "clipzoo.pages.check",
    "evaluate": "clipzoo.runs",
    "import_labels": "clipzoo.labeling",
    "inspect": "clipzoo.pages",
    "label": "clipzoo.labeling",
    "load": "clipzoo.models",
    "load_recipe": "clipzoo.recipe",
    "merge": "clipzoo.store.merge",
    "open_dataset": "clipzoo.locations",
    "report": "clipzoo.runs",
    "run": "clipzoo.runs",
    "show": "clipzoo.runs.showing",
    "split": "clipzoo.splitting",
    "train": "clipzoo.runs",
    "verify": "clipzoo.store.verify",
}
__all__ = [
    "ClipzooError", "Plan", "Recipe", "Run", "Store", "Student", "TrainingSet", "View", "check", "evaluate",
    "import_labels", "inspect", "label", "load", "load_recipe", "merge", "open_dataset", "report", "run", "show",
    "split", "train", "verify",
]  # fmt: skip
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'clipzoo' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module = importlib.import_module(_WHERE[name])
    return module.load if name == "load_recipe" else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
