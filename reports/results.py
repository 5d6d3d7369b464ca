"""Figures kept in the repository: results by method, and the picture grid of the README."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UsageError
from bench.images import write_bytes
from bench.record import CellRecord, SuiteRecord, read_suite
from reports.figures import picture_grid

RESULT_KEYS = {
    "square_mae": "quality/square_mae",
    "background_mae": "quality/background_mae",
    "success_rate": "validity/success_rate",
    "noise_success_rate": "validity/noise_success_rate",
    "oracle_target_mae": "validity/oracle_target_mae",
    "oracle_regressor_mae": "validity/oracle_regressor_mae",
    "prediction_mae": "validity/prediction_mae",
    "change_l1": "sparsity/change_l1",
    "steps": "cost/steps",
    "forward": "cost/forward",
    "backward": "cost/backward",
    "seconds_per_image": "throughput/seconds_per_image",
    "seconds_per_valid": "throughput/seconds_per_valid",
    "oracle_feature_distance": "realism/oracle_feature_distance",
    "fid": "realism/fid",
    "sfid": "realism/sfid",
    "fva": "identity/fva",
    "fs": "identity/fs",
    "mnac": "attributes/mnac",
    "cd": "attributes/cd",
    "lpips": "perceptual/lpips",
}


def _entry(suite: SuiteRecord, cell: CellRecord) -> dict[str, Any]:
    """One method's figures, each with its 95 % bootstrap interval, and how they were made."""
    entry: dict[str, Any] = {}
    for key, name in RESULT_KEYS.items():
        estimate = cell.summary.get(name)
        if estimate is not None and estimate.value is not None:
            entry[key] = round(estimate.value, 5)
            if estimate.low is not None and estimate.high is not None:
                entry[f"{key}_interval"] = [round(estimate.low, 5), round(estimate.high, 5)]
    environment = suite.environment
    return entry | {
        "n": cell.finished,
        "failures": cell.failures,
        "backend": cell.backend,
        "command": suite.command,
        "sessions": cell.sessions,
        "cpu": environment["cpu"],
        "cores": environment["cores"],
        "device": environment["device"],
        "torch": environment["packages"]["torch"],
        "commit": environment["git"]["commit"],
        "dirty": environment["git"]["dirty"],
        "weights": cell.weights,
        "metrics_mode": cell.judged.get("metrics", {}).get("mode"),
        "definitions": cell.definitions,
        "fingerprint": cell.fingerprint,
        "ended": cell.ended,
    }


def write_results(folder: Path, path: Path) -> Path:
    """Put the figures of every finished cell into a JSON file by method, keeping its other methods.

    Raises:
        UsageError: nothing finished, or the suite mixes backends or datasets for one method.
    """
    suite = read_suite(folder)
    finished = [cell for cell in suite.cells if cell.status == "ok"]
    if not finished:
        raise UsageError(f"{folder} has no finished cell")
    if len({cell.method for cell in finished}) != len(finished):
        raise UsageError(f"{folder} has several cells of one method; a results file keeps one of each")
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON ({error}); move it away") from error
    content |= {cell.method: _entry(suite, cell) for cell in finished}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    return path


def write_grid(folders: list[Path], path: Path, count: int = 8) -> Path:
    """A picture grid of the finished cells of one or more suites as PNG.

    Raises:
        UsageError: nothing finished.
    """
    finished = [(folder, cell) for folder in folders for cell in read_suite(folder).cells if cell.status == "ok"]
    frames = {
        cell.method: (
            pd.read_parquet(folder / cell.id / "samples.parquet"),
            folder / f"inputs-{cell.dataset}",
            folder / cell.id / "images",
        )
        for folder, cell in finished
    }
    if not frames:
        raise UsageError(f"no finished cell in {', '.join(map(str, folders))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(frames, count, [cell.dataset for _, cell in finished]).savefig(path, dpi=110)
    return path
