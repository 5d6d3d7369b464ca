"""Error against network evaluations: every variant of a method as a point, and which of them are not dominated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.errors import UsageError

COLOURS = {"paper": "#d1495b", "default": "#1b4965", "variant": "#6c8ead"}
NAMES = {"paper": "paper preset", "default": "new method, defaults", "variant": "one option changed"}
LEADER = {"arrowstyle": "-", "color": "0.75", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)}
ERRORS = {"square_mae": "Square MAE", "background_mae": "Background MAE"}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other one dominates, by rising first coordinate; both are to be small.

    A point dominates another where it is at most as large in both coordinates and smaller in one; of equal points
    all stay.
    """
    front = []
    for index, (x, y) in enumerate(points):
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in points):
            front.append(index)
    return sorted(front, key=lambda index: points[index])


def spread_labels(heights: Sequence[float], gap: float) -> np.ndarray:
    """Heights in [0, 1] for labels that are at least `gap` apart, in the order of the points and close to them.

    Args:
        heights: of the points, in [0, 1].
        gap: made smaller where the labels would not fit.
    """
    order = np.argsort(heights, kind="stable")
    gap = min(gap, 1 / max(1, len(order) - 1))
    placed = np.asarray(heights, dtype=float)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    result = np.empty(len(placed))
    result[order] = placed
    return result


def _values(rows: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Means (N,), and their distances to the interval's ends (2, N); zero where there is no interval."""
    figures = [row["figures"][key] for row in rows]
    mean = np.array([figure["value"] for figure in figures], dtype=float)
    ends = [
        (figure["value"], figure["value"]) if figure["low"] is None else (figure["low"], figure["high"])
        for figure in figures
    ]
    low, high = np.array(ends, dtype=float).T
    return mean, np.clip(np.stack([mean - low, high - mean]), 0, None)


def _panel(axis: Axes, rows: list[dict[str, Any]], key: str) -> None:
    """Points with error bars, the front as a staircase, and labels to the right of the panel."""
    x, x_error = _values(rows, "evaluations")
    y, y_error = _values(rows, key)
    for i, row in enumerate(rows):
        strong = row["group"] != "variant"
        axis.errorbar(
            x[i], y[i], xerr=x_error[:, i : i + 1], yerr=y_error[:, i : i + 1], fmt="D" if strong else "o",
            markersize=7 if strong else 5, color=COLOURS[row["group"]], elinewidth=0.7, zorder=3 + strong,
            markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
    front = pareto_front(list(zip(x.tolist(), y.tolist(), strict=True)))
    axis.step(x[front], y[front], where="post", color="0.35", linewidth=1.0, linestyle="--", zorder=2)
    axis.set_xscale("log")
    low, high = (x - x_error[0]).min(), (x + x_error[1]).max()
    axis.set_xlim(low / 1.25, high * 1.25)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    bottom, top = (y - y_error[0]).min(), (y + y_error[1]).max()
    axis.set_ylim(bottom - 0.04 * (top - bottom), top + 0.04 * (top - bottom))
    _label(axis, rows, x, y, set(front))


def _label(axis: Axes, rows: list[dict[str, Any]], x: np.ndarray, y: np.ndarray, front: set[int]) -> None:
    bottom, top = axis.get_ylim()
    heights = (y - bottom) / (top - bottom)
    for i, height in enumerate(spread_labels(heights.tolist(), 0.052)):
        success = rows[i]["figures"]["success"]["value"]
        axis.annotate(
            f"{rows[i]['label']} ({success:.0%})", (x[i], y[i]), xytext=(1.03, height), textcoords="axes fraction",
            va="center", fontsize=7.5, color=COLOURS[rows[i]["group"]] if rows[i]["group"] != "variant" else "0.15",
            fontweight="bold" if i in front else "normal", annotation_clip=False,
            arrowprops=LEADER,
        )  # fmt: skip


def front_figure(rows: list[dict[str, Any]]) -> Figure:
    """Square and Background MAE against network evaluations: a column of panels for each family of methods.

    Args:
        rows: of `bench.variants`: family, label, group, n, and figures (estimates by name).

    Raises:
        UsageError: a variant without these errors; only data with a ground truth has them.
    """
    for row in rows:
        for key in ERRORS:
            if row["figures"].get(key, {}).get("value") is None:
                raise UsageError(f"variant {row['name']!r} has no {key}; the figure needs data with a ground truth")
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = Figure(figsize=(7.6 * len(families), 4.9 * len(ERRORS) + 0.7), layout="constrained")
    figure.set_facecolor("white")
    axes = figure.subplots(len(ERRORS), len(families), squeeze=False)
    for column, family in enumerate(families):
        mine = [row for row in rows if row["family"] == family]
        for line, (key, name) in enumerate(ERRORS.items()):
            axis = axes[line, column]
            _panel(axis, mine, key)
            axis.set_ylabel(name)
            axis.grid(True, which="major", color="0.92", linewidth=0.8)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0, column].set_title(f"{family}, {mine[0]['n']} images", fontsize=11)
        axes[-1, column].set_xlabel("network evaluations a counterfactual (forward + backward, log scale)")
    handles: list[Line2D] = [
        Line2D([], [], marker="o" if group == "variant" else "D", linestyle="", color=colour, label=NAMES[group])
        for group, colour in COLOURS.items()
    ]
    handles.append(Line2D([], [], color="0.35", linestyle="--", linewidth=1, label="Pareto front (its points in bold)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(
        "Error against cost, means with 95 % intervals; in brackets: success on saved images; axes do not start at 0",
        fontsize=10,
    )
    return figure
