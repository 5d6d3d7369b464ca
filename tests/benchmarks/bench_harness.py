"""What a run spends besides its networks: noise, metrics, records."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.checkpoints import load_network
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.images import file_name, to_float, write_png
from bench.judge import Judge, sample_table, summarise
from bench.record import Journal
from methods import noise
from metrics.frechet import frechet_distance
from tests.benchmarks.conftest import DEVICE, SLOTS

Timed = Callable[[Callable[[], object]], None]

pytestmark = pytest.mark.benchmark(group="harness")


def bench_noise_of_a_step(timed: Timed) -> None:
    keys = noise.sample_keys(0, [str(index) for index in range(SLOTS)], "bench", DEVICE)
    step = torch.zeros(SLOTS, dtype=torch.int64, device=DEVICE)
    timed(lambda: noise.normal(keys, step, 5, (3, 64, 64)))


def bench_judging_a_saved_image(timed: Timed) -> None:
    judge = Judge(*(load_network(f"square-{role}", role).network for role in ("regressor", "oracle")))
    image = SquareDataset(SquareConfig()).load(1).images[0]
    timed(lambda: judge.predict(image))


def bench_writing_an_image(timed: Timed, tmp_path: Path) -> None:
    image = SquareDataset(SquareConfig()).load(1).images[0]
    timed(lambda: write_png(tmp_path / "image.png", image))


def bench_writing_a_journal_line(timed: Timed, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "samples.jsonl")
    row = {"id": "square/0", "prediction": 0.5, "steps": 12, "seconds": 1.5, "failure": None}
    timed(lambda: journal.append(row))


def bench_metrics_of_a_cell(timed: Timed, tmp_path: Path) -> None:
    """Table and intervals of 64 samples, from the saved images on."""
    task = SquareDataset(SquareConfig()).load(64)
    rows = []
    for name, image, target in zip(task.ids, task.images, task.targets, strict=True):
        write_png(tmp_path / file_name(name), image)
        rows.append(
            {"id": name, "image": file_name(name), "failure": None, "prediction": float(target), "oracle": 0.5}
            | {"reached": True, "steps": 9, "forward": 50, "backward": 45, "seconds": 1.0}
        )
    timed(lambda: summarise(sample_table(task, rows, tmp_path, 0.05), "cell", 0))


def bench_frechet_distance(timed: Timed) -> None:
    features = to_float(SquareDataset(SquareConfig()).load(256).images)[:, :, ::8, ::16].reshape(256, -1)
    other = features + np.float32(0.01)
    timed(lambda: frechet_distance(features, other))
