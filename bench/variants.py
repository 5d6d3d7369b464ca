"""Variants of the methods, each run through the ordinary harness, and what came of them in one table and figure.

`python -m bench.variants -o runs/variants` runs every entry of `bench/variants.toml` as a suite of its own in
`runs/variants/NAME`; a finished one is not run again, and a killed one goes on. `--figure` and `--results` are made
from the records alone, of the variants that are finished.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table

from bench.config import RunConfig, build_config, component_options, describe, load_toml
from bench.errors import BenchError, RunError, UsageError
from bench.images import write_bytes
from bench.progress import Display
from bench.record import CellRecord, SuiteRecord, read_suite, write_json
from bench.registry import suggestion
from methods import noise
from metrics.intervals import Estimate, mean_estimate
from reports.front import front_figure

VARIANTS = Path(__file__).with_name("variants.toml")
FAMILIES = {"ac-re": "AC-RE", "diffae-re": "Diff-AE-RE"}
"""Beginning of a method's name -> title of its panels."""

FIGURES = {
    "success": "validity/success_rate",
    "noise_success": "validity/noise_success_rate",
    "square_mae": "quality/square_mae",
    "background_mae": "quality/background_mae",
    "oracle_target_mae": "validity/oracle_target_mae",
    "steps": "cost/steps",
    "forward": "cost/forward",
    "backward": "cost/backward",
    "seconds_per_valid": "throughput/seconds_per_valid",
}


class Variant(BaseModel):
    """One entry of the list.

    Attributes:
        name: of its folder.
        label: in the figure; the name where it is empty.
        group: "paper", "default" or "variant": colours of the figure.
        options: of the method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    method: str
    label: str = ""
    group: Literal["paper", "default", "variant"] = "variant"
    options: dict[str, Any] = {}

    @property
    def family(self) -> str:
        """The published method that it is a form of."""
        return next((title for prefix, title in FAMILIES.items() if self.method.startswith(prefix)), self.method)


def read_variants(path: Path = VARIANTS) -> list[Variant]:
    """The list.

    Raises:
        UsageError: not TOML, an entry with an unknown key or a bad value, or two of one name.
    """
    content = load_toml(path)
    if set(content) != {"variant"}:
        raise UsageError(f"{path} must hold [[variant]] entries and nothing else; it has {', '.join(content)}")
    try:
        variants = [Variant(**entry) for entry in content["variant"]]
    except ValidationError as error:
        raise UsageError(f"{path}: {describe(error, 'variant')}") from error
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: two variants are called {name!r}; rename one")
    return variants


def assignments_of(variant: Variant, assignments: list[str]) -> list[str]:
    """`-s` texts of a variant: the user's, then its own, which win."""
    own = [f"{variant.method}.{key}={json.dumps(value)}" for key, value in variant.options.items()]
    return [*assignments, *own]


def config_of(variant: Variant, flags: dict[str, Any], assignments: list[str]) -> RunConfig:
    """The suite of one variant, with its options checked.

    Args:
        flags: fields of `RunConfig`, as the command line's.
        assignments: `-s` texts for all variants.

    Raises:
        UsageError: names the variant and the key.
    """
    try:
        config = build_config(None, assignments_of(variant, assignments), flags | {"method": [variant.method]})
        component_options(config, "method", variant.method)
    except UsageError as error:
        raise UsageError(f"variant {variant.name!r}: {error}") from error
    return config


def ordinary_command(variant: Variant, flags: dict[str, Any], assignments: list[str], folder: Path) -> str:
    """The `bench run` command of the same suite."""
    words = ["python", "-m", "bench", "run", "--method", variant.method]
    for name in flags["backend"]:
        words += ["--backend", name]
    words += ["--limit", str(flags["limit"])]
    for text in assignments_of(variant, assignments):
        words += ["-s", text]
    return shlex.join([*words, "-o", str(folder)])


def run_variants(
    variants: list[Variant], flags: dict[str, Any], assignments: list[str], output: Path, display: Display
) -> list[str]:
    """Run what is not finished; a variant that fails does not end the list.

    Returns:
        The errors of failed variants.

    Raises:
        UsageError: a variant's options are wrong (nothing has run then), or its folder cannot be used.
    """
    from bench.suite import run_suite

    configs = [config_of(variant, flags, assignments) for variant in variants]
    errors: list[str] = []
    for number, (variant, config) in enumerate(zip(variants, configs, strict=True), start=1):
        folder = output / variant.name
        display.message(f"[{number}/{len(variants)}] {variant.name}")
        given = flags | {"method": [variant.method], "variant": variant.model_dump()}
        suite, failed = run_suite(config, given, folder, False, display)
        # The record names the command that makes this suite, not the one that made all of them.
        suite.command = ordinary_command(variant, flags, assignments, folder)
        write_json(folder / "suite.json", suite)
        errors += [f"{variant.name}: {error}" for error in failed]
    return errors


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
    headings = ("success", "fresh noise", "Square", "Background", "oracle", "steps", "forward", "backward", "s/valid")
    for heading in ("variant", *headings):
        made.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    for row in rows:
        estimates = {key: Estimate(**value) for key, value in row["figures"].items()}
        cells = []
        for key in FIGURES:
            value = estimates[key].value if key in estimates else None
            cells.append("-" if value is None else f"{value:.4f}" if key.endswith("mae") else f"{value:.4g}")
        made.add_row(row["name"], *cells)
    return made


def _selected(names: list[str]) -> list[Variant]:
    variants = read_variants()
    known = [variant.name for variant in variants]
    for name in names:
        if name not in known:
            raise UsageError(f"--only {name!r} is not in {VARIANTS.name}; {suggestion(name, known)}")
    return [variant for variant in variants if not names or variant.name in names]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.variants", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the suites; continued")
    parser.add_argument("--limit", type=int, default=64, help="images; 0 is all")
    parser.add_argument("--backend", default="compile")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable; default: all")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="A.B=V", help="as of `bench run`, for all")
    parser.add_argument("--figure", type=Path, help="PNG of error against network evaluations")
    parser.add_argument("--results", type=Path, help="JSON of every variant's figures")
    parser.add_argument("--no-run", action="store_true", help="only report what is recorded")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run, then report; returns the exit code."""
    try:
        given = _parse(arguments)
        variants = _selected(given.only)
        flags = {"backend": [given.backend], "limit": given.limit}
        errors: list[str] = []
        if not given.no_run:
            with Display() as display:
                errors = run_variants(variants, flags, given.set, given.output, display)
        for error in errors:
            print(f"error: {error}", file=sys.stderr)
        rows = collect(variants, given.output)
        if given.results:
            command = shlex.join(["python", "-m", "bench.variants", *(arguments or sys.argv[1:])])
            given.results.parent.mkdir(parents=True, exist_ok=True)
            content = {"command": command, "n": rows[0]["n"], "variants": rows}
            write_bytes(given.results, (json.dumps(content, indent=1) + "\n").encode())
        if given.figure:
            given.figure.parent.mkdir(parents=True, exist_ok=True)
            front_figure(rows).savefig(given.figure, dpi=130)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
