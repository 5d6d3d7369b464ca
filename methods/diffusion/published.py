"""Build networks from the state dicts of published checkpoints."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from methods.diffusion.adm import AdmConfig, AdmUNet, convert_adm_state, published_blocks
from methods.diffusion.diffae import DiffAe, DiffAeConfig
from methods.networks import densenet, resnet, vggface2
from methods.networks.config import PublishedConfig
from methods.networks.keys import UnfitKeys


class CheckpointMismatch(ValueError):
    """Weights that do not belong to the network; the text lists the first keys.

    Attributes:
        keys: how many do not fit; infinite where they could not be compared one by one.
    """

    def __init__(self, text: str, keys: float = math.inf) -> None:
        super().__init__(text)
        self.keys = keys


def check_shapes(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Compare every key and shape; the network may be on the meta device.

    Raises:
        CheckpointMismatch: names up to three missing, unexpected and misshapen keys.
    """
    expected = network.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    problems = [f"{len(keys)} {word} ({', '.join(keys[:3])})" for word, keys in lists.items() if keys]
    if problems:
        count = sum(map(len, lists.values()))
        raise CheckpointMismatch(f"{what}: the weights do not fit this architecture: {'; '.join(problems)}", count)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """Load `state` with every key and shape matching, freeze the weights, and set evaluation mode.

    Raises:
        CheckpointMismatch: names up to three missing, unexpected and misshapen keys.
    """
    check_shapes(network, state, what)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


class Published(NamedTuple):
    """A kind of published network.

    Attributes:
        network, config: its classes; `network(config)` has fresh weights.
        convert: (published state without prefixes, config) -> state of `network`; keys it does not know stay.
    """

    network: Callable[..., nn.Module]
    config: type[BaseModel]
    convert: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]


_ATTENTION_LEAVES = {f"{layer}.{leaf}" for layer in ("norm", "qkv", "proj_out") for leaf in ("weight", "bias")}


def _convert_adm(state: dict[str, Tensor], config: AdmConfig) -> dict[str, Tensor]:
    """`convert_adm_state`, after checking that its attention blocks are such and can be split into heads.

    Raises:
        UnfitKeys: names the first key that cannot belong to the attention block of this configuration.
    """
    attends = [published + "." for published, _, kind in published_blocks(config) if kind == "attention"]
    for key, tensor in state.items():
        block = next((block for block in attends if key.startswith(block)), None)
        if block is None:
            continue
        leaf = key.removeprefix(block)
        if leaf not in _ATTENTION_LEAVES:
            raise UnfitKeys(f"{key} stands where this configuration has self-attention")
        rows = tensor.shape[0] if tensor.ndim else 0
        channels = rows // 3 if leaf.startswith("qkv") else rows
        heads = config.heads(channels, upward=key.startswith("output_blocks"))
        if rows < 1 or heads < 1 or (leaf.startswith("qkv") and rows % (3 * heads)):
            raise UnfitKeys(f"{key} of shape {tuple(tensor.shape)} cannot be split into attention heads")
    return convert_adm_state(state, config)


def _convert_diffae(state: dict[str, Tensor], config: DiffAeConfig) -> dict[str, Tensor]:
    """The keys are ours; the latent diffusion model of files that can sample is left out."""
    return {key: value for key, value in state.items() if not key.startswith("latent_net.")}


PUBLISHED: dict[str, Published] = {
    "adm": Published(AdmUNet, AdmConfig, _convert_adm),
    "diffae": Published(DiffAe, DiffAeConfig, _convert_diffae),
    "densenet-regressor": Published(
        densenet.DenseNetRegressor, PublishedConfig, lambda state, _: densenet.convert_regressor_state(state)
    ),
    "square-resnet18": Published(
        resnet.SquareResNet18, PublishedConfig, lambda state, _: resnet.convert_square_state(state)
    ),
    "steex-decision-densenet": Published(
        densenet.DecisionDenseNet, PublishedConfig, lambda state, _: densenet.convert_decision_state(state)
    ),
    "steex-attribute-oracle": Published(
        vggface2.AttributeOracle, PublishedConfig, lambda state, _: vggface2.convert_attribute_oracle_state(state)
    ),
    "vggface2-resnet50": Published(
        vggface2.VggFace2ResNet50, PublishedConfig, lambda state, _: vggface2.convert_vggface2_state(state)
    ),
}
"""Kind -> how it is built and read. Attributes and shapes of what each computes: its class."""

_BESIDE_EMA = ("model.", "x_T", "conds_mean", "conds_std")
"""What Lightning Diff-AE files hold beside the EMA weights: raw weights, a fixed noise, statistics of codes."""


def _without_prefix(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Drop what training wrappers put before the keys; of a Lightning Diff-AE file, take the EMA weights.

    Raises:
        CheckpointMismatch: a Lightning Diff-AE file without EMA weights.
    """
    ema = {key.removeprefix("ema_model."): value for key, value in state.items() if key.startswith("ema_model.")}
    if ema:
        beside = {key: value for key, value in state.items() if not key.startswith(("ema_model.", *_BESIDE_EMA))}
        return ema | beside
    if kind == "diffae" and any(key.startswith("model.") for key in state):
        raise CheckpointMismatch(
            "diffae checkpoint: EMA absent: only the raw weights (model.*) are there, and images are decoded with "
            "the averaged ones (ema_model.*); use the published last.ckpt as it was downloaded"
        )
    for prefix in ("module.", "model.", "module."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def parse_config(kind: str, config: Mapping[str, object]) -> BaseModel:
    """The validated options of a kind of PUBLISHED.

    Raises:
        ValueError: unknown kind or option.
    """
    if kind not in PUBLISHED:
        raise ValueError(f"unknown kind of network {kind!r}; use {', '.join(map(repr, PUBLISHED))}")
    try:
        return PUBLISHED[kind].config(**config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind} config: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _as_scalar(key: str, tensor: Tensor) -> Tensor:
    """Batch counters that were saved with one dimension, as files do that passed through arrays or old PyTorch."""
    return tensor.reshape(()) if key.endswith("num_batches_tracked") and tensor.shape == (1,) else tensor


def convert(kind: str, state: Mapping[str, Tensor], config: Mapping[str, object]) -> dict[str, Tensor]:
    """Published tensors under this project's keys, checked against the architecture without allocating it.

    Arguments and errors are those of `build`.
    """
    parsed = parse_config(kind, config)
    entry = PUBLISHED[kind]
    with torch.device("meta"):
        network = entry.network(parsed)
    try:
        converted = entry.convert(_without_prefix(state, kind), parsed)
    except UnfitKeys as error:
        raise CheckpointMismatch(f"{kind} checkpoint: {error}") from error
    converted = {key: _as_scalar(key, tensor) for key, tensor in converted.items()}
    check_shapes(network, converted, f"{kind} checkpoint")
    return converted


def build(kind: str, state: Mapping[str, Tensor], config: Mapping[str, object]) -> nn.Module:
    """A frozen network from published weights, on the device of `state`.

    Args:
        kind: key of PUBLISHED: "adm" (net(x, t) -> (B, 2 C, H, W)) or "diffae" (net(x, t, z_sem) -> eps, and
            net.encode(x) -> z_sem), with x in [-1, 1] and t in original timesteps; the others take an image
            float (B, 3, H, W) in [0, 1]: "densenet-regressor" and "square-resnet18" -> (B,),
            "steex-decision-densenet" -> logits (B, 3), "steex-attribute-oracle" -> logits (B, 40),
            "vggface2-resnet50" -> features (B, 2048).
        state: tensors under the published keys (also behind `module.`, or Lightning's `model.` or `ema_model.`).
        config: the published hyper-parameters; see AdmConfig and DiffAeConfig. The others have none.

    Raises:
        ValueError: unknown kind or option, or an option this network cannot have.
        CheckpointMismatch: keys or shapes that do not fit, or a Diff-AE file without EMA weights.
    """
    converted = convert(kind, state, config)
    with next(iter(converted.values())).device:
        network = PUBLISHED[kind].network(parse_config(kind, config))
    return load_exactly(network, converted, f"{kind} checkpoint")
