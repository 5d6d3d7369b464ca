"""The `import` verb: a published checkpoint becomes safetensors with a card, or one sentence says why not."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bench.errors import UsageError
from bench.images import write_bytes
from bench.importing.configs import CONFIGS, choose_config
from bench.importing.numpy_pickle import read_numpy_pickle
from bench.importing.torch_file import TorchFile, read_torch_file, refuse_other_formats
from bench.registry import check_name
from methods.diffusion.published import convert, parse_config

PICKLED = ("vggface2-resnet50",)
"""Kinds that are published as a pickle of NumPy arrays; all others are torch files."""


def import_checkpoint(kind: str, file: Path, output: Path, config: str | None) -> list[str]:
    """Read a published file safely, check every key and shape, and write OUT.safetensors and OUT.json.

    Weights are kept in float32. Both files are written whole or not at all, the card last; files of the same
    name are replaced.

    Args:
        kind: key of bench.importing.configs.CONFIGS.
        file: as downloaded; see docs/weights.md for where each is published.
        output: FILE.safetensors, or a folder in which the kind and the configuration name the file.
        config: a named configuration of the kind, a JSON object, or None for the named one that fits.

    Returns:
        Lines to print: what was written, and which objects of the file were left out.

    Raises:
        UsageError: one sentence naming the file, key or option; nothing has been written.
    """
    check_name(CONFIGS, kind, "kind of published network")
    content = _read(kind, file)
    name, options = _chosen(kind, file, content, config)
    state = _float32(file, convert(kind, content.state, options))
    target = _target(output, kind, name)
    if target.resolve() == file.resolve():
        raise UsageError(f"{target} is the file to import; give another --output")
    blob = save(state)
    card = {
        "kind": kind,
        "config": parse_config(kind, options).model_dump(mode="json"),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "source": _source(file, name, content),
    }
    _write(target, blob, card)
    count = sum(tensor.numel() for tensor in state.values())
    lines = [f"{target}: {kind}, configuration {name}, {count / 1e6:.1f} million values, {len(blob) / 2**20:.0f} MiB"]
    if content.inert:
        lines.append(f"left out, never run: {', '.join(content.inert)}")
    return lines


def _read(kind: str, file: Path) -> TorchFile:
    """The tensors of a file in the format in which its kind is published."""
    if kind not in PICKLED:
        return read_torch_file(file)
    refuse_other_formats(file)
    with file.open("rb") as start:
        if start.read(4) == b"PK\x03\x04":
            raise UsageError(f"{file} is a torch file; {kind} is published as a pickle, resnet50_ft_weight.pkl")
    return TorchFile({key: torch.from_numpy(array) for key, array in read_numpy_pickle(file).items()}, [])


def _chosen(kind: str, file: Path, content: TorchFile, config: str | None) -> tuple[str, dict[str, Any]]:
    try:
        return choose_config(kind, content.state, config)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _float32(file: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies, floating-point weights in float32.

    Raises:
        UsageError: NaN or infinite values.
    """
    tensors = {}
    for key, tensor in state.items():
        if tensor.is_complex() or not torch.isfinite(tensor).all():
            raise UsageError(f"{file}: {key} holds NaN, infinite or complex values; download it again")
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        tensors[key] = tensor.to(dtype).clone(memory_format=torch.contiguous_format)
    return tensors


def _target(output: Path, kind: str, config: str) -> Path:
    """The .safetensors file to write; its folder is made."""
    if output.suffix == ".safetensors" and not output.is_dir():
        target = output
    elif output.is_file() or output.suffix in (".pt", ".pth", ".ckpt", ".tar", ".pkl", ".json"):
        raise UsageError(f"--output {output}: give a file that ends in .safetensors, or a folder")
    else:
        target = output / f"{kind if config == 'published' else f'{kind}-{config}'}.safetensors"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output}: cannot make {target.parent}: {error.strerror}") from error
    return target


def _source(file: Path, config: str, content: TorchFile) -> dict[str, Any]:
    """Where the weights came from: the file's name, hash and size, and what stood in it beside them."""
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "file": file.name,
        "sha256": sha256,
        "bytes": file.stat().st_size,
        "config": config,
        "inert": content.inert,
    }


def _write(target: Path, blob: bytes, card: dict[str, Any]) -> None:
    """Weights first, then the card that vouches for them."""
    try:
        write_bytes(target, blob)
        write_bytes(target.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    except OSError as error:
        raise UsageError(f"--output {target}: cannot write: {error.strerror}") from error
