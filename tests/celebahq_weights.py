"""Synthetic weights for every role of a CelebA-HQ run: the published architectures, the generators reduced in size."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from bench.gpu_cases import synthetic_weights
from bench.kinds import build_network

SIZE = 64
ADM: dict[str, Any] = {
    "image_size": SIZE,
    "num_channels": 32,
    "channel_mult": "1,2",
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "attention_resolutions": "32",
    "learn_sigma": True,
    "resblock_updown": True,
    "diffusion_steps": 500,
}
DIFFAE: dict[str, Any] = {
    "image_size": SIZE,
    "ch": 32,
    "mult": [1, 2],
    "enc_mult": [1, 2, 2],
    "style": 64,
    "embed": 64,
    "num_res_blocks": 1,
    "enc_num_res_blocks": 1,
    "attention_resolutions": [16],
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "regressor": ("densenet-regressor", {}),
    "oracle": ("densenet-regressor", {}),
    "ddpm": ("adm", ADM),
    "diffae": ("diffae", DIFFAE),
    "classifier": ("steex-decision-densenet", {}),
    "identity": ("vggface2-resnet50", {}),
    "attributes": ("steex-attribute-oracle", {}),
}


def write_network(path: Path, kind: str, config: Mapping[str, Any], seed: int) -> Path:
    """Weights drawn from a seed, with the card that `load_network` wants."""
    network = synthetic_weights(build_network(kind, config), seed)
    blob = save({key: value.contiguous() for key, value in network.state_dict().items()})
    path.write_bytes(blob)
    card = {"kind": kind, "config": dict(config), "sha256": hashlib.sha256(blob).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def write_weights(folder: Path) -> list[str]:
    """Every role's file in `folder`; returns the `-s weights.ROLE=FILE` arguments of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = []
    for seed, (role, (kind, config)) in enumerate(NETWORKS.items()):
        path = write_network(folder / f"{role}.safetensors", kind, config, seed)
        arguments += ["-s", f"weights.{role}={path}"]
    return arguments
