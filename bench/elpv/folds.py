"""The recipes of ELPV's regressor and oracle trained anew in four folds, of whole modules or of single cells.

Shared by `bench.elpv.unseen_modules`, which asks how good the networks are on modules that they never saw, and
`bench.elpv.unseen_oracles`, which judges counterfactuals with oracles that never saw the photograph's module.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from bench.cli_options import RUNS
from bench.elpv.modules import modules
from bench.elpv.neighbours import FOLDS
from bench.errors import UsageError
from bench.progress import Display
from bench.training.data import InMemory
from bench.training.loop import Trainer, TrainingError
from bench.training.recipe import Recipe
from bench.training.recipes import RECIPES

LEFT_OUT = ("modules", "cells")
"""What a fold is made of: whole modules, or single cells wherever they are from."""
FOLDER = Path("training", "elpv-unseen-modules")
"""Of the checkpoints, within the folder of runs."""


def folds(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The fold of every cell by what is left out, int64 (N,) in 0 to 3: every fourth module, or every fourth cell.

    Args:
        rows: of the manifest.
    """
    return {"modules": modules(rows["file"]) % FOLDS, "cells": np.arange(len(rows)) % FOLDS}


def recipe_of(role: str, steps: int | None) -> Recipe:
    """The shipped recipe of "regressor" or "oracle", with another number of steps unless that is None.

    Raises:
        UsageError: fewer than one step.
    """
    recipe = RECIPES[f"elpv/{role}"]
    if steps is None:
        return recipe
    if steps < 1:
        raise UsageError(f"--steps {steps}: give 1 or more")
    return replace(recipe, steps=steps)


def add_trainings(parser: argparse.ArgumentParser) -> None:
    """The options of studies that train in folds: `--steps`, `--runs`, `--fresh`."""
    parser.add_argument("--steps", type=int, help="of every training (default: the recipe's)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder whose training/ holds the checkpoints")
    parser.add_argument("--fresh", action="store_true", help="do not go on from checkpoints")


def fold_networks(
    recipe: Recipe, pixels: np.ndarray, values: np.ndarray, fold: np.ndarray, folder: Path, fresh: bool,
    display: Display,
) -> Iterator[tuple[np.ndarray, nn.Module]]:  # fmt: skip
    """Of each fold the cells that are left out, bool (N,), and the network that was trained on all others.

    Args:
        pixels: uint8 (N, H, W, C).
        values: defect probabilities (N,).
        fold: of every cell, int64 (N,).
        folder: for the checkpoints; trainings that are finished there are not repeated.
        fresh: do not go on from checkpoints.

    Raises:
        UsageError: a checkpoint is damaged, or of another recipe or other cells.
        TrainingError: the loss became non-finite.
    """
    for number in range(FOLDS):
        tested = fold == number
        known = cells_in_memory(pixels[~tested], values[~tested])
        try:
            trainer = Trainer(recipe, known, folder / f"fold-{number}", fresh=fresh)
        except TrainingError as error:
            raise UsageError(str(error)) from error
        display.begin(f"{folder.name}, fold {number + 1} of {FOLDS}", recipe.steps)
        trainer.run(lambda step, loss: display.phase(f"loss {loss:.4f}", step))
        yield tested, trainer.result()


def cells_in_memory(pixels: np.ndarray, values: np.ndarray) -> InMemory:
    """Any cells as data for training and prediction, on the CPU.

    Args:
        pixels: uint8 (N, H, W, C).
        values: defect probabilities (N,).
    """
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return InMemory("elpv", digest, "defect probability", pixels, values, torch.device("cpu"))
