"""The recipe: the typed, complete description of a run. Mistakes are reported together."""

from clipzoo.recipe.balancing import BalancingRecipe
from clipzoo.recipe.columns import ColumnRecipe
from clipzoo.recipe.data import DatasetRecipe
from clipzoo.recipe.fields import TOKENIZER, EvaluationRecipe, LabelingRecipe, Recipe, StudentRecipe, flat
from clipzoo.recipe.protection import AnchorsRecipe, GuardRecipe, InterpolationRecipe
from clipzoo.recipe.reading import load, parse
from clipzoo.recipe.training import TrainingRecipe
from clipzoo.recipe.values import read_yaml

__all__ = [
    "TOKENIZER",
    "AnchorsRecipe",
    "BalancingRecipe",
    "ColumnRecipe",
    "DatasetRecipe",
    "EvaluationRecipe",
    "GuardRecipe",
    "InterpolationRecipe",
    "LabelingRecipe",
    "Recipe",
    "StudentRecipe",
    "TrainingRecipe",
    "flat",
    "load",
    "parse",
    "read_yaml",
]
