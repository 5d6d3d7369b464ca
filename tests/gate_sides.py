"""Sides of the gate for tests: suites and folders of process repeats, with cells that a test may spoil."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.gate import CellGate, GateReport, gate
from bench.images import png_bytes
from bench.record import CellRecord, SuiteRecord, read_suite, write_json
from bench.verify import Verified, VerifyRecord
from methods.noise import numpy_normal
from tests.test_compare import MACHINE, cell_record

COUNT = 20
EXECUTION = {
    "backend": "compile", "device": "cpu", "flags": [],
    "networks": {"denoiser": {"dtype": "torch.bfloat16", "graph_breaks": 0, "build_seconds": 2.0}},
}  # fmt: skip
STARTS = itertools.count()
"""Every suite starts at another time: those that share it are copies, which the gate refuses."""
Change = Callable[[CellRecord, pd.DataFrame], None]


def samples(shift: int = 0) -> pd.DataFrame:
    """A cell's table; `shift` is the grey levels by which its images differ from those of others."""
    error = 0.05 + 0.02 * np.abs(numpy_normal(22, (COUNT,)))
    columns = {"oracle_target_mae": error, "square_mae": error, "background_mae": error / 10}
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(COUNT)], "image": [f"{i}.png" for i in range(COUNT)], "shift": shift,
            "seconds": 1 + 0.3 * np.abs(numpy_normal(21, (COUNT,))), "valid": (np.arange(COUNT) < 18).astype(float),
            "prediction": 0.5 + shift / 100, "oracle": 0.5, "steps": 9,
            "failure": pd.Series([None] * COUNT, dtype=object), **columns,
        }
    )  # fmt: skip


def write_cell(folder: Path, record: CellRecord, frame: pd.DataFrame) -> None:
    (folder / record.id / "images").mkdir(parents=True)
    for index, row in enumerate(frame.itertuples()):
        pixels = (np.arange(4 * 4 * 3).reshape(4, 4, 3) * (index % 5) + 40 + row.shift) * (row.shift >= 0)
        (folder / record.id / "images" / row.image).write_bytes(png_bytes(pixels.astype(np.uint8)))
    frame.to_parquet(folder / record.id / "samples.parquet", index=False)
    write_json(folder / record.id / "result.json", record)


def finished(method: str = "ac-re", backend: str = "compile") -> CellRecord:
    record = cell_record(method, backend)
    record.samples = record.finished = COUNT
    record.execution = json.loads(json.dumps(EXECUTION)) | {"backend": backend}
    return record


def write_repeat(folder: Path, change: Change | None = None, *cells: CellRecord, **environment: Any) -> Path:
    """A suite whose cells `change` may spoil."""
    folder.mkdir(parents=True)
    records = list(cells) or [finished()]
    for record in records:
        frame = samples()
        if change is not None:
            change(record, frame)
        write_cell(folder, record, frame)
    environment = MACHINE | {"git": {"commit": "c" * 40, "dirty": False}} | environment
    suite = SuiteRecord(
        id=folder.name, command="", status="ok", config_set={}, config={}, environment=environment, cells=records,
        started=f"start {next(STARTS)}",
    )  # fmt: skip
    write_json(folder / "suite.json", suite)
    return folder


def timed(slower: float, change: Change | None = None) -> Change:
    def apply(record: CellRecord, frame: pd.DataFrame) -> None:
        frame["seconds"] *= slower
        if change is not None:
            change(record, frame)

    return apply


def side(folder: Path, slower: float = 1.0, change: Change | None = None, count: int = 3) -> Path:
    """A folder of process repeats, 1 % apart from each other."""
    for number in range(1, count + 1):
        write_repeat(folder / f"repeat-{number}", timed(slower * (1 + 0.01 * number), change))
    return folder


def judged(tmp_path: Path, slower: float = 1.0, change: Change | None = None, count: int = 3) -> GateReport:
    return gate(side(tmp_path / "base", count=count), side(tmp_path / "new", slower, change, count))


def only(report: GateReport) -> CellGate:
    (cell,) = report.cells
    return cell


def verdicts(report: GateReport) -> tuple[str, ...]:
    return tuple(check.verdict for check in only(report).checks)


def kill_cell(folder: Path, samples: int) -> None:
    """Leave a suite as a process does that is killed in its only cell: suite.json does not know the cell yet."""
    suite = read_suite(folder)
    (record,) = suite.cells
    killed = record.model_copy(update={"status": "running", "finished": samples})
    write_json(folder / record.id / "result.json", killed)
    (folder / record.id / "samples.parquet").unlink()
    write_json(folder / "suite.json", suite.model_copy(update={"status": "running", "cells": []}))


def fail_cell(record: CellRecord, frame: pd.DataFrame) -> None:
    record.status, record.error = "failed", "out of | memory\n<b>"


def fall_back(record: CellRecord, frame: pd.DataFrame) -> None:
    record.execution["networks"]["denoiser"]["dtype"] = "torch.float32"


def flag(record: CellRecord, frame: pd.DataFrame) -> None:
    record.timings["timing_flags"] = ["out of memory at 8 slots, continued with 4"]


def write_verification(folder: Path, verdict: str, method: str = "ac-re", commit: str = "c" * 40) -> Path:
    folder.mkdir(exist_ok=True)
    result = Verified(
        dataset="square", method=method, backend="compile", verdict=verdict, reasons=["denoiser: gradient | off\x1b"],
        networks=[], end_to_end=None,
    )  # fmt: skip
    environment = {"git": {"commit": commit}}
    record = VerifyRecord(command="", repeats=2, config={}, environment=environment, results=[result], started="now")
    write_json(folder / "verify.json", record)
    return folder
