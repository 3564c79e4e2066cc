"""Arms with a name of their own: subsets of the columns, which are ``variants`` of the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo
from pydantic_core import PydanticCustomError

ARMS = ("clip", "clip-ft", "clipzoo")
"""The arms that every recipe knows."""
RESERVED = (*ARMS, "expert", "chance", "majority", "all")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,22}[a-z0-9]")


def named(values: object) -> object:
    """Return the values of a recipe in which ``{name: NAME, columns: […]}`` of ``arms`` is a name and a variant.

    Raises:
        ValueError: such an arm has other fields, or a variant of its name has other columns.
    """
    arms = values.get("arms") if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(arms, Sequence) or isinstance(arms, str):
        return values
    given = values.get("variants")
    variants, names = dict(given) if isinstance(given, Mapping) else {}, []
    for arm in arms:
        if isinstance(arm, Mapping):
            if set(arm) != {"name", "columns"}:
                raise ValueError(
                    f"arms has {_written(arm)}: an arm of a subset of the columns is {{name: NAME, columns: "
                    "[COLUMN, …]}, with these two fields"
                )
            if not isinstance(arm["columns"], list | tuple) or not arm["columns"]:
                raise ValueError(f"arms has {_written(arm)}: columns is a list of at least one column, as [depth]")
            name = str(arm["name"])
            if variants.setdefault(name, arm["columns"]) != arm["columns"]:
                raise ValueError(f"arms and variants give {name} different columns: give them once")
        names.append(str(arm["name"]) if isinstance(arm, Mapping) else arm)
    if given is None or isinstance(given, Mapping):  # else pydantic reports it
        return {**values, "arms": names} | ({"variants": variants} if variants else {})
    return {**values, "arms": names}


def _written(arm: Mapping[object, object]) -> str:
    return f"{{{', '.join(f'{key}: {value}' for key, value in arm.items())}}}"


def known(arm: str, info: ValidationInfo) -> str:
    """Return the name of an arm; raise pydantic's error unless it is one of `ARMS` or of ``variants``."""
    names = [*ARMS, *info.data.get("variants", ())]
    if arm not in names and "variants" in info.data:  # else variants have a mistake, which is reported
        expected = f"{', '.join(map(repr, names[:-1]))} or {names[-1]!r}"
        raise PydanticCustomError("literal_error", "no such arm", {"expected": expected})
    return arm


Arm = Annotated[str, AfterValidator(known)]
"""One of `ARMS`, or a name of the ``variants``, which is a field before this one."""


def check(arms: Sequence[str], variants: Iterable[str]) -> None:
    """Raise `ValueError` unless the names of arms and ``variants`` can be rows, and these arms are next to ``clipzoo``.

    An ablation has rows without and with only one column, and the difference of two rows is called ``A-vs-B``.
    """
    for arm in arms:
        if arm in ARMS:
            continue
        if not NAME.fullmatch(arm) or arm in RESERVED or arm.endswith("-best") or "-vs-" in arm:
            raise ValueError(
                f"arms has {arm}, which cannot be a row of the results: give 2 to 24 lower-case letters, digits and "
                "hyphens, such as depth-only, that are no row already and do not end in -best"
            )
        if "clipzoo" not in arms:
            raise ValueError(f"arms has {arm}, a subset of the columns of clipzoo: add clipzoo to arms")
    for name in variants:
        if not name.strip() or name in RESERVED or name.startswith(("without ", "only ")) or "-vs-" in name:
            raise ValueError(
                f"variants has {name!r}, which cannot be a row of an ablation: give a name without '-vs-' that does "
                f"not begin with 'without ' or 'only ' and is not one of {', '.join(RESERVED)}"
            )
