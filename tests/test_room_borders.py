"""Rooms use only the public modules of other rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import clipzoo
from clipzoo.errors import DatasetError
from clipzoo.readers import PLUGINS, Location, spread

SOURCE = Path(clipzoo.__file__).parent


def modules(path: Path) -> set[str]:
    """Return every module, and every name of a module, that a file imports."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_private_module_of_another_room_is_imported() -> None:
    hits = set()
    for path in SOURCE.rglob("*.py"):
        own = f"clipzoo.{path.relative_to(SOURCE).parts[0].removesuffix('.py')}."
        others = {name for name in modules(path) if name.startswith("clipzoo.") and not name.startswith(own)}
        hits |= {(str(path), name) for name in others if any(part.startswith("_") for part in name.split(".")[1:])}
    assert not hits


def test_the_dataset_check_and_the_gallery_do_not_import_labeling() -> None:
    files = [*(SOURCE / "checking").glob("*.py"), SOURCE / "pages" / "gallery.py"]
    assert not {name for path in files for name in modules(path) if name.startswith("clipzoo.labeling")}


def test_shared_modules_of_readers_are_not_formats() -> None:
    assert set(PLUGINS.names()) >= {"folder", "webdataset"}
    assert not {"base", "decode"} & set(PLUGINS.names())


def test_items_are_chosen_at_equal_distances() -> None:
    assert spread(range(10), 3) == [1, 5, 8]
    assert spread([1, 2], 3) == [1, 2]
    assert spread([1, 2], None) == [1, 2]


@pytest.mark.parametrize(("option", "hint"), [("captoin", "did you mean caption"), ("zzz", "there are: format, image")])
def test_an_unknown_option_of_a_location_names_the_similar_ones(option: str, hint: str) -> None:
    location = Location("x.csv", "x.csv", {option: "a"})
    with pytest.raises(DatasetError, match=f"no option '{option}'; {hint}"):
        location.allow("image", "caption")
