"""Verbs that bring published weights and data in. Heavy imports stay inside."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from bench.cli_options import resumable

WEIGHTS_HELP = "Where to write the weights: a FILE.safetensors, or a folder."


def import_weights(
    kind: Annotated[str, typer.Argument(help="See `python -m bench ls kinds`, and docs/weights.md.")],
    file: Annotated[Path, typer.Argument(help="The published file, as downloaded.")],
    output: Annotated[Path, typer.Option("--output", "-o", help=WEIGHTS_HELP)],
    config: Annotated[
        Optional[str],
        typer.Option("--config", help="Named published configuration or a JSON object; default: the one that fits."),
    ] = None,
) -> None:
    """Read a published checkpoint safely, check every key and shape, and write safetensors with a card."""
    from bench.importing.command import import_checkpoint

    for line in import_checkpoint(kind, file, output, config):
        typer.echo(line)


def prepare(
    name: Annotated[str, typer.Argument(help="celebahq or imdb-wiki-clean; see docs/data.md.")],
    root: Annotated[Path, typer.Option("--root", help="Folder of the data set, as downloaded.")],
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="Folder to write; default: beside the data set's own.")
    ] = None,
    size: Annotated[int, typer.Option("--size", help="Width of the images in pixels, 8 to 1024.")] = 256,
    split: Annotated[str, typer.Option("--split", help="train, valid, test or all.")] = "all",
) -> None:
    """Check a published data set, crop and resize it, and write it with a manifest."""
    from bench.preparing.command import prepare as prepare_data

    with resumable():
        for line in prepare_data(name, root, output, size, split):
            typer.echo(line)
