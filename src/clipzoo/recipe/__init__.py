"""The recipe: the typed, complete description of a run. Mistakes are reported together."""

from clipzoo.recipe.fields import (
    TOKENIZER,
    ColumnRecipe,
    EvaluationRecipe,
    LabelingRecipe,
    Recipe,
    StudentRecipe,
    TrainingRecipe,
)
from clipzoo.recipe.protection import AnchorsRecipe, GuardRecipe
from clipzoo.recipe.reading import load, parse

__all__ = [
    "TOKENIZER",
    "AnchorsRecipe",
    "ColumnRecipe",
    "EvaluationRecipe",
    "GuardRecipe",
    "LabelingRecipe",
    "Recipe",
    "StudentRecipe",
    "TrainingRecipe",
    "load",
    "parse",
]
