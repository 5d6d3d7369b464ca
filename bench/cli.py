"""The command line. Heavy imports stay inside the verbs, so that --help answers at once."""

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from bench import __version__, cli_data, cli_gate, cli_gates, cli_records, cli_trend
from bench.cli_options import RUNS, DeviceOption, JsonOption, RunsOption, configured, fail, resumable
from bench.errors import EXIT_SAMPLES_FAILED, BenchError, UsageError

EXPERIMENT = "counterfactual-bench"
"""`bench.sections.TrackingConfig`'s, which is not imported here."""
UriOption = Annotated[
    str, typer.Option("--uri", help="Tracking server or database, instead of $MLFLOW_TRACKING_URI or --runs' store.")
]

app = typer.Typer(
    name="bench",
    help="Counterfactual explanations of image regressors: methods, backends, metrics, records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _counted(number: int, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _plan_lines(built: Any) -> list[str]:
    """Resolve everything and describe it."""
    from bench.suite import resolve_suite

    lines = []
    for cell in resolve_suite(built):
        options = ", ".join(f"{name}: {options.model_dump_json()}" for name, options in cell.options.items())
        images, slots = _counted(len(cell.task.ids), "image"), _counted(built.batch_size, "slot")
        networks = ", ".join(f"{role} {loaded.path.name}" for role, loaded in cell.weights.items())
        lines.append(f"{cell.id}: {images}, {slots}, device {cell.device}; {options}; {networks}")
    return lines


@app.command()
@configured()
def run(
    built: Any,
    given: dict[str, Any],
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", metavar="DIR", help="Folder of this suite.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start over, or continue what is there (default).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve everything, run nothing.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Generate counterfactuals and measure them: the matrix dataset x method x backend."""
    from bench.progress import Display

    if dry_run:
        for line in _plan_lines(built):
            typer.echo(line)
        return
    with resumable(), Display() as display:
        display.begin("starting", 0)
        display.phase("importing PyTorch")
        from bench.suite import run_suite, suite_name

        folder = output or RUNS / suite_name(built)
        suite, errors = run_suite(built, given, folder, fresh, display)
        display.phase("writing the page")
        from bench.tracking.detached import copy_suite
        from reports.pages.report import write_page

        page = write_page(folder)
    cli_records.print_suite(suite)
    typer.echo(f"record  {folder / 'suite.json'}\npage    {page}")
    typer.echo(f"MLflow  {copy_suite(folder, RUNS, built.tracking)}")
    if json_output:
        typer.echo(suite.model_dump_json())
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(1)
    if any(cell.failures for cell in suite.cells):
        raise typer.Exit(EXIT_SAMPLES_FAILED)


@app.command()
@configured()
def validate(built: Any, given: dict[str, Any]) -> None:
    """Resolve a configuration, load its data and weights, and print the matrix."""
    for line in _plan_lines(built):
        typer.echo(line)
    typer.echo("valid")


app.command()(cli_gates.verify)
app.command()(cli_gates.compare)
app.command()(cli_gate.gate)


@app.command("ls")
def list_components(
    what: Annotated[
        Optional[str], typer.Argument(help="backends, methods, datasets, metrics, presets, recipes or kinds.")
    ] = None,
) -> None:
    """List what is there."""
    from bench.listing import listing

    for line in listing(what):
        typer.echo(line)


app.command()(cli_records.show)
app.command()(cli_records.report)
app.command()(cli_records.judge)
app.command()(cli_trend.trend)


app.command("import")(cli_data.import_weights)
app.command()(cli_data.prepare)


@app.command()
def track(
    paths: Annotated[list[Path], typer.Argument(help="Suites' folders, or cards of trained weights (.json).")],
    runs: RunsOption = RUNS,
    uri: UriOption = "",
    experiment: Annotated[str, typer.Option("--experiment", help="Name in MLflow.")] = EXPERIMENT,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Copy the pictures, too (default).")] = True,
    tag: Annotated[
        Optional[list[str]], typer.Option("--tag", metavar="KEY=VALUE", help="A tag of all these runs; repeatable.")
    ] = None,
) -> None:
    """Import records into MLflow; what is there already is left alone."""
    from bench.record import read_suite
    from bench.sections import TrackingConfig
    from bench.tracking import Tracker
    from bench.tracking.names import own_tags
    from bench.tracking.reading import read_training

    config = TrackingConfig(uri=uri, experiment=experiment, images=images)
    tracker = Tracker(runs, config, own_tags(tag or []))
    for path in paths:
        read_training(path) if path.is_file() else read_suite(path)
    for path in paths:
        if path.is_file():
            typer.echo(f"{path}: {'written to' if tracker.import_training(path) else 'is in'} {tracker.uri}")
        else:
            typer.echo(f"{path}: {tracker.import_suite(path)} new cells in {tracker.uri}")


@app.command()
def ui(runs: RunsOption = RUNS, uri: UriOption = "", port: Annotated[int, typer.Option("--port")] = 5000) -> None:
    """Start the MLflow page on 127.0.0.1 with the right store; a tracking server has a page of its own."""
    from bench.sections import TrackingConfig
    from bench.tracking import redacted, store_uri
    from bench.tracking.page import page_command, show_page

    store = store_uri(runs, TrackingConfig(uri=uri))
    command = page_command(store, port)
    typer.echo(f"http://127.0.0.1:{port}  ({redacted(store)}); suites are under an experiment's Runs")
    raise typer.Exit(show_page(command, store))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="See `python -m bench ls recipes`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the weights and their card.")] = RUNS
    / "weights",
    initial: Annotated[
        Optional[Path], typer.Option("--from", metavar="FILE", help="Imported weights to start from (celebahq/*).")
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            "--data", metavar="DIR", help="Prepared data set (celebahq/*), or a copy of elpv-dataset's data/."
        ),
    ] = None,
    device: DeviceOption = None,
    steps: Annotated[
        Optional[int], typer.Option("--steps", min=1, help="Train this many steps instead of the recipe's.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Start over, or continue a checkpoint (default).")
    ] = False,
    runs: RunsOption = RUNS,
) -> None:
    """Train a network of the benchmark; killed at any time, the same command goes on."""
    from bench.training.command import tracked, train_and_export

    with resumable():
        card = train_and_export(recipe, output, device or "auto", steps, fresh, runs, initial, data)
        typer.echo(tracked(card, runs))


@app.command()
def doctor() -> None:
    """Say what this machine can run, and what to install for the rest."""
    from bench.doctor import diagnose

    healthy = True
    for line, ok in diagnose():
        typer.echo(line)
        healthy = healthy and ok
    raise typer.Exit(0 if healthy else 1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _refuse_stray_bytes(arguments: list[str]) -> None:
    """Records are UTF-8, and hold the command and the names in it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"argument {argument!a} is not UTF-8; rename the file or folder") from error


def main() -> None:
    """Run the command line; every expected error is one sentence on standard error."""
    try:
        _refuse_stray_bytes(sys.argv[1:])
        app()
    except BenchError as error:
        fail(str(error), error.exit_code)
