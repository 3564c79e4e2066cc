"""HTML pages: the report of a run, the gallery of a store and the check of a dataset, each a self-contained file.

Names are loaded when they are first used: the check of a dataset needs no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipzoo.pages.gallery import Gallery, inspect
    from clipzoo.pages.pictures import PictureRow, cases
    from clipzoo.pages.report import write_page

__all__ = ["Gallery", "PictureRow", "cases", "inspect", "write_page"]

_WHERE = {
    "Gallery": "gallery",
    "PictureRow": "pictures",
    "cases": "pictures",
    "inspect": "gallery",
    "write_page": "report",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'clipzoo.pages' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(f"clipzoo.pages.{_WHERE[name]}"), name)
