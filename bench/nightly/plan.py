"""The steps of a night, in order. Nothing is run here."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.config import find_preset
from bench.nightly.settings import Settings

Kind = Literal["doctor", "verify", "measure", "base", "gate", "alone", "report", "track"]
EXIT_NOT_COMPARABLE = 3
PASSING: dict[Kind, frozenset[int]] = {"measure": frozenset({0, 3}), "base": frozenset({0, 3})}
"""Exit codes that are fine, where these are not 0 alone: that some samples have no counterfactual is the gate's
to judge."""
MEASURED = ("verify", "measure", "base")
"""Kinds of steps that are not done again when a night goes on; the others are quick, and see what is there now."""
BASE_CODE = "base-code"
TRACK_SECONDS = 600.0


@dataclass(frozen=True)
class Step:
    """One command of the night.

    Attributes:
        arguments: after `python -m MODULE`.
        preset: whose step it is; "" for those of the whole night.
        code: folder whose version of this project runs; None is this one.
        output: folder that is emptied before.
        limit_s: seconds after which it is ended; None is the night's own limit.
        module: what runs.
    """

    name: str
    kind: Kind
    arguments: tuple[str, ...]
    preset: str = ""
    code: Path | None = None
    output: Path | None = None
    limit_s: float | None = field(default=None, compare=False)
    module: str = "bench"

    @property
    def passing(self) -> frozenset[int]:
        """Exit codes that are fine."""
        return PASSING.get(self.kind, frozenset({0}))


def default_presets(device: str) -> tuple[str, ...]:
    """Square and a larger preset, in the size for a device ("cpu", "cuda", "cuda:0")."""
    small = "-small" if device == "cpu" else ""
    return (f"nightly{small}", f"nightly{small}-larger")


def stem(preset: str) -> str:
    """A preset's folder in the night; its file need not exist any more."""
    return Path(preset).stem


def first_steps(settings: Settings, out: Path) -> list[Step]:
    """Doctor and verify; verify sees the first preset, whose networks and methods the others share or add to."""
    verified = [name for name in settings.backends if name != "eager"] or ["eager"]
    shared = _shared(settings, settings.presets[0], verified, settings.verify_limit, out / "verify")
    return [
        Step("doctor", "doctor", ("doctor",)),
        Step(
            "verify",
            "verify",
            ("verify", *shared, "--repeats", str(settings.verify_repeats)),
            output=out / "verify",
        ),
    ]


def matrix_steps(settings: Settings, out: Path) -> Iterator[Step]:
    """Every repeat of every preset, each its own process.

    The order of backends turns by one from repeat to repeat, and where two versions are measured they take turns
    (A B, B A, A B, ...), so that a machine that slows down or warms up favours none.
    """
    for repeat in range(settings.repeats):
        turn = repeat % len(settings.backends)
        backends = settings.backends[turn:] + settings.backends[:turn]
        for preset in settings.presets:
            sides: list[tuple[Kind, str]] = [("measure", "")]
            if settings.against:
                sides.insert(0, ("base", "base/"))
                sides = sides[::-1] if repeat % 2 else sides
            for kind, prefix in sides:
                folder = out / prefix / stem(preset) / f"repeat-{repeat + 1}"
                yield Step(
                    f"{prefix}{stem(preset)}/repeat-{repeat + 1}",
                    kind,
                    ("run", *_shared(settings, preset, backends, settings.limit, folder)),
                    preset=stem(preset),
                    code=out / BASE_CODE if kind == "base" else None,
                    output=folder,
                )


def gate_step(settings: Settings, out: Path, name: str, base: Path) -> Step:
    """The gate of one preset.

    Args:
        name: the preset's folder in the night.
        base: what it is gated against.
    """
    sides = str(base), str(out / name)
    arguments = ("gate", *sides, "--factor", f"{settings.factor:g}", *_gate_options(out, f"gate-{name}"))
    return Step(f"gate {name}", "gate", arguments, preset=name)


def alone_step(out: Path, name: str) -> Step:
    """What can be judged of one preset without a base: whether all is there and whole, and the repeats agree."""
    arguments = (str(out / name), *_gate_options(out, f"alone-{name}"))
    return Step(f"gate {name} alone", "alone", arguments, preset=name, module="bench.nightly.alone")


def gate_files(out: Path, name: str) -> list[Path]:
    """What the gates of one preset write: Markdown, JUnit and JSON, with a base and alone."""
    return [out / f"{kind}-{name}.{suffix}" for kind in ("gate", "alone") for suffix in ("md", "xml", "json")]


def _gate_options(out: Path, stem: str) -> list[str]:
    files = [("--markdown", "md"), ("--junit", "xml"), ("-o", "json")]
    options = [text for option, suffix in files for text in (option, str(out / f"{stem}.{suffix}"))]
    return [*options, "--verify", str(out / "verify")] if (out / "verify" / "verify.json").is_file() else options


def report_step(out: Path, names: Sequence[str]) -> Step | None:
    """One page of every preset's first repeat, unfinished ones too; None where none has begun."""
    found = [suites[0] for name in names if (suites := recorded(out, name))]
    return Step("report", "report", ("report", *map(str, found), "-o", str(out / "report.html"))) if found else None


def track_step(out: Path, name: str, night: str, runs: Path) -> Step | None:
    """The copy of every repeat of one preset in MLflow; None where none has begun.

    Args:
        name: the preset's folder in the night.
        night: the night's id.
    """
    found = [str(suite) for suite in recorded(out, name)]
    tags = ("--tag", f"night={night}", "--tag", f"preset={name}")
    arguments = ("track", *found, "--runs", str(runs), *tags)
    return Step(f"track {name}", "track", arguments, preset=name, limit_s=TRACK_SECONDS) if found else None


def recorded(out: Path, name: str) -> list[Path]:
    """A preset's repeats that have a record, in order."""
    return sorted((path.parent for path in (out / name).glob("repeat-*/suite.json")), key=lambda path: path.name)


def _shared(
    settings: Settings, preset: str, backends: Sequence[str], limit: int | None, folder: Path
) -> tuple[str, ...]:
    """Options of `verify` and `run`. The preset is named by its file, as another version may have another one."""
    named = [text for name in backends for text in ("--backend", name)]
    assigned = [text for value in (*settings.assignments, "tracking.enabled=false") for text in ("-s", value)]
    limited = [] if limit is None else ["--limit", str(limit)]
    file = str(find_preset(preset).resolve())
    return ("-c", file, *named, "--device", settings.device, *assigned, *limited, "-o", str(folder))


def step_environment(step: Step, code: Path) -> dict[str, str]:
    """The environment of a step: `code` is what `import bench` finds, and only `track` knows the MLflow server.

    Args:
        code: root of this version, used where the step names none.
    """
    # A workflow sets a secret that it does not have to "".
    found = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("MLFLOW_") or (step.kind == "track" and value)
    }
    earlier = [found["PYTHONPATH"]] if found.get("PYTHONPATH") else []
    found["PYTHONPATH"] = os.pathsep.join([str((step.code or code).resolve()), *earlier])
    # Else the current folder, which may hold another version, comes before PYTHONPATH.
    found["PYTHONSAFEPATH"] = "1"
    found["PYTHONUNBUFFERED"] = "1"
    return found


def command(step: Step) -> list[str]:
    """What is executed."""
    return [sys.executable, "-m", step.module, *step.arguments]
