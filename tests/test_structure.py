"""The house: order of rooms, sizes of files, names that are documented, the tree in the README."""

from __future__ import annotations

import ast
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipzoo
from clipzoo import (
    benchmarks,
    encoders,
    experts,
    export,
    heads,
    locations,
    losses,
    model_schemes,
    probing,
    readers,
    tasks,
)
from clipzoo.benchmarks import open_benchmark, read_split
from clipzoo.labeling import exports
from clipzoo.models import dense
from clipzoo.plugins import Registry
from clipzoo.training import balancing, tracking

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "clipzoo"
ORDER = (
    "errors", "jpeg", "types", "plugins", "progress", "stopping", "files", "losses", "heads", "tasks", "readers",
    "locations", "experts", "importers", "derived", "conformance", "store", "labeling", "data", "model_schemes",
    "models", "benchmarks", "trust", "recipe", "training", "evaluation", "encoders", "probing", "export", "checking",
    "splitting", "pages", "demo", "viewer", "runs", "app", "cli", "__main__",
)  # fmt: skip
SEPARATE = {("labeling", "training"), ("training", "labeling"), ("pages", "training")}


REGISTERED = {"experts/demo.py", "locations/demo.py", "locations/rooms.py", "model_schemes/demo.py"}
"""Plugin files that only register what another room, the demo, exports; a registry imports them when they are named."""


def room(path: Path) -> str:
    if path.relative_to(SOURCE).as_posix() in REGISTERED:
        return "demo"
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms that a file imports anywhere, at its head or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "clipzoo" else [f"clipzoo.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("clipzoo.")}
    return found


def test_every_room_imports_only_what_stands_above_it() -> None:
    files = [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]
    assert len(files) > 50
    for path in files:
        own = room(path)
        assert own in ORDER, f"{own} is not in the plan of the house"
        for other in imported(path) - {own}:
            assert ORDER.index(other) < ORDER.index(own), f"{path.relative_to(SOURCE)} imports {other}, below it"
            assert (own, other) not in SEPARATE


def test_nothing_but_its_registration_and_its_command_imports_the_demo() -> None:
    users = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if "demo" in imported(path)}
    assert {name for name in users if not name.startswith("demo/")} == REGISTERED
    for name in REGISTERED:
        docstring, imports, exports = ast.parse((SOURCE / name).read_text()).body
        assert isinstance(docstring, ast.Expr)
        assert isinstance(imports, ast.ImportFrom)
        assert isinstance(exports, ast.Assign)


def test_the_file_tree_in_the_docs_is_up_to_date() -> None:
    tree = runpy.run_path(str(ROOT / "scripts" / "tree.py"))
    block = tree["BLOCK"].search((ROOT / "docs" / "architecture.md").read_text())
    assert block, "docs/architecture.md has no file tree"
    assert block[0] == tree["tree"](), "run python scripts/tree.py"
    assert len(block[0].splitlines()) > 100


def test_public_names_are_the_documented_ones() -> None:
    documented = re.findall(r"^\| `clipzoo\.(\w+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(clipzoo.__all__)
    importlib.import_module("clipzoo.runs")  # a folder of the same name would now replace a verb
    for name in clipzoo.__all__:
        assert callable(getattr(clipzoo, name))
        assert getattr(clipzoo, name).__doc__


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse((ROOT / "src" / "clipzoo" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        name.asname or name.name: (node.module, name.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    own = {"load_recipe": "load"}
    assert imported == {name: (module, own.get(name, name)) for name, module in clipzoo._WHERE.items()}
    assert sorted(clipzoo._WHERE) == clipzoo.__all__


def test_help_is_quick() -> None:
    """A second of work; the least of three, since tests share the machine."""
    code = "from clipzoo.cli import app; from typer.testing import CliRunner; CliRunner().invoke(app, ['--help'])"
    heavy = "import sys; assert not {'torch', 'open_clip', 'transformers'} & set(sys.modules), 'a heavy import'"
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 1.5


def test_files_keep_their_size() -> None:
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        lines = path.read_text().count("\n")
        assert lines <= 600, f"{path.relative_to(ROOT)} has {lines} lines: split it"


ANY_LINES = 186
"""Lines of the package with the word ``Any``; lower it when there are fewer."""


def test_any_is_not_used_where_a_type_can_be_said() -> None:
    lines = [line for path in SOURCE.rglob("*.py") for line in path.read_text().splitlines()]
    count = sum(bool(re.search(r"\bAny\b", line)) for line in lines)
    assert count <= ANY_LINES, (
        f"{count} lines have the word Any, more than {ANY_LINES}: use `object` for values that are only passed on, a "
        "TypedDict for JSON, the class of the other library (imported under TYPE_CHECKING), a Protocol or a TypeVar"
    )


def test_nothing_private_is_committed() -> None:
    """No machine path, no download address of an index, anywhere in the tree."""
    private = re.compile("|".join(["/wo" + "rk/", "index-" + "url", "--find-" + "links", "/ro" + "ot/"]))
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".txt", ""} and path.is_file():
            assert not private.search(path.read_text(errors="ignore")), f"{name} holds a private path or address"


def test_the_documented_benchmark_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shots").mkdir()
    for i in range(2):
        Image.fromarray(np.full((20, 24, 3), 40 * i, np.uint8)).save(f"shots/{i:03d}.jpg")
        np.save(f"shots/{i:03d}.npy", np.full((20, 24), 1.0 + i))
    script = re.search(r"```python\n(from pathlib.*?)```", (ROOT / "docs" / "benchmarks.md").read_text(), re.DOTALL)
    assert script
    exec(script[1], {})
    truth = read_split(open_benchmark("bench/test"), (16, 16)).truth["depth"]
    assert [round(float(label.values.mean()), 2) for label in truth.labels] == [1, 2]


REGISTRIES = (
    tasks.PLUGINS,
    losses.PLUGINS,
    heads.PLUGINS,
    readers.PLUGINS,
    locations.PLUGINS,
    model_schemes.PLUGINS,
    *experts.REGISTRIES,
    benchmarks.PLUGINS,
    encoders.PLUGINS,
    probing.PLUGINS,
    export.PLUGINS,
    exports.PLUGINS,
    balancing.PLUGINS,
    tracking.PLUGINS,
    dense.PLUGINS,
)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.folder)
def test_every_module_of_a_plugin_folder_follows_its_protocol(registry: Registry[Any]) -> None:
    assert registry.names()
    for name in registry.names():
        module = registry.load(name)
        assert all(hasattr(module, export) for export in registry.exports), name
        assert module.__doc__, name


def test_a_folder_with_plugins_has_a_registry() -> None:
    declared = {path.parent for path in SOURCE.rglob("*.py") if re.search(r"Registry\[\w+\]", path.read_text())}
    declared = {str(path.relative_to(SOURCE)).replace(os.sep, ".") for path in declared}
    assert {registry.folder for registry in REGISTRIES} - {"derived"} == declared - {"."}


def test_the_table_of_plugins_names_every_registry_with_its_protocol() -> None:
    """docs/extending.md: its groups are the registries, its classes exist, and its exports are the required ones."""
    row = r"^\| [\w ]+ \| `clipzoo\.([\w.]+)` \| `([\w.]+)\.(\w+)` \| (.*?) \|"
    rows = re.findall(row, (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
    assert sorted(folder for folder, *_ in rows) == sorted(registry.folder for registry in REGISTRIES)
    registries = {registry.folder: registry for registry in REGISTRIES}
    for folder, module, name, listed in rows:
        protocol, registry = getattr(importlib.import_module(module), name), registries[folder]
        assert name in importlib.import_module(module).__all__, f"{module}.{name} is not public"
        assert re.findall(r"`(\w+)`", listed) == [*registry.exports, *registry.required_of_installed], folder
        assert all(hasattr(protocol, export) or export in _annotations(protocol) for export in registry.exports), name


def _annotations(protocol: type) -> set[str]:
    return {name for base in protocol.__mro__ for name in getattr(base, "__annotations__", {})}


def test_tests_of_several_processes_are_in_files_that_make_runs() -> None:
    marked = {path.name for path in Path(__file__).parent.glob("test_*.py") if "mark.ranks" in path.read_text()}
    assert {name for name in marked if not name.startswith("test_ranks")} == {Path(__file__).name}
