"""Kinds of networks that a weights card may name, and the roles each can play. A kind is one line here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from bench.registry import resolve

if TYPE_CHECKING:
    from torch import nn


class Kind(NamedTuple):
    """A kind of network.

    Attributes:
        network, config: "module:class"; imported only when asked for.
        roles: what `weights.ROLE` it may be given as.
    """

    network: str
    config: str
    roles: tuple[str, ...]


_PREDICTS = ("regressor", "oracle")

KINDS: dict[str, Kind] = {
    "adm": Kind("methods.diffusion.adm:AdmUNet", "methods.diffusion.adm:AdmConfig", ("ddpm",)),
    "diffae": Kind("methods.diffusion.diffae:DiffAe", "methods.diffusion.diffae:DiffAeConfig", ("diffae",)),
    "regressor": Kind("bench.networks:SmallRegressor", "bench.networks:RegressorConfig", (*_PREDICTS, "type")),
    "densenet-regressor": Kind(
        "methods.networks.densenet:DenseNetRegressor", "methods.networks.config:PublishedConfig", _PREDICTS
    ),
    "square-resnet18": Kind(
        "methods.networks.resnet:SquareResNet18", "methods.networks.config:PublishedConfig", _PREDICTS
    ),
    "steex-decision-densenet": Kind(
        "methods.networks.densenet:DecisionDenseNet", "methods.networks.config:PublishedConfig", ("classifier",)
    ),
    "steex-attribute-oracle": Kind(
        "methods.networks.vggface2:AttributeOracle", "methods.networks.config:PublishedConfig", ("attributes",)
    ),
    "vggface2-resnet50": Kind(
        "methods.networks.vggface2:VggFace2ResNet50", "methods.networks.config:PublishedConfig", ("identity",)
    ),
}
"""Kind of a network -> its classes and roles."""

ROLES: dict[str, tuple[str, ...]] = {
    role: tuple(kind for kind, entry in KINDS.items() if role in entry.roles)
    for role in ("regressor", "oracle", "ddpm", "diffae", "classifier", "identity", "attributes", "type")
}
"""Role of a network in a run -> kinds that can play it."""


def build_network(kind: str, config: Mapping[str, object]) -> "nn.Module":
    """A network with fresh weights from a card's `kind` and `config`.

    Raises:
        UsageError: unknown kind.
        pydantic.ValidationError: an option that the kind does not have.
    """
    options = resolve({name: entry.config for name, entry in KINDS.items()}, kind, "kind of network")
    network = resolve({name: entry.network for name, entry in KINDS.items()}, kind, "kind of network")
    return network(options(**config))
