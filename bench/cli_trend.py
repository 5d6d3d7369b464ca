"""The verb that shows figures over nights: `trend`."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bench.cli_options import RUNS, RunsOption, console

if TYPE_CHECKING:
    from reports.trend import Trend


def trend(
    folders: Annotated[
        Optional[list[Path]],
        typer.Argument(metavar="FOLDER", help="Folders that hold suites, at any depth (default: --runs)."),
    ] = None,
    mlflow: Annotated[
        Optional[str], typer.Option("--mlflow", metavar="EXPERIMENT", help="Also read the suites of an experiment.")
    ] = None,
    uri: Annotated[str, typer.Option("--uri", help="Tracking server of --mlflow instead of the SQLite store.")] = "",
    runs: RunsOption = RUNS,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", metavar="FILE", help="The page (default: trend.html in --runs).")
    ] = None,
    metric: Annotated[
        Optional[list[str]],
        typer.Option("--metric", metavar="KEY", help="Show this metric only, as in a record's summary; repeatable."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the figures as the last line.")] = False,
) -> None:
    """Show figures over nights: a chart a metric, changes of commit marked, steps named."""
    from bench.errors import UsageError
    from reports.trend import messages, terminal_tables, to_json
    from reports.trend_page import write_trend

    if uri and mlflow is None:
        raise UsageError("--uri needs --mlflow EXPERIMENT")
    named = folders or ([] if mlflow else [runs])
    found = _read(named, mlflow, uri, runs, metric or [])
    page = write_trend(found, output or runs / "trend.html")
    out = console()
    for table in terminal_tables(found):
        out.print(table)
    for message in messages(found):
        out.print(message, markup=False, highlight=False, soft_wrap=True)
    typer.echo(f"page     {page}")
    if json_output:
        typer.echo(json.dumps(to_json(found)))


def _read(folders: list[Path], experiment: str | None, uri: str, runs: Path, metrics: list[str]) -> "Trend":
    """The trend of folders and of an experiment, whose records are fetched for the time of reading."""
    from reports.trend import read_trend

    if experiment is None:
        return read_trend(folders, metrics)
    from bench.sections import TrackingConfig
    from bench.tracking import download_suites

    with TemporaryDirectory(prefix="bench-trend-") as temporary:
        config = TrackingConfig(uri=uri, experiment=experiment)
        download_suites(config, runs, Path(temporary), images=False, samples=False)
        names = ", ".join([*map(str, folders), f"experiment {experiment!r}"])
        return read_trend([*folders, Path(temporary)], metrics, names)
