"""The contract between methods and backends.

A backend takes a frozen network and returns one with the same call signature that is differentiable
with respect to its tensor inputs. A method never asks which backend runs it, and a backend proves that
it is what it says: `report` holds what really ran, and a fallback is an error, never a warning.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class BackendError(RuntimeError):
    """A backend that cannot do what it was asked for; the text says what to do."""


class BackendConfig(BaseModel):
    """Options of a backend; subclasses add fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class BackendReport:
    """What ran, filled while networks are prepared and called.

    Attributes:
        networks: by name: dtype, build_seconds, cache ("hit" or "miss"), and what else the backend knows.
        flags: why timings of this run are not to be trusted, such as a recompilation after the build.
    """

    backend: str
    device: str
    networks: dict[str, dict[str, object]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Plain data for the record."""
        return asdict(self)


class Backend(ABC):
    """Prepares networks for one device.

    Attributes:
        name: as in `--backend`.
        options: the config class.
        announce: called with a network's name before it is built, which may take a minute.
        faithful: its outputs are meant to equal the reference's.
        calls: by network: how many of its calls one gradient goes through.
    """

    name: str
    options: type[BackendConfig] = BackendConfig
    faithful: bool = True

    def __init__(
        self, config: BackendConfig, device: torch.device, announce: Callable[[str], None] = lambda name: None
    ) -> None:
        self.config, self.device, self.announce = config, device, announce
        self.report = BackendReport(self.name, str(device))
        self.calls: dict[str, int] = {}

    @staticmethod
    def unavailable() -> str | None:
        """Why this backend cannot run on this machine and what to install, or None."""
        return None

    def validate(self) -> None:
        """Raise BackendError for options that this device cannot do; called before anything runs."""

    def prepare(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...], calls: int = 1) -> nn.Module:
        """Announce and build; see `build`.

        Args:
            calls: how many calls of this network one gradient goes through, for backends that weigh memory.
        """
        self.announce(name)
        self.calls[name] = calls
        return self.build(name, network, example_inputs)

    @abstractmethod
    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        """A network with the signature of `network`, built for the shapes of `example_inputs`.

        Args:
            name: for the report: "denoiser", "encoder", "regressor".
            network: frozen and in evaluation mode; it is copied, never changed.
            example_inputs: tensors on the backend's device, of the shapes every call will have.

        Raises:
            BackendError: the network or a shape is not supported.
        """

    def check(self) -> None:
        """Look whether something other than the announced execution took place.

        What only spoils the timing is added to `report.flags`.

        Raises:
            BackendError: results are not those of this backend.
        """


def frozen_copy(network: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A private copy on `device`, so that no backend changes another's weights.

    Raises:
        BackendError: the network is in training mode or its weights ask for gradients.
    """
    if any(module.training for module in network.modules()):
        raise BackendError("the network is in training mode; call .eval() before preparing it")
    if any(parameter.requires_grad for parameter in network.parameters()):
        raise BackendError("the network's weights require gradients; call .requires_grad_(False) before preparing it")
    return copy.deepcopy(network).to(device=device, dtype=dtype)
