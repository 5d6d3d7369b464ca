"""Real runs on a few ELPV photographs with tiny networks of random weights: records of everything that real ones have.

The photographs are those of the installed package elpv-dataset; nothing of them is in this repository.
"""

import hashlib
import io
import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from bench.config import build_config
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.images import to_float
from bench.networks import RegressorConfig, SmallRegressor
from bench.progress import Display
from bench.suite import run_suite
from methods.diffusion.adm import AdmConfig, AdmUNet
from methods.diffusion.diffae import DiffAe, DiffAeConfig
from tests.conftest import randomise

METHODS = ("pgd-re", "ac-re", "diffae-re")
FEW = (
    "ac-re.max_steps=2", "ac-re.depth=2", "diffae-re.max_steps=2", "diffae-re.inversion_steps=4",
    "diffae-re.decoding_steps=2", "metrics.noise_draws=1", "metrics.filter_depth=2", "pgd-re.step_size=0.02",
    "pgd-re.tolerance=0.15", "tracking.enabled=false",
)  # fmt: skip
_SHAPE = RegressorConfig(widths=(8, 16), in_channels=1)
_DDPM = AdmConfig(
    image_size=64, in_channels=1, num_channels=32, channel_mult="1,1", num_res_blocks=1, num_heads=2,
    attention_resolutions="", resblock_updown=True, learn_sigma=True, timestep_respacing="50", patch_size=4,
)  # fmt: skip
_DIFFAE = DiffAeConfig(
    image_size=64, in_channels=1, ch=32, mult=(1, 1), enc_mult=(1, 1), style=8, embed=16, num_res_blocks=1,
    enc_num_res_blocks=1, attention_resolutions=(), patch_size=4, prediction="v",
)  # fmt: skip


def _spread_predictions(network: nn.Module) -> nn.Module:
    """Put a random regressor's predictions on photographs on both sides of 0.5, most of them within 0.5 of it."""
    rows = manifest().iloc[::100]
    images = torch.from_numpy(to_float(read_pixels(data_folder(""), rows, 64)))
    with torch.no_grad():
        values = network(images)
        scale = 0.25 / values.std()
        network.head.weight *= scale
        network.head.bias.copy_(0.5 + scale * (network.head.bias - values.median()))
    return network


def _write(network: nn.Module, kind: str, config: dict[str, object], path: Path) -> str:
    blob = save({name: value.contiguous() for name, value in network.state_dict().items()})
    path.write_bytes(blob)
    card = {"kind": kind, "config": config, "sha256": hashlib.sha256(blob).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card))
    return str(path)


def write_networks(folder: Path) -> dict[str, str]:
    """A tiny network of every role, as files: role -> path."""
    shape, ddpm = _SHAPE.model_dump(mode="json"), _DDPM.model_dump(mode="json", exclude_unset=True)
    found = {
        role: _write(
            _spread_predictions(randomise(SmallRegressor(_SHAPE), seed)),
            "regressor",
            shape,
            folder / f"{role}.safetensors",
        )
        for seed, role in enumerate(("regressor", "oracle", "type"), 7)
    }
    diffae = _DIFFAE.model_dump(mode="json", exclude_unset=True)
    return found | {
        "ddpm": _write(randomise(AdmUNet(_DDPM), 1), "adm", ddpm, folder / "ddpm.safetensors"),
        "diffae": _write(randomise(DiffAe(_DIFFAE), 2), "diffae", diffae, folder / "diffae.safetensors"),
    }


def run_elpv(
    folder: Path, networks: dict[str, str], methods: tuple[str, ...] = METHODS, limit: int = 6, *settings: str
) -> Path:
    """A finished run of the preset elpv, a few steps long; returns `folder`.

    Args:
        settings: further assignments, as after `-s`.
    """
    weights = [f"weights.{role}={path}" for role, path in networks.items()]
    flags = {"dataset": ["elpv"], "method": list(methods), "limit": limit}
    config = build_config(None, [*weights, *FEW, *settings], flags)
    _, errors = run_suite(config, {}, folder, False, Display(io.StringIO()))
    assert not errors, errors
    return folder
