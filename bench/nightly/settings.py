"""What a night is to do: the command line of `python -m bench.nightly`."""

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from backends import BACKENDS
from bench.config import find_preset
from bench.errors import UsageError
from bench.registry import check_name

RUNS = Path("runs")
HELP = """Measure this version of the code as the workflows do: doctor, verify, the matrix in several processes,
gate against the last green night of this machine, report, a copy in MLflow. Killed, the same command goes on.
Exit code 0: green; 1: red; 2: wrong usage. docs/nightly.md says more."""


class Settings(BaseModel):
    """What decides what is measured; a night goes on only under the same.

    Attributes:
        presets: names or TOML files; empty is this device's own (`plan.default_presets`).
        backends: empty is every faithful one that is available.
        repeats: processes that measure the whole matrix; three on each side are the fewest that can show a slowdown.
        limit: images a dataset instead of the presets' own; None leaves these.
        verify_limit: images of the accuracy gate.
        verify_repeats: calls of each network in its repeatability check.
        assignments: `-s` texts for verify and matrix.
        device: "auto", "cpu" or "cuda".
        against: git reference that is measured too, in turns, and gated against instead of the history; or "".
        factor: slowdown that the gate lets pass.
        accept: a red gate does not make the night red, so that it becomes the new base.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    presets: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    repeats: int = 3
    limit: int | None = None
    verify_limit: int = 4
    verify_repeats: int = 10
    assignments: tuple[str, ...] = ()
    device: str = "auto"
    against: str = ""
    factor: float = 1.10
    accept: bool = False


class Places(BaseModel):
    """Where a night reads and writes, and how it is run; these do not change what is measured.

    Attributes:
        output: folder of the night.
        history: green nights, by machine.
        keep: green nights of a machine that are kept.
        no_keep: this one is not: what it measured is no base for others.
        runs: folder beside which MLflow's own store lies.
        track: copy the records into MLflow.
        step_minutes: a step that takes longer is ended and counts as failed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    history: Path
    keep: int
    no_keep: bool
    runs: Path
    track: bool
    step_minutes: float
    fresh: bool


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench.nightly", description=HELP, allow_abbrev=False)
    add, default = parser.add_argument, Settings()
    add("--backend", action="append", default=[], help="repeatable (default: eager and every available one)")
    add("--preset", action="append", default=[], help="name or TOML file; repeatable (default: the device's own)")
    add("--repeats", type=_positive, default=default.repeats, help="processes a side (default: %(default)s)")
    add("--limit", type=_positive, default=None, help="images a dataset, instead of the presets' own")
    add("--verify-limit", type=_positive, default=default.verify_limit, help="images to verify (default: %(default)s)")
    add("--set", "-s", action="append", default=[], metavar="A.B=V", help="configuration key of verify and matrix")
    add("--device", default=default.device, help="auto, cpu or cuda (default: %(default)s)")
    add("--against", default="", metavar="REF", help="measure this git reference too and gate against it")
    add("--factor", type=_factor, default=default.factor, help="slowdown that passes (default: %(default)s)")
    add("--accept", action="store_true", help="a red gate does not make the night red: it is the new base")
    add("--output", "-o", type=Path, default=None, help="folder of the night (default: runs/nightly/DATE)")
    add("--history", type=Path, default=RUNS / "nights", help="folder of green nights (default: %(default)s)")
    add("--keep", type=_positive, default=30, help="green nights of a machine to keep (default: %(default)s)")
    add("--no-keep", action="store_true", help="do not keep this night: no later one is gated against it")
    add("--runs", type=Path, default=RUNS, help="where MLflow's store lies if no server is named")
    add("--no-track", action="store_true", help="no copy in MLflow")
    add("--step-minutes", type=_minutes, default=90.0, help="a step that takes longer fails (default: %(default)s)")
    add("--fresh", action="store_true", help="start over instead of going on")
    return parser


def parse(arguments: Sequence[str] | None) -> tuple[Settings, Places]:
    """Settings and places of a command line.

    Raises:
        UsageError: an unknown backend or preset.
    """
    given = _parser().parse_args(arguments)
    for name in given.backend:
        check_name(BACKENDS, name, "backend")
    settings = Settings(
        presets=tuple(dict.fromkeys(given.preset)),
        backends=tuple(dict.fromkeys(given.backend)),
        repeats=given.repeats,
        limit=given.limit,
        verify_limit=given.verify_limit,
        assignments=tuple(given.set),
        device=given.device,
        against=given.against,
        factor=given.factor,
        accept=given.accept,
    )
    check_presets(settings.presets)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    places = Places(
        output=given.output or RUNS / "nightly" / today,
        history=given.history,
        keep=given.keep,
        no_keep=given.no_keep,
        runs=given.runs,
        track=not given.no_track,
        step_minutes=given.step_minutes,
        fresh=given.fresh,
    )
    return settings, places


def check_presets(presets: Sequence[str]) -> None:
    """Refuse presets that are not there, or whose folders in a night would have one name.

    Raises:
        UsageError: names the preset.
    """
    stems: dict[str, str] = {}
    for preset in presets:
        find_preset(preset)
        stem = Path(preset).stem
        if stem in stems or stem in ("verify", "base", "logs", "base-code"):
            raise UsageError(f"--preset {preset}: another folder of the night has the name {stem!r}; rename the file")
        stems[stem] = preset


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _factor(text: str) -> float:
    value = float(text)
    if not 1 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} is no slowdown between 1 and 100")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10000")
    return value
