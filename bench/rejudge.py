"""Every metric of finished cells again, from the saved images, without a search: `bench judge`, and `bench run` where
a cell was judged with something else than is asked for now.

What the search left (images, rows, timings) stays. Predictions, the table of samples, summary and notes are made anew:
by `bench judge` with the data, weights and metric options that the record names, or with others for the metrics alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import __version__
from bench.cell import (
    Shared,
    build_judge,
    fingerprint,
    judged_with,
    judging_roles,
    load_weights,
    search_facts,
    searching_roles,
)
from bench.checkpoints import Loaded, weights_path
from bench.config import RunConfig, component_options, describe, parse_assignment
from bench.datasets import DATASETS
from bench.datasets.base import Dataset, Task
from bench.errors import UsageError
from bench.evaluators import MEASURING, label_digest
from bench.images import BadImage, read_saved
from bench.judge import Judge, failures, judge_samples, write_table
from bench.own_models import is_callable_reference
from bench.progress import Display
from bench.record import CellRecord, Journal, SuiteRecord, locked, now, read_suite, write_json
from bench.registry import check_name, resolve
from bench.sections import MetricsConfig
from methods import METHODS
from metrics.frechet import inception_folder

KEPT_NOTES = ("backend", "timings/")
"""Notes on the search, by the start of their key; all others are the judge's."""
CONFIRMED = ("regressor", "oracle")
"""Roles whose networks code can build; code that a record names is run only where the user names it too."""


def rejudge(folder: Path, draws: int | None, display: Display, assignments: Sequence[str] = ()) -> SuiteRecord:
    """Judge every finished cell of a suite again and rewrite its tables and records.

    Args:
        draws: fresh filter noises an image, instead of the recorded `metrics.noise_draws` (older records: the default).
        assignments: "metrics.KEY=VALUE" and "weights.identity=FILE" (or weights.attributes, weights.type), instead of
            the recorded; "weights.regressor=package.module:callable" (or weights.oracle), as recorded, so that it is
            called.

    Raises:
        UsageError: no finished cell; data or weights are not those of the record; the record names code to call that
            is not repeated in `assignments`; an image is not the recorded one; another assignment, as it would not be
            the same run any more.
    """
    suite = read_suite(folder)
    finished = [cell for cell in suite.cells if cell.status == "ok"]
    if not finished:
        raise UsageError(f"{folder} has no finished cell to judge")
    with locked(folder):
        changes = _changes(assignments, suite) | ({} if draws is None else {("metrics", "noise_draws"): draws})
        config = _recorded_config(suite, changes, folder)
        replaced = {key for section, key in changes if section == "weights" and key in MEASURING}
        _refuse_code(config, {key for section, key in changes if section == "weights"}, folder)
        # All are loaded first: refuse before anything changes.
        shared = Shared()
        loaded = [(record, *_load(config, record, folder, replaced, shared)) for record in finished]
        suite.config |= {"metrics": config.metrics.model_dump(mode="json"), "weights": dict(config.weights)}
        for record, task, judge, weights in loaded:
            display.begin(record.id, len(task.ids))
            judge_again(record, task, judge, weights, config.metrics, folder / record.id, display)
            write_json(folder / "suite.json", suite)
    return suite


def _changes(assignments: Sequence[str], suite: SuiteRecord) -> dict[tuple[str, str], Any]:
    """(section, key) -> value of assignments that leave the run what it was."""
    recorded = suite.config.get("weights", {})
    changes = {}
    for text in assignments:
        keys, value = parse_assignment(text)
        section, key = keys if len(keys) == 2 else ("", "")
        confirmed = section == "weights" and key in CONFIRMED and value == recorded.get(key)
        if not (section == "metrics" or (section == "weights" and key in MEASURING) or confirmed):
            raise UsageError(
                f"--set {text!r}: judging again can change only metrics.KEY, "
                f"{', '.join(f'weights.{role}' for role in MEASURING)}, and repeat "
                f"{' and '.join(f'weights.{role}' for role in CONFIRMED)} as recorded"
            )
        changes[section, key] = value
    return changes


def _refuse_code(config: RunConfig, given: set[str], folder: Path) -> None:
    """Refuse weights that would call code which the record alone names: a record may come from anywhere."""
    for role, reference in config.weights.items():
        # What `load_network` takes for a reference to code.
        if role not in given and is_callable_reference(reference) and not weights_path(reference).exists():
            raise UsageError(
                f"{folder / 'suite.json'}: weights.{role} is code that would be called ({reference}); "
                f"where you trust it, repeat it: -s weights.{role}={reference}"
            )


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
    config: RunConfig, record: CellRecord, folder: Path, replaced: set[str], shared: Shared
) -> tuple[Task, Judge, dict[str, Loaded]]:
    """A cell's data and judge, proved to be those of its record."""
    check_name(DATASETS, record.dataset, "dataset")
    check_name(METHODS, record.method, "method")
    # A folder may hold cells of several commands: a cell's own options and size count.
    options = config.options | record.options
    targets = tuple(record.facts.get("targets", ()))
    limit = record.samples // max(1, len(targets))
    changes = {"options": options, "limit": limit, "seed": record.seed, "targets": targets}
    config = config.model_copy(update=changes)
    source: Dataset = resolve(DATASETS, record.dataset, "dataset")(component_options(config, "dataset", record.dataset))
    weights = load_weights(config, source, judging_roles(config, source), shared)
    task = shared.task(config, source, weights["regressor"])
    _check_digests(record, task, {role: network for role, network in weights.items() if role not in replaced}, folder)
    searching = searching_roles(record.method, component_options(config, "method", record.method))
    record.facts = search_facts(record.facts, searching)
    record.fingerprint = fingerprint(record.facts)
    return task, build_judge(weights, config.metrics, record.seed, task), weights


def _check_digests(record: CellRecord, task: Task, weights: Mapping[str, Loaded], folder: Path) -> None:
    labels = None if task.attributes is None else label_digest(task.attributes)
    for what, same in (
        ("data", task.digest == record.facts["data"]),
        ("attribute labels", labels == record.judged.get("labels", labels)),
    ):
        if not same:
            raise UsageError(
                f"{folder / record.id}: the {what} of {record.dataset!r} are not those of the record; run it again"
            )
    for role, network in weights.items():
        # Records from before the filter judged lack its network where their method does not use it.
        recorded = record.weights.get(role, network.sha256)
        if network.sha256 != recorded:
            raise UsageError(
                f"{folder / record.id}: weights.{role} ({network.path}) are not those of the record "
                f"(sha256 {recorded[:12]}); restore that file"
            )


def judge_again(
    record: CellRecord,
    task: Task,
    judge: Judge,
    weights: Mapping[str, Loaded],
    metrics: MetricsConfig,
    cell: Path,
    display: Display,
) -> None:
    """Predictions and metrics of a finished cell from its saved images; writes its table and its record.

    Args:
        record: filled in; its facts are those of the search alone.
        weights: the networks of the judge, those of the search among them or not.
        cell: the cell's folder.

    Raises:
        UsageError: a sample is missing, or an image is not the recorded one.
    """
    journal = Journal(cell / "samples.jsonl")
    rows = {row["id"]: row for row in journal.rows()}
    missing = [name for name in task.ids if name not in rows]
    if missing:
        raise UsageError(f"{journal.path} lacks sample {missing[0]!r} of a finished cell; run it again")
    predict_again([rows[name] for name in task.ids], judge, cell, display)

    def show(done: int, total: int) -> None:
        display.phase("judging under fresh noise", done)

    tolerance = record.options[record.method]["tolerance"]
    now_with = judged_with(weights, record.facts["weights"], judge, metrics, task)
    judged = judge_samples(judge, task, list(rows.values()), cell, tolerance, metrics, show)
    other_oracle = record.weights.get("oracle") != weights["oracle"].sha256
    # Not known while table and record differ, so that whoever finds them so judges again.
    record.judged = {}
    write_json(cell / "result.json", record)
    if other_oracle:
        journal.replace(rows.values())
    write_table(judged.frame, cell / "samples.parquet")
    kept = {key: note for key, note in record.notes.items() if key.startswith(KEPT_NOTES)}
    record.notes = (
        kept | judged.notes | {"metrics": f"computed again from the saved images by {__version__} at {now()}"}
    )
    record.summary, record.failures, record.definitions = judged.summary, failures(judged.frame), judged.definitions
    record.judged = now_with
    write_json(cell / "result.json", record)


def predict_again(rows: Sequence[dict[str, Any]], judge: Judge, cell: Path, display: Display) -> None:
    """Put the judge's predictions on the saved images into recorded rows.

    Raises:
        UsageError: an image is not the recorded one.
    """
    for done, row in enumerate(rows, start=1):
        row |= _predictions(judge, row, cell)
        display.phase("predicting on saved images", done)


def _predictions(judge: Judge, row: dict[str, Any], cell: Path) -> dict[str, float]:
    """(r, o) on the image as saved, which has to be the one that was recorded."""
    if row["failure"]:
        return {}
    path = cell / "images" / row["image"]
    try:
        pixels = read_saved(path)
    except BadImage as error:
        raise UsageError(f"{error}; run the cell again") from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
        raise UsageError(f"{path} is not the image that was recorded (sha256 differs); run the cell again")
    prediction, oracle = judge.predict(pixels)
    return {"prediction": prediction, "oracle": oracle}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two records of what judged, as "metrics.mode" or "labels"."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [f"{key}.{name}" for name in differences(before, after)]
        elif before != after:
            found.append(key)
    return found
