"""Several Memory models in one: the methods, the files they are read from and written to, and trying them all."""

from .methods import METHODS, MergeMethod, Recipe
from .run import MergedModel, MergeEvent, merge

__all__ = ["METHODS", "MergeEvent", "MergeMethod", "MergedModel", "Recipe", "merge"]
