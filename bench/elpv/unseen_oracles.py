"""Counterfactuals on ELPV judged by oracles that never saw the photograph, nor any other of its module.

    python -m bench.elpv.unseen_oracles RUN... [--steps N] [--path DIR] [--runs DIR] [--fresh] [--results FILE]

The shipped oracle learned from cells of the same modules as the regressor, and may share what that learned of a module.
Here the oracle's recipe is trained anew four times, each without a quarter of the (inferred) modules, as in
`bench.elpv.unseen_modules`, whose checkpoints are used where they are; every counterfactual is judged by the one that
was trained without its photograph's module. The control are oracles that were trained without the photograph but with
other cells of its module: what any other oracle would have confirmed less. Intervals are over modules.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.table import Table
from torch import nn

from bench.cli_options import console, ending
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv.estimates import rounded
from bench.elpv.folds import FOLDER, add_trainings, fold_networks, folds, recipe_of
from bench.elpv.modules import modules
from bench.elpv.records import ORACLE, read
from bench.elpv.results import FLOOR, Results
from bench.elpv.unseen_modules import percentile_estimate
from bench.errors import UsageError
from bench.images import to_float
from bench.progress import Display
from bench.study_results import add_photographs, study_parser, write_results
from bench.target_class import SAME_VALUE
from bench.training.elpv_figures import SIZE
from methods import noise
from metrics.intervals import RESAMPLES, Estimate
from reports.records import Cell
from reports.tables import format_estimate

JUDGES = {
    "modules": "oracles without the module",
    "cells": "oracles without the cell",
    "shipped": "shipped oracle",
}
"""Judge -> heading of its column; the first two are named by what their training left out (`LEFT_OUT`)."""
Networks = list[tuple[np.ndarray, nn.Module]]
"""Of every fold the cells that are left out, bool (N,) over the manifest, and the network that did not see them."""
BEFORE, AFTER = "before", "after"
FIGURES = {
    "oracle_target_mae": "oracle - target",
    "oracle_target_mae_before": "oracle - target, unchanged images",
    "oracle_share": "share of the oracle's way",
    "difference": "minus the floor's",
}
"""Figure -> label; as in `bench.elpv.estimates`."""

Judged = dict[str, pd.DataFrame]
"""Method -> photographs by name: "target", "module", and o(x) and o(x') of every judge, "JUDGE_before" and "_after"."""


@torch.no_grad()
def _predict(network: nn.Module, path: Path | None) -> float:
    """What a network says of a saved image alone, as saved images are judged; NaN where there is none."""
    if path is None:
        return float("nan")
    return float(network(torch.from_numpy(to_float(read(path)))[None]))


def _judge(judge: str, networks: Networks, cell: Cell, table: pd.DataFrame) -> pd.DataFrame:
    """o(x) and o(x') of a cell's samples, by name, of the network that did not see the photograph."""
    files = manifest()["file"]
    found = {}
    for left_out, network in networks:
        for name, row in table[table.index.isin(files[left_out])].iterrows():
            found[name] = {
                f"{judge}_{BEFORE}": _predict(network, cell.input_path(row)),
                f"{judge}_{AFTER}": _predict(network, cell.image_path(row)),
            }
    return pd.DataFrame.from_dict(found, orient="index").loc[table.index]


def judged(results: Results, networks: Mapping[str, Networks]) -> Judged:
    """Every counterfactual under the shipped oracle, and under those that did not see the photograph or its module.

    Args:
        results: of the runs.
        networks: by what was left out of their training (`LEFT_OUT`), of `fold_networks` on the whole manifest.

    Raises:
        UsageError: a saved image is gone or damaged.
    """
    found = {}
    for method, table in results.tables.items():
        frame = table[["target", "probability"]].assign(module=modules(pd.Series(table.index)))
        frame[[f"shipped_{BEFORE}", f"shipped_{AFTER}"]] = table[[ORACLE, "oracle"]].astype(np.float64)
        for judge, theirs in networks.items():
            frame = frame.join(_judge(judge, theirs, results.cells[method], table))
        found[method] = frame
    return found


def figures(frame: pd.DataFrame, floor: pd.DataFrame | None, judge: str, part: str) -> dict[str, Estimate]:
    """Figures of a method under one judge, with 95 % percentile intervals over modules.

    Args:
        frame: of `judged`; samples without a counterfactual are left out.
        floor: the floor's, of the same photographs in the same order; None: there is none to compare with.
        judge: of JUDGES.
        part: name of these samples, for the resamples.
    """
    before = (frame[f"{judge}_{BEFORE}"] - frame["target"]).abs()
    after = (frame[f"{judge}_{AFTER}"] - frame["target"]).abs()
    one = pd.Series(1.0, index=frame.index)
    ratios = {
        "oracle_target_mae": (after, one, "1"),
        "oracle_target_mae_before": (before, one, "1"),
        "oracle_share": (before - after, before, "fraction"),
    }
    if floor is not None:
        ratios["difference"] = (after - (floor[f"{judge}_{AFTER}"] - floor["target"]).abs(), one, "1")
    return {
        key: ratio_over_modules(over.where(after.notna()), under.where(after.notna()), frame["module"], part, unit)
        for key, (over, under, unit) in ratios.items()
    }


def ratio_over_modules(over: pd.Series, under: pd.Series, module: pd.Series, part: str, unit: str) -> Estimate:
    """sum(over) / sum(under) with a 95 % percentile interval: all samples of a module are resampled together.

    Args:
        over, under: float (N,); a sample with a NaN in either is left out.
        module: of every sample.
        part: name of these samples: the same modules are drawn for every figure of them.
        unit: of the estimate.
    """
    kept = over.notna() & under.notna()
    sums = pd.DataFrame({"over": over, "under": under})[kept].groupby(module[kept]).sum().to_numpy()
    if not len(sums):
        return Estimate(value=None, low=None, high=None, n=0, unit=unit)
    generator = noise.numpy_generator("bootstrap", "elpv unseen oracles", part)
    drawn = sums[generator.integers(len(sums), size=(RESAMPLES, len(sums)))].sum(axis=1)
    value = float(sums[:, 0].sum() / sums[:, 1].sum())
    return percentile_estimate(value, drawn[:, 0] / drawn[:, 1], int(kept.sum()), unit)


def study(found: Judged) -> dict[str, dict[str, dict[str, dict[str, Estimate]]]]:
    """Judge -> "all" and each direction -> method -> `figures`."""
    floor = found.get(FLOOR)
    made: dict[str, dict[str, dict[str, dict[str, Estimate]]]] = {}
    for judge in JUDGES:
        for part, names in _parts(next(iter(found.values()))).items():
            made.setdefault(judge, {})[part] = {
                method: figures(
                    frame.loc[names], None if floor is None or method == FLOOR else floor.loc[names], judge, part
                )
                for method, frame in found.items()
            }
    return made


def _parts(frame: pd.DataFrame) -> dict[str, pd.Index]:
    return {"all": frame.index} | {f"to {target:.3g}": part.index for target, part in frame.groupby("target")}


def real_images(frame: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Judge -> direction -> |o(x) - target| of the photographs whose true value is the target: what is to be reached.

    Args:
        frame: of `judged`, of any method.
    """
    return {
        judge: {
            f"to {target:.3g}": _real(frame[(frame["probability"] - target).abs() < SAME_VALUE], target, judge)
            for target in np.unique(frame["target"])
        }
        for judge in JUDGES
    }


def _real(rows: pd.DataFrame, target: float, judge: str) -> Estimate:
    error = (rows[f"{judge}_{BEFORE}"] - target).abs()
    return ratio_over_modules(error, error * 0 + 1, rows["module"], f"real to {target:.3g}", "1")


def _table(part: str, by_judge: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> Table:
    made = Table(title=f"{part}: 95 % intervals over modules", title_justify="left")
    for heading in ("", "", *JUDGES.values()):
        made.add_column(heading, justify="right" if heading else "left")
    methods = next(iter(by_judge.values()))
    for key, label in FIGURES.items():
        for method in methods:
            if key in methods[method]:
                made.add_row(label, method, *(format_estimate(each[method][key], 3) for each in by_judge.values()))
    return made


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.elpv.unseen_oracles", __doc__)
    parser.add_argument("runs_judged", nargs="+", type=Path, metavar="RUN", help="folder of a finished `bench run`")
    add_photographs(parser)
    add_trainings(parser)
    return parser.parse_args(arguments)


@ending
def main(arguments: list[str] | None = None) -> int:
    """Train what is not trained, judge, print the tables; returns the exit code."""
    given, rows = _parse(arguments), manifest()
    results = Results(given.runs_judged)
    if not results.cells:
        raise UsageError("the runs have several reference values an image; give runs with one")
    pixels = read_pixels(data_folder(given.path, "--path "), rows, SIZE)
    values, recipe, folder = rows["probability"].to_numpy(), recipe_of("oracle", given.steps), given.runs / FOLDER
    with Display() as display:
        networks = {
            name: list(fold_networks(recipe, pixels, values, fold, folder / f"oracle-{name}", given.fresh, display))
            for name, fold in folds(rows).items()
        }
    tables = judged(results, networks)
    found, real = study(tables), real_images(next(iter(tables.values())))
    if given.results:
        content = {
            "images": len(results.ids),
            "modules": int(next(iter(tables.values()))["module"].nunique()),
            "oracle": {"recipe": "elpv/oracle", "steps": recipe.steps},
            "real_images": {judge: rounded(each) for judge, each in real.items()},
            "figures": {
                judge: {part: {method: rounded(each) for method, each in made.items()} for part, made in parts.items()}
                for judge, parts in found.items()
            },
        }
        write_results(given.results, "bench.elpv.unseen_oracles", arguments, content)
    for part in found["shipped"]:
        console().print(_table(part, {judge: parts[part] for judge, parts in found.items()}))
    for judge, by_value in real.items():
        for value, error in by_value.items():
            print(f"real images of the value, {value}, {JUDGES[judge]}: {format_estimate(error, 3)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
