"""The datasets of a recipe: one location, or a list of datasets with names and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Tag, field_validator, model_validator

from clipzoo.files import several
from clipzoo.recipe.base import Part, Positive

TAGS = ("<text>", "<list>")
"""Parts of pydantic's places of mistakes that are no fields."""


class DatasetRecipe(Part):
    """One of several datasets. A plain location stands for one with the default name and weight."""

    data: str
    """Location of the dataset, with options after ``?`` (docs/data.md)."""
    name: str = ""
    """First part of the names of its shards in the label store; by default the last part of the location without its
    ending. Letters, digits, ``_`` and ``-``."""
    weight: Positive = 1.0
    """Frequency of its samples: one of a dataset of weight 2 is seen twice as often as one of weight 1
    (docs/training.md)."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: object) -> object:
        """Complete a location, or a dataset without a name."""
        given = {"data": values} if isinstance(values, str) else values
        if isinstance(given, Mapping) and not given.get("name") and isinstance(given.get("data"), str):
            return {**given, "name": several.name_of(given["data"])}
        return given

    @field_validator("name")
    @classmethod
    def _name_is_valid(cls, name: str) -> str:
        if not several.NAME.fullmatch(name):
            valid = several.name_of(name)
            raise ValueError(f"{name!r} is no part of file names: use letters, digits, _ and -, such as {valid}")
        return name


Datasets = Annotated[
    Annotated[str, Tag(TAGS[0])] | Annotated[tuple[DatasetRecipe, ...], Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list | tuple)]),
]
"""One location, or several datasets."""


def check_datasets(datasets: str | tuple[DatasetRecipe, ...], mixture: Mapping[str, float]) -> None:
    """Raise `ValueError` if a list of datasets is empty, has a name or location twice, or weights elsewhere."""
    if isinstance(datasets, str):
        return
    if not datasets:
        raise ValueError("data is an empty list: name at least one dataset")
    places = Counter(one.data.rstrip("/") for one in datasets)
    if repeated := [place for place, count in places.items() if count > 1]:
        raise ValueError(
            f"data has {repeated[0]!r} more than once, so its samples would be in the training twice: list it once, "
            "with a weight"
        )
    names = Counter(one.name for one in datasets)
    if repeated := [name for name, count in names.items() if count > 1]:
        shared = ", ".join(one.data for one in datasets if one.name == repeated[0])
        raise ValueError(
            f"data has several datasets called {repeated[0]!r} ({shared}), but names separate their labels: give each "
            "one a name, as in {data: LOCATION, name: web}"
        )
    if mixture:
        raise ValueError(
            "data is a list and training.mixture is given, but weights belong to one place: write them into the list, "
            "as in {data: LOCATION, weight: 2}, and remove training.mixture"
        )
