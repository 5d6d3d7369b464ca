"""Networks that break: NaN from the regressor or the denoiser, and a regressor that ignores its input."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.checkpoints import SHIPPED
from tests.test_cli import FEW, bench, sentence


def altered(folder: Path, role: str, change: dict[str, float]) -> str:
    """Shipped weights with some tensors filled with a value, under a valid card; returns the path."""
    path = folder / f"{role}.safetensors"
    state = load_file(SHIPPED / f"square-{role}.safetensors")
    for key, value in change.items():
        state[key] = torch.full_like(state[key], value)
    save_file(state, path)
    card = json.loads((SHIPPED / f"square-{role}.json").read_text())
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(card))
    return str(path)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    common = ["--method", "ac-re", "--limit", "2", "-s", "tracking.enabled=false", "-o", "out"]
    return bench("run", *FEW, *common, *arguments, folder=folder)


def test_a_constant_regressor(tmp_path: Path) -> None:
    weights = altered(tmp_path, "regressor", {"head.weight": 0.0})
    assert "does not depend on the image" in sentence(run(tmp_path, "-s", f"weights.regressor={weights}"), 2)


def test_a_regressor_that_overflows(tmp_path: Path) -> None:
    weights = altered(tmp_path, "regressor", {"norm.0.running_var": -1.0})
    assert "weights.regressor: it returns NaN" in sentence(run(tmp_path, "-s", f"weights.regressor={weights}"), 2)


def test_a_denoiser_that_overflows_loses_nothing_recorded(tmp_path: Path) -> None:
    state = load_file(SHIPPED / "square-ddpm.safetensors")
    key = next(key for key in state if key.endswith("conv_norm_out.weight"))
    weights = altered(tmp_path, "ddpm", {key: 6e4, "unet.conv_out.weight": 6e4, "unet.conv_in.weight": 6e4})
    done = run(tmp_path, "-s", f"weights.ddpm={weights}")
    if done.returncode == 0:
        pytest.fail("the altered denoiser stayed finite; the test needs a stronger fault")
    assert done.returncode in (1, 3)
    assert "Traceback" not in done.stderr
    rows = (tmp_path / "out/square--ac-re--eager--s0/samples.jsonl").read_text().splitlines()
    assert all("nonfinite@" in row for row in rows)
    assert len(rows) >= 1
