"""What the options of Diff-AE-RE's loss and optimiser do: figures against distance weight and learning rate."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.errors import UsageError

METHOD = "diffae-re"
FIGURES = {
    "success": "success on saved images",
    "oracle_target_mae": "oracle's error to the target",
    "background_mae": "Background MAE",
    "change_l1": "change, mean |x' - x|",
    "steps": "steps",
}
"""Figures shown, one line of panels each; those that no variant has are left out."""

_DISTANCES = {"l1": "#1b4965", "l2": "#d1495b"}
_LINES = {"latent": "-", "pixel": "--"}
_OPTIMISERS = {"adam": "#1b4965", "momentum": "#d1495b", "sgd": "#6c8ead"}
_DISTANCE_OPTIONS = ("distance", "distance_space", "distance_weight")
_OPTIMISER_OPTIONS = ("optimiser", "momentum", "lr")


def _values(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[list[float]]]:
    """Means (N), and their distances to the interval's ends (2, N)."""
    figures = [row["figures"].get(key, {}) for row in rows]
    mean = [float("nan") if figure.get("value") is None else figure["value"] for figure in figures]
    ends = [[figure.get(end) for figure in figures] for end in ("low", "high")]
    distances = [
        [0.0 if end is None else abs(end - value) for value, end in zip(mean, side, strict=True)] for side in ends
    ]
    return mean, distances


def _line(axis: Axes, rows: list[dict[str, Any]], x: str, y: str, **style: Any) -> None:
    """Means with intervals against one setting."""
    rows = sorted(rows, key=lambda row: row["settings"][x])
    mean, distances = _values(rows, y)
    place = [row["settings"][x] for row in rows]
    axis.errorbar(place, mean, yerr=distances, marker="o", markersize=4, linewidth=1.2, elinewidth=0.7, **style)


def _distance_panel(axis: Axes, rows: list[dict[str, Any]], key: str) -> None:
    """A figure against the distance's weight, a line for each distance; without one as a horizontal line."""
    for norm, colour in _DISTANCES.items():
        for space, dashes in _LINES.items():
            mine = [
                row for row in rows if (row["settings"]["distance"], row["settings"]["distance_space"]) == (norm, space)
            ]
            if mine:
                _line(axis, mine, "distance_weight", key, color=colour, linestyle=dashes, label=f"{norm}, {space}")
    none = [row for row in rows if row["settings"]["distance"] == "none"]
    for value in _values(none, key)[0]:
        axis.axhline(value, color="0.4", linewidth=1.0, linestyle=":", label="no distance")


def _optimiser_panel(axis: Axes, rows: list[dict[str, Any]], key: str) -> None:
    """A figure against the learning rate, a line for each optimiser."""
    for name, colour in _OPTIMISERS.items():
        mine = [row for row in rows if row["settings"]["optimiser"] == name]
        if mine:
            _line(axis, mine, "lr", key, color=colour, label=name)


def _differing_only_in(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The variants that give no options besides these; the one that gives none is among them."""
    return [row for row in rows if set(row["options"]) <= set(names)]


def ablation_figure(rows: list[dict[str, Any]]) -> Figure:
    """Figures against the weight of the distance (left) and the learning rate (right), with 95 % intervals.

    Args:
        rows: of `bench.variant_rows`: method, options (the variant's own), settings (all of them), n and figures.

    Raises:
        UsageError: no variant of Diff-AE-RE.
    """
    rows = [row for row in rows if row["method"] == METHOD]
    if not rows:
        raise UsageError(f"no variant of {METHOD}; its curves need some, as in bench/ablation.toml")
    panels = (
        ("weight of the distance", _differing_only_in(rows, _DISTANCE_OPTIONS), _distance_panel),
        ("learning rate", _differing_only_in(rows, _OPTIMISER_OPTIONS), _optimiser_panel),
    )
    keys = [key for key in FIGURES if any(row["figures"].get(key, {}).get("value") is not None for row in rows)]
    figure = Figure(figsize=(11, 2.5 * len(keys) + 0.6), layout="constrained")
    figure.set_facecolor("white")
    axes = figure.subplots(len(keys), 2, squeeze=False, sharex="col", sharey="row")
    for column, (title, mine, draw) in enumerate(panels):
        for line, key in enumerate(keys):
            axis = axes[line, column]
            draw(axis, mine, key)
            axis.set_xscale("log")
            axis.grid(True, color="0.92", linewidth=0.8)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_ylabel(FIGURES[key], fontsize=8.5)
        axes[-1, column].set_xlabel(f"{title} (log scale)")
        if axes[0, column].get_legend_handles_labels()[0]:
            axes[0, column].legend(fontsize=7.5, frameon=False, ncols=2)
    figure.suptitle(
        f"Diff-AE-RE, {rows[0]['n']} images, means with 95 % intervals; axes do not start at 0", fontsize=10
    )
    return figure
