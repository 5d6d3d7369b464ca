"""Networks of the user's own: a regressor that a function builds, and a denoiser that diffusers saved.

Images are float32 (B, C, H, W) in [0, 1] at a regressor's door, [-1, 1] at a denoiser's. What comes back is
frozen and in evaluation mode.
"""

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from bench.errors import UsageError
from bench.fit import CHANNELS, shape_misfit
from bench.state_files import Loaded, check_finite, read_blob, read_state
from methods.diffusion.published import CheckpointMismatch, load_exactly
from methods.diffusion.schedule import Schedule, spaced_timesteps

_REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(@(?P<file>.+))?")
_CALLABLE_ROLES = ("regressor", "oracle")


class OwnRegressor(nn.Module):
    """Any network with one output an image, as image (B, C, H, W) in [0, 1] -> (B,).

    Args:
        network: returns (B,) or (B, 1). Where it has a method `features`, image -> (B, D), it is kept, for the
            realism of counterfactuals; a submodule of that name (torchvision's) is something else and is not.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        features = getattr(network, "features", None)
        if callable(features) and not isinstance(features, nn.Module):
            self.features = features

    def forward(self, image: Tensor) -> Tensor:
        out = self.network(image)
        if out.shape == (image.shape[0], 1):
            return out.squeeze(1)
        if out.shape != (image.shape[0],):
            raise UsageError(
                f"the regressor returns shape {tuple(out.shape)} for a batch of {image.shape[0]} images; "
                "one output an image is needed: (B,) or (B, 1)"
            )
        return out


def is_callable_reference(reference: str) -> bool:
    """Whether it reads "package.module:callable" or "package.module:callable@FILE"."""
    return _REFERENCE.fullmatch(reference) is not None


def load_callable(reference: str, role: str, option: str) -> Loaded:
    """The regressor that a function of the user returns, with weights from a file where one is named.

    Args:
        reference: "package.module:callable" or "package.module:callable@FILE"; the callable takes no arguments
            and returns an nn.Module, image (B, C, H, W) in [0, 1] -> (B,) or (B, 1). FILE is a .safetensors or
            a torch file of plain tensors; its keys and shapes have to be exactly those of the network.
        role: "regressor" or "oracle".
        option: what named it, for errors.

    Returns:
        sha256 is that of the reference and of every tensor in the network's state; code is not part of it.

    Raises:
        UsageError: nothing there to call, something else than a network returned, or weights that do not fit.
    """
    if role not in _CALLABLE_ROLES:
        raise UsageError(f"{option}={reference}: a callable is taken for {' and '.join(_CALLABLE_ROLES)} only")
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(f"{option}={reference} is not of the form package.module:callable or ...:callable@FILE")
    target = f"{match['module']}:{match['name']}"
    network = _call(match["module"], match["name"], f"{option}={target}")
    path = Path(match["file"] or target)
    if match["file"]:
        state = read_state(path, read_blob(path, option), option)
        try:
            network = load_exactly(network, state, f"{option}: {path}")
        except CheckpointMismatch as error:
            raise UsageError(str(error)) from error
    network = OwnRegressor(network).eval().requires_grad_(False)
    check_finite(network.state_dict(), path, option)
    return Loaded(network, path, state_digest(network, target))


def _call(module: str, name: str, where: str) -> nn.Module:
    """Import and call; exceptions of the user's own code are left as they are."""
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{where}: cannot import {module} ({error}); run from its folder or set PYTHONPATH") from error
    build = getattr(found, name, None)
    if not callable(build):
        raise UsageError(f"{where}: {module} has no callable {name!r}")
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise UsageError(f"{where}: it is called without arguments ({error})") from error
    network = build()
    if not isinstance(network, nn.Module):
        raise UsageError(f"{where} returned {type(network).__name__}; a torch.nn.Module is needed")
    return network


def state_digest(network: nn.Module, *facts: str) -> str:
    """sha256 of `facts` and of the name, type, shape and bytes of every tensor in a network's state."""
    digest = hashlib.sha256(json.dumps(facts).encode())
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def try_regressor(network: nn.Module, image: Tensor, option: str) -> Tensor:
    """A regressor's predictions on images, (B,).

    Args:
        image: float32 (B, C, H, W) in [0, 1].
        option: what named the network, for errors.

    Raises:
        UsageError: it cannot take the image, or does not return one finite number an image.
    """
    shape = tuple(image.shape)
    misfit = shape_misfit(network, shape[1:])
    if misfit:
        raise UsageError(f"{option}: images are {misfit[0]}; the network needs {misfit[1]}")
    try:
        prediction = network(image)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    except (RuntimeError, ValueError, TypeError) as error:  # what torch raises for shapes that do not fit
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(f"{option}: it cannot take images of shape {shape}: {reason[0]}") from error
    if not torch.isfinite(prediction).all():
        raise UsageError(f"{option}: it returns NaN or infinity for an image; check its weights")
    return prediction


def check_regressor(network: nn.Module, image: Tensor, option: str) -> None:
    """`try_regressor`, and whether the prediction depends on the image.

    Raises:
        UsageError: it cannot be used, or its gradient is zero.
    """
    image = image.detach().clone().requires_grad_(True)
    prediction = try_regressor(network, image, option)
    gradient = None
    if prediction.requires_grad:
        gradient = torch.autograd.grad(prediction.sum(), image, allow_unused=True)[0]
    if gradient is None or not torch.any(gradient):
        raise UsageError(f"{option}: it does not depend on the image (its gradient is zero); nothing can be searched")


@dataclass(frozen=True)
class DiffusersConfig:
    """What methods ask of a denoiser's config.

    Attributes:
        image_size: width and height of the images.
        in_channels: 3 for colour, 1 for grey.
        alphas_cumprod: of the whole process, float64 (T,).
    """

    image_size: int
    in_channels: int
    alphas_cumprod: np.ndarray

    def schedule(self, respacing: str | None = None) -> Schedule:
        """The diffusion process, all of its steps or respaced as guided-diffusion does it."""
        kept = np.array(spaced_timesteps(len(self.alphas_cumprod), respacing or ""), dtype=np.int64)
        return Schedule(kept, self.alphas_cumprod[kept])


class DiffusersDenoiser(nn.Module):
    """A diffusers UNet2DModel as net(x, t) -> (B, C, H, W) noise, or (B, 2 C, H, W) noise and learned-range variance.

    x is float32 (B, C, H, W) in [-1, 1] at timestep t, int64 (B,). A network that predicts v (Salimans and Ho
    2022) is converted: eps = sqrt(1 - a) x + sqrt(a) v, with a the signal level at t.

    Args:
        unet: unconditional, on RGB or grey images.
        scheduler: a diffusers scheduler config (beta_schedule, num_train_timesteps, ...); empty: DDPM's, linear
            over 1,000 steps.

    Raises:
        ValueError: a network or a process that methods cannot use; names the key of its config.
    """

    def __init__(self, unet: UNet2DModel, scheduler: Mapping[str, object] | None = None) -> None:
        super().__init__()
        process = DDPMScheduler.from_config(dict(scheduler or {}))
        _check_unet(unet.config)
        _check_process(process.config, unet.config)
        # float32 in the scheduler; the search's coefficients are float64 throughout.
        signal = np.cumprod(1 - process.betas.double().numpy())
        self.unet = unet
        self.config = DiffusersConfig(int(unet.config.sample_size), int(unet.config.in_channels), signal)
        self.predicts_v = process.config.prediction_type == "v_prediction"
        self.register_buffer("signal", torch.from_numpy(signal).float(), persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out = self.unet(x, t, return_dict=False)[0]
        if not self.predicts_v:
            return out
        signal = self.signal[t].view(-1, 1, 1, 1)
        channels = self.config.in_channels
        eps = (1 - signal).sqrt() * x + signal.sqrt() * out[:, :channels]
        return torch.cat([eps, out[:, channels:]], dim=1)


def _check_unet(config: Mapping[str, object]) -> None:
    if not isinstance(config["sample_size"], int):
        raise ValueError(f"sample_size {config['sample_size']} is not one number; the width of square images is needed")
    wanted: dict[str, tuple[object, ...]] = {
        "in_channels": CHANNELS,
        "out_channels": (config["in_channels"], 2 * config["in_channels"]),
        "center_input_sample": (False,),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
    }
    for key, values in wanted.items():
        if config[key] not in values:
            raise ValueError(f"{key} {config[key]!r} is not supported; {' or '.join(map(str, values))} is needed")


def _check_process(config: Mapping[str, object], unet: Mapping[str, object]) -> None:
    kind = config["prediction_type"]
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"prediction_type {kind!r} is not supported; 'epsilon' or 'v_prediction' is needed")
    channels = unet["out_channels"]
    if channels != unet["in_channels"] and config["variance_type"] != "learned_range":
        raise ValueError(
            f"variance_type {config['variance_type']!r} does not fit {channels} output channels; 'learned_range'"
        )
    if config["rescale_betas_zero_snr"]:
        raise ValueError("rescale_betas_zero_snr True is not supported: the last step would have no signal")


def load_diffusers(folder: Path, role: str, option: str) -> Loaded:
    """A denoiser from a folder that diffusers wrote: of a UNet2DModel, or of a pipeline with unet/ and scheduler/.

    Args:
        folder: config.json and diffusion_pytorch_model.safetensors, with scheduler_config.json beside them or in
            scheduler/ where the process is not DDPM's; nothing is downloaded.
        role: "ddpm".
        option: what named it, for errors.

    Raises:
        UsageError: another kind of folder, files missing or damaged, weights that do not fit, unusable options.
    """
    home = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    if role != "ddpm":
        raise UsageError(f"{option}: {folder} is a folder; only weights.ddpm takes one (of a diffusers UNet2DModel)")
    config = _read_json(home / "config.json", option)
    if config.get("_class_name") != "UNet2DModel":
        raise UsageError(f"{option}: {home} holds {config.get('_class_name')!r}; a diffusers UNet2DModel is needed")
    places = (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json")
    found = [path for path in places if path.is_file()]
    scheduler = _read_json(found[0], option) if found else {}
    unet = _read_unet(home, option)
    check_finite(unet.state_dict(), home, option)
    try:
        network = DiffusersDenoiser(unet, scheduler).eval().requires_grad_(False)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"{option}: {folder}: {error}") from error
    facts = json.dumps([config, scheduler], sort_keys=True)
    return Loaded(network, folder, state_digest(network, facts))


def _read_unet(home: Path, option: str) -> UNet2DModel:
    """The network with weights from safetensors, every key of which fits."""
    try:
        unet, info = UNet2DModel.from_pretrained(
            home, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{option}: {home} cannot be loaded ({reason})") from error
    problems = [f"{len(keys)} {word} ({', '.join(map(str, list(keys)[:3]))})" for word, keys in info.items() if keys]
    if problems:
        raise UsageError(f"{option}: {home}: the weights do not fit config.json: {'; '.join(problems)}")
    return unet.float()


def _read_json(path: Path, option: str) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(
            f"{option}: cannot read {path} ({error}); a folder of a diffusers UNet2DModel is needed"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{option}: {path} is not a JSON object")
    return content
