"""`bench judge`: every metric of finished cells again, from the saved images, without a search.

What the search left (images, rows, timings) stays. Predictions, the table of samples, summary and notes are made anew
with the data, weights and metric options that the record names, or with others for the metrics alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import __version__
from bench.cell import build_judge, fingerprint, judging_roles, load_task, load_weights
from bench.checkpoints import Loaded
from bench.config import RunConfig, component_options, describe, parse_assignment
from bench.datasets import DATASETS
from bench.datasets.base import Dataset, Task
from bench.errors import UsageError
from bench.images import BadImage, read_image
from bench.judge import Judge, failures, judge_samples, write_table
from bench.progress import Display
from bench.record import CellRecord, Journal, SuiteRecord, now, read_suite, write_json
from bench.registry import check_name, resolve
from bench.sections import MetricsConfig
from bench.suite import locked
from metrics.frechet import inception_folder

KEPT_NOTES = ("backend", "timings/")
"""Notes on the search, by the start of their key; all others are the judge's."""
MEASURING = ("identity", "attributes")
"""Roles whose networks only measure, so that others may take their place."""


def rejudge(folder: Path, draws: int | None, display: Display, assignments: Sequence[str] = ()) -> SuiteRecord:
    """Judge every finished cell of a suite again and rewrite its tables and records.

    Args:
        draws: fresh filter noises an image, instead of the recorded `metrics.noise_draws` (older records: the default).
        assignments: "metrics.KEY=VALUE" and "weights.identity=FILE" (or weights.attributes), instead of the recorded.

    Raises:
        UsageError: no finished cell; data or weights are not those of the record; an image is not the recorded one;
            another assignment, as it would not be the same run any more.
    """
    suite = read_suite(folder)
    finished = [cell for cell in suite.cells if cell.status == "ok"]
    if not finished:
        raise UsageError(f"{folder} has no finished cell to judge")
    with locked(folder):
        changes = _changes(assignments) | ({} if draws is None else {("metrics", "noise_draws"): draws})
        config = _recorded_config(suite, changes, folder)
        replaced = {key for section, key in changes if section == "weights"}
        # All are loaded first: refuse before anything changes.
        loaded = [(record, *_load(config, record, folder, replaced)) for record in finished]
        for record, task, judge, weights in loaded:
            display.begin(record.id, len(task.ids))
            _judge_cell(record, task, judge, config.metrics, folder, display)
            _note_weights(record, weights)
            write_json(folder / record.id / "result.json", record)
        suite.config |= {"metrics": config.metrics.model_dump(mode="json"), "weights": dict(config.weights)}
        write_json(folder / "suite.json", suite)
    return suite


def _changes(assignments: Sequence[str]) -> dict[tuple[str, str], Any]:
    """(section, key) -> value of assignments that leave the run what it was."""
    changes = {}
    for text in assignments:
        keys, value = parse_assignment(text)
        if len(keys) != 2 or not (keys[0] == "metrics" or (keys[0] == "weights" and keys[1] in MEASURING)):
            raise UsageError(
                f"--set {text!r}: judging again can change metrics.KEY, weights.{' and weights.'.join(MEASURING)} only"
            )
        changes[keys[0], keys[1]] = value
    return changes


def _recorded_config(suite: SuiteRecord, changes: Mapping[tuple[str, str], Any], folder: Path) -> RunConfig:
    sections = {name: dict(suite.config.get(name, {})) for name in ("metrics", "weights")}
    for (section, key), value in changes.items():
        sections[section][key] = value
    try:
        config = RunConfig(**(suite.config | sections))
    except ValidationError as error:
        if (*error.errors()[0]["loc"][:2],) in changes:
            raise UsageError(describe(error)) from error
        raise UsageError(
            f"{folder / 'suite.json'} has a configuration of another version: {describe(error)}"
        ) from error
    inception = config.metrics.inception_weights
    if inception and inception_folder(inception)[0] is None:
        raise UsageError(f"metrics.inception_weights={inception}: {inception_folder(inception)[1]}")
    return config


def _load(
    config: RunConfig, record: CellRecord, folder: Path, replaced: set[str]
) -> tuple[Task, Judge, dict[str, Loaded]]:
    """A cell's data and judge, proved to be those of its record."""
    check_name(DATASETS, record.dataset, "dataset")
    # A folder may hold cells of several commands: a cell's own options and size count.
    options = config.options | record.options
    targets = tuple(record.facts.get("targets", ()))
    limit = record.samples // max(1, len(targets))
    changes = {"options": options, "limit": limit, "seed": record.seed, "targets": targets}
    config = config.model_copy(update=changes)
    source: Dataset = resolve(DATASETS, record.dataset, "dataset")(component_options(config, "dataset", record.dataset))
    weights = load_weights(config, source, judging_roles(config, source))
    task = load_task(config, source, weights["regressor"])
    _check_digests(record, task, {role: network for role, network in weights.items() if role not in replaced}, folder)
    return task, build_judge(weights, config.metrics, record.seed, task), weights


def _check_digests(record: CellRecord, task: Task, weights: Mapping[str, Loaded], folder: Path) -> None:
    recorded: dict[str, str] = record.facts["weights"]
    if task.digest != record.facts["data"]:
        raise UsageError(
            f"{folder / record.id}: the data of {record.dataset!r} are not those of the record; run it again"
        )
    for role, network in weights.items():
        # Records from before the filter judged lack its network where their method does not use it.
        if role in recorded and network.sha256 != recorded[role]:
            raise UsageError(
                f"{folder / record.id}: weights.{role} ({network.path}) are not those of the record "
                f"(sha256 {recorded[role][:12]}); restore that file"
            )


def _judge_cell(
    record: CellRecord, task: Task, judge: Judge, metrics: MetricsConfig, folder: Path, display: Display
) -> None:
    """Predictions and metrics of one cell; writes its table and fills in the record."""
    cell = folder / record.id
    rows = {row["id"]: row for row in Journal(cell / "samples.jsonl").rows()}
    missing = [name for name in task.ids if name not in rows]
    if missing:
        raise UsageError(f"{cell / 'samples.jsonl'} lacks sample {missing[0]!r} of a finished cell; run it again")
    for done, name in enumerate(task.ids, start=1):
        rows[name] |= _predictions(judge, rows[name], cell)
        display.phase("predicting on saved images", done)

    def show(done: int, total: int) -> None:
        display.phase("judging under fresh noise", done)

    tolerance = record.options[record.method]["tolerance"]
    judged = judge_samples(judge, task, list(rows.values()), cell, tolerance, metrics, show)
    write_table(judged.frame, cell)
    kept = {key: note for key, note in record.notes.items() if key.startswith(KEPT_NOTES)}
    record.notes = (
        kept | judged.notes | {"metrics": f"computed again from the saved images by {__version__} at {now()}"}
    )
    record.summary, record.failures, record.definitions = judged.summary, failures(judged.frame), judged.definitions


def _predictions(judge: Judge, row: dict[str, Any], cell: Path) -> dict[str, float]:
    """(r, o) on the image as saved, which has to be the one that was recorded."""
    if row["failure"]:
        return {}
    path = cell / "images" / row["image"]
    try:
        pixels = read_image(path)
    except BadImage as error:
        raise UsageError(f"{error}; run the cell again") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
        raise UsageError(f"{path} is not the image that was recorded (sha256 differs); run the cell again")
    prediction, oracle = judge.predict(pixels)
    return {"prediction": prediction, "oracle": oracle}


def _note_weights(record: CellRecord, weights: Mapping[str, Loaded]) -> None:
    """Name the networks that judged; an older record lacks the filter's."""
    recorded = record.facts["weights"]
    record.facts["weights"] = recorded | {role: network.sha256 for role, network in weights.items()}
    record.fingerprint = fingerprint(record.facts)
