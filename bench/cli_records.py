"""The verbs that read finished records: `show`, `report` and `judge`."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from bench.cli_options import RUNS, RunsOption, console
from bench.errors import UsageError

FORMATS = ("text", "csv", "markdown", "latex")


def print_suite(suite: Any, cells: Any = None, missing: Sequence[str] = ()) -> None:
    """The final table of a suite, published figures on its datasets, and its notes.

    Args:
        cells: `reports.records.Cell` of the suite; None: those that suite.json holds.
        missing: names of cells that were never begun.
    """
    from reports.quoted import quoted_table
    from reports.table import printable
    from reports.tables import terminal_table

    out = console()
    out.print(terminal_table(suite, cells, missing))
    quoted = quoted_table(suite)
    if quoted is not None:
        out.print(quoted)
    for cell in suite.cells if cells is None else [cell.record for cell in cells]:
        for key, reason in cell.notes.items():
            out.print(printable(f"{cell.id}  {key}: {reason}"), highlight=False, soft_wrap=True, markup=False)


def show(
    folder: Annotated[Path, typer.Argument(help="A suite's folder.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")] = "text",
    everything: Annotated[bool, typer.Option("--all", help="With latex: every column, not only a paper's.")] = False,
) -> None:
    """Print the table of a recorded suite, also as a file would hold it."""
    from bench.record import missing_cells
    from bench.registry import suggestion
    from reports.records import cells_in, probed, read_suites
    from reports.table import to_csv, to_latex, to_markdown
    from reports.tables import summary_table

    if form not in FORMATS:
        raise UsageError(f"unknown --format {form!r}; {suggestion(form, FORMATS)}")
    if everything and form != "latex":
        raise UsageError(f"--all is for --format latex; {form} always has every column")
    found = read_suites([folder])
    suite, cells = found[0][0], [probed(cell) for cell in cells_in(found)]
    missing = missing_cells(suite, [cell.record for cell in cells])
    if form == "text":
        print_suite(suite, cells, missing)
        return
    table = summary_table(cells, missing=missing)
    table = replace(table, caption=f"{suite.id}: {table.caption}")
    if form == "latex":
        typer.echo(to_latex(table, everything), nl=False)
    else:
        typer.echo({"csv": to_csv, "markdown": to_markdown}[form](table), nl=False)


def report(
    folders: Annotated[
        Optional[list[Path]], typer.Argument(metavar="[RUN]...", help="Suites' folders, or folders that hold suites.")
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option("--output", "-o", metavar="HTML", help="One page of all (default: report.html in each suite)."),
    ] = None,
    mlflow: Annotated[
        Optional[str], typer.Option("--mlflow", metavar="EXPERIMENT", help="Also read the suites of this experiment.")
    ] = None,
    uri: Annotated[
        str, typer.Option("--uri", help="Tracking server of --mlflow instead of the SQLite store in --runs.")
    ] = "",
    runs: RunsOption = RUNS,
    grid: Annotated[
        Optional[Path], typer.Option("--grid", help="Also write a picture grid of all of them to this PNG.")
    ] = None,
    results: Annotated[
        Optional[Path], typer.Option("--results", help="Also write the figures by method to this JSON file.")
    ] = None,
    sweep: Annotated[
        Optional[Path],
        typer.Option("--sweep", help="Also write a picture of several reference values an image to this PNG."),
    ] = None,
    difference: Annotated[
        str, typer.Option("--difference", help="What the sweep's differences are to: reconstruction or input.")
    ] = "reconstruction",
    images: Annotated[int, typer.Option("--images", min=1, help="Images of the sweep.")] = 4,
) -> None:
    """Write HTML pages from records alone; unfinished and failed suites are shown as far as they came."""
    if not folders and mlflow is None:
        raise UsageError("name a suite's folder, or an experiment with --mlflow EXPERIMENT")
    if uri and mlflow is None:
        raise UsageError("--uri names the server of --mlflow EXPERIMENT; give that too")
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output} is not the name of an HTML file")
    if mlflow is not None and output is None:
        output = Path(f"report-{_file_name(mlflow)}.html")
    from reports.records import suite_folders

    found = [suite for folder in folders or [] for suite in suite_folders(folder)]
    with _downloaded(mlflow, uri, runs) as more:
        _write_reports([*found, *more], output, grid, results, sweep, difference, images)


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "mlflow"


@contextlib.contextmanager
def _downloaded(experiment: str | None, uri: str, runs: Path) -> Iterator[list[Path]]:
    """Suites of an MLflow experiment, rebuilt in a folder that is removed afterwards."""
    if experiment is None:
        yield []
        return
    from bench.sections import TrackingConfig
    from bench.tracking import download_suites

    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        found = download_suites(TrackingConfig(uri=uri, experiment=experiment), runs, Path(folder))
        if not found:
            raise UsageError(f"--mlflow {experiment}: the experiment holds no suite; `bench track DIR` imports records")
        yield found


def _write_reports(
    folders: list[Path],
    output: Path | None,
    grid: Path | None,
    results: Path | None,
    sweep: Path | None,
    difference: str,
    images: int,
) -> None:
    from reports.pages.report import write_page, write_report
    from reports.results import write_grid, write_results

    if sweep is not None:  # it asks most of the records, so it is refused before anything is written
        typer.echo(_write_sweep(folders, sweep, difference, images))
    if output is not None:
        typer.echo(write_report(folders, output))
    for folder in folders:
        if output is None:
            typer.echo(write_page(folder))
        if results is not None:
            typer.echo(write_results(folder, results))
    if grid is not None:
        typer.echo(write_grid(folders, grid))


def _write_sweep(folders: list[Path], path: Path, difference: str, images: int) -> Path:
    from bench.registry import suggestion
    from reports.sweep import BASES, write_sweep

    if path.suffix.lower() != ".png":
        raise UsageError(f"--sweep {path} is not the name of a PNG file")
    if difference not in BASES:
        raise UsageError(f"unknown --difference {difference!r}; {suggestion(difference, BASES)}")
    return write_sweep(folders, path, difference, images)


def judge(
    folders: Annotated[list[Path], typer.Argument(help="Suites' folders.")],
    draws: Annotated[
        Optional[int],
        typer.Option("--draws", min=0, help="Fresh filter noises an image, instead of the recorded number."),
    ] = None,
    assignments: Annotated[
        Optional[list[str]],
        typer.Option(
            "--set",
            "-s",
            metavar="A.B=V",
            help="metrics.KEY, weights.identity, weights.attributes or weights.type; or weights.regressor and "
            "weights.oracle repeated as recorded, where they are code that may be called.",
        ),
    ] = None,
) -> None:
    """Compute every metric of finished cells again, from their saved images and without a search."""
    from bench.progress import Display

    with Display() as display:
        display.begin("starting", 0)
        display.phase("importing PyTorch")
        from bench.rejudge import rejudge
        from reports.pages.report import write_page

        suites = []
        for folder in folders:
            suites.append(rejudge(folder, draws, display, assignments or []))
            write_page(folder)
    for suite in suites:
        print_suite(suite)
