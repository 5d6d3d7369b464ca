"""Per-network accuracy of a backend: the calls a method really makes, on both, compared value by value."""

import math
from collections.abc import Callable, Mapping

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from backends.base import Backend
from bench.calls import Call, prepared_networks
from bench.sections import VerifyConfig
from methods import noise
from methods.base import Method


class NetworkAccuracy(BaseModel):
    """A network on a backend against the reference, over real calls.

    Attributes:
        dtype: what the backend says it computes in; empty where it says nothing.
        calls, gradient_calls: compared calls; the latter with the gradient as well.
        forward_absolute, forward_relative: largest error of an output; relative to the largest output of all calls.
        gradient_absolute, gradient_relative: of the pull-back of a fixed random cotangent, relative to the largest
            entry of the call's gradient; None where the method asks for no gradient.
        cosine_worst, cosine_mean: between gradients, of the worst sample and over samples; a sample's gradients to
            one input are taken together over all calls, as a search sums them up.
        cosine_call_worst, cosine_call_mean: the same call by call, where a weak gradient weighs as much as a strong.
        finite: no NaN and no infinite value in an output or a gradient.
        repeats, repeat_relative: repetitions of one call, and their largest relative deviation from the first;
            0 is bit-identical.
        input_response: change of the output when the input changes, as a share of the reference's change.
        faults: why this network is not accurate; empty when it is.
    """

    network: str
    dtype: str
    calls: int
    gradient_calls: int
    forward_absolute: float
    forward_relative: float
    gradient_absolute: float | None
    gradient_relative: float | None
    cosine_worst: float | None
    cosine_mean: float | None
    cosine_call_worst: float | None
    cosine_call_mean: float | None
    finite: bool
    repeats: int
    repeat_relative: float
    input_response: float
    faults: list[str] = []


def evaluate(network: nn.Module, call: Call) -> tuple[Tensor, list[Tensor]]:
    """Output, and the pull-back of a fixed random cotangent to the wanted inputs."""
    if not call.wanted:
        with torch.no_grad():
            return network(*call.inputs), []
    inputs = [x.clone().requires_grad_(i in call.wanted) for i, x in enumerate(call.inputs)]
    with torch.enable_grad():
        out = network(*inputs)
        cotangent = _cotangent(out)
        gradients = torch.autograd.grad(out, [inputs[i] for i in call.wanted], cotangent)
    return out.detach(), [gradient.detach() for gradient in gradients]


def _cotangent(out: Tensor) -> Tensor:
    """Standard normal, the same for every backend; each sample has its own."""
    names = [str(index) for index in range(out.shape[0])]
    keys = noise.sample_keys(0, names, "verify/cotangent", out.device)
    return noise.normal(keys, torch.zeros_like(keys), 1, out.shape[1:] or (1,)).reshape(out.shape)


def measure_network(
    name: str,
    reference: nn.Module,
    candidate: nn.Module,
    calls: list[Call],
    dtype: str,
    limits: VerifyConfig,
    repeats: int,
) -> NetworkAccuracy:
    """Compare a network with the reference on recorded calls, and judge it by the limits.

    Args:
        dtype: what the backend reports; a 16-bit type has limits of its own.
        repeats: repetitions of the last call with a gradient (of the last call where there is none).
    """
    forward, gradient, cosines, finite = _Errors(), _Errors(), [], True
    ours_by_input: dict[int, list[Tensor]] = {}
    theirs_by_input: dict[int, list[Tensor]] = {}
    for call in calls:
        expected, expected_gradients = evaluate(reference, call)
        out, gradients = evaluate(candidate, call)
        finite = finite and bool(torch.isfinite(out).all()) and all(bool(torch.isfinite(g).all()) for g in gradients)
        forward.add(out, expected)
        for position, ours, theirs in zip(call.wanted, gradients, expected_gradients, strict=True):
            gradient.add(ours, theirs)
            cosines += sample_cosines(ours, theirs)
            ours_by_input.setdefault(position, []).append(ours.flatten(1))
            theirs_by_input.setdefault(position, []).append(theirs.flatten(1))
    together = [
        cosine
        for position, found in ours_by_input.items()
        for cosine in sample_cosines(torch.cat(found, dim=1), torch.cat(theirs_by_input[position], dim=1))
    ]
    probe = next((call for call in reversed(calls) if call.wanted), calls[-1])
    measured = NetworkAccuracy(
        network=name,
        dtype=dtype,
        calls=len(calls),
        gradient_calls=sum(bool(call.wanted) for call in calls),
        forward_absolute=forward.absolute,
        forward_relative=forward.overall,
        gradient_absolute=gradient.absolute if cosines else None,
        gradient_relative=gradient.relative if cosines else None,
        cosine_worst=min(together, default=None),
        cosine_mean=sum(together) / len(together) if together else None,
        cosine_call_worst=min(cosines, default=None),
        cosine_call_mean=sum(cosines) / len(cosines) if cosines else None,
        finite=finite,
        repeats=repeats,
        repeat_relative=_repeat_deviation(candidate, probe, repeats),
        input_response=_input_response(reference, candidate, probe),
    )
    measured.faults = find_faults(measured, limits)
    return measured


class _Errors:
    """Largest errors over several calls; NaN counts as infinite.

    Attributes:
        absolute: largest error.
        relative: largest error of a call over the call's largest expected value.
    """

    def __init__(self) -> None:
        self.absolute = self.relative = self._scale = 0.0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        error = float((ours.double() - theirs.double()).abs().nan_to_num(nan=torch.inf).max())
        scale = float(theirs.double().abs().max())
        self.absolute, self._scale = max(self.absolute, error), max(self._scale, scale)
        self.relative = max(self.relative, _share(error, scale))

    @property
    def overall(self) -> float:
        """The largest error over the largest expected value of all calls."""
        return _share(self.absolute, self._scale)


def _share(error: float, scale: float) -> float:
    if error == 0:
        return 0.0
    return error / scale if scale > 0 else math.inf


def sample_cosines(ours: Tensor, theirs: Tensor) -> list[float]:
    """Cosine per sample of (B, ...) tensors; 1 where both are zero, 0 where one is or a value is not finite."""
    a, b = ours.double().flatten(1), theirs.double().flatten(1)
    product, norms = (a * b).sum(1), a.norm(dim=1) * b.norm(dim=1)
    both_zero = (a == 0).all(1) & (b == 0).all(1)
    cosine = torch.where(both_zero, 1.0, torch.where(norms > 0, product / norms, 0.0))
    return cosine.nan_to_num(nan=0.0).clamp(-1, 1).tolist()


def _repeat_deviation(network: nn.Module, call: Call, repeats: int) -> float:
    errors = _Errors()
    out, gradients = evaluate(network, call)
    # An engine may hand out the same buffer again and again; only copies can be compared.
    first = [tensor.clone() for tensor in (out, *gradients)]
    for _ in range(repeats - 1):
        again, gradients = evaluate(network, call)
        for ours, theirs in zip((again, *gradients), first, strict=True):
            errors.add(ours, theirs)
    return errors.relative


def _input_response(reference: nn.Module, candidate: nn.Module, call: Call) -> float:
    """How far the output moves when every floating-point input is halved, against the reference's move."""
    halved = Call(tuple(x / 2 if x.is_floating_point() else x for x in call.inputs), call.wanted)
    moves = []
    for network in (candidate, reference):
        before = evaluate(network, call)[0].double().clone()
        moves.append(float((evaluate(network, halved)[0].double() - before).norm()))
    return moves[0] / moves[1] if moves[1] > 0 else float(moves[0] == 0)


def find_faults(measured: NetworkAccuracy, limits: VerifyConfig) -> list[str]:
    """What lies beyond the limits, in words."""
    half = "16" in measured.dtype
    forward = limits.half_forward_limit if half else limits.forward_limit
    gradient = limits.half_gradient_limit if half else limits.gradient_limit
    faults = []
    if not measured.finite:
        faults.append("NaN or infinite values")
    if not measured.forward_relative <= forward:
        faults.append(f"forward error {measured.forward_relative:.2g} is above {forward:g}")
    if measured.gradient_relative is not None and not measured.gradient_relative <= gradient:
        faults.append(f"gradient error {measured.gradient_relative:.2g} is above {gradient:g}")
    cosine = limits.half_cosine_limit if half else limits.cosine_limit
    if measured.cosine_mean is not None and not measured.cosine_mean >= cosine:
        faults.append(f"gradient cosine {measured.cosine_mean:.6f} (mean over samples) is below {cosine:g}")
    worst = limits.half_cosine_worst_limit if half else limits.cosine_limit
    if measured.cosine_worst is not None and not measured.cosine_worst >= worst:
        faults.append(f"gradient cosine {measured.cosine_worst:.6f} (worst sample) is below {worst:g}")
    if not measured.repeat_relative <= limits.repeat_limit:
        faults.append(f"repeated calls differ by {measured.repeat_relative:.2g}, more than {limits.repeat_limit:g}")
    if not measured.input_response >= 0.5:
        faults.append(f"the output hardly depends on the input ({measured.input_response:.0%} of what it should)")
    return faults


def measure_networks(
    reference: Method,
    candidate: Method,
    backend: Backend,
    calls: Mapping[str, list[Call]],
    limits: VerifyConfig,
    repeats: int,
    announce: Callable[[str], None],
) -> list[NetworkAccuracy]:
    """Every network of a method on a backend against the reference; networks that were never called are left out."""
    theirs, ours = prepared_networks(reference), prepared_networks(candidate)
    measured = []
    for name, recorded in calls.items():
        if not recorded:
            continue
        announce(name)
        dtype = str(backend.report.networks.get(name, {}).get("dtype", ""))
        measured.append(measure_network(name, theirs[name], ours[name], recorded, dtype, limits, repeats))
    return measured
