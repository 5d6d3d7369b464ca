"""The library call: counterfactuals of any regressor, from a notebook; see `explain`."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DModel
from pydantic import ValidationError
from torch import Tensor, nn

from backends import BACKENDS
from backends.base import Backend, BackendError
from bench.checkpoints import load_network
from bench.config import describe
from bench.errors import UsageError
from bench.fit import CHANNELS, Shape, shape_misfit
from bench.images import to_float, to_uint8
from bench.kinds import ROLES
from bench.own_models import DiffusersDenoiser, OwnRegressor, check_regressor
from bench.registry import resolve, suggestion
from bench.suite import resolve_device
from methods import METHODS
from methods.base import Method, MethodConfig
from methods.search import Event, Outcome, Sample, SlotSearch

GENERATORS = ("ddpm", "diffae")
"""Roles that `explain(generator=...)` can fill."""

Targets = float | Sequence[float] | np.ndarray | Tensor


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Counterfactuals of N images; everything is on the CPU and in the order of the images.

    Attributes:
        counterfactuals: float32 (N, C, H, W) in [0, 1], rounded to the 8 bits of a saved image; NaN where the
            search failed.
        targets: float32 (N,).
        start: the regressor's predictions on the images, float32 (N,).
        predictions: its predictions on the counterfactuals, eager and in float32 whatever backend searched.
        valid: bool (N,), |prediction - target| <= tolerance.
        steps: updates made, int64 (N,).
        forward, backward: calls of the generator and pull-backs through it, int64 (N,).
        seconds: a sample's share of the wall time, float64 (N,).
        failures: for every image why there is no counterfactual ("nonfinite@step 3"), or None.
        execution: what really ran: the backend's own report.
    """

    counterfactuals: Tensor
    targets: Tensor
    start: Tensor
    predictions: Tensor
    valid: Tensor
    steps: Tensor
    forward: Tensor
    backward: Tensor
    seconds: Tensor
    failures: tuple[str | None, ...]
    execution: dict[str, object]

    def frame(self) -> pd.DataFrame:
        """One row an image, without the pixels."""
        columns = [field.name for field in dataclasses.fields(self)]
        columns = [name for name in columns if name not in ("counterfactuals", "execution", "failures")]
        return pd.DataFrame({name: getattr(self, name).numpy() for name in columns} | {"failure": self.failures})


def explain(
    regressor: nn.Module | str,
    images: Tensor | np.ndarray,
    targets: Targets,
    method: str = "ac-re",
    generator: nn.Module | str | None = None,
    backend: str = "eager",
    *,
    networks: Mapping[str, nn.Module | str] | None = None,
    backend_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int = 8,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    **options: Any,
) -> Explanation:
    """Search a counterfactual for every image: a similar one for which the regressor predicts the target.

    It is the search of `python -m bench run`, in slots, with the same noise, but nothing is recorded: no file is
    written (a backend that builds engines or kernels keeps its own cache).

    Args:
        regressor: image (B, C, H, W) in [0, 1] -> (B,) or (B, 1); or a weights reference: a shipped name
            ("square-regressor"), a file with a card, "package.module:callable@FILE". A module is copied; its
            weights, mode and gradients stay as they are.
        images: (N, C, H, H) or (N, H, H, C) with 3 channels, or 1 for grey; uint8, or floating point in [0, 1].
        targets: one reference value, or one for each image, in the regressor's unit.
        method: key of methods.METHODS ("ac-re", "diffae-re", ...).
        generator: the method's generative network: an AdmUNet or DiffAe of this project, a diffusers UNet2DModel
            (with DDPM's linear process; bench.own_models.DiffusersDenoiser takes others), or a weights reference:
            a shipped name, an imported file, a diffusers folder. Methods without a generator take None.
        backend: key of backends.BACKENDS ("eager", "compile", ...).
        networks: further networks of the method by role, such as "classifier".
        backend_options: the backend's options by name.
        device: "auto", "cpu" or "cuda".
        batch_size: slots of the search; results do not depend on it, up to rounding.
        seed: of all noise.
        ids: names of the images, which their noise follows; default "image/0", "image/1", ...
        on_event: called with the progress.
        **options: the method's options by name (max_steps, tolerance, depth, ...).

    Returns:
        Counterfactuals with their predictions, steps and costs.

    Raises:
        UsageError: anything given that cannot be used; the text names it.

    Example:
        >>> from bench import explain
        >>> from bench.datasets import square
        >>> data = square.load("grid")
        >>> found = explain("square-regressor", data.images[:2], 0.8, generator="square-ddpm", max_steps=30)
        >>> found.counterfactuals.shape
        torch.Size([2, 3, 64, 64])
        >>> found.frame()[["start", "predictions", "valid", "steps"]]
    """
    pixels = _images(images)
    goals = _targets(targets, len(pixels))
    names = _names(ids, len(pixels))
    chosen = resolve_device(device)
    runner = _backend(backend, backend_options or {}, chosen)
    judge = _regressor(regressor)
    # First the method's networks: they know their size, so they can say which one is needed.
    search, parts = _method(method, options, seed, chosen, tuple(pixels.shape[1:]), generator, networks or {})
    check_regressor(judge, pixels[:1], "regressor")
    slots = min(batch_size, len(pixels))
    try:
        search.prepare(parts | {"regressor": judge}, runner, slots)
        engine = SlotSearch(search, slots, on_event)
        rows = zip(names, pixels, goals.tolist(), strict=True)
        found: dict[str, Outcome] = {}
        for outcome in engine.run(Sample(name, image, target) for name, image, target in rows):
            runner.check()
            found[outcome.id] = outcome
    except BackendError as error:
        raise UsageError(f"backend {backend!r}: {error}") from error
    return _explanation([found[name] for name in names], pixels, goals, judge, search, runner)


def _images(images: Tensor | np.ndarray) -> Tensor:
    """Float32 (N, C, H, W) in [0, 1] on the CPU."""
    pixels = torch.as_tensor(images).detach().cpu()
    if pixels.ndim == 4 and pixels.shape[1] not in CHANNELS and pixels.shape[3] in CHANNELS:
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in CHANNELS or not len(pixels) or pixels.shape[2] != pixels.shape[3]:
        hint = "; grey ones of shape (N, H, H) are given as images[..., None]" if pixels.ndim == 3 else ""
        raise UsageError(
            f"images: shape {tuple(pixels.shape)}; square images (N, C, H, H) or (N, H, H, C) with 3 channels, or 1 "
            f"for grey, are needed{hint}"
        )
    if pixels.dtype == torch.uint8:
        return (pixels.float() / 255).contiguous()
    if not pixels.is_floating_point() or not torch.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise UsageError(f"images: {pixels.dtype} values have to be finite and in [0, 1], or uint8 in 0..255")
    return pixels.float().contiguous()


def _targets(targets: Targets, count: int) -> Tensor:
    """Float32 (N,) from one value or one for each image."""
    values = torch.as_tensor(targets, dtype=torch.float32).detach().cpu()
    if values.ndim == 0:
        values = values.expand(count).clone()
    if values.shape != (count,):
        raise UsageError(f"targets: shape {tuple(values.shape)}; one value, or one for each of the {count} images")
    if not torch.isfinite(values).all():
        raise UsageError("targets: every value has to be finite")
    return values


def _names(ids: Sequence[str] | None, count: int) -> list[str]:
    names = [f"image/{index}" for index in range(count)] if ids is None else list(ids)
    if len(names) != count or len(set(names)) != count:
        raise UsageError(f"ids: {count} different names are needed, one for each image")
    return names


def _frozen(network: nn.Module) -> nn.Module:
    """A private copy on the CPU, so that the caller's network keeps its mode, device and gradients."""
    return copy.deepcopy(network).cpu().float().eval().requires_grad_(False)


def _regressor(given: nn.Module | str) -> nn.Module:
    return load_network(given, "regressor").network if isinstance(given, str) else OwnRegressor(_frozen(given)).eval()


def _network(given: nn.Module | str, role: str) -> nn.Module:
    """A network of the method."""
    if isinstance(given, str):
        return load_network(given, role).network
    network = _frozen(given)
    if not isinstance(network, UNet2DModel):
        return network
    try:
        return DiffusersDenoiser(network).eval()
    except ValueError as error:
        raise UsageError(f"generator: {error}") from error


def _backend(name: str, options: Mapping[str, Any], device: torch.device) -> Backend:
    """The backend, which has to be usable on this machine."""
    cls = resolve(BACKENDS, name, "backend")
    config = _options(cls.options, name, options)
    reason = cls.unavailable()
    if reason:
        raise UsageError(f"backend {name!r} is not available here: {reason}")
    runner = cls(config, device)
    try:
        runner.validate()
    except BackendError as error:
        raise UsageError(f"backend {name!r}: {error}") from error
    return runner


def _options(cls: type, name: str, given: Mapping[str, Any]) -> Any:
    """A component's validated options."""
    for key in given:
        if key not in cls.model_fields:
            raise UsageError(f"unknown option {key!r} of {name}; {suggestion(key, cls.model_fields)}")
    try:
        return cls(**given)
    except ValidationError as error:
        raise UsageError(describe(error, name)) from error


def _method(
    name: str,
    options: Mapping[str, Any],
    seed: int,
    device: torch.device,
    shape: Shape,
    generator: nn.Module | str | None,
    further: Mapping[str, nn.Module | str],
) -> tuple[Method, dict[str, nn.Module]]:
    """The method with its networks, which fit each other and the images."""
    cls = resolve(METHODS, name, "method")
    config: MethodConfig = _options(cls.options, name, options)
    roles = cls.roles(config)
    given = dict(further)
    for role in given:
        if role not in ROLES:
            raise UsageError(f"networks: unknown role {role!r}; {suggestion(role, ROLES)}")
    wanted = [role for role in roles if role in GENERATORS]
    if generator is not None:
        if not wanted:
            raise UsageError(f"generator: {name} has none; leave it out")
        given[wanted[0]] = generator
    for role in roles:
        if role not in given:
            how = "generator=..." if role in GENERATORS else f"networks={{{role!r}: ...}}"
            raise UsageError(f"{name} needs a network for {role!r}; give it with {how}")
    parts = {role: _network(given[role], role) for role in roles}
    method = cls(config, seed, device, shape)
    try:
        method.check(parts)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
    except AttributeError as error:
        raise UsageError(
            f"{name}: the generator is of no use to it ({error}); it takes an AdmUNet or a DiffAe, a diffusers "
            "UNet2DModel or a weights reference"
        ) from error
    for role, network in parts.items():
        misfit = shape_misfit(network, shape)
        if misfit:
            fault = f"images are {misfit[0]}; the network for {role!r} needs {misfit[1]}"
            raise UsageError(fault + _shrinking(network, shape))
    return method, parts


def _shrinking(network: nn.Module, shape: Shape) -> str:
    """How images that are larger than the network's become as large; empty for others."""
    size = getattr(getattr(network, "config", None), "image_size", None)
    if size is None or shape[1] <= size:
        return ""
    return f"; shrink each image, uint8 (H, W, C), with bench.images.centre_resize(image, {size})"


@torch.no_grad()
def _explanation(
    outcomes: list[Outcome], pixels: Tensor, targets: Tensor, judge: nn.Module, method: Method, backend: Backend
) -> Explanation:
    """Judge every counterfactual in 8 bits, one at a time, so that no batch can matter."""
    images = torch.stack([_eight_bits(outcome) for outcome in outcomes])
    predictions = torch.stack([judge(image[None])[0] for image in images])
    starts = torch.stack([judge(image[None])[0] for image in pixels])
    return Explanation(
        counterfactuals=images,
        targets=targets,
        start=starts,
        predictions=predictions,
        valid=(predictions - targets).abs() <= method.config.tolerance,
        steps=torch.tensor([outcome.steps for outcome in outcomes]),
        forward=torch.tensor([outcome.evaluations.forward for outcome in outcomes]),
        backward=torch.tensor([outcome.evaluations.backward for outcome in outcomes]),
        seconds=torch.tensor([outcome.seconds for outcome in outcomes], dtype=torch.float64),
        failures=tuple(outcome.failure for outcome in outcomes),
        execution=backend.report.to_dict(),
    )


def _eight_bits(outcome: Outcome) -> Tensor:
    """The counterfactual as a saved image would be read; NaN where there is none."""
    if outcome.failure is not None:
        return torch.full_like(outcome.image, float("nan"))
    return torch.from_numpy(to_float(to_uint8(outcome.image.numpy())))
