"""docs/reference.md is what the docstrings say, and they say something of every public name."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import clipzoo

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "clipzoo"


def test_the_reference_is_up_to_date_and_complete() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec
    assert spec.loader
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page == reference.page(), "run python scripts/reference.py"
    assert set(clipzoo.__all__) <= set(re.findall(r"^### `(\w+)`$", page, re.MULTILINE))
    assert len(reference.rooms()) > 10
    assert not re.search(r"0x[0-9a-f]{6}|<factory>", page), "an address would differ from run to run"


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
