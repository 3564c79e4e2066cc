"""Predictions on pictures: ``clipzoo predict`` and ``clipzoo.show``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipzoo import files
from clipzoo import recipe as recipes
from clipzoo.errors import CheckpointError, ImageError, RecipeError, SampleError, shell_word
from clipzoo.files import AnyPath
from clipzoo.models import Loaded, Student, load, read_heads
from clipzoo.models.loaded import Picture
from clipzoo.pages.predictions import Predicted, Predictions, locates, predict
from clipzoo.progress import Progress, Silent
from clipzoo.readers import spread
from clipzoo.recipe import ColumnRecipe, Recipe, StudentRecipe
from clipzoo.runs.before.preflight import TRAINED, check_arm
from clipzoo.runs.folder import Folder
from clipzoo.runs.interpolation import BEST
from clipzoo.types import ImageArray, decode_image, to_rgb

SHOWN = ("clipzoo", "clip-ft", *(f"{arm}{BEST}" for arm in TRAINED))
"""Arms of a run that can be shown, before its named arms; the first that is trained is the default."""

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".jfif", ".avif")
"""Endings of the pictures of a folder."""

Given = AnyPath | Picture
"""A picture: a file, folder or glob pattern, a PIL image, or a uint8 array H×W×3 RGB."""


def show(
    student: Loaded | AnyPath,
    pictures: Given | Sequence[Given],
    prompts: Sequence[str] | str | None = None,
    start: Loaded | AnyPath | None = None,
    *,
    arm: str | None = None,
    seed: int | None = None,
    count: int = 24,
    device: str = "cpu",
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Return the predictions of a student on pictures; a notebook shows them, ``save`` writes them.

    Args:
        student: a student of `clipzoo.load`, its folder, or a run folder, whose start is shown next to it.
        pictures: files, folders, glob patterns, PIL images or uint8 arrays H×W×3 RGB.
        prompts: texts whose probabilities are shown; one text may have several, separated by commas.
        start: a second student, shown first.
        arm: the arm of a run; default: the first of clipzoo and clip-ft that is trained.
        seed: the seed of a run; default: the recipe's first.
        count: the largest number of pictures; of more, some at equal distances are shown.
        device: device in PyTorch's notation.
        trust_remote_code: allow the tokenizer to run Python code that comes with the student.
        progress: receives the number of pictures that are done.

    Raises:
        CheckpointError: there is no such student, or it is damaged.
        RecipeError: the run has no such arm, or the prompts have no text.
        ImageError: no picture can be read.
    """
    if count < 1:
        raise ImageError(f"{count} is not a valid number of pictures. Give 1 or more")
    given = _expanded(pictures)
    texts = prompts_of(prompts)
    if prompts and not texts:
        raise RecipeError(f"the prompts {prompts!r} have no text. Give texts separated by commas: 'a chair,a lamp'")
    models, notes = models_of(student, start, arm, seed, device, trust_remote_code)
    if texts:
        notes += [f"{one}: its vision tower has no heat maps of prompts" for one in models if not locates(models[one])]
    shown, failures = _predicted(given, models, texts, count, progress or Silent())
    if not shown:
        name, reason = failures[0] if failures else ("the given folders", "they contain no pictures")
        raise ImageError(f"no picture can be read: {name}: {reason}. Give pictures in other files")
    source = "a loaded student" if isinstance(student, Loaded) else str(student)
    return Predictions(source, list(models), shown, failures, notes, independent(models))


def _predicted(
    given: Sequence[Given], models: Mapping[str, Loaded], texts: Sequence[str], count: int, progress: Progress
) -> tuple[list[Predicted], list[tuple[str, str]]]:
    """Return ``count`` pictures at equal distances with predictions, and (name, reason) of those that failed.

    Pictures that cannot be read are replaced by others. Missing files are failures, whatever ``count`` is.
    """
    there = [number for number, one in enumerate(given) if not _is_missing(one)]
    chosen, readable = spread(there, count), {*there}
    shown: dict[int, Predicted] = {}
    failures: dict[int, tuple[str, str]] = {}
    for number in [*chosen, *sorted({*range(len(given))} - {*chosen})]:
        if len(shown) == count and number in readable:
            continue
        name = str(given[number]) if isinstance(given[number], (str, Path)) else f"picture {number + 1}"
        try:
            shown[number] = predict(name, _pixels(given[number]), models, texts)
        except SampleError as error:
            failures[number] = name, str(error)
        progress.step("pictures", len(shown), min(count, len(there)))
    return [shown[number] for number in sorted(shown)], [failures[number] for number in sorted(failures)]


def prompts_of(given: Sequence[str] | str | None) -> list[str]:
    """Return single prompts, each once; one text may have several, separated by commas."""
    texts = given.split(",") if isinstance(given, str) else given or ()
    return [text for text in dict.fromkeys(text.strip() for text in texts) if text]


def independent(models: Mapping[str, Loaded]) -> bool:
    """Return True if the probabilities of prompts are independent of each other, as in SigLIP."""
    return all(getattr(one.model, "logit_bias", None) is not None for one in models.values())


def models_of(
    student: Loaded | AnyPath, start: Loaded | AnyPath | None = None, arm: str | None = None, seed: int | None = None,
    device: str = "cpu", trust: bool = False,
) -> tuple[dict[str, Loaded], list[str]]:  # fmt: skip
    """Return name -> model, the start first, and notes about them; see `show`."""
    notes: list[str] = []
    first = start if start is None or isinstance(start, Loaded) else load(start, device, trust)
    if isinstance(student, Loaded):
        name, last = "trained", student
    else:
        path = files.local(student, "a student")
        run = (path / "recipe.yaml").is_file()
        if not run and (arm is not None or seed is not None):
            raise CheckpointError(f"{path} is not a run folder, so it has no arms. Omit --arm and --seed")
        name, last, wanted, number = _of_run(path, arm, seed, device, trust) if run else ("trained", load(
            path, device, trust), None, 0)  # fmt: skip
        if first is None and wanted is not None:
            first, notes = _started(wanted, number, device, trust)
    models = {name: last} if first is None else {"start": first, name: last}
    notes += [
        f"{one}: no heads, only probabilities and heat maps of prompts"
        for one, model in models.items()
        if not model.columns
    ]
    return models, notes


def _of_run(
    path: Path, arm: str | None, seed: int | None, device: str, trust: bool
) -> tuple[str, Loaded, StudentRecipe, int]:
    """Return arm, student, the recipe of its start, and the seed."""
    recipe, folder = recipes.load(path / "recipe.yaml", trust=True), Folder(path)  # nothing of the recipe is run
    number = recipe.seeds[0] if seed is None else seed
    trained = _trained(folder, recipe)
    known = [*SHOWN, *recipe.named_arms]
    if arm is not None:
        check_arm(arm, "show", known, [name for name in known if any(name == one for one, _ in trained)])
    chosen = arm or next((name for name, its in trained if its == number), None)
    if chosen is None or (chosen, number) not in trained:
        verb = "interpolate" if (arm or "").endswith(BEST) else "run"
        raise CheckpointError(
            f"{path} has no trained student of {f'the arm {arm!r}' if arm else 'any arm'} with seed {number}; "
            f"{_listed(trained)}. Run `clipzoo {verb} {shell_word(path)}` first, "
            "or choose another --arm or --seed"
        )
    return chosen, load(trained[chosen, number], device, trust), recipe.student, number


def _listed(trained: Iterable[tuple[str, int]]) -> str:
    """Return the arms with trained students and the seeds of each, as text."""
    seeds: dict[str, list[str]] = {}
    for arm, seed in trained:
        seeds.setdefault(arm, []).append(str(seed))
    several = [f"{arm} (seed{'s'[: len(each) > 1]} {', '.join(each)})" for arm, each in seeds.items()]
    return f"it has {', '.join(several)}" if several else "no arm of it is trained yet"


def _trained(folder: Folder, recipe: Recipe) -> dict[tuple[str, int], Path]:
    """Return (arm, seed) -> the folder of the student, for all that are trained; named arms are last."""
    found = {}
    for arm in SHOWN:
        for seed, training in _seeds(folder.arm(arm.removesuffix(BEST))):
            found[arm, seed] = training / ("best" if arm.endswith(BEST) else "student")
    for arm in recipe.named_arms:
        for seed, training in _seeds(_of_variant(folder, recipe, recipe.variants[arm])):
            found[arm, seed] = training / "student"
    return {one: place for one, place in found.items() if (place / "open_clip_config.json").is_file()}


def _seeds(arm: Path | None) -> Iterator[tuple[int, Path]]:
    """Yield the seeds and folders of an arm's trainings, by seed."""
    names = [path.name for path in arm.iterdir() if path.name.isdecimal()] if arm and arm.is_dir() else []
    for seed in sorted(map(int, names)):
        if arm is not None:
            yield seed, arm / str(seed)


def _of_variant(folder: Folder, recipe: Recipe, sources: Sequence[str]) -> Path | None:
    """Return the arm ``clipzoo`` of a subset of the columns, if it exists.

    ``sources`` are names of columns, tasks or URIs of experts. The names of the columns of experts are read from heads
    that are trained, since an expert may be code or weights to download.
    """
    runs = {path.parent: recipes.load(path, trust=True) for path in folder.path.glob("ablations/*/recipe.yaml")}
    names: dict[str, str] = {}
    for path, one in {folder.path: recipe, **runs}.items():
        heads = next(path.glob("arms/clipzoo/*/student/clipzoo_heads.json"), None)
        if heads is not None:
            names |= dict(zip(map(_source, one.columns), read_heads(heads)[1], strict=False))
    keys = {
        one: {one, names.get(one, ""), names.get(one, one).partition("/")[0]} for one in map(_source, recipe.columns)
    }
    chosen = {one for one, its in keys.items() if its & {*sources}}
    for path, one in {folder.path: recipe, **runs}.items():
        if {*map(_source, one.columns)} == chosen:
            return path / "arms" / "clipzoo"
    return None


def _source(column: ColumnRecipe) -> str:
    """Return the expert or the name of a column of a recipe."""
    return column.expert or str(column.column)


def _started(wanted: StudentRecipe, seed: int, device: str, trust: bool) -> tuple[Loaded | None, list[str]]:
    """Return the student of a recipe before training, without heads; None and a note if it cannot be loaded."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            start = Student.create(
                wanted.model, wanted.pretrained, None, wanted.layers, wanted.random, trust,
                wanted.height_width,
            )  # fmt: skip
        except CheckpointError as error:
            return None, [f"the start of the run is not shown, because it cannot be loaded: {error}"]
    return Loaded(start.to(device)), []


def _expanded(pictures: Given | Sequence[Given]) -> list[Given]:
    """Return single pictures: those of folders and glob patterns, sorted, and the others as they are."""
    several = pictures if isinstance(pictures, Sequence) and not isinstance(pictures, str) else [pictures]
    return [picture for one in several for picture in (_paths(Path(one)) if isinstance(one, (str, Path)) else [one])]


def _paths(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(one for one in path.rglob("*") if one.suffix.lower() in IMAGES)
    elif set("*?[") & set(path.as_posix()) and not path.exists():
        yield from sorted(Path(path.anchor).glob(path.relative_to(path.anchor).as_posix())) or [path]
    else:
        yield path


def _is_missing(picture: Given) -> bool:
    """Return True for the path of a file that does not exist; it is named as a failure, whatever ``count`` is."""
    return isinstance(picture, (str, Path)) and not Path(picture).exists()


def _pixels(picture: Given) -> ImageArray:
    """Return a picture as uint8 H×W×3 RGB; raise `ImageError` if it cannot be read."""
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if isinstance(picture, np.ndarray):
        return picture
    try:
        return decode_image(Path(str(picture)).read_bytes())
    except OSError as error:
        raise ImageError(f"cannot read the file: {error.strerror or error}") from error
