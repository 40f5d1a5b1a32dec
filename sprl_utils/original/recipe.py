"""The original project's way to prepare a volume, and the choice of a recipe by its name."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sprl_utils.original.lr import original_lr
from sprl_utils.prepare import Recipe


@dataclass(frozen=True)
class OriginalRecipe(Recipe):
    """The original project's LR, from raw intensities, divided by 4095; ``keep`` is not used."""

    lr_recipe: str = field(default="original", init=False)

    def make_lr(
        self, raw: np.ndarray, scaled: np.ndarray, axes: Sequence[int]
    ) -> tuple[np.ndarray, list | None]:
        """LR ``(x, y, z)`` of a volume, and None: data consistency does not hold for it."""
        return original_lr(raw, axes) / np.float32(4095), None


RECIPES: dict[str, type[Recipe]] = {"paper": Recipe, "original": OriginalRecipe}


def recipe_named(name: str) -> type[Recipe]:
    """The class of recipes of that name.

    Raises:
        ValueError: no recipe has that name.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: expected {' or '.join(map(repr, RECIPES))}, found {name!r}")
    return RECIPES[name]
