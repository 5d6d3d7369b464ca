"""The JSON file that a study writes with `--results FILE`: its figures, the command, and what they were made with."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from bench.environment import environment
from bench.images import write_bytes

FACTS = ("python", "cpu", "cores", "threads", "packages", "git")
"""Of `bench.environment.environment`. No date and no load, so that the same study gives the same file again."""


def study_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the option that all studies have, `--results`.

    Args:
        module: as it is run, "bench.elpv.networks".
        description: the module's docstring, of which the first line is shown.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(description or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON of every figure")
    return parser


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """The option of studies of ELPV's photographs, `--path`; `data_folder(given.path, "--path ")` takes it."""
    parser.add_argument("--path", default="", help="folder with images/ (default: that of the package elpv-dataset)")


def write_results(path: Path, module: str, arguments: list[str] | None, content: dict[str, Any]) -> None:
    """Write a study's figures, whole or not at all; folders are made.

    Args:
        path: of the JSON file.
        module: as it is run, "bench.elpv.networks".
        arguments: those of its `main`; None for the command line's.
        content: plain JSON; comes after "command" and "environment" (`FACTS`).
    """
    words = sys.argv[1:] if arguments is None else arguments
    facts = environment("cpu")
    made = {
        "command": shlex.join(["python", "-m", module, *words]),
        "environment": {key: facts[key] for key in FACTS},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(made | content, indent=1) + "\n").encode())
