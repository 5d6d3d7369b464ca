"""The verbs that judge: `verify` (is a backend accurate?) and `compare` (is it slower or worse?)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from bench.cli_options import RUNS, JsonOption, configured, console, resumable
from bench.errors import UsageError


@configured()
def verify(
    built: Any,
    given: dict[str, Any],
    repeats: Annotated[
        int, typer.Option("--repeats", min=2, help="Calls of each network in the repeatability check.")
    ] = 50,
    strict: Annotated[bool, typer.Option("--strict", help="Inconclusive counts as a failure too.")] = False,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", metavar="DIR", help="Folder of verify.json and both suites.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start over (default), or keep samples of an interrupted one.")
    ] = True,
    json_output: JsonOption = False,
) -> None:
    """Prove backends accurate against eager float32: networks, then counterfactuals. Exit 1 when one is different.

    Without --backend every available one is verified. Margins are in the section [verify] of the configuration.
    """
    from bench.progress import Display

    with resumable("interrupted; --resume goes on from here"), Display() as display:
        display.begin("starting", 0)
        display.phase("importing PyTorch")
        from bench import verify as gate

        backends = given.get("backend") or gate.candidates()
        folder = output or RUNS / _folder_name(built, backends)
        record = gate.verify(built, given, backends, folder, repeats, fresh, display)
    from reports.gates import margins_line, network_table, verdict_table

    out = console()
    out.print(network_table(record))
    out.print(verdict_table(record))
    for result in record.results:
        typer.echo(f"{result.dataset} {result.method} {result.backend}: {result.verdict}")
        for reason in result.reasons:
            typer.echo(f"  {reason}")
    typer.echo(f"{margins_line(built.verify)}\nrecord  {folder / 'verify.json'}")
    if json_output:
        typer.echo(record.model_dump_json())
    if record.count("different") or (strict and record.count("inconclusive")):
        raise typer.Exit(1)


def _folder_name(built: Any, backends: Sequence[str]) -> str:
    """The same command gives the same name."""
    content = json.dumps([built.model_dump(mode="json", exclude={"tracking"}), *backends], sort_keys=True)
    return "-".join(["verify", *built.dataset, *backends])[:80] + "-" + hashlib.sha256(content.encode()).hexdigest()[:8]


@configured("backend")
def compare(
    built: Any,
    given: dict[str, Any],
    base: Annotated[str, typer.Argument(help="Folder of a recorded suite or cell, or a backend's name.")],
    new: Annotated[list[str], typer.Argument(help="What is compared with it, of the same kind.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=1.0, help="A slowdown beyond this factor is a regression.")
    ] = 1.05,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="A/B/B/A rounds, where backends are measured.")] = 10,
    pair: Annotated[
        Optional[list[str]],
        typer.Option(
            "--pair", metavar="BASE=NEW", help="Compare two methods on the same images; records only; repeatable."
        ),
    ] = None,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", metavar="JSON", help="Also write the comparison to this file.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Compare records of one machine, or measure backends against each other, interleaved.

    Exit 1 when something regressed or is missing, 3 when the records are not comparable.
    """
    from bench.compare import is_record, parse_pairs
    from bench.images import write_bytes

    pairs = parse_pairs(pair or [])
    given_kinds = {name: is_record(name) for name in (base, *new)}
    if all(given_kinds.values()):
        document, verdicts = _compare_records(built, base, new, tolerance, pairs)
    elif pairs:
        raise UsageError("--pair compares methods of recorded suites; give folders of records")
    elif not any(given_kinds.values()):
        document, verdicts = _compare_backends(built, base, new, tolerance, rounds)
    else:
        records = ", ".join(name for name, recorded in given_kinds.items() if recorded)
        others = ", ".join(name for name, recorded in given_kinds.items() if not recorded)
        raise UsageError(f"{records} is a record and {others} is none; give only folders of records or only backends")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(output, (json.dumps(document, indent=2) + "\n").encode())
        typer.echo(f"written {output}")
    if json_output:
        typer.echo(json.dumps(document))
    if verdicts & {"regressed", "missing"}:
        raise typer.Exit(1)


def _compare_records(
    built: Any, base: str, new: list[str], tolerance: float, pairs: Sequence[tuple[str, str]]
) -> tuple[dict[str, Any], set[str]]:
    from bench.compare import compare_records
    from reports.gates import comparison_table, rate_lines

    found = [compare_records(Path(base), Path(name), tolerance, built.verify, pairs) for name in new]
    out = console()
    for comparison in found:
        out.print(comparison_table(comparison))
        for line in rate_lines(comparison) if pairs else []:
            typer.echo(line)
    verdicts = {comparison.verdict for comparison in found}
    return {"kind": "records", "comparisons": [c.model_dump(mode="json") for c in found]}, verdicts


def _compare_backends(
    built: Any, base: str, new: list[str], tolerance: float, rounds: int
) -> tuple[dict[str, Any], set[str]]:
    from backends import BACKENDS
    from bench.registry import suggestion

    for name in (base, *new):
        if name not in BACKENDS:
            raise UsageError(f"{name!r} is neither a folder with a record nor a backend; {suggestion(name, BACKENDS)}")
    from bench.progress import Display

    with resumable("interrupted; nothing was recorded"), Display() as display:
        display.begin("starting", 0)
        display.phase("importing PyTorch")
        from bench.interleave import compare_backends
        from reports.gates import measured_table

        found = compare_backends(built, base, new, tolerance, rounds, display)
    console().print(measured_table(found))
    for name, gap in found.prediction_difference.items():
        typer.echo(f"{name}: predictions within {gap:.2g} of {base}'s after one step; `bench verify` judges accuracy")
    for name, flags in found.flags.items():
        typer.echo(f"{name}: timing flagged: {'; '.join(flags)}")
    verdicts = {verdict for phase in found.phases for verdict in phase.verdicts.values()}
    return {"kind": "interleaved", **found.model_dump(mode="json")}, verdicts
