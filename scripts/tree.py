"""Update the file tree in docs/architecture.md from the first lines of docstrings: ``python scripts/tree.py``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
SOURCE = ROOT / "src" / "clipzoo"
BLOCK = re.compile(r"(?<=```text\n)src/clipzoo/\n.*?(?=```)", re.DOTALL)


def tree() -> str:
    """Return the tree: one line for each folder and module of the package, with its summary."""
    return "\n".join(["src/clipzoo/", *_entries(SOURCE, 1)]) + "\n"


def _entries(folder: Path, depth: int) -> list[str]:
    indent = "  " * depth
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    lines = [_line(f"{indent}{path.name}", path) for path in modules]
    for package in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += [_line(f"{indent}{package.name}/", package / "__init__.py"), *_entries(package, depth + 1)]
    return lines


def _line(name: str, module: Path) -> str:
    summary = (ast.get_docstring(ast.parse(module.read_text())) or "").split("\n\n")[0].split("\n")[0].rstrip(".:")
    return f"{name:<28} {summary}".rstrip()


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: tree(), PAGE.read_text()))
