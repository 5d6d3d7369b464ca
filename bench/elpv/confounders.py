"""What the labels of ELPV go together with, before any counterfactual: the cell type, the module, the look of a cell.

    python -m bench.elpv.confounders [--path DIR] [--results FILE.json]

Everything is measured on the training split at 64x64 and made the ranges of bench/elpv/attributes.py. The labels do not
say which module a cell is from. Files are numbered module by module, though: where the brightness of the gaps between
cells and the make of the busbars change, there are 44 blocks, as many as the data set's authors name modules.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel
from rich.table import Table
from scipy import stats

from bench.cli_options import console, ending
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv import attributes
from bench.elpv.modules import MODULE_SIZES, modules
from bench.progress import Display
from bench.study_results import add_photographs, study_parser, write_results
from methods import noise
from metrics.intervals import LEVEL, RESAMPLES, Estimate, rate_estimate
from metrics.regression import auc, mean_absolute_error
from reports.tables import format_estimate

SIZE = 64
OUTER = (0.05, 0.95)
"""Quantiles between which an attribute's range lies."""
CHUNK = 64


class Group(BaseModel):
    """Cells that have something in common.

    Attributes:
        defect_rate: share with a defect probability above 0, Wilson interval.
        mean_probability: over the cells.
    """

    name: str
    cells: int
    defect_rate: Estimate
    mean_probability: float


class Confounder(BaseModel):
    """How an attribute goes together with the defect probability: Spearman correlations.

    Attributes:
        all: over all cells; interval over modules, as the cells of one are alike.
        mono, poly: over the cells of one type.
        within: over the deviations of ranks from their mean in the module, interval over modules.
        between: over the means of the modules.

    There is none where the attribute is the same everywhere.
    """

    attribute: str
    all: Estimate
    mono: float | None
    poly: float | None
    within: Estimate
    between: float | None


class GroupMean(BaseModel):
    """A baseline that sees no pixel: the mean probability of a cell's group in the training split, on the test split.

    Attributes:
        auc: of any defect against none; `mae` of the probability.
    """

    group: str
    auc: float
    mae: float


class Study(BaseModel):
    """Everything that is found; `ranges` are of bench/elpv/attributes.py, lowest and highest of the quantiles OUTER."""

    images: int
    ranges: dict[str, tuple[float, float]]
    types: list[Group]
    modules: list[Group]
    group_means: list[GroupMean]
    attributes: list[Confounder]


def groups(rows: pd.DataFrame, by: pd.Series) -> list[Group]:
    """Defect rates of the rows of a manifest by group, in the order of the groups' names."""
    found = []
    for name, part in rows.groupby(by.to_numpy()):
        rate = rate_estimate((part["probability"] > 0).to_numpy())
        mean = float(part["probability"].mean())
        found.append(Group(name=str(name), cells=len(part), defect_rate=rate, mean_probability=mean))
    return found


def group_mean(rows: pd.DataFrame, by: pd.Series, name: str) -> GroupMean:
    """The baseline of one grouping.

    Args:
        rows: of a manifest, both splits.
        by: the group of every row; each has cells in the training split.
    """
    train, test = ((rows["split"] == split).to_numpy() for split in ("train", "test"))
    means = rows["probability"][train].groupby(by[train]).mean()
    predicted = by[test].map(means).to_numpy(np.float64)
    true = rows["probability"][test].to_numpy()
    return GroupMean(group=name, auc=auc(predicted, true > 0), mae=mean_absolute_error(predicted, true))


def confounders(names: tuple[str, ...], values: np.ndarray, rows: pd.DataFrame) -> list[Confounder]:
    """Every attribute's association with the defect probability, the strongest within modules first.

    Args:
        names: of the A attributes.
        values: float64 (N, A).
        rows: N of the manifest.
    """
    module, true = modules(rows["file"]), rows["probability"].to_numpy()
    generator = noise.numpy_generator("bootstrap", "elpv-confounders")
    draws = generator.multinomial(len(MODULE_SIZES), np.full(len(MODULE_SIZES), 1 / len(MODULE_SIZES)), RESAMPLES)
    mono = (rows["type"] == "mono").to_numpy()
    found = []
    for name, column in zip(names, values.T, strict=True):
        ranks, others = stats.rankdata(column), stats.rankdata(true)
        means = pd.DataFrame({"a": column, "b": true}).groupby(module).mean()
        found.append(
            Confounder(
                attribute=name,
                all=_correlation(ranks, others, module, draws),
                mono=_spearman(column[mono], true[mono]),
                poly=_spearman(column[~mono], true[~mono]),
                within=_correlation(_centred(ranks, module), _centred(others, module), module, draws),
                between=_spearman(means["a"], means["b"]),
            )
        )
    return sorted(found, key=lambda each: -abs(each.within.value or 0.0))


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """None where one side is constant, or there is nothing."""
    return None if len(a) == 0 or np.ptp(a) == 0 or np.ptp(b) == 0 else float(stats.spearmanr(a, b).statistic)


def _centred(values: np.ndarray, module: np.ndarray) -> np.ndarray:
    return values - pd.Series(values).groupby(module).transform("mean").to_numpy()


def _correlation(a: np.ndarray, b: np.ndarray, module: np.ndarray, draws: np.ndarray) -> Estimate:
    """Pearson's correlation, with an interval over resamples of whole modules.

    Args:
        draws: how often each module is in each resample, int64 (R, M).
    """
    columns = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=1)
    sums = np.zeros((draws.shape[1], columns.shape[1]))
    np.add.at(sums, module, columns)
    value = float(_from_sums(sums.sum(axis=0)))
    if np.isnan(value):
        return Estimate(value=None)
    low, high = np.nanquantile(_from_sums(draws @ sums), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=len(a))


def _from_sums(sums: np.ndarray) -> np.ndarray:
    """Correlation from n and the sums of a, b, a^2, b^2, ab in the last axis; NaN where a or b is constant."""
    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.clip(n * aa - a * a, 0, None) * np.clip(n * bb - b * b, 0, None))
    varied = spread > 1e-6  # of ranks it is thousands; below are roundings
    return np.where(varied, (n * ab - a * b) / np.where(varied, spread, 1), np.nan)


def study(folder: Path, display: Display) -> Study:
    """Measure the training split and compare it with its labels.

    Args:
        folder: from `data_folder`.

    Raises:
        UsageError: a file that is missing, damaged or not the manifest's.
    """
    every = manifest()
    rows = every[every["split"] == "train"].reset_index(drop=True)
    display.begin("attributes", len(rows))
    display.phase("reading")
    images = read_pixels(folder, rows, SIZE)
    values = []
    for start in range(0, len(images), CHUNK):
        values.append(attributes.measure(images[start : start + CHUNK]))
        display.phase("measuring", min(start + CHUNK, len(images)))
    return summarise(np.concatenate(values), rows, every)


def summarise(values: np.ndarray, rows: pd.DataFrame, every: pd.DataFrame) -> Study:
    """The study of measured attributes.

    Args:
        values: float64 (N, A), columns as in `attributes.RANGES`.
        rows: N of the manifest's training split.
        every: the whole manifest.
    """
    names = tuple(attributes.RANGES)
    ends = np.quantile(values, OUTER, axis=0)
    poly = (rows["type"] == "poly").to_numpy(np.float64)
    number = pd.Series(modules(every["file"]), index=every.index)
    return Study(
        images=len(rows),
        ranges={name: (float(low), float(high)) for name, low, high in zip(names, *ends, strict=True)},
        types=groups(rows, rows["type"]),
        modules=groups(rows, pd.Series(modules(rows["file"]) + 1).map("{:02d}".format)),
        group_means=[group_mean(every, every["type"], "cell type"), group_mean(every, number, "module")],
        attributes=confounders(("polycrystalline", *names), np.column_stack([poly, values]), rows),
    )


def _group_table(title: str, found: list[Group]) -> Table:
    made = Table(title=title, title_justify="left")
    for heading in ("group", "cells", "share with a defect", "mean probability"):
        made.add_column(heading, justify="left" if heading == "group" else "right")
    for each in found:
        made.add_row(
            each.name, str(each.cells), format_estimate(each.defect_rate, 2), f"{each.mean_probability:.2f}"
        )  # fmt: skip
    return made


def _attribute_table(found: Study) -> Table:
    made = Table(title="Spearman correlation with the defect probability", title_justify="left")
    for heading in ("attribute", "all cells", "mono", "poly", "within modules", "between modules", "range"):
        made.add_column(heading, justify="left" if heading == "attribute" else "right")
    for each in found.attributes:
        low, high = found.ranges.get(each.attribute, (0.0, 1.0))
        made.add_row(
            each.attribute, format_estimate(each.all, 2), _signed(each.mono), _signed(each.poly),
            format_estimate(each.within, 2), _signed(each.between), f"{high - low:.4f}",
        )  # fmt: skip
    return made


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.elpv.confounders", __doc__)
    add_photographs(parser)
    return parser.parse_args(arguments)


@ending
def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    given = _parse(arguments)
    with Display() as display:
        found = study(data_folder(given.path, "--path "), display)
    if given.results:
        write_results(given.results, "bench.elpv.confounders", arguments, found.model_dump(mode="json"))
    out = console()
    out.print(_group_table(f"{found.images} images of the training split, by type", found.types))
    out.print(_group_table("by module, as the file numbers suggest it", found.modules))
    out.print(_attribute_table(found))
    for each in found.group_means:
        out.print(
            f"mean label by {each.group}, no pixel seen, on the test split: AUC {each.auc:.3f}, MAE {each.mae:.3f}",
            highlight=False,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
