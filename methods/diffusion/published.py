"""Build networks from the state dicts of published checkpoints."""

from collections.abc import Mapping

from pydantic import ValidationError
from torch import Tensor, nn

from methods.diffusion.adm import AdmConfig, AdmUNet, convert_adm_state
from methods.diffusion.diffae import DiffAe, DiffAeConfig


class CheckpointMismatch(ValueError):
    """Weights that do not belong to the network; the text lists the first keys."""


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """Load `state` with every key and shape matching, freeze the weights, and set evaluation mode.

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
        raise CheckpointMismatch(f"{what}: the weights do not fit this architecture: {'; '.join(problems)}")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what training wrappers put before the keys; of a Lightning Diff-AE file, take the EMA weights."""
    for prefix in ("ema_model.", "module."):
        chosen = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if chosen:
            return chosen
    return dict(state)


def build(kind: str, state: Mapping[str, Tensor], config: Mapping[str, object]) -> nn.Module:
    """A frozen network from published weights.

    Args:
        kind: "adm" (net(x, t) -> (B, 6, H, W)) or "diffae" (net(x, t, z_sem) -> eps, and
            net.encode(x) -> z_sem); x in [-1, 1], t in original timesteps.
        state: tensors under the published keys (also behind `module.` or Lightning's `ema_model.`).
        config: the published hyper-parameters; see AdmConfig and DiffAeConfig.

    Raises:
        ValueError: unknown kind or option, or an option this network cannot have.
        CheckpointMismatch: keys or shapes that do not fit.
    """
    if kind not in ("adm", "diffae"):
        raise ValueError(f"unknown kind of network {kind!r}; use 'adm' or 'diffae'")
    try:
        parsed = AdmConfig(**config) if kind == "adm" else DiffAeConfig(**config)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind} config: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    state = {key: value for key, value in _without_prefix(state).items() if not key.startswith("latent_net.")}
    if isinstance(parsed, AdmConfig):
        return load_exactly(AdmUNet(parsed), convert_adm_state(state, parsed), "adm checkpoint")
    return load_exactly(DiffAe(parsed), state, "diffae checkpoint")
