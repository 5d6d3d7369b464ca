"""Tables of the results on ELPV, for the terminal and as Markdown."""

from collections.abc import Mapping, Sequence

from rich.table import Table as TerminalTable

from bench.cli_options import console
from bench.elpv.changes import DEFECTS
from metrics.intervals import Estimate
from reports.table import Column, Table, format_entry, to_markdown
from reports.tables import estimate_entry

Groups = Mapping[str, Mapping[str, Estimate]]
"""Group of samples -> figures."""

ROWS: tuple[tuple[str, str, int], ...] = (
    ("success (saved image)", "success_rate", 3),
    ("search failed", "failure_rate", 3),
    ("success, fresh noise", "noise_success_rate", 3),
    ("oracle - target", "oracle_target_mae", 3),
    ("oracle - target, unchanged images", "oracle_target_mae_before", 3),
    ("share of the oracle's way", "oracle_share", 3),
    ("oracle - regressor", "oracle_regressor_mae", 3),
    ("minus the floor's", "difference", 3),
    ("where both are valid", "difference_both_valid", 3),
    ("type preserved", "type_preserved", 3),
    ("distance to the target class", "target_class_distance", 2),
    ("distance, unchanged images", "target_class_distance_originals", 2),
    ("change L1", "change_l1", 4),
    ("changed area", "changed_area", 3),
    ("LPIPS", "lpips", 3),
    ("brightened area", "brightened_area", 3),
    ("darkened area", "darkened_area", 3),
    ("brightness change", "brightness_change", 4),
    *((f"{name} change", key, 4) for key, name in DEFECTS.items()),
    ("steps", "steps", 1),
    ("s / image", "seconds_per_image", 2),
    ("s / valid counterfactual", "seconds_per_valid", 2),
)
"""(label, figure, decimals) of the printed tables."""
BY_VALUE = {
    "success_rate": "success",
    "prediction": "mean r",
    "prediction_mae": "r - value",
    "oracle": "mean oracle",
    "oracle_target_mae": "oracle - value",
    "change_l1": "change L1",
}
"""Figure -> heading of the tables with a row for every reference value."""


def method_tables(by_method: Mapping[str, Groups], counts: Mapping[str, int]) -> list[Table]:
    """One table for all photographs, each direction and each type: a row a figure, a column a method.

    Args:
        counts: group -> photographs.
    """
    return [
        _method_table(
            f"{group}: {count} {'image' if count == 1 else 'images'}",
            {method: found[group] for method, found in by_method.items()},
        )
        for group, count in counts.items()
    ]


def _method_table(caption: str, by_method: Groups) -> Table:
    rows = []
    for label, key, decimals in ROWS:
        found = [figures.get(key) for figures in by_method.values()]
        if any(estimate is not None and estimate.value is not None for estimate in found):
            rows.append([label, *(estimate_entry(estimate, decimals) for estimate in found)])
    return Table(caption, [Column(""), *map(Column, by_method)], rows)


def value_table(caption: str, by_value: Groups) -> Table:
    """A row for every reference value ("to 0"); figures that none has are left out."""
    keys = [key for key in BY_VALUE if any(key in figures for figures in by_value.values())]
    columns = [Column("reference value"), Column("n"), *(Column(BY_VALUE[key]) for key in keys)]
    rows = [
        [label.removeprefix("to "), figures["success_rate"].n, *(estimate_entry(figures[key], 3) for key in keys)]
        for label, figures in by_value.items()
    ]
    return Table(caption, columns, rows)


def print_tables(tables: Sequence[Table], markdown: bool) -> None:
    """Print on standard output."""
    if markdown:
        print("\n".join(to_markdown(table) for table in tables), end="")
        return
    for table in tables:
        shown = TerminalTable(title=table.caption, title_justify="left")
        for place, column in enumerate(table.columns):
            shown.add_column(column.title, no_wrap=place == 0, justify="right" if place else "left")
        for row in table.rows:
            shown.add_row(*map(format_entry, row))
        console().print(shown)
