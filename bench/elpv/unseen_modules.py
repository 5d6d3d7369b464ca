"""How good the networks of ELPV are on modules that they never saw: the recipes trained anew without them.

    python -m bench.elpv.unseen_modules [--role ROLE] [--steps N] [--path DIR] [--runs DIR] [--fresh] [--results FILE]

The split by file name puts cells of one module on both sides. Here every cell is predicted by networks that were
trained on the other three of four folds, twice: with folds of whole modules (as bench/elpv/modules.py infers them),
and, as the control, with folds of single cells. Both train on as many cells (within 1 %), so what differs is whether
the module was seen. On the CPU; every training has a checkpoint, and the same command goes on where it was. Two
processes share the work with one `--role` each; without `--role` what they trained is then brought together.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from bench.cli_options import console, ending
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv.estimates import rounded
from bench.elpv.folds import FOLDER, LEFT_OUT, add_trainings, cells_in_memory, fold_networks, folds, recipe_of
from bench.elpv.modules import modules
from bench.elpv.neighbours import left_out
from bench.elpv.networks import STATISTICS
from bench.images import write_bytes
from bench.progress import Display
from bench.study_results import add_photographs, study_parser, write_results
from bench.training.elpv_figures import SIZE, predictions
from bench.training.recipe import Recipe
from methods import noise
from metrics.intervals import LEVEL, RESAMPLES, Estimate
from metrics.regression import auc, mean_absolute_error
from reports.tables import format_estimate

ROLES = ("regressor", "oracle")
RIDGE = "ridge regression on pixels"
BOTH = "regressor and oracle"
WITHIN = "AUC, above 0, within modules"
SHOWN = ("MAE", "Spearman", "AUC, above 0", "AUC, 0 against 1")
"""Of `bench.elpv.networks.STATISTICS`."""

Measured = dict[tuple[str, str], float]
Figures = dict[str, dict[str, dict[str, Estimate]]]


def out_of_fold(
    recipe: Recipe, pixels: np.ndarray, values: np.ndarray, fold: np.ndarray, folder: Path, fresh: bool,
    display: Display,
) -> np.ndarray:  # fmt: skip
    """What networks that were trained on the other folds predict for every cell: float64 (N,).

    Args: as of `fold_networks`.
    """
    predicted = np.full(len(values), np.nan)
    for tested, network in fold_networks(recipe, pixels, values, fold, folder, fresh, display):
        predicted[tested] = predictions(network, cells_in_memory(pixels[tested], values[tested]))
    return predicted


def all_predictions(
    roles: tuple[str, ...], steps: int | None, rows: pd.DataFrame, pixels: np.ndarray, folder: Path, fresh: bool
) -> dict[str, np.ndarray]:
    """Out-of-fold predictions by guess, float64 (2, N) each in the order of LEFT_OUT; networks' are kept as CSV, too.

    Args:
        roles: of ROLES.
        steps: of every training; None for the recipe's.
        rows: N of the manifest.
        pixels: theirs, uint8 (N, H, W, 1).
        folder: for the checkpoints and the CSV files.
    """
    values, of_cell = rows["probability"].to_numpy(), folds(rows)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*roles, RIDGE)}
    with Display() as display:
        for role in roles:
            recipe = recipe_of(role, steps)
            for name, fold in of_cell.items():
                own = folder / f"{role}-{name}"
                predicted = out_of_fold(recipe, pixels, values, fold, own, fresh, display)
                kept = rows[["file", "probability", "type"]].assign(fold=fold, predicted=predicted)
                write_bytes(own / "predictions.csv", kept.to_csv(index=False).encode())
                found[role].append(predicted)
    flat = pixels.reshape(len(pixels), -1) / 255.0
    found[RIDGE] = [left_out(flat, values, fold) for fold in of_cell.values()]
    return {name: np.stack(both) for name, both in found.items()}


def measured(predicted: dict[str, np.ndarray], true: np.ndarray) -> Measured:
    """Figures of every guess, and of how regressor and oracle agree where both are there, by (guess, figure).

    "mean |r - o|" is how far apart both are; "correlation of errors" is Pearson's of r - y and o - y, where 0 would be
    an oracle whose mistakes say nothing of the regressor's.

    Args:
        predicted: float (N,) by guess.
        true: y, float (N,).
    """
    found = {(name, key): STATISTICS[key](guess, true) for name, guess in predicted.items() for key in SHOWN}
    if all(role in predicted for role in ROLES):
        r, o = (predicted[role] for role in ROLES)
        found[BOTH, "mean |r - o|"] = mean_absolute_error(r, o)
        found[BOTH, "correlation of errors"] = float(np.corrcoef(r - true, o - true)[0, 1])
    return found


def resampled(
    predicted: dict[str, np.ndarray], true: np.ndarray, members: list[np.ndarray], draws: np.ndarray
) -> np.ndarray:
    """`measured` on resamples of whole units: float64 (R, 2, K), by LEFT_OUT and in the order of its figures.

    Args:
        predicted: float (2, N) by guess.
        members: the cells of every unit, U arrays of indices.
        draws: the units of every resample, int64 (R, U).
    """
    return np.array([_both(predicted, true, np.concatenate([members[each] for each in drawn])) for drawn in draws])


def _both(predicted: dict[str, np.ndarray], true: np.ndarray, chosen: np.ndarray) -> list[list[float]]:
    """`measured` on chosen cells, for either of LEFT_OUT: (2, K)."""
    sides = ({name: both[side][chosen] for name, both in predicted.items()} for side in range(len(LEFT_OUT)))
    return [list(measured(guesses, true[chosen]).values()) for guesses in sides]


def within_modules(guess: np.ndarray, true: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
    """By module, how many pairs of a defective and a sound cell of it the guess puts in order, and how many there are.

    The sum of the first over that of the second is an AUC that no module's defect rate helps with.

    Args:
        guess, true: float (N,).
        members: the cells of every module, M arrays of indices.

    Returns:
        float64 (M, 2); ties count half.
    """
    found = []
    for cells in members:
        defective = true[cells] > 0
        pairs = int(defective.sum()) * int((~defective).sum())
        found.append((auc(guess[cells], defective) * pairs if pairs else 0.0, pairs))
    return np.array(found, dtype=np.float64)


def figures(predicted: dict[str, np.ndarray], true: np.ndarray, module: np.ndarray, part: str) -> Figures:
    """Every figure of some cells with 95 % percentile intervals: guess -> figure -> what was left out -> estimate.

    "modules" and "cells" have intervals over modules; "cells, interval over cells" is the second with the interval that
    one would give without knowing of modules; "difference" is the first minus the second, paired.

    Args:
        predicted: float (2, N) by guess, in the order of LEFT_OUT.
        module: of every cell, int64 (N,).
        part: name of these cells, for the resamples.
    """
    generator = noise.numpy_generator("bootstrap", "elpv unseen modules", part)
    members, singles = [np.flatnonzero(module == each) for each in np.unique(module)], np.arange(len(true))
    draws, single_draws = (generator.integers(count, size=(RESAMPLES, count)) for count in (len(members), len(true)))
    over_modules = resampled(predicted, true, members, draws)
    over_cells = resampled(predicted, true, list(singles[:, None]), single_draws)
    value = np.array(_both(predicted, true, singles))
    found: Figures = {}
    for index, (guess, key) in enumerate(measured({name: both[0] for name, both in predicted.items()}, true)):
        found.setdefault(guess, {})[key] = _compared(value[:, index], over_modules[:, :, index], len(true)) | {
            "cells, interval over cells": percentile_estimate(value[1, index], over_cells[:, 1, index], len(true))
        }
    for guess, both in predicted.items():
        counts = np.stack([within_modules(side, true, members) for side in both])  # (2, M, 2)
        ordered, pairs = np.moveaxis(counts, -1, 0)
        replicas = ordered[:, draws].sum(axis=-1) / pairs[:, draws].sum(axis=-1)  # (2, R)
        found[guess][WITHIN] = _compared(ordered.sum(axis=1) / pairs.sum(axis=1), replicas.T, len(true))
    return found


def _compared(value: np.ndarray, replicas: np.ndarray, count: int) -> dict[str, Estimate]:
    """Estimates of both of LEFT_OUT and of their difference, from values (2,) and resampled values (R, 2)."""
    return {
        "modules": percentile_estimate(value[0], replicas[:, 0], count),
        "cells": percentile_estimate(value[1], replicas[:, 1], count),
        "difference": percentile_estimate(value[0] - value[1], replicas[:, 0] - replicas[:, 1], count),
    }


def percentile_estimate(value: float, replicas: np.ndarray, count: int, unit: str = "1") -> Estimate:
    """A figure with its 95 % percentile interval, from its values on resamples (R,)."""
    low, high = np.quantile(replicas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=float(value), low=float(low), high=float(high), n=count, unit=unit)


def study(predicted: dict[str, np.ndarray], rows: pd.DataFrame) -> dict[str, Figures]:
    """`figures` of all cells, and of those of either type: "all", "mono", "poly".

    Args:
        predicted: of `all_predictions`.
        rows: N of the manifest.
    """
    true, module, kind = rows["probability"].to_numpy(), modules(rows["file"]), rows["type"].to_numpy()
    parts = {"all": np.full(len(rows), True), "mono": kind == "mono", "poly": kind == "poly"}
    return {
        name: figures({guess: both[:, part] for guess, both in predicted.items()}, true[part], module[part], name)
        for name, part in parts.items()
    }


def _facts(rows: pd.DataFrame) -> dict[str, object]:
    """What the folds are: how many cells each leaves out."""
    return {
        "cells": len(rows),
        "modules": len(np.unique(modules(rows["file"]))),
        "left_out": {name: np.bincount(fold).tolist() for name, fold in folds(rows).items()},
        "constant_mae": float(rows["probability"].mean()),  # of 0, the median of the other folds, whichever they are
    }


def _plain(found: Figures) -> dict[str, object]:
    return {guess: {key: rounded(each) for key, each in row.items()} for guess, row in found.items()}


def _table(part: str, found: Figures) -> Table:
    made = Table(title=f"{part} cells, out of fold: 95 % intervals over modules", title_justify="left")
    for heading in ("", "", "whole modules left out", "single cells left out", "difference"):
        made.add_column(heading, justify="left" if not heading else "right")
    for guess, by_figure in found.items():
        for key, each in by_figure.items():
            made.add_row(guess, key, *(format_estimate(each[name], 3) for name in ("modules", "cells", "difference")))
    return made


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.elpv.unseen_modules", __doc__)
    add_photographs(parser)
    add_trainings(parser)
    parser.add_argument("--role", action="append", choices=ROLES, help="train this one only; repeatable")
    return parser.parse_args(arguments)


@ending
def main(arguments: list[str] | None = None) -> int:
    """Train, print the tables; returns the exit code."""
    given, begun, rows = _parse(arguments), time.monotonic(), manifest()
    pixels = read_pixels(data_folder(given.path, "--path "), rows, SIZE)
    roles = tuple(role for role in ROLES if role in (given.role or ROLES))
    predicted = all_predictions(roles, given.steps, rows, pixels, given.runs / FOLDER, given.fresh)
    print(f"predicted in {time.monotonic() - begun:.0f} s; intervals take minutes", file=sys.stderr)
    found = study(predicted, rows)
    if given.results:
        content = _facts(rows) | {"figures": {name: _plain(each) for name, each in found.items()}}
        write_results(given.results, "bench.elpv.unseen_modules", arguments, content)
    console().print(*(_table(part, by_guess) for part, by_guess in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
