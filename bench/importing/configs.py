"""Hyper-parameters of published checkpoints, which the files themselves do not hold."""

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.registry import check_name
from methods.diffusion.published import PUBLISHED, CheckpointMismatch, convert

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "adm": {
        # ACE's CelebA-HQ model: MODEL_FLAGS of its scripts/celebahq-attack.sh.
        "celebahq-256": {
            "image_size": 256,
            "num_channels": 128,
            "num_res_blocks": 2,
            "num_head_channels": 64,
            "attention_resolutions": "32,16,8",
            "channel_mult": "1,1,2,2,4,4",
            "learn_sigma": True,
            "resblock_updown": True,
            "use_scale_shift_norm": True,
            "diffusion_steps": 500,
            "noise_schedule": "linear",
        },
        # The paper's Square model: MODEL_FLAGS of its run_square_mirror.sh.
        "square-64": {
            "image_size": 64,
            "num_channels": 128,
            "num_res_blocks": 2,
            "num_heads": 4,
            "attention_resolutions": "32,16,8",
            "channel_mult": "1,2,3,4",
            "learn_sigma": True,
            "resblock_updown": True,
            "use_scale_shift_norm": True,
            "diffusion_steps": 1000,
            "noise_schedule": "linear",
        },
        # What the paper's square-train-diffusion.py makes when it is called as its script does, without flags:
        # guided-diffusion's defaults, which the flags above would not load.
        "square-64-defaults": {
            "image_size": 64,
            "num_channels": 128,
            "num_res_blocks": 2,
            "num_heads": 4,
            "attention_resolutions": "16,8",
            "channel_mult": "1,2,3,4",
            "diffusion_steps": 1000,
            "noise_schedule": "linear",
        },
    },
    "diffae": {
        # ffhq256_autoenc of Diff-AE's templates.py.
        "ffhq-256": {
            "image_size": 256,
            "ch": 128,
            "mult": [1, 1, 2, 2, 4, 4],
            "enc_mult": [1, 1, 2, 2, 4, 4, 4],
            "dropout": 0.1,
        },
        # square64_autoenc of the paper's copy of templates.py, equal to Diff-AE's ffhq64_autoenc.
        "square-64": {
            "image_size": 64,
            "ch": 64,
            "mult": [1, 2, 4, 8],
            "enc_mult": [1, 2, 4, 8, 8],
            "dropout": 0.1,
        },
    },
} | {kind: {"published": {}} for kind in PUBLISHED if kind not in ("adm", "diffae")}
"""Kind -> name -> options of methods.diffusion.published.build. A published checkpoint is one entry here."""


def choose_config(kind: str, state: Mapping[str, Tensor], config: str | None) -> tuple[str, dict[str, Any]]:
    """(name, options): the configuration asked for, or the named one whose keys and shapes fit.

    Args:
        kind: key of PUBLISHED.
        state: published tensors; only their shapes are looked at.
        config: name, JSON object, or None to find it by the shapes.

    Raises:
        UsageError: unknown name or option, text that is no JSON object, or weights that do not fit.
    """
    shapes = {key: torch.empty_like(tensor, device="meta") for key, tensor in state.items()}
    if config is None:
        return _fitting(kind, shapes)
    if config.lstrip().startswith("{"):
        try:
            name, options = "custom", json.loads(config)
        except json.JSONDecodeError as error:
            raise UsageError(f"--config is not a JSON object: {error}") from error
    else:
        check_name(CONFIGS[kind], config, f"configuration of {kind}")
        name, options = config, CONFIGS[kind][config]
    try:
        convert(kind, shapes, options)
    except CheckpointMismatch as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"--config: {error}") from error
    return name, options


def _fitting(kind: str, shapes: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The first named configuration of a kind that meta tensors fit; the network is never allocated."""
    problems: dict[str, CheckpointMismatch] = {}
    for name, options in CONFIGS[kind].items():
        try:
            convert(kind, shapes, options)
        except CheckpointMismatch as error:
            problems[name] = error
        else:
            return name, options
    nearest = min(problems, key=lambda name: problems[name].keys)
    others = [other for other in CONFIGS if other != kind and _fits_any(other, shapes)]
    if others:
        raise UsageError(f"this is not a network of kind {kind!r} but of kind {others[0]!r}; give that kind")
    if len(problems) == 1 or math.isinf(problems[nearest].keys):
        raise UsageError(str(problems[nearest]))
    raise UsageError(
        f"{problems[nearest]}; this is the nearest published configuration, {nearest!r} of {', '.join(problems)}; "
        "for another give --config with its options"
    )


def _fits_any(kind: str, shapes: Mapping[str, Tensor]) -> bool:
    for options in CONFIGS[kind].values():
        try:
            convert(kind, shapes, options)
        except CheckpointMismatch:
            continue
        return True
    return False
