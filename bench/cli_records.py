"""The verbs that read finished records: `show`, `report` and `judge`."""

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from bench.cli_options import console


def print_suite(suite: Any) -> None:
    """The final table of a suite, published figures on its datasets, and its notes."""
    from reports.quoted import quoted_table
    from reports.tables import terminal_table

    out = console()
    out.print(terminal_table(suite))
    quoted = quoted_table(suite)
    if quoted is not None:
        out.print(quoted)
    for cell in suite.cells:
        for key, reason in cell.notes.items():
            out.print(f"{cell.id}  {key}: {reason}", highlight=False, soft_wrap=True)


def show(folder: Annotated[Path, typer.Argument(help="A suite's folder.")]) -> None:
    """Print the table of a recorded suite."""
    from bench.record import read_suite

    print_suite(read_suite(folder))


def report(
    folders: Annotated[list[Path], typer.Argument(help="Suites' folders.")],
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
    """Write the HTML pages of recorded suites again."""
    from reports.pages.report import write_page
    from reports.results import write_grid, write_results

    if sweep is not None:  # it asks most of the records, so it is refused before anything is written
        typer.echo(_write_sweep(folders, sweep, difference, images))
    for folder in folders:
        typer.echo(write_page(folder))
        if results is not None:
            typer.echo(write_results(folder, results))
    if grid is not None:
        typer.echo(write_grid(folders, grid))


def _write_sweep(folders: list[Path], path: Path, difference: str, images: int) -> Path:
    from bench.errors import UsageError
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
            help="metrics.KEY, weights.identity or weights.attributes; or weights.regressor and weights.oracle "
            "repeated as recorded, where they are code that may be called.",
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
