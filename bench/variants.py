"""Variants of the methods, each run through the ordinary harness, and what came of them in one table and figure.

`python -m bench.variants -o runs/variants` runs every entry of `bench/variants.toml` as a suite of its own in
`runs/variants/NAME`; a finished one is not run again, and a killed one goes on. `--figure` and `--results` are made
from the records alone, of the variants that are finished. `--list bench/ablation.toml` runs another list.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from bench.cli_options import console, ending
from bench.config import RunConfig, build_config, component_options
from bench.errors import UsageError
from bench.images import write_bytes
from bench.progress import Display
from bench.record import write_json
from bench.registry import suggestion
from bench.variant_list import VARIANTS, Variant, read_variants
from bench.variant_rows import collect, table
from reports.ablation import ablation_figure
from reports.front import front_figure


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


def _selected(names: list[str], path: Path) -> list[Variant]:
    variants = read_variants(path)
    known = [variant.name for variant in variants]
    for name in names:
        if name not in known:
            raise UsageError(f"--only {name!r} is not in {path}; {suggestion(name, known)}")
    return [variant for variant in variants if not names or variant.name in names]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.variants", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the suites; continued")
    parser.add_argument("--list", type=Path, default=VARIANTS, metavar="TOML", help="default: bench/variants.toml")
    parser.add_argument("--limit", type=int, default=64, help="images; 0 is all")
    parser.add_argument("--backend", default="compile")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable; default: all")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="A.B=V", help="as of `bench run`, for all")
    parser.add_argument("--figure", type=Path, help="PNG of error against network evaluations")
    parser.add_argument("--curves", type=Path, help="PNG of figures against distance weight and learning rate")
    parser.add_argument("--results", type=Path, help="JSON of every variant's figures")
    parser.add_argument("--no-run", action="store_true", help="only report what is recorded")
    return parser.parse_args(arguments)


@ending
def main(arguments: list[str] | None = None) -> int:
    """Run, then report; returns the exit code."""
    given = _parse(arguments)
    variants = _selected(given.only, given.list)
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
    for path, draw in ((given.figure, front_figure), (given.curves, ablation_figure)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(rows).savefig(path, dpi=130)
    console().print(table(rows))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
