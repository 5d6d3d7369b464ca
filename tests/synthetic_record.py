"""Writes records of many counterfactuals in seconds, through the real models; figures and pictures are made up."""

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bench.cell import fingerprint
from bench.config import RunConfig
from bench.images import file_name, to_uint8
from bench.record import RECONSTRUCTIONS, CellRecord, Journal, Status, SuiteRecord, now, write_json
from bench.traces import TRACE, TRACE_FILE, trace_table, without_trace
from methods.noise import numpy_generator
from metrics.intervals import Estimate, mean_estimate, rate_estimate

TOLERANCE = 0.05
TEXTURES = 8
"""Distinct backgrounds; every sample has its own part of one, so that no two pictures are equal."""

Edit = Callable[[dict[str, Any]], dict[str, Any]]


def _texture(size: int, number: int) -> np.ndarray:
    """uint8 (size, size, 3) that compresses about as a photograph does: noise of all scales, and some grain."""
    generator = numpy_generator("texture", size, number)
    total = np.zeros((size, size, 3), np.float32)
    edge = 4
    while edge <= size:
        coarse = Image.fromarray((generator.random((edge, edge, 3)) * 255).astype(np.uint8))
        finer = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255 - 0.5
        total += 1.3 * finer / edge**0.62
        edge *= 2
    return to_uint8((0.5 + total + 0.008 * generator.standard_normal(total.shape)).transpose(2, 0, 1))


def _write(path: Path, pixels: np.ndarray) -> None:
    """Not flushed to the disk, and hardly compressed: thousands are written."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    path.write_bytes(buffer.getvalue())


class _Pictures:
    """The images of a record, uint8 (size, size, 3), by number of the sample and of the cell."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.textures = [_texture(size, number) for number in range(TEXTURES)]
        rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
        self.blob = np.exp(-(rows**2 + columns**2) / 0.03)[..., None] * np.array([80, 48, 32])
        self.reconstructed = (np.arange(256) * 0.96 + 5).astype(np.uint8)

    def original(self, number: int) -> np.ndarray:
        turns, texture = divmod(number, TEXTURES)
        return np.roll(self.textures[texture], (turns * 7 % self.size, turns // self.size * 5), (0, 1))

    def reconstruction(self, number: int) -> np.ndarray:
        return self.reconstructed[self.original(number)]

    def counterfactual(self, number: int, cell: int) -> np.ndarray:
        change = (np.sin(number + 0.7 * cell) * self.blob).astype(np.int16)
        return np.clip(self.reconstruction(number) + change, 0, 255).astype(np.uint8)


def _row(name: str, cell: int, failed: bool, steps: int) -> dict[str, Any]:
    """A journal's row, as a run writes it."""
    generator = numpy_generator("synthetic row", name, cell)
    start, target = generator.uniform(0, 1, 2)
    prediction = float(target + 0.04 * generator.standard_normal())
    share = np.linspace(0, 1, steps)
    trace = {
        "predictions": [round(float(start + (prediction - start) * done), 6) for done in share],
        "seconds": [round(0.03 * (1 + step), 6) for step in range(steps)],
    }
    return {
        "id": name,
        "image": file_name(name),
        "input": file_name(name),
        "sha256": None,
        "target": float(target),
        "start": float(start),
        "prediction": float("nan") if failed else prediction,
        "oracle": float("nan") if failed else float(target + 0.08 * generator.standard_normal()),
        "search_prediction": prediction,
        "reached": not failed,
        "steps": steps,
        "iterations": steps + 1,
        "forward": 5 * steps,
        "backward": 5 * steps,
        "seconds": 0.03 * steps,
        "latency": 0.25 * steps,
        "failure": f"nonfinite@step {steps}" if failed else None,
        TRACE: trace,
    }


def _table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """samples.parquet: the rows with the metrics of single samples."""
    frame = pd.DataFrame([without_trace(row) for row in rows])
    failed = frame["failure"].notna()
    frame["prediction_error"] = (frame["prediction"] - frame["target"]).abs()
    frame["oracle_target_mae"] = (frame["oracle"] - frame["target"]).abs()
    frame["oracle_regressor_mae"] = (frame["oracle"] - frame["prediction"]).abs()
    frame["change_l1"] = (0.1 * (frame["prediction"] - frame["start"]).abs()).mask(failed)
    frame["valid"] = (frame["prediction_error"] <= TOLERANCE).astype(np.float64)
    return frame


def _summary(frame: pd.DataFrame) -> dict[str, Estimate]:
    generator = numpy_generator("synthetic summary")
    valid = frame["valid"].to_numpy()
    keys = {
        "validity/prediction_mae": ("prediction_error", "1"),
        "validity/oracle_target_mae": ("oracle_target_mae", "1"),
        "sparsity/change_l1": ("change_l1", "1"),
        "cost/steps": ("steps", "steps"),
        "throughput/seconds_per_image": ("seconds", "s"),
    }
    found = {key: mean_estimate(frame[column].to_numpy(), generator, unit) for key, (column, unit) in keys.items()}
    found["validity/success_rate"] = rate_estimate(valid > 0)
    found["validity/failure_rate"] = rate_estimate(frame["failure"].notna().to_numpy())
    return found


def _timings(frame: pd.DataFrame) -> dict[str, Any]:
    seconds, slots = float(frame["seconds"].sum()), 8
    return {
        "build_s": 2.0,
        "encode_s": 0.1 * seconds,
        "step_s": 0.8 * seconds,
        "refine_s": 0.1 * seconds,
        "first_step_s": 0.3,
        "step_median_s": 0.2,
        "step_p95_s": 0.25,
        "slot_occupancy": 0.9,
        "slots": slots,
        "refill": True,
        "peak_memory_mib": 1000.0,
        "timing_flags": [],
        "metrics_s": 1.0,
        "search_wall_s": seconds,
        "harness_s": 0.5,
        "counterfactuals_per_second": len(frame) / seconds,
        "valid_counterfactuals_per_second": float(frame["valid"].sum()) / seconds,
    }


def _cell_record(name: str, method: str, backend: str, frame: pd.DataFrame, status: Status) -> CellRecord:
    failures = frame["failure"].dropna().value_counts()
    options = {"square": {}, method: {"tolerance": TOLERANCE}, backend: {}}
    facts = {"dataset": "square", "method": method, "backend": backend, "seed": 0, "data": "0" * 64, "weights": {}}
    done = status == "ok"
    return CellRecord(
        id=name,
        dataset="square",
        method=method,
        backend=backend,
        seed=0,
        status=status,
        fingerprint=fingerprint(facts),
        facts=facts | {"options": options, "device": "cpu", "batch_size": 8},
        options=options,
        samples=len(frame),
        finished=len(frame),
        failures={str(reason): int(count) for reason, count in failures.items()},
        summary=_summary(frame) if done else {},
        timings=_timings(frame) if done else {},
        execution={"backend": backend, "device": "cpu", "flags": []},
        started=now(),
        ended=now() if done else None,
    )


def _save(folder: Path, names: Sequence[str | None], picture: Callable[[int], np.ndarray]) -> None:
    """Write the picture of every sample that has a name."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(number, name) for number, name in enumerate(names) if name is not None]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: _write(folder / file_name(one[1]), picture(one[0])), wanted))


def _write_cell(folder: Path, rows: list[dict[str, Any]], method: str, backend: str, status: Status) -> CellRecord:
    """What a cell's folder holds besides pictures."""
    Journal(folder / "samples.jsonl").replace(rows)
    frame = _table(rows)
    if status == "ok":
        frame.to_parquet(folder / "samples.parquet")
        trace_table(rows).to_parquet(folder / TRACE_FILE)
        (folder / "latency.json").write_text(json.dumps({"encode_s": [0.1], "step_s": [0.2] * 8, "refine_s": [0.1]}))
    record = _cell_record(folder.name, method, backend, frame, status)
    write_json(folder / "result.json", record)
    return record


def _write_suite(folder: Path, cells: list[CellRecord], count: int, status: Status) -> None:
    methods, backends = (tuple(dict.fromkeys(getattr(cell, key) for cell in cells)) for key in ("method", "backend"))
    config = RunConfig(dataset=("square",), method=methods, backend=backends, limit=count)
    suite = SuiteRecord(
        id=folder.name,
        command=f"python -m bench run --limit {count}",
        status=status,
        config_set={"limit": count},
        config=config.model_dump(mode="json"),
        environment={"device": "cpu", "cpu": "synthetic", "cores": 2, "packages": {}, "git": {"commit": None}},
        cells=cells,
        started=now(),
        ended=now() if status == "ok" else None,
    )
    write_json(folder / "suite.json", suite)


def write_record(
    folder: Path,
    count: int,
    size: int = 64,
    methods: Sequence[str] = ("ac-re",),
    backends: Sequence[str] = ("eager",),
    *,
    reconstructions: bool = False,
    fail_every: int = 0,
    names: Sequence[str] | None = None,
    status: Status = "ok",
    edit: Edit = lambda row: row,
) -> Path:
    """A suite of methods x backends with `count` samples each; returns `folder`.

    Args:
        size: height and width of all images.
        fail_every: every such sample has no counterfactual; 0: none.
        names: ids of the samples.
        status: of the cells; without "ok" there is a journal, and no table, summary or timings.
        edit: changes a row before it is recorded.
    """
    ids = list(names or (f"synthetic/{number:05d}" for number in range(count)))
    failed = [bool(fail_every) and number % fail_every == fail_every - 1 for number in range(count)]
    pictures, cells = _Pictures(size), []
    _save(folder / "inputs-square", ids, pictures.original)
    for place, (method, backend) in enumerate(product(methods, backends)):
        own = folder / f"square--{method}--{backend}--s0"
        kept = [None if gone else name for name, gone in zip(ids, failed, strict=True)]
        _save(own / "images", kept, partial(pictures.counterfactual, cell=place))
        rows = [_row(ids[number], place, failed[number], 8 + number % 5) for number in range(count)]
        if reconstructions:
            _save(own / RECONSTRUCTIONS, ids, pictures.reconstruction)
            known = {"reconstruction_sha256": None, "reconstruction_prediction": 0.5}
            rows = [row | {"reconstruction": row["input"]} | known for row in rows]
        cells.append(_write_cell(own, [edit(row) for row in rows], method, backend, status))
    _write_suite(folder, cells, count, status)
    return folder
