"""How well the shipped networks of ELPV predict, beside guesses that see less, under the rules that others use.

    python -m bench.elpv.networks [--path DIR] [--results FILE.json]

All figures are of the test split. Published accuracies and AUCs of this data set differ in what counts as defective:
any probability above 0, one above 0.5, or 0 against 1 without the cells that the expert was unsure about.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy import stats

from bench.checkpoints import load_network
from bench.cli_options import console, ending
from bench.datasets.elpv_files import data_folder, manifest
from bench.elpv.neighbours import by_number
from bench.study_results import add_photographs, study_parser, write_results
from bench.training.data import ElpvData
from bench.training.elpv_figures import SIZE, linear_predictions, predictions, split_data
from methods import noise
from metrics.intervals import LEVEL, RESAMPLES, Estimate
from metrics.regression import auc, mean_absolute_error, spearman
from reports.tables import format_estimate

NEIGHBOURS = 2
"""Training cells whose mean label is the guess that sees no pixel; chosen on the validation split (`neighbours`)."""
_UNSURE = (0.1, 0.9)

Statistic = Callable[[np.ndarray, np.ndarray], float]


def _sure(true: np.ndarray) -> np.ndarray:
    return (true < _UNSURE[0]) | (true > _UNSURE[1])


STATISTICS: dict[str, Statistic] = {
    "MAE": mean_absolute_error,
    "Spearman": spearman,
    "AUC, above 0": lambda predicted, true: auc(predicted, true > 0),
    "AUC, above 0.5": lambda predicted, true: auc(predicted, true > 0.5),
    "AUC, 0 against 1": lambda predicted, true: auc(predicted[_sure(true)], true[_sure(true)] > 0.5),
    "accuracy, above 0.5": lambda predicted, true: float(((predicted > 0.5) == (true > 0.5)).mean()),
    "accuracy, 0 against 1": lambda predicted, true: float(((predicted > 0.5) == (true > 0.5))[_sure(true)].mean()),
}
"""Name -> (predicted (N,), true (N,)) -> value. Accuracies are of the prediction's side of 0.5."""


def estimate(statistic: Statistic, predicted: np.ndarray, true: np.ndarray, generator: np.random.Generator) -> Estimate:
    """A statistic of pairs with its percentile bootstrap interval over cells.

    Args:
        predicted, true: float (N,).
    """
    value = statistic(predicted, true)
    found = stats.bootstrap(
        (predicted, true), statistic, paired=True, vectorized=False, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", rng=generator,
    )  # fmt: skip
    return Estimate(value=value, low=found.confidence_interval.low, high=found.confidence_interval.high, n=len(true))


def guesses(folder: Path | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Predictions on the test split by who makes them, float64 (N,) each, and the true probabilities.

    Args:
        folder: with the photographs; None for the installed package's.

    Raises:
        UsageError: the package elpv-dataset is not installed, or shipped weights are missing.
    """
    train, valid, test = (split_data(f"{name}-{SIZE}", folder) for name in ("train", "valid", "test"))
    rows = manifest()
    splits, values = rows["split"].to_numpy(), rows["probability"].to_numpy()
    true = values[splits == "test"]
    found = {name: _predicted(name, test) for name in ("regressor", "oracle")}
    found["ridge regression on 16x16 brightnesses"] = linear_predictions(train, valid, test)
    known, asked = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "test")
    found["nearest file numbers, no pixel seen"] = by_number(known, values[known], asked, NEIGHBOURS)
    found["constant (training median)"] = np.full_like(true, np.median(values[known]))
    return found, true


def _predicted(name: str, test: ElpvData) -> np.ndarray:
    return predictions(load_network(f"elpv-{name}", name).network, test)


def study(folder: Path | None = None) -> dict[str, dict[str, Estimate]]:
    """Every statistic of every guess (`guesses`); a constant has an error only."""
    found, true = guesses(folder)
    generator = noise.numpy_generator("bootstrap", "elpv networks")
    return {
        name: {
            key: estimate(statistic, predicted, true, generator)
            for key, statistic in STATISTICS.items()
            if np.ptp(predicted) > 0 or key == "MAE"
        }
        for name, predicted in found.items()
    }


def _table(found: dict[str, dict[str, Estimate]]) -> Table:
    made = Table("", *found, title="ELPV, test split: 95 % bootstrap intervals over cells")
    for key in STATISTICS:
        made.add_row(key, *(format_estimate(each[key], 3) if key in each else "-" for each in found.values()))
    return made


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.elpv.networks", __doc__)
    add_photographs(parser)
    return parser.parse_args(arguments)


@ending
def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    given = _parse(arguments)
    found = study(data_folder(given.path, "--path "))
    if given.results:
        figures = {
            name: {key: each.model_dump(mode="json") for key, each in row.items()} for name, row in found.items()
        }
        write_results(given.results, "bench.elpv.networks", arguments, {"figures": figures})
    console().print(_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
