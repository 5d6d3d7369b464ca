"""Read the tensors of a torch file without running anything that it holds.

`torch.load(weights_only=True)` executes no code, but refuses files that also hold the harmless objects of a
training framework (Lightning's callbacks, a configuration class). For names of a short list of packages an
inert shell is registered under the name: nothing is imported, nothing is called, and its values are dropped.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.state_files import TORCH_DAMAGE

_HARMLESS = re.compile(
    r"^(pytorch_lightning|lightning|lightning_fabric|omegaconf|argparse|pathlib|__main__|config|choices|model"
    r"|diffusion|torch\.optim|torch\.nn\.modules)(\.|$)"
    r"|^numpy\.(ndarray$|dtype$|dtypes\.)|^numpy\.(_core|core)\.multiarray\.(_reconstruct|scalar)$"
)
"""Names that published checkpoints are known to ask for, and for which a shell may stand."""

_MAX_SHELLS = 64
_STATE_KEYS = ("state_dict", "model_state_dict")
"""Under which key Lightning and STEEX keep the tensors; a file without them is the state itself."""


class TorchFile(NamedTuple):
    """Tensors by their published keys, and the names for which a shell stood."""

    state: dict[str, Tensor]
    inert: list[str]


def read_torch_file(path: Path) -> TorchFile:
    """The state dict of a torch file (zip or legacy), of Lightning or of STEEX.

    Tensors are mapped from the file where its format allows. Not safe to call from several threads: torch keeps
    the registered names for the whole process.

    Raises:
        UsageError: unreadable, not a torch file, truncated, with objects that are not on the list, or with
            something else than dense tensors where the weights should be.
    """
    refuse_other_formats(path)
    content, inert = _load_with_shells(path)
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not a state dict; this is no published checkpoint")
    state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise UsageError(f"{path}: {key!r} is not a tensor; this is no published checkpoint")
        _check_dense(path, key, tensor)
    if not state:
        raise UsageError(f"{path} holds no tensors")
    return TorchFile(dict(state), inert)


def refuse_other_formats(path: Path) -> None:
    """Name what a file is when it is clearly no weights file.

    Raises:
        UsageError: missing, empty, a web page, a Git LFS pointer, a tar or gzip archive, or zeros.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise UsageError(f"{path} is empty; download it again")
    if head.lstrip()[:1] == b"<":
        raise UsageError(f"{path} is a web page (a quota or login notice?); download the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a Git LFS pointer; fetch the file itself with `git lfs pull`")
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":
        raise UsageError(f"{path} is an archive; extract it and give the weights file inside")
    if not any(head):
        raise UsageError(f"{path} begins with zeros; the download is incomplete, repeat it")


def _load_with_shells(path: Path) -> tuple[object, list[str]]:
    """(content, names with a shell): one more name a round, until nothing unknown is left."""
    shells: list[tuple[type, str]] = []
    with path.open("rb") as file:
        mapped = file.read(4) == b"PK\x03\x04"
    for _ in range(_MAX_SHELLS):
        try:
            with torch.serialization.safe_globals(shells):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            return content, sorted(name for _, name in shells)
        except pickle.UnpicklingError as error:
            name = _unknown_name(error)
            if name is None:
                raise UsageError(f"{path} is damaged or not a torch file") from error
            if not _HARMLESS.match(name) or name in {known for _, known in shells}:
                raise UsageError(f"{path} asks for {name}, which weights do not need; the file is refused") from error
            shells.append((_shell(name), name))
        except TORCH_DAMAGE as error:
            raise UsageError(f"{path} is damaged or not a torch file; download it again") from error
    raise UsageError(f"{path} asks for more than {_MAX_SHELLS} unknown classes; the file is refused")


def _unknown_name(error: pickle.UnpicklingError) -> str | None:
    """The class that torch refused to make, if that was the reason."""
    match = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+) (?:was not|whose module)", str(error))
    return match[1] if match else None


def _shell(name: str) -> type:
    """A class that takes any arguments and any state, and keeps neither."""
    return type(
        "Inert_" + name.replace(".", "_"),
        (),
        {
            "__new__": lambda cls, *args, **kwargs: object.__new__(cls),
            "__init__": lambda self, *args, **kwargs: None,
            "__setstate__": lambda self, state: None,
        },
    )


def _check_dense(path: Path, key: str, tensor: Tensor) -> None:
    """Refuse sparse and quantised tensors, and those that claim more elements than the file holds."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise UsageError(f"{path}: {key} is not a dense tensor; this is no published checkpoint")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UsageError(f"{path}: {key} claims {tuple(tensor.shape)}, more than the file holds; it is refused")
