"""Everything `bench train` knows, by name."""

from bench.training import age, elpv, square
from bench.training.recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*square.RECIPES, *elpv.RECIPES, *age.RECIPES)}
