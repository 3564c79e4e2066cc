"""``clipzoo eval``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from clipzoo import plugins
from clipzoo.cli._options import Device, Out, Set, Trust

if TYPE_CHECKING:
    from typer._click.core import Context  # of the types of Typer 0.29

VOCABULARY, DEFAULT = "--open-vocabulary", "maskclip"
RecipePath = Annotated[Path | None, typer.Argument(help="The recipe (YAML).", show_default=False)]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Measure this model instead of a recipe's arms: open_clip:NAME/TAG, open_clip:FOLDER, timm:NAME, hf:NAME. "
        "Repeatable.",
    ),
]
Benchmark = Annotated[str | None, typer.Option(help="With --model or --preset: this benchmark (docs/benchmarks.md).")]
Layers = Annotated[
    str | None,
    typer.Option(
        help="With --model: layers that probes read, such as 5,11; default: -1, the last.", show_default=False
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="quick, knn, linear-classification, or trained probes, of models or of a recipe's students "
        "(docs/evaluation.md)."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="With --preset: steps of the probe instead of the preset's.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="With a trained probe: its seed.")]
LabelSize = Annotated[
    int | None,
    typer.Option(min=1, help="With --model: side of the compared labels in pixels; default: 112.", show_default=False),
]
Vocabulary = Annotated[
    str | None,
    typer.Option(
        help="Measure segmentation by prompts with class names, too: maskclip (default), sclip, naclip, value or "
        "plain.",
        show_default=False,
    ),
]


class Command(TyperCommand):
    """The command; ``--open-vocabulary`` may stand without a value (Typer 0.29 has no such options)."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse arguments, after `VOCABULARY` without a value got the default."""
        return super().parse_args(ctx, list(_with_default(args)))


def _with_default(args: list[str]) -> Iterator[str]:
    for arg, following in zip_longest(args, args[1:]):
        yield arg
        if arg == VOCABULARY and not _is_variant(following):
            yield DEFAULT


def _is_variant(word: str | None) -> bool:
    """Return True for a variant, also where a folder has its name, and for a misspelled one, which is refused later."""
    if word is None or word.startswith("-"):
        return False
    return word in plugins.names("models.dense") or not _is_path(word)


def _is_path(word: str) -> bool:
    return "/" in word or bool(Path(word).suffix) or Path(word).exists()


def command(
    recipe: RecipePath = None,
    out: Out = None,
    overrides: Set = None,
    device: Device = "auto",
    trust: Trust = False,
    models: Models = None,
    test: Benchmark = None,
    probe: Benchmark = None,
    validation: Benchmark = None,
    heldout: Benchmark = None,
    layers: Layers = None,
    preset: Preset = "quick",
    steps: Steps = None,
    seed: Seed = 0,
    label_size: LabelSize = None,
    open_vocabulary: Vocabulary = None,
) -> None:
    """Evaluate all arms of a recipe with baselines, training missing arms first, or any models with --model.

    With --preset, the start and the trained students of a recipe are measured by that preset.
    """
    places = {"test": test, "probe": probe, "validation": validation, "heldout": heldout}
    given = {split: place for split, place in places.items() if place is not None}
    _check_source(recipe, models, bool(overrides), trust)
    if layers is not None or label_size is not None:
        _check_probed(recipe, preset, "--label-size" if layers is None else "--layers")
    if recipe is not None and preset == "quick":
        if given or steps or seed:
            raise typer.BadParameter(
                "--test, --probe, --validation, --heldout, --steps and --seed need --model or --preset; for a recipe's "
                "own benchmarks, use --set evaluation.test=…"
            )
        prompts = [f"evaluation.open_vocabulary={open_vocabulary}"] if open_vocabulary else []
        _arms(recipe, out, [*(overrides or []), *prompts], device, trust)
        return
    if open_vocabulary is not None and open_vocabulary not in plugins.names("models.dense"):
        known = plugins.hint(open_vocabulary, plugins.names("models.dense"))
        raise typer.BadParameter(f"--open-vocabulary: there is no variant {open_vocabulary!r}; {known}")
    chosen = _layers(layers or "-1")
    side = label_size or 112
    if recipe is not None:
        changed = f"{f'-{steps}-steps' if steps else ''}{f'-seed-{seed}' if seed else ''}"
        models, given, out = _students(recipe, out, overrides, trust, preset, changed, given)
    _models(
        models or [],
        given,
        out or Path("eval"),
        device,
        layers=chosen,
        label_size=(side, side),
        preset=preset,
        steps=steps,
        seed=seed,
        open_vocabulary=open_vocabulary,
    )


def _check_source(recipe: Path | None, models: list[str] | None, overrides: bool, trust: bool) -> None:
    """Refuse a command without a recipe and models, with both, or with options of a recipe for models."""
    if (recipe is None) == (models is None):
        raise typer.BadParameter("give a recipe, or models with --model URI --test BENCHMARK; not both")
    if recipe is None and (overrides or trust):
        raise typer.BadParameter(
            f"{'--set' if overrides else '--trust'} belongs to a recipe, and --model has none. Remove it; options of "
            "models are part of their URIs, such as ?size=518"
        )


def _check_probed(recipe: Path | None, preset: str, option: str) -> None:
    """Refuse an option of the preset ``quick`` with --model where it would not be used."""
    if preset != "quick":
        raise typer.BadParameter(f"{option} belongs to the preset quick: {preset} has its own. Remove {option}")
    if recipe is not None:
        field = "layers=[…]" if option == "--layers" else "label_stride=…"
        raise typer.BadParameter(f"{option} needs --model. A recipe has its own: use --set evaluation.{field}")


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(layer) for layer in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--layers {text}: give whole numbers with commas, such as 5,11") from error


def _students(
    recipe: Path,
    out: Path | None,
    overrides: list[str] | None,
    trust: bool,
    preset: str,
    changed: str,
    given: dict[str, str],
) -> tuple[list[str], dict[str, str], Path]:
    """Return the models of a run, the benchmarks of a preset, and the folder of its results.

    ``out`` is that folder if ``recipe`` is a run, else the run's; ``changed`` is added to the name of the default.
    """
    from clipzoo.cli._console import load_recipe
    from clipzoo.runs.before.preflight import check_splits
    from clipzoo.runs.folder import Folder
    from clipzoo.runs.models import benchmarks_of, students

    loaded, folder = load_recipe(recipe, None if recipe.is_dir() else out, overrides, trust)
    models, places = students(loaded, Folder(folder), str(recipe)), benchmarks_of(loaded, preset, given)
    check_splits(loaded.model_copy(update={"evaluation": loaded.evaluation.model_copy(update=places)}), places)
    default = folder / "presets" / f"{preset}{changed}"
    return models, places, out or default if recipe.is_dir() else default


def _arms(recipe: Path, out: Path | None, overrides: list[str] | None, device: str, trust: bool) -> None:
    from clipzoo.cli._console import bold, console, open_run
    from clipzoo.runs import verbs as pipeline
    from clipzoo.runs.before.preflight import check_measurable

    with open_run(recipe, out, overrides, device, trust, check_measurable) as run:
        path = pipeline.evaluate(run)
    console.print(f"results: {bold(path)}")


def _models(models: list[str], places: dict[str, str], out: Path, device: str, **options: Any) -> None:
    from clipzoo.cli import _tables
    from clipzoo.cli._console import bars, bold, console
    from clipzoo.runs.before.preflight import pick_device
    from clipzoo.runs.models import Comparison, measure

    with bars() as progress:
        results = measure(Comparison(models, places, out, device=pick_device(device), **options), progress)
    console.print(_tables.compared(results))
    console.print(f"results: {bold(out / 'results.json')}")
