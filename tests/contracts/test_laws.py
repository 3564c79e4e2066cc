"""Every task of the folder keeps every law."""

import re
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from laws import LAWS, LEARNING, Law
from scene import CASES, Case

from clipzoo import plugins, tasks
from clipzoo.errors import PluginError
from installing import DOCS, written

NAMES = plugins.names("tasks")


def named(case: Case) -> str:
    parts = (case.task, case.convention.kind, case.convention.along, case.loss)
    return "-".join(part for part in parts if part)


def test_the_folder_is_not_empty() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_a_label_of_the_scene(name: str) -> None:
    assert CASES.get(name), f"add the label that task {name!r} gives of the scene to CASES in scene.py"
    assert tasks.get(name).name == name


EVERY = [case for name in NAMES for case in CASES.get(name, ())]
CHOSEN = [replace(case, loss=loss) for case in EVERY for loss in tasks.get(case.task).losses(case.convention)[1:]]


@pytest.mark.parametrize("case", EVERY, ids=named)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law: Law, case: Case) -> None:
    law(tasks.get(case.task), case)


@pytest.mark.parametrize("case", CHOSEN, ids=named)
@pytest.mark.parametrize("law", LEARNING, ids=lambda law: law.__name__)
def test_law_by_a_loss_that_a_recipe_may_name(law: Law, case: Case) -> None:
    law(tasks.get(case.task), case)


def test_a_loss_that_a_task_does_not_offer_is_refused() -> None:
    for case in EVERY:
        with pytest.raises(PluginError, match=f"the loss 'nonsense' does not support .*{case.task} labels"):
            tasks.get(case.task).criterion(case.convention, "nonsense")


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What docs/add-a-task.md defines of the task: the file, and its row in the laws."""
    scripts = re.findall(r"```python\n(.*?)```", (DOCS / "add-a-task.md").read_text(), re.DOTALL)
    (row,) = [script for script in scripts if "from scene import Case" in script]
    module = ModuleType("documented_task")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    for script in (written("add-a-task.md")["elevation.py"], row):
        exec(script, vars(module))
    return vars(module)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_documented_task_keeps_every_law(law: Law, documented: dict[str, Any]) -> None:
    law(documented["TASK"], documented["CASE"])


def test_every_metric_says_what_it_averages(documented: dict[str, Any]) -> None:
    metrics = [tasks.get(case.task).metric(case.convention) for case in EVERY]
    assert all(metric.over for metric in [*metrics, documented["TASK"].metric(documented["CASE"].convention)])
