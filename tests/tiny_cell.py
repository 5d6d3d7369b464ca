"""A whole cell on the tiny networks, for tests that need one end to end without the command line."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from backends.eager import EagerBackend, EagerConfig
from bench.cell import Cell
from bench.cell_run import CellRun
from bench.checkpoints import Loaded
from bench.config import RunConfig, component_options
from bench.datasets.base import Task
from bench.images import to_float, to_uint8
from bench.networks import RegressorConfig, SmallRegressor
from bench.paths import expand
from bench.progress import Display
from bench.record import CellRecord
from bench.registry import resolve
from methods import METHODS
from methods.base import Batch
from tests.conftest import CPU, SIZE, randomise, toy_samples

OPTIONS: dict[str, dict[str, Any]] = {
    "ac-re": {"max_steps": 8, "tolerance": 0.004, "depth": 3},
    "diffae-re": {"max_steps": 8, "tolerance": 0.004, "inversion_steps": 5, "decoding_steps": 4, "lr": 0.4},
    "ac-re-gn": {"max_steps": 8, "tolerance": 0.004, "aim": 0.003, "depth": 3},
    "diffae-re-gn": {
        "max_steps": 8,
        "tolerance": 0.004,
        "aim": 0.003,
        "inversion_steps": 5,
        "decoding_steps": 4,
        "depth": 3,
        "probes": 2,
    },
    "pgd": {"max_steps": 4},
    "pgd-re": {"max_steps": 8, "tolerance": 0.004},
    "ace": {"max_steps": 4, "depth": 3, "dilation": 5},
    "ace-re": {"max_steps": 8, "tolerance": 0.004, "depth": 3, "dilation": 5},
    "dime": {"max_steps": 14, "depth": 3, "respacing": "20", "scales": [8.0, 20.0]},
    "dime-re": {"max_steps": 14, "depth": 3, "respacing": "20", "scales": [8.0, 20.0]},
}


def tiny_cell(
    networks: dict[str, nn.Module],
    method: str,
    backend: str = "eager",
    slots: int = 4,
    count: int = 7,
    channels: Literal[1, 3] = 3,
    **options: Any,
) -> Cell:
    """A cell of `count` toy images, at different distances from their targets; `options` are those of the run.

    Args:
        channels: of the images, which the networks have to fit.
    """
    config = RunConfig(
        dataset=("toy",), method=(method,), backend=(backend,), batch_size=slots, options=OPTIONS, **options
    )
    settings = {
        name: component_options(config, kind, name) for kind, name in (("method", method), ("backend", backend))
    }
    oracle = randomise(SmallRegressor(RegressorConfig(widths=(8, 16), in_channels=channels)), 5)
    roles = {"oracle": oracle, "regressor": networks["regressor"]}
    roles |= {role: networks[role] for role in resolve(METHODS, method, "method").roles(settings[method])}
    samples = toy_samples(count, channels)
    ids = tuple(sample.id for sample in samples)
    images = np.stack([to_uint8(sample.image.numpy()) for sample in samples])
    search = resolve(METHODS, method, "method")(settings[method], config.seed, CPU, (channels, SIZE, SIZE))
    search.prepare(roles, EagerBackend(EagerConfig(), CPU), count)
    state = search.encode(Batch(ids, torch.from_numpy(to_float(images)), torch.zeros(count)), lambda done, total: None)
    start = search.step(state).prediction.numpy()
    offsets = np.array([0.006 * (1 + index % 4) * (-1) ** index for index in range(count)])
    task = Task(ids, images, (start + offsets).astype(np.float32), None, None, "toy", "toy")
    task = expand(task, config.targets)
    weights = {role: Loaded(network, Path(f"{role}.safetensors"), role) for role, network in roles.items()}
    return Cell(f"toy--{method}--{backend}--s0", config, "toy", method, backend, CPU, task, weights, settings)


def run_cell(cell: Cell, folder: Path) -> tuple[CellRecord, pd.DataFrame]:
    """Run it in `folder`: the record, and the samples by id."""
    record = CellRun(cell, folder / cell.id, folder / "inputs", Display(io.StringIO())).run()
    return record, pd.read_parquet(folder / cell.id / "samples.parquet").set_index("id")
