"""Options of experts as typed models: URIs and YAML files are validated, and all mistakes are reported together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from clipzoo import plugins
from clipzoo.errors import ExpertError
from clipzoo.experts.palettes import Color, palette

FIX = "Add them to the URI: {scheme}:…?{name}=…&…"
"""The usual advice where options are missing."""


class Options(BaseModel):
    """Options of an expert. Errors show the descriptions of the fields.

    In a URI an option has the name of its field, or its alias; values are given as text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


A = TypeVar("A", bound=Options)
B = TypeVar("B", bound=Options)


def split(query: str) -> dict[str, str]:
    """Return the options of a query ``name=value&…`` as text.

    Raises:
        ExpertError: the query is not of this form.
    """
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise ExpertError(f"{query!r} is not of the form task=depth&name=value&… ({error})") from error


def parse(kind: type[A], given: Mapping[str, str], scheme: str, subject: str, fix: str = FIX) -> A:
    """Return options as a model.

    Args:
        kind: the model.
        given: name -> text, from `split`.
        scheme: of the URI.
        subject: the expert or labels that the options describe, for errors.
        fix: the advice where options are missing; ``{scheme}`` and ``{name}`` (of the first option) are replaced.

    Raises:
        ExpertError: options are missing, unknown or invalid; the message lists all of them.
    """
    return cast("A", _parsed((kind,), given, scheme, subject, fix)[0])


def parse_both(
    first: type[A], second: type[B], given: Mapping[str, str], scheme: str, subject: str, fix: str = FIX
) -> tuple[A, B]:
    """Return options as two models, which share no name; see `parse`."""
    options = _parsed((first, second), given, scheme, subject, fix)
    return cast("A", options[0]), cast("B", options[1])


def validated(kind: type[A], values: object, source: str) -> A:
    """Return the values of a YAML file as a model.

    Raises:
        ExpertError: values are missing, unknown or invalid; the message lists all of them with their places.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'card'}: {_reason(e)}" for e in error.errors()]
        raise ExpertError(f"{source} does not describe a model. Fix these fields:\n" + "\n".join(lines)) from error


def names(kind: type[Options]) -> tuple[str, ...]:
    """Return the names of all options of a model, in order; of a name with several spellings the first."""
    return tuple(_fields(kind))


def required(kind: type[Options]) -> dict[str, str]:
    """Return the names of the options of a model that have no default -> their descriptions."""
    return {name: field.description or "" for name, field in _fields(kind).items() if field.is_required()}


def _parsed(
    kinds: Sequence[type[Options]], given: Mapping[str, str], scheme: str, subject: str, fix: str
) -> list[Options]:
    fields = {name: field for kind in kinds for name, field in _fields(kind).items()}
    spellings = {name: _spellings(name, field) for name, field in fields.items()}
    known = {spelling for several in spellings.values() for spelling in several}
    parsed, missing = list[Options](), list[str]()
    wrong = [f"{name} is not an option of {subject}{_similar(name, fields)}" for name in given if name not in known]
    for kind in kinds:
        own = {spelling for name in _fields(kind) for spelling in spellings[name]}
        try:
            parsed.append(kind.model_validate({name: text for name, text in given.items() if name in own}))
        except ValidationError as error:
            for detail in error.errors():
                name = str(detail["loc"][0]) if detail["loc"] else ""
                if detail["type"] == "missing":
                    missing.append(f"{name} is missing: {fields[name].description}")
                else:
                    wrong.append(_invalid(name, given.get(name, ""), detail, fields))
    if missing or wrong:
        raise ExpertError(_message(scheme, subject, fix, missing, wrong, fields, given))
    return parsed


def _message(
    scheme: str,
    subject: str,
    fix: str,
    missing: Sequence[str],
    wrong: Sequence[str],
    fields: Mapping[str, FieldInfo],
    given: Mapping[str, str],
) -> str:
    if not missing:
        return "\n  ".join([f"{scheme}: these options are wrong:", *wrong])
    head = f"{scheme}: {subject} need more options. {fix.format(scheme=scheme, name=missing[0].partition(' ')[0])}"
    optional = [
        f"{name} is optional: {field.description}"
        for name, field in fields.items()
        if field.description and not field.is_required() and name not in given
    ]
    return "\n  ".join([head, *missing, *wrong, *optional])


def _invalid(name: str, text: str, detail: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    if not name:  # of the options together
        return _reason(detail)
    return f"{name}={text}: {_reason(detail)}. Expected: {fields[name].description}"


def _reason(detail: ErrorDetails) -> str:
    """Return the reason of a validation error in plain words."""
    cause = detail.get("ctx", {}).get("error")
    return str(cause) if cause is not None else detail["msg"].replace("Input should be", "must be")


def _fields(kind: type[Options]) -> dict[str, FieldInfo]:
    """Return name -> field; of a field with several spellings the first."""
    return {_spellings(name, field)[0]: field for name, field in kind.model_fields.items()}


def _spellings(name: str, field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [alias if isinstance(alias, str) else name]


def _similar(name: str, known: Mapping[str, object]) -> str:
    advice = plugins.nearest(name, known, 1)
    return f"; {advice}" if advice else ""


# Types of options ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names in the order of ids, and the color of each class in color-coded files; no colors in others."""

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()


def parse_classes(text: str) -> Classes:
    """Return the classes of ``name,name,…``, ``@FILE`` (one per line), or ``palette:NAME``.

    Colors are those of the palette, or of a file in which every line begins with three numbers.

    Raises:
        ValueError: the file cannot be read, a class has no name, two have one color, or the palette is unknown.
    """
    if text.startswith("palette:"):
        colors = palette(text)
        return Classes(tuple(colors), tuple(colors.values()))
    inline = not text.startswith("@")
    lines = [line.split() for line in (text.split(",") if inline else _lines(text[1:]))]
    if not lines or not all(lines):
        raise ValueError("a class has no name")
    if inline and len(lines) == 1 and Path(text).expanduser().is_file():
        raise ValueError(f"{text} is a file, not a class; @{text} reads the names in it")
    if inline or not all(len(words) > 3 and all(word.isdecimal() for word in words[:3]) for words in lines):
        return Classes(tuple(" ".join(words) for words in lines))
    colors_of_lines = tuple((int(r), int(g), int(b)) for r, g, b, *_ in lines)
    if len(set(colors_of_lines)) < len(lines) or max(map(max, colors_of_lines)) > 255:
        raise ValueError("two classes have one color, or a color is above 255")
    return Classes(tuple(" ".join(words[3:]) for words in lines), colors_of_lines)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).expanduser().read_text("utf-8-sig").strip().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read the file: {error}") from error


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names of `parse_classes`."""
    return parse_classes(text).names


def _existing_file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError("there is no such file")
    return path


ClassList = Annotated[Classes, PlainValidator(parse_classes)]
ClassNames = Annotated[tuple[str, ...], PlainValidator(parse_names)]
ExistingFile = Annotated[Path, PlainValidator(_existing_file)]
Share = Annotated[float, Field(ge=0, le=1)]


def license_option(description: str, default: Any = "unknown") -> Any:
    """Return the field of the license, which URIs of older stores spell in British English."""
    return Field(default, validation_alias=AliasChoices("license", "licence"), description=description)
