"""Options that several verbs share. Imports nothing heavy."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

RUNS = Path("runs")

ConfigOption = Annotated[
    Optional[str],
    typer.Option("--config", "-c", metavar="FILE", help="Preset or TOML file (default: the data set's)."),
]
SetOption = Annotated[
    Optional[list[str]], typer.Option("--set", "-s", metavar="A.B=V", help="Set one configuration key; repeatable.")
]
BackendOption = Annotated[Optional[list[str]], typer.Option("--backend", help="Backend; repeatable.")]
MethodOption = Annotated[Optional[list[str]], typer.Option("--method", help="Method; repeatable.")]
DatasetOption = Annotated[Optional[list[str]], typer.Option("--dataset", help="Dataset; repeatable.")]
LimitOption = Annotated[Optional[int], typer.Option("--limit", help="Images a dataset, spread evenly; 0 is all.")]
SeedOption = Annotated[Optional[int], typer.Option("--seed", help="Seed of all noise.")]
BatchOption = Annotated[Optional[int], typer.Option("--batch-size", help="Slots of the search.")]
DeviceOption = Annotated[Optional[str], typer.Option("--device", help="auto, cpu or cuda.")]
TargetOption = Annotated[
    Optional[str],
    typer.Option(
        "--target", metavar="V,V,...", help="Reference values for every image: in [0, 1], or 10,40,80 (years, red)."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the record as the last line.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs, where the MLflow store lives.")]


def _reference_values(text: str) -> list[float]:
    """ "0.2,0.4" to [0.2, 0.4]; their range is the configuration's business."""
    from bench.errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"targets: --target {text!r} is not a list of numbers like 0.2,0.4 ({error})") from error


def _configure(
    backend: BackendOption = None,
    method: MethodOption = None,
    dataset: DatasetOption = None,
    limit: LimitOption = None,
    seed: SeedOption = None,
    batch_size: BatchOption = None,
    device: DeviceOption = None,
    target: TargetOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> tuple[Any, dict[str, Any]]:
    """The merged configuration, and what the user set."""
    from bench.config import build_config

    flags = {
        "backend": backend,
        "method": method,
        "dataset": dataset,
        "limit": limit,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "targets": None if target is None else _reference_values(target),
    }
    given = {key: value for key, value in flags.items() if value is not None and value != []}
    built = build_config(config, assignments or [], given)
    return built, {"config": config, "set": assignments or [], **given}


def configured(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options that make a configuration; it gets `built` and `given` instead of them.

    Args:
        without: shared options that the verb does not have.
    """
    shared = [p for p in inspect.signature(_configure).parameters.values() if p.name not in without]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(verb).parameters.values() if p.name not in ("built", "given")]

        @functools.wraps(verb)
        def command(**values: Any) -> None:
            built, given = _configure(**{parameter.name: values.pop(parameter.name) for parameter in shared})
            verb(built=built, given=given, **values)

        # Typer reads the options from the signature.
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared, *own)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del command.__wrapped__  # type: ignore[attr-defined]
        return command

    return decorate


def fail(text: str, code: int) -> NoReturn:
    """Print one sentence on standard error and end with `code`."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def resumable(text: str = "interrupted; the same command goes on from here") -> Iterator[None]:
    """Ctrl-C ends a verb with one sentence (`run` treats SIGTERM alike)."""
    try:
        yield
    except KeyboardInterrupt:
        fail(text, 130)


def console() -> Any:
    """Where tables are printed: as wide as the terminal, and wide enough for them in a file."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def ending(main: Callable[[list[str] | None], int]) -> Callable[[list[str] | None], int]:
    """Give the `main` of a study, which goes on where it was, the command line's endings.

    An expected error is one sentence and its exit code, Ctrl-C one sentence and 130.
    """

    @functools.wraps(main)
    def ended(arguments: list[str] | None = None) -> int:
        from bench.errors import BenchError

        try:
            return main(arguments)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code

    return ended
