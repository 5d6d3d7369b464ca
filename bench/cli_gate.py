"""The verb that decides for continuous integration: `gate`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from bench.cli_options import JsonOption, console

if TYPE_CHECKING:
    from bench.sections import VerifyConfig

RECORDS = ("suite.json", "result.json", "verify.json", "night.json")
"""Names that no file of the gate may have: it is deleted at the start."""


def gate(
    base: Annotated[Path, typer.Argument(help="What NEW is judged against: a suite's folder, or one of repeats.")],
    new: Annotated[Path, typer.Argument(help="A suite's folder, or a folder of process repeats (repeat-1, ...).")],
    factor: Annotated[
        float, typer.Option("--factor", min=1.0, help="Slower than this and significant is a regression.")
    ] = 1.10,
    strict: Annotated[bool, typer.Option("--strict", help="Inconclusive fails too.")] = False,
    verify: Annotated[
        Optional[Path],
        typer.Option("--verify", metavar="DIR", help="What `verify -o DIR` left for NEW (default: in NEW's folder)."),
    ] = None,
    assignments: Annotated[
        Optional[list[str]],
        typer.Option("--set", "-s", metavar="verify.KEY=V", help="Another margin of quality than BASE's; repeatable."),
    ] = None,
    markdown: Annotated[
        Optional[Path], typer.Option("--markdown", metavar="FILE", help="Summary for the job's page.")
    ] = None,
    junit: Annotated[Optional[Path], typer.Option("--junit", metavar="FILE", help="JUnit XML.")] = None,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", metavar="JSON", help="Also write the report to this file.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Is NEW as correct, as good and as fast as BASE? Correctness first, then quality, then speed.

    Exit 1 when something failed, regressed or is missing, 2 wrong usage, 3 when the two are not comparable.
    The files of an earlier gate are deleted first.
    """
    files = {"--markdown": markdown, "--junit": junit, "--output": output}
    _check_files(files)
    _delete(files)  # whatever happens now, nobody takes an earlier verdict for this one
    from bench.compare import NotComparable
    from bench.gate import gate as judge
    from bench.gate.repeats import one_line
    from reports import gate_report

    try:
        report = judge(base, new, factor, _margins(base, assignments or []), verify)
    except NotComparable as error:
        text = one_line(error)
        page = f"**Gate could not judge**: {gate_report.code(text)}\n"
        document = json.dumps({"verdict": "not comparable", "reason": text}, indent=2)
        junit_page = gate_report.junit_error(text)
        _write(files, {"--markdown": page.encode(), "--junit": junit_page, "--output": f"{document}\n".encode()})
        raise
    document = report.model_dump_json(indent=2)
    console().print(gate_report.gate_table(report))
    for line in [*gate_report.reason_lines(report), gate_report.headline(report, strict)]:
        typer.echo(line)
    page, cases = gate_report.markdown(report, strict), gate_report.junit(report, strict)
    _write(files, {"--markdown": page.encode(), "--junit": cases, "--output": f"{document}\n".encode()})
    if json_output:
        typer.echo(report.model_dump_json())
    if not report.passed(strict):
        raise typer.Exit(1)


def _margins(base: Path, assignments: list[str]) -> "VerifyConfig":
    """BASE's margins, with what was set.

    Raises:
        UsageError: another key than those of [verify], or a bad value.
    """
    from pydantic import ValidationError

    from bench.config import describe, parse_assignment
    from bench.errors import UsageError
    from bench.gate import recorded_margins
    from bench.registry import suggestion
    from bench.sections import VerifyConfig

    known, given = VerifyConfig.model_fields, dict[str, Any]()
    for keys, value in map(parse_assignment, assignments):
        if len(keys) != 2 or keys[0] != "verify":
            raise UsageError(f"--set {'.'.join(keys)}: a gate has margins only, such as verify.success_margin=0.02")
        if keys[1] not in known:
            raise UsageError(f"unknown configuration key 'verify.{keys[1]}'; {suggestion(keys[1], known)}")
        given[keys[1]] = value
    try:
        return VerifyConfig.model_validate(recorded_margins(base).model_dump() | given)
    except ValidationError as error:
        raise UsageError(describe(error, "verify")) from error


def _check_files(files: dict[str, Optional[Path]]) -> None:
    """Refuse, before anything is judged, a record, what is no file, and a folder that is none or is not writable.

    Raises:
        UsageError: names the option.
    """
    from bench.errors import UsageError

    for option, path in files.items():
        if path is None:
            continue
        if os.path.isdir(path):
            raise UsageError(f"{option} {path} is a folder; name a file in it")
        if path.name in RECORDS:
            raise UsageError(f"{option} {path} would replace a record; give the file another name")
        if os.path.lexists(path) and not os.path.isfile(path):
            raise UsageError(f"{option} {path} is no regular file; name one that can be replaced")
        parent = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not os.path.isdir(parent):
            raise UsageError(f"{option} {path} cannot be written: {parent} is no folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UsageError(f"{option} {path} cannot be written: {parent} is not writable")


def _delete(files: dict[str, Optional[Path]]) -> None:
    """Delete what an earlier gate left in these files.

    Raises:
        UsageError: names the option.
    """
    from bench.errors import UsageError

    for option, path in files.items():
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{option} {path} cannot be written: {error.strerror}") from error


def _write(files: dict[str, Optional[Path]], contents: dict[str, bytes]) -> None:
    from bench.errors import UsageError
    from bench.images import write_bytes

    for option, content in contents.items():
        path = files[option]
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
        except OSError as error:
            raise UsageError(f"{option} {path} cannot be written: {error.strerror}") from error
        typer.echo(f"written {path}")
