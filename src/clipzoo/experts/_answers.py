"""What a folder of label files must be asked before its numbers mean anything, and the answers of a URI.

Files do not say whether 1000 is a meter or a class, so every question of the task has to be answered; nothing is
guessed, and all that is missing or wrong is told at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl

from clipzoo.errors import ExpertError
from clipzoo.experts._encodings import ENCODINGS, Encoding
from clipzoo.experts._frames import parse_frame
from clipzoo.experts._palettes import palette
from clipzoo.experts._pattern import Pattern
from clipzoo.tasks.base import Convention
from clipzoo.tasks.depth import Along, Kind
from clipzoo.types import FloatArray

Parser = Callable[[str], dict[str, Any]]
"""An answer -> fields; raises `ValueError` on what is none."""

FORMATS = ("files", "tars", "rows", "coco", "panoptic", "voc")
"""Zoos of experts that look labels up; what `clipzoo labels import` knows."""

INVALID = "the value of unknown pixels (several with commas), as 0, or none; not-a-number is unknown anyway"
QUESTIONS: Mapping[str, Mapping[str, str]] = {
    "segmentation": {
        "classes": "names in the order of ids, as floor,wall,chair, or @names.txt with a line each: a name, or, for "
        "color-coded files, 'r g b name'; or palette:voc, palette:cityscapes for files in their colors, or "
        "palette:binary for white on black (0 and 255)",
        "void": "ids of unknown pixels (of color-coded files colors, as #000000), with commas, or none",
    },
    "depth": {
        "kind": f"{', '.join(get_args(Kind))} (nearer is larger)",
        "along": "z (optical axis) or ray (line of sight); none where an affine kind does not tell",
        "scale": "what values are multiplied by, to give meters if metric: 0.001 for millimeters",
        "invalid": INVALID,
    },
    "normals": {
        "frame": "where the channels point, as x-right,y-down,z-forward",
        "range": "the file's values for -1 and 1, as 0,255",
        "invalid": INVALID,
    },
    "edges": {
        "range": "the file's values for no edge and an edge, as 0,255, or 255,0 for black on white",
        "invalid": INVALID,
    },
}
"""Task -> question -> how it is answered."""

COMMON = {
    "license": "of the labels",
    "licence": "",
    "as": "the column's name, truth or any other; by default the format and the name of what is read",
}
"""What may be answered of labels in any format."""

SUFFIX = "what follows the key in file names, as _depth.png; by default .png, .npy, .tif, .tiff, .hdf5 or .h5"
PATTERN = "the label's name from the key's, as rgb_{number}:sync_depth_{number}; {name:path} also stands for slashes"
OPTIONAL: Mapping[str, Mapping[str, str]] = {
    "segmentation": {
        "first": "the first class's id in the files, by default 0",
        "threshold": "of soft masks and alpha channels, two classes: the second one is where the share of the largest "
        "value is at least this, as 0.5",
    },
    "depth": {
        "encoding": f"{', '.join(ENCODINGS)}: a dataset's own way to write depth, which answers kind, scale and invalid"
    },
}
"""Task -> question that may be left out -> how it is answered."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of one URI, parsed; what does not concern the task has its default."""

    task: str
    given: Mapping[str, str]
    classes: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    kind: Kind | None = None
    along: Along | None = None
    scale: float = 1.0
    frame: FloatArray | None = None
    range: tuple[float, float] = (0.0, 1.0)
    unknown: tuple[float, ...] = ()
    """Values of unknown pixels; of color-coded files 0xRRGGBB."""
    first: int = 0
    threshold: float | None = None
    encoding: Encoding | None = None
    suffix: str = ""
    pattern: Pattern | None = None
    license: str = "unknown"
    name: str = ""
    """Of the column; "" if it is not chosen."""

    @property
    def convention(self) -> Convention:
        """What the labels mean beyond their task."""
        return Convention(self.classes, self.kind, self.along)


def parse(
    given: Mapping[str, str], zoo: str, first: Mapping[str, str], optional: Mapping[str, str] = COMMON
) -> Answers:
    """The answers of ``task=depth&kind=metric&…``, as `split` gives them.

    ``first`` are questions of the zoo's own, ``optional`` what may be left out whatever the task.

    Raises:
        ExpertError: a question is unanswered, an answer wrong, or nobody asked; all findings at once.
    """
    task = given.get("task", "")
    if task not in QUESTIONS:
        raise without_task(given, zoo, first, QUESTIONS)
    optional = {"task": "", **OPTIONAL.get(task, {}), **optional}
    told = {**_settled(given, zoo), **given} if task == "depth" else given
    fields = answer(told, {**first, **QUESTIONS[task]}, optional, PARSERS, zoo, task)
    if fields.get("threshold") is not None:
        _check_soft(fields)
    elif fields.get("colors"):
        _check_colors(given["void"])
    return Answers(given={name: text for name, text in given.items() if name not in first}, **fields)


def _settled(given: Mapping[str, str], zoo: str) -> Mapping[str, str]:
    """What the ``encoding`` answers by itself.

    Raises:
        ExpertError: it is answered again, or the zoo cannot read it.
    """
    name = given.get("encoding", "")
    if name not in ENCODINGS:
        return {}
    answers = ENCODINGS[name].answers
    if ENCODINGS[name].mask and zoo != "files":
        raise ExpertError(
            f"{zoo}: encoding={name} has its unknown pixels in files beside those of depth, which files: alone reads: "
            "import from the folder of both"
        )
    twice = [f"{question}={given[question]}" for question in answers if question in given]
    if twice:
        told = ", ".join(f"{question}={answer}" for question, answer in answers.items())
        raise ExpertError(f"{zoo}: encoding={name} stands for {told}; leave out {', '.join(twice)}, or encoding=")
    return answers


def _check_soft(fields: dict[str, Any]) -> None:
    """Raise `ExpertError` unless there are two classes; colors of these are no question any more."""
    fields["colors"] = ()
    count = len(fields["classes"])
    if count != 2:
        raise ExpertError(
            f"threshold: a soft mask tells two classes, and classes= names {count}: write classes=background,NAME, or "
            "leave out threshold="
        )
    if any(value > 65535 for value in fields["unknown"]):
        raise ExpertError("void: soft masks have no colors: write the number of unknown pixels, or void=none")


def _check_colors(void: str) -> None:
    """Raise `ExpertError` unless the void of color-coded files is ``none`` or colors."""
    parts = [] if void == "none" else void.split(",")
    if all(part.startswith("#") for part in parts):
        return
    meant = f"#{int(parts[0]):02x}{int(parts[1]):02x}{int(parts[2]):02x}" if len(parts) == 3 else "#rrggbb"
    raise ExpertError(
        f"void={void}: these are numbers, but the classes have colors, and so has void: write void={meant} (several "
        "with commas between), or void=none"
    )


def without_task(
    given: Mapping[str, str], zoo: str, first: Mapping[str, str], tasks: Mapping[str, Mapping[str, str]]
) -> ExpertError:
    """The error where nobody says what task labels are of: all that is open, and what each task then asks."""
    told = f"task={given['task']} is none" if "task" in given else "task is not answered"
    lines = [f"  {name} is not answered: {how}" for name, how in first.items() if name not in given]
    lines.append(f"  {told}: {', '.join(tasks)}; each then asks")
    for task, questions in tasks.items():
        lines += [f"    {task}: {name} = {how}" for name, how in questions.items() if name not in {**first, **given}]
    return ExpertError("\n".join([_ask(zoo, "these labels", "task"), *lines]))


def _ask(zoo: str, what: str, question: str) -> str:
    how = f"answer behind the path, as {zoo}:PATH?{question}=…&…"
    if zoo in FORMATS:
        how += f", or to `clipzoo labels import` by --set {question}=… and so on"
    return f"{zoo}: {what} do not say by themselves what they mean; {how}:"


def split(query: str) -> dict[str, str]:
    """Question -> answer, as text."""
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise ExpertError(f"{query!r} is not of the form task=depth&name=value&… ({error})") from error


def answer(
    given: Mapping[str, str],
    required: Mapping[str, str],
    optional: Mapping[str, str],
    parsers: Mapping[str, Parser],
    zoo: str,
    task: str,
) -> dict[str, Any]:
    """The fields that the answers are.

    Args:
        given: question -> answer.
        required: question -> how it is answered; each must be.
        optional: likewise, but may be left out.
        parsers: question -> its answer as fields; they raise `ValueError` on what is none.
        zoo, task: whose labels they are, for the message.

    Raises:
        ExpertError: a question is unanswered, an answer wrong, or nobody asked; all findings at once.
    """
    asked = {**required, **optional}
    findings = [f"  {name} is not answered: {how}" for name, how in required.items() if name not in given]
    left_open = bool(findings)
    findings += [f"  {name} is no question about {task}{_near(name, asked)}" for name in given if name not in asked]
    fields: dict[str, Any] = {}
    for name in [name for name in given if name in asked]:
        try:
            fields |= parsers[name](given[name])
        except (ValueError, OSError) as error:
            findings.append(f"  {name}={given[name]}: {error}; wanted: {asked[name]}")
    if fields.get("kind") == "metric" and given.get("along") == "none":
        findings.append("  along=none: metric depth is along z or ray")
    if findings:
        head = f"{zoo}: these options are wrong:"
        if left_open:
            head = _ask(zoo, f"labels of {task}", next(iter(asked)))
            findings += [
                f"  {name} may be left out: {how}" for name, how in optional.items() if how and name not in given
            ]
        raise ExpertError("\n".join([head, *findings]))
    return fields


def _near(name: str, asked: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, asked, 1)
    return f"; did you mean {near[0]}?" if near else ""


def parse_classes(text: str) -> dict[str, Any]:
    """Names, and colors where each has one: of a palette, or if every line of the file begins with three numbers."""
    if text.startswith("palette:"):
        return {"classes": tuple(palette(text)), "colors": tuple(palette(text).values())}
    inline = not text.startswith("@")
    named = text.split(",") if inline else Path(text[1:]).expanduser().read_text("utf-8").strip().splitlines()
    lines = [name.split() for name in named]
    if not lines or not all(lines):
        raise ValueError("a class has no name")
    if inline and len(named) == 1 and Path(text).expanduser().is_file():
        raise ValueError(f"{text} is a file, not a class; @{text} reads the names that are in it")
    if inline or not all(len(words) > 3 and all(word.isdecimal() for word in words[:3]) for words in lines):
        return {"classes": tuple(" ".join(words) for words in lines)}
    colors = tuple((int(r), int(g), int(b)) for r, g, b, *_ in lines)
    if len(set(colors)) < len(colors) or max(map(max, colors)) > 255:
        raise ValueError("two classes have one color, or a color is beyond 255")
    return {"classes": tuple(" ".join(words[3:]) for words in lines), "colors": colors}


def _unknown(text: str) -> dict[str, Any]:
    parts = [] if text == "none" else text.split(",")
    return {"unknown": tuple(float(int(part[1:], 16)) if part.startswith("#") else float(part) for part in parts)}


def _range(text: str) -> dict[str, Any]:
    low, high = map(float, text.split(","))
    if low == high or not math.isfinite(high - low):
        raise ValueError("two different values are needed")
    return {"range": (low, high)}


def _scale(text: str) -> dict[str, Any]:
    if not 0 < float(text) < math.inf:
        raise ValueError("it must be larger than 0")
    return {"scale": float(text)}


def chosen(name: str, options: tuple[str, ...]) -> Parser:
    """A parser of one out of ``options``; none is None."""

    def parser(text: str) -> dict[str, Any]:
        if text not in options:
            raise ValueError(f"not one of {', '.join(options)}")
        return {name: None if text == "none" else text}

    return parser


def number(name: str, low: float, high: float, kind: type[int] | type[float] = float) -> Parser:
    """A parser of a number from ``low`` to ``high``."""

    def parser(text: str) -> dict[str, Any]:
        if not low <= kind(text) <= high:
            raise ValueError(f"it lies between {low:g} and {high:g}")
        return {name: kind(text)}

    return parser


def _label(text: str) -> dict[str, Any]:
    if not text:
        raise ValueError("it needs a name")
    return {}


def parse_pattern(text: str) -> dict[str, Any]:
    """The field ``pattern``."""
    return {"pattern": Pattern.parse(text)}


def _encoding(text: str) -> dict[str, Any]:
    if text not in ENCODINGS:
        raise ValueError(f"not one of {', '.join(ENCODINGS)}")
    return {"encoding": ENCODINGS[text]}


def _frame(text: str) -> dict[str, Any]:
    return {"frame": parse_frame(text)}


def _named(text: str) -> dict[str, Any]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise ValueError("letters, digits, '.', '_' and '-' alone, a letter or digit first, 100 at most")
    return {"name": text}


COMMON_PARSERS: Mapping[str, Parser] = {
    "license": lambda text: {"license": text},
    "licence": lambda text: {"license": text},  # as URIs of older stores spell it
    "as": _named,
}
"""Of `COMMON`."""


PARSERS: Mapping[str, Parser] = {
    "classes": parse_classes,
    "label": _label,
    "task": lambda text: {"task": text},
    "void": _unknown,
    "invalid": _unknown,
    "kind": chosen("kind", get_args(Kind)),
    "along": chosen("along", (*get_args(Along), "none")),
    "scale": _scale,
    "range": _range,
    "frame": _frame,
    "first": lambda text: {"first": int(text)},
    "suffix": lambda text: {"suffix": text},
    "pattern": parse_pattern,
    "threshold": number("threshold", 1e-6, 1),
    "encoding": _encoding,
    **COMMON_PARSERS,
}
"""Question -> its answer as fields of `Answers`."""
