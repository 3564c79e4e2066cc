"""Predictions on pictures: ``clipzoo predict`` and ``clipzoo.show``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipzoo import files, model_schemes
from clipzoo import recipe as recipes
from clipzoo.errors import CheckpointError, ImageError, SampleError
from clipzoo.files import AnyPath
from clipzoo.models import Loaded, Student, load
from clipzoo.models.loaded import Picture
from clipzoo.pages.predictions import Predictions, locates, predict
from clipzoo.progress import Progress, Silent
from clipzoo.readers import spread
from clipzoo.recipe import StudentRecipe
from clipzoo.runs.before.preflight import TRAINED, check_arm
from clipzoo.runs.folder import Folder
from clipzoo.types import ImageArray, decode_image, to_rgb

BEST = "-best"
SHOWN = ("clipzoo", "clip-ft", *(f"{arm}{BEST}" for arm in TRAINED))
"""Arms of a run that can be shown; the first that is trained is the default."""

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
        RecipeError: the run has no such arm.
        ImageError: no picture can be read.
    """
    if count < 1:
        raise ImageError(f"{count} is not a valid number of pictures. Give 1 or more")
    given = _expanded(pictures)
    there = [one for one in given if not _is_missing(one)]
    found = [*spread(there, count), *filter(_is_missing, given)]
    texts = prompts_of(prompts)
    models, notes = models_of(student, start, arm, seed, device, trust_remote_code)
    if texts:
        notes += [f"{one}: its vision tower has no heat maps of prompts" for one in models if not locates(models[one])]
    shown, failures = [], []
    for number, one in enumerate(found):
        name = str(one) if isinstance(one, (str, Path)) else f"picture {number + 1}"
        try:
            shown.append(predict(name, _pixels(one), models, texts))
        except SampleError as error:
            failures.append((name, str(error)))
        (progress or Silent()).step("pictures", number + 1, len(found))
    if not shown:
        name, reason = failures[0] if failures else ("the given folders", "they contain no pictures")
        raise ImageError(f"none of {len(found)} pictures can be read: {name}: {reason}. Give pictures in other files")
    source = "a loaded student" if isinstance(student, Loaded) else str(student)
    return Predictions(source, list(models), shown, failures, notes, independent(models))


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
            first = Loaded(_started(wanted, number, trust).to(device))
    models = {name: last} if first is None else {"start": first, name: last}
    notes = [
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
    trained = {name: _place(folder, name, number) for name in SHOWN}
    trained = {name: place for name, place in trained.items() if (place / "open_clip_config.json").is_file()}
    if arm is not None:
        check_arm(arm, "show", SHOWN)
    chosen = arm or next(iter(trained), None)
    if chosen not in trained:
        has = f"it has {', '.join(trained)}" if trained else "it has none"
        raise CheckpointError(
            f"{path} has no trained student of {f'the arm {arm!r}' if arm else 'any arm'} with seed {number}; {has}. "
            f"Run `clipzoo {'interpolate' if (arm or '').endswith(BEST) else 'run'} {path}` first, or choose another "
            "--arm or --seed"
        )
    return chosen, load(trained[chosen], device, trust), recipe.student, number


def _place(folder: Folder, arm: str, seed: int) -> Path:
    return folder.best(arm.removesuffix(BEST), seed) if arm.endswith(BEST) else folder.training(arm, seed) / "student"


def _started(wanted: StudentRecipe, seed: int, trust: bool) -> Student:
    """Return the student of a recipe before training, without heads."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Student.create(
            model_schemes.resolve(wanted.model), wanted.pretrained, None, wanted.layers, wanted.random, trust,
            wanted.height_width,
        )  # fmt: skip


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
