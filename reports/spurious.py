"""Figures of the search for spurious correlations: which attributes move with the prediction, by how much."""

from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metrics.association import CLEAR, Association, DirectionChange
from metrics.intervals import Estimate

COLOURS = {"own": "#1b4965", "other": "#8e4585", "unclear": "0.75", "up": "#e07a1f", "down": "#4f8a8b"}
SIDES = {"up": "target above the prediction", "down": "target below the prediction"}


class Ranked(Protocol):
    """What a figure needs of a ranking."""

    title: str
    unit: str
    own: tuple[str, ...]
    attributes: list[Association]


def interval_lengths(estimates: list[Estimate]) -> np.ndarray:
    """Distances from the value to the interval's ends, (2, N), for error bars; zero where there is no interval."""
    ends = [(0.0, 0.0) if e.low is None or e.high is None else (e.value - e.low, e.high - e.value) for e in estimates]
    return np.clip(np.array(ends, dtype=float).reshape(-1, 2).T, 0, None)


def association_figure(rankings: list[Ranked], top: int) -> Figure:
    """A row of two panels for every ranking: associations, and change rates by direction of the target.

    Args:
        top: attributes to show.
    """
    counts = [min(top, len(ranking.attributes)) for ranking in rankings]
    figure = Figure(figsize=(11, sum(0.34 * count + 1.3 for count in counts) + 0.5), layout="constrained")
    figure.set_facecolor("white")
    axes = figure.subplots(len(rankings), 2, squeeze=False, height_ratios=[count + 2 for count in counts])
    for line, (ranking, count) in enumerate(zip(rankings, counts, strict=True)):
        shown = ranking.attributes[:count]
        _associations(axes[line, 0], ranking, shown)
        _rates(axes[line, 1], shown)
    _share_scale(axes[:, 0], [ranking.unit for ranking in rankings])
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(
        "What moves with the prediction; 95 % intervals over images.\nBlue: what the regressor is asked for, "
        "purple: another attribute, grey: may be chance (q of 0.05 or more, or too few images for a test)",
        fontsize=9,
    )
    return figure


def _share_scale(axes: np.ndarray, units: list[str]) -> None:
    """One scale for all panels of a unit, so that rankings can be compared by eye."""
    for unit in set(units):
        mine = [axis for axis, its in zip(axes, units, strict=True) if its == unit]
        limits = [axis.get_xlim() for axis in mine]
        for axis in mine:
            axis.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))


def _associations(axis: Axes, ranking: Ranked, shown: list[Association]) -> None:
    estimates = [each.association for each in shown]
    colours = [
        COLOURS["unclear" if each.q is None or each.q >= CLEAR else "own" if each.attribute in ranking.own else "other"]
        for each in shown
    ]
    places = np.arange(len(shown))
    axis.barh(
        places, [e.value for e in estimates], xerr=interval_lengths(estimates), color=colours, height=0.7,
        error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "0.25"},
    )  # fmt: skip
    axis.set_yticks(places, [each.attribute for each in shown], fontsize=8)
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_xlabel(f"association: (up - down) / 2, {ranking.unit}", fontsize=8)
    axis.set_title(ranking.title, fontsize=9, loc="left")
    _finish(axis)


def _rates(axis: Axes, shown: list[Association]) -> None:
    places = np.arange(len(shown))
    for (name, label), offset in zip(SIDES.items(), (-0.18, 0.18), strict=True):
        sides: list[DirectionChange | None] = [getattr(each, name) for each in shown]
        if any(side is None for side in sides):
            continue  # no counterfactual in this direction
        rates = [side.change_rate for side in sides]
        axis.errorbar(
            [rate.value for rate in rates], places + offset, xerr=interval_lengths(rates), fmt="o", markersize=4,
            color=COLOURS[name], elinewidth=0.9, capsize=2, label=label,
        )  # fmt: skip
    axis.set_xlim(-0.02, 1.02)
    axis.set_yticks(places, [""] * len(shown))
    axis.set_xlabel("share of counterfactuals in which it changed", fontsize=8)
    _finish(axis)


def _finish(axis: Axes) -> None:
    axis.set_ylim(len(axis.get_yticks()) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(True, axis="x", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def contrast_figure(summary: dict[str, dict[str, Estimate]], unit: str, images: int) -> Figure:
    """Mean paired differences of the glasses experiment with intervals, for the regressor and the oracle.

    Args:
        summary: of `bench.glasses.summarise`.
    """
    names = [name for name, estimate in summary["regressor"].items() if estimate.unit == unit]
    figure = Figure(figsize=(7.5, 0.6 * len(names) + 1.4), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(names))
    for role, colour, offset in (("regressor", COLOURS["other"], -0.12), ("oracle", COLOURS["own"], 0.12)):
        shown = [summary[role][name] for name in names]
        axis.errorbar(
            [e.value for e in shown], places + offset, xerr=interval_lengths(shown), fmt="o", markersize=5,
            color=colour, elinewidth=1, capsize=3, label=role,
        )  # fmt: skip
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_yticks(places, names, fontsize=9)
    axis.set_xlabel(f"mean paired difference of the prediction ({unit}), 95 % interval, {images} images", fontsize=9)
    axis.legend(frameon=False, fontsize=8)
    _finish(axis)
    return figure
