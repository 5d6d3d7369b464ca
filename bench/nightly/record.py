"""night.json: what a night was asked for, where it ran, how every step went."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import UsageError
from bench.nightly.machine import Machine
from bench.nightly.plan import stem
from bench.nightly.settings import Settings
from bench.nightly.steps import StepRecord
from bench.record import write_json

NIGHT = "night.json"
SCHEMA = 1
Verdict = Literal["running", "green", "red", "interrupted"]


class NightRecord(BaseModel):
    """night.json.

    Attributes:
        settings: resolved: presets and backends are those of this machine where none were given.
        commit: of this version; None outside a checkout.
        changes: hash of uncommitted changes to tracked files; "" where there are none.
        preset_files: preset's folder name -> sha256 of its file.
        against: commit that was measured too; "" without --against.
        bases: preset's folder name -> the records it was gated against; "" where there were none.
        unfit: preset's folder name -> why the other version could not measure it.
        notes: what a reader should know before the figures.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    command: str
    settings: Settings
    machine: Machine
    commit: str | None
    changes: str = ""
    preset_files: dict[str, str] = {}
    against: str = ""
    verdict: Verdict = "running"
    bases: dict[str, str] = {}
    unfit: dict[str, str] = {}
    notes: list[str] = []
    steps: list[StepRecord] = []
    started: str
    ended: str | None = None

    @property
    def id(self) -> str:
        """Sorts by time; safe as a file name."""
        moment = self.started.partition(".")[0].replace(":", "-")
        return f"{moment}Z-{(self.commit or 'unknown')[:8]}{'-changed' if self.changes else ''}"

    def presets(self) -> list[str]:
        """Folder names of the matrix."""
        return [stem(preset) for preset in self.settings.presets]

    def red(self) -> list[StepRecord]:
        """The steps that make it red."""
        return [step for step in self.steps if step.status == "failed"]

    def step(self, name: str) -> StepRecord | None:
        """The latest attempt of a step; None where it was not begun."""
        return next((step for step in self.steps if step.name == name), None)

    def put(self, step: StepRecord) -> None:
        """Add a step, or replace the earlier attempt of the same name."""
        self.steps = [*(other for other in self.steps if other.name != step.name), step]

    def identity(self) -> dict[str, object]:
        """What has to be the same for a night to go on."""
        return {
            "settings": self.settings,
            "machine": self.machine.facts,
            "commit": self.commit,
            "uncommitted changes": self.changes,
            "preset files": self.preset_files,
            "--against": self.against,
        }


def read_night(folder: Path) -> NightRecord | None:
    """night.json of a folder, or None where there is none.

    Raises:
        UsageError: damaged or of another version.
    """
    path = folder / NIGHT
    if not path.is_file():
        return None
    try:
        return NightRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path} is not a night of schema {SCHEMA}; use another --output or --fresh") from error


def write_night(folder: Path, night: NightRecord) -> None:
    """Write night.json whole or not at all."""
    write_json(folder / NIGHT, night)
