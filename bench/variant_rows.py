"""What the records say of finished variants, made from the records alone."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from bench.errors import RunError, UsageError
from bench.record import CellRecord, SuiteRecord, read_suite
from bench.variant_list import Variant
from methods import noise
from metrics.intervals import Estimate, mean_estimate

FIGURES = {
    "success": "validity/success_rate",
    "noise_success": "validity/noise_success_rate",
    "square_mae": "quality/square_mae",
    "background_mae": "quality/background_mae",
    "oracle_target_mae": "validity/oracle_target_mae",
    "change_l1": "sparsity/change_l1",
    "steps": "cost/steps",
    "forward": "cost/forward",
    "backward": "cost/backward",
    "seconds_per_valid": "throughput/seconds_per_valid",
}
"""Name of a figure -> key of the record's summary."""


def row_of(variant: Variant, suite: SuiteRecord, cell: CellRecord, folder: Path) -> dict[str, Any]:
    """What the records say of a finished variant.

    Raises:
        RunError: the cell's samples cannot be read.
    """
    path = folder / cell.id / "samples.parquet"
    try:
        samples = pd.read_parquet(path, columns=["forward", "backward"])
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; delete {folder} and run the variant again") from error
    generator = noise.numpy_generator("bootstrap", "variants", cell.id)
    calls = mean_estimate(samples.sum(axis=1).to_numpy(float), generator, "network evaluations")
    figures = {key: cell.summary[name] for key, name in FIGURES.items() if name in cell.summary}
    environment = suite.environment
    return {
        **variant.model_dump(exclude={"label"}),
        "label": variant.label or variant.name,
        "family": variant.family,
        "n": cell.finished,
        "failures": cell.failures,
        "backend": cell.backend,
        "command": suite.command,
        "figures": {key: value.model_dump() for key, value in (figures | {"evaluations": calls}).items()},
        "settings": cell.options[cell.method],
        "environment": {key: environment[key] for key in ("cpu", "cores", "threads", "device", "packages", "git")},
        "fingerprint": cell.fingerprint,
        "ended": cell.ended,
    }


def collect(variants: list[Variant], output: Path) -> list[dict[str, Any]]:
    """A row for every finished variant under `output`.

    Raises:
        UsageError: none is finished, a folder holds another variant than its name says, or the variants were run on
            different images, so that their figures cannot stand side by side.
    """
    rows, digests = [], set()
    for variant in variants:
        folder = output / variant.name
        if not (folder / "suite.json").is_file():
            continue
        suite = read_suite(folder)
        for cell in suite.cells:
            if cell.status == "ok" and cell.method == variant.method:
                recorded = cell.options[cell.method]
                differing = [key for key, value in variant.options.items() if recorded.get(key) != value]
                if differing:
                    raise UsageError(
                        f"{folder} was run with another {', '.join(differing)}; delete it or use another -o"
                    )
                rows.append(row_of(variant, suite, cell, folder))
                digests.add(cell.facts["data"])
    if not rows:
        raise UsageError(f"no finished variant in {output}")
    if len(digests) > 1:
        raise UsageError(f"the variants in {output} were run on different images; use one folder for one --limit")
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """One row a variant, means only; intervals are in the JSON."""
    made = Table(title=f"variants, {rows[0]['n']} images", title_justify="left")
    headings = (
        "success",
        "fresh noise",
        "Square",
        "Background",
        "oracle",
        "change",
        "steps",
        "forward",
        "backward",
        "s/valid",
    )
    for heading in ("variant", *headings):
        made.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    for row in rows:
        estimates = {key: Estimate(**value) for key, value in row["figures"].items()}
        cells = []
        for key in FIGURES:
            value = estimates[key].value if key in estimates else None
            cells.append("-" if value is None else f"{value:.4f}" if key.endswith(("mae", "l1")) else f"{value:.4g}")
        made.add_row(row["name"], *cells)
    return made
