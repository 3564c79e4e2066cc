"""Every public name has a docstring."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "clipzoo"


def test_every_public_function_and_class_says_what_it_is() -> None:
    """In private files, too, where the linter does not look."""
    silent = []
    for path in SOURCE.rglob("*.py"):
        parts = [(node, "") for node in ast.parse(path.read_text()).body]
        for node, within in parts:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    silent.append(f"{path.relative_to(SOURCE)}: {within}{node.name}")
                if isinstance(node, ast.ClassDef):
                    parts += [(inner, f"{node.name}.") for inner in node.body]
    assert not silent
