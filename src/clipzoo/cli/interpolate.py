"""``clipzoo interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipzoo.cli._options import Device, Set, Trust

Folders = Annotated[
    list[Path], typer.Argument(help="A run folder, or two folders of students: START END.", show_default=False)
]
Benchmark = Annotated[str | None, typer.Option(help="With START END: this benchmark (docs/benchmarks.md).")]


def command(
    folders: Folders,
    overrides: Set = None,
    out: Annotated[Path | None, typer.Option("--out", help="With START END: the output folder.")] = None,
    probe: Benchmark = None,
    validation: Benchmark = None,
    alphas: Annotated[str | None, typer.Option(help="Shares of the trained student, such as 0.25,0.5,0.75.")] = None,
    max_loss: Annotated[float | None, typer.Option(help="Largest loss of zero-shot recognition, 0 to 1.")] = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Interpolate between the start and trained students, and choose one on validation; nothing is trained."""
    given = _given(alphas, max_loss)
    if len(folders) == 1:
        if out or probe or validation:
            raise typer.BadParameter("--out, --probe and --validation belong to two folders: START END")
        _run(folders[0], [f"interpolation.{name}={value}" for name, value in given.items()], overrides, device, trust)
        return
    if len(folders) != 2 or out is None or probe is None or validation is None:
        raise typer.BadParameter("give a run folder, or START END with --out, --probe and --validation")
    if overrides:
        raise typer.BadParameter("--set belongs to the recipe of a run folder")
    _pair(folders[0], folders[1], out, {"probe": probe, "validation": validation}, given, device)


def _given(alphas: str | None, max_loss: float | None) -> dict[str, object]:
    given: dict[str, object] = {}
    if alphas is not None:
        try:
            given["alphas"] = [float(alpha) for alpha in alphas.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"--alphas {alphas}: give numbers with commas, such as 0.25,0.5,0.75") from error
    if max_loss is not None:
        given["max_loss"] = max_loss
    return given


def _run(folder: Path, given: list[str], overrides: list[str] | None, device: str, trust: bool) -> None:
    from clipzoo import recipe as recipes
    from clipzoo.cli import _tables
    from clipzoo.cli._console import bold, check_run_folder, console, open_run, plain
    from clipzoo.errors import CheckpointError, shell_word
    from clipzoo.runs import verbs as pipeline

    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a file, but interpolate needs the folder of a run with trained students: give that folder, "
            "such as runs/NAME"
        )
    check_run_folder(folder)
    added = [] if recipes.load(folder / "recipe.yaml", trust=True).interpolation else ["interpolation={}"]
    with open_run(folder, None, [*added, *(overrides or []), *given], device, trust) as run:
        found = pipeline.interpolate(run)
        for arm, seeds in found.items():
            for seed, one in seeds.items():
                console.print(_tables.tradeoff(one, f"{arm}, seed {seed}"))
                console.print(f"chosen student: α = {one.best.alpha:g}, {bold(run.folder.best(arm, seed))}")
    plain(f"rerun `clipzoo run {shell_word(folder)}` to measure it on test and to add the chart to the report")


def _pair(start: Path, end: Path, out: Path, splits: dict[str, str], given: dict[str, object], device: str) -> None:
    from pydantic import ValidationError

    from clipzoo.cli import _tables
    from clipzoo.cli._console import bars, bold, console
    from clipzoo.recipe import InterpolationRecipe
    from clipzoo.runs.before.preflight import pick_device
    from clipzoo.runs.interpolation import interpolate_pair

    try:
        settings = InterpolationRecipe.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{first['loc'][0]} is {first['input']}: {first['msg']}") from error
    with bars() as progress:
        found = interpolate_pair(start, end, out, splits, settings, progress, pick_device(device))
    console.print(_tables.tradeoff(found, str(end)))
    console.print(f"chosen student: α = {found.best.alpha:g}, {bold(out / 'best')}")
