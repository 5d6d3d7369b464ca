"""Results on ELPV, from finished records: figures by method, direction and cell type, against the floor, and a gallery.

    python -m bench.elpv.results runs/NAME [runs/OTHER ...] [--results FILE.json] [--gallery FILE.png] [--first N]

All methods are compared on the photographs that all runs explain. The floor is `pgd-re`, which changes pixels without
any generative model (docs/baselines.md): a method whose counterfactuals mean something has the lower oracle error.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cli_options import ending
from bench.datasets.elpv_files import LICENCE
from bench.elpv.estimates import (
    Figures,
    against_floor,
    figures,
    granular,
    groups,
    on_originals,
    real_images,
    rounded,
)
from bench.elpv.records import (
    common_ids,
    data_options,
    elpv_cells,
    load_oracle,
    read,
    table_of,
    unchanged_table,
)
from bench.elpv.tables import method_tables, print_tables, value_table
from bench.errors import UsageError
from bench.images import write_bytes
from bench.study_results import study_parser, write_results
from reports.elpv_gallery import Line, Shown, gallery_png
from reports.records import Cell
from reports.table import Table

FLOOR = "pgd-re"
SHOWN = ("ac-re", "diffae-re")
"""Methods of the gallery, where the runs have them."""
OF_THE_CELL = {
    "target_class_distance": "realism/target_class_distance",
    "target_class_distance_originals": "realism/target_class_distance_originals",
}
"""Figure -> summary key of what only the whole cell has; left out where the cell has more images than are compared."""
PATHS = ("path/monotonic_rate", "path/step_l1", "path/roughness_l1")


class Results:
    """Every figure of some runs.

    Attributes:
        cells: method -> cell, of the runs with one reference value an image; `granular` of those with several.
        ids: photographs that are compared; tables: method -> their table.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises UsageError where the runs cannot be compared, or a file of theirs is gone."""
        single, several = elpv_cells(folders)
        self.cells = {cell.record.method: cell for cell in single}
        self.granular = {cell.record.method: cell for cell in several}
        self.ids = common_ids(single) if single else []
        self.tables: dict[str, pd.DataFrame] = {}
        if single:
            unchanged = unchanged_table(single[0], self.ids, load_oracle(single[0]))
            self.tables = {method: table_of(cell, unchanged) for method, cell in self.cells.items()}

    @cached_property
    def figures(self) -> dict[str, dict[str, Figures]]:
        """Method -> all, each direction, each type -> figures."""
        return {method: self._by_group(method) for method in self.cells}

    def _by_group(self, method: str) -> dict[str, Figures]:
        cell, frame = self.cells[method], self.tables[method]
        floor = groups(self.tables[FLOOR]) if FLOOR in self.tables and method != FLOOR else {}
        found = {}
        for name, part in groups(frame).items():
            found[name] = figures(part, method, name)
            if name in floor:
                found[name] |= against_floor(part, floor[name], method, name)
        if len(cell.samples) == len(self.ids):
            summary = cell.record.summary
            found["all"] |= {key: summary[name] for key, name in OF_THE_CELL.items() if name in summary}
        return found

    @cached_property
    def counts(self) -> dict[str, int]:
        """Photographs of all, each direction and each type; {} where there is no run with one reference value."""
        return (
            {name: len(part) for name, part in groups(next(iter(self.tables.values()))).items()} if self.tables else {}
        )

    @cached_property
    def real(self) -> dict[str, Figures]:
        """Figures of real photographs of every reference value."""
        if not self.cells:
            return {}
        method, cell = next(iter(self.cells.items()))
        return real_images(self.tables[method], cell.tolerance)

    def printed(self) -> list[Table]:
        """Tables for people."""
        found = method_tables(self.figures, self.counts)
        if self.real:
            found.append(value_table("Real images whose true value is the reference value", self.real))
        for method, cell in self.granular.items():
            caption = f"{method}: {cell.samples['source'].nunique()} images, every reference value"
            found.append(value_table(caption, granular(cell.samples, method)))
        return found

    def content(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        made: dict[str, Any] = {"licence_of_the_images": LICENCE}
        if self.cells:
            first = next(iter(self.cells))
            frame = self.tables[first]
            made |= {
                "dataset": data_options(self.cells[first]),
                "images": self.counts,
                "weights": {role: self.cells[first].record.weights[role] for role in ("regressor", "oracle")},
                "unchanged": {name: rounded(on_originals(part, name)) for name, part in groups(frame).items()},
                "real_images": {name: rounded(part) for name, part in self.real.items()},
                "methods": {method: self._entry(method) for method in self.cells},
            }
        if self.granular:
            made["granular"] = {method: granular_entry(cell) for method, cell in self.granular.items()}
        return made

    def _entry(self, method: str) -> dict[str, Any]:
        cell = self.cells[method]
        found = {name: rounded(part) for name, part in self.figures[method].items()}
        left_out = len(cell.samples) - len(self.ids)
        return found | {"left_out_images": left_out, "record": provenance(cell)}


def granular_entry(cell: Cell) -> dict[str, Any]:
    """A cell with several reference values an image: figures by value, of its paths, and how it was made."""
    by_value = {label: rounded(part) for label, part in granular(cell.samples, cell.record.method).items()}
    paths = {key: estimate for key, estimate in cell.record.summary.items() if key in PATHS}
    images = int(cell.samples["source"].nunique())
    return by_value | {"images": images, "paths": rounded(paths), "record": provenance(cell)}


def provenance(cell: Cell) -> dict[str, Any]:
    """How a cell's record was made."""
    environment, record = cell.suite.environment, cell.record
    return {
        "command": cell.suite.command,
        "backend": record.backend,
        "options": record.options[record.method],
        "seed": record.seed,
        "sessions": record.sessions,
        "weights": record.weights,
        "fingerprint": record.fingerprint,
        "definitions": record.definitions,
        "ended": record.ended,
        **{key: environment[key] for key in ("cpu", "cores", "threads", "device") if key in environment},
        "packages": environment["packages"],
        "commit": environment["git"].get("commit"),
        "dirty": environment["git"].get("dirty"),
    }


def lines_of(results: Results, methods: Sequence[str], first: int) -> dict[str, list[Line]]:
    """By reference value, the first photographs in the order of the published list, whatever became of them.

    Args:
        methods: whose counterfactuals are shown.
        first: lines of a reference value.
    """
    frames = {method: results.tables[method] for method in methods}
    chosen = {name: part for name, part in groups(frames[methods[0]]).items() if name.startswith("to ")}
    return {
        f"reference value {name.removeprefix('to ')}": [
            _line(results, frames, str(photograph)) for photograph in part.index[:first]
        ]
        for name, part in chosen.items()
    }


def _line(results: Results, frames: dict[str, pd.DataFrame], photograph: str) -> Line:
    any_method = next(iter(frames))
    row = frames[any_method].loc[photograph]
    original = Shown(
        read(results.cells[any_method].input_path(row)), float(row["start"]), float(row["oracle_before"]), True
    )
    made = {}
    for method, frame in frames.items():
        own = frame.loc[photograph]
        path = results.cells[method].image_path(own)
        pixels = None if path is None else read(path)
        made[method] = Shown(pixels, float(own["prediction"]), float(own["oracle"]), bool(own["valid"] > 0))
    return Line(Path(photograph).stem, str(row["type"]), float(row["probability"]), original, made)


def write_gallery(results: Results, path: Path, first: int, methods: Sequence[str]) -> None:
    """The gallery as PNG.

    Raises:
        UsageError: the runs lack a method that is asked for.
    """
    lacking = [method for method in methods if method not in results.cells]
    if lacking or not methods:
        raise UsageError(
            f"--gallery shows {', '.join(methods or SHOWN)}, and the runs have {', '.join(results.cells) or 'none'}; "
            "give a run of each, or name others with --methods"
        )
    split = data_options(results.cells[methods[0]])["split"]
    rule = (
        f"the first {first} of each reference value among {len(results.ids)} images of the {split} split, in file order"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, gallery_png(lines_of(results, methods, first), methods, rule))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.elpv.results", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished `bench run`")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="PNG of the first counterfactuals")
    parser.add_argument("--first", type=int, default=6, metavar="N", help="images of each reference value (default: 6)")
    parser.add_argument("--methods", default=",".join(SHOWN), metavar="A,B", help="methods of the gallery")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    given = parser.parse_args(arguments)
    if given.first < 1:
        parser.error("--first is at least 1")
    return given


@ending
def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    given = _parse(arguments)
    results = Results(given.runs)
    if given.gallery:
        write_gallery(results, given.gallery, given.first, [name for name in given.methods.split(",") if name])
    if given.results:
        write_results(given.results, "bench.elpv.results", arguments, results.content())
    print_tables(results.printed(), given.markdown)
    if results.cells and FLOOR not in results.cells:
        print(f"no run of {FLOOR} among them, so nothing is compared with the floor", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
