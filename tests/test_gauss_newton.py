"""AC-RE and Diff-AE-RE with Gauss-Newton steps on small real networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.compiled import CompileBackend
from backends.eager import EagerBackend, EagerConfig
from bench.checkpoints import load_network
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.images import to_float
from bench.registry import resolve
from methods import METHODS, noise
from methods.base import Batch, Method, quantised
from methods.diffusion import ddim, ddpm
from methods.diffusion.gradient_path import differentiated_steps
from methods.regression import shifted_prediction
from methods.search import Outcome, Sample, SlotSearch
from tests.conftest import CPU, reachable, toy_samples

MakeMethod = Callable[..., Method]
GAUSS_NEWTON = ["ac-re-gn", "diffae-re-gn"]


def batch_of(samples: list[Sample]) -> Batch:
    return Batch(
        tuple(sample.id for sample in samples),
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.target for sample in samples]),
    )


def run(method: Any, samples: list[Sample], slots: int = 4) -> dict[str, Outcome]:
    return {outcome.id: outcome for outcome in SlotSearch(method, slots).run(samples)}


class Flat(nn.Module):
    """A regressor that does not depend on the image."""

    def forward(self, image: Tensor) -> Tensor:
        return 0 * image.flatten(1).sum(1) + 0.2


class Saturated(nn.Module):
    """A regressor that never leaves [0.4, 0.6]."""

    def forward(self, image: Tensor) -> Tensor:
        return 0.5 + 0.1 * torch.tanh(image.flatten(1).mean(1) - 0.5)


@pytest.mark.parametrize("name", GAUSS_NEWTON)
def test_a_handful_of_steps_is_enough_on_the_shipped_networks(name: str) -> None:
    task = SquareDataset(SquareConfig()).load(630)
    rows = [10, 80, 340]  # reference values that the shipped regressor reaches
    samples = [
        Sample(task.ids[row], torch.from_numpy(to_float(task.images[row])), float(task.targets[row])) for row in rows
    ]
    cls = resolve(METHODS, name, "method")
    method = cls(cls.options(), 0, CPU)
    roles = ("regressor", *cls.networks)
    method.prepare(
        {role: load_network(f"square-{role}", role).network for role in roles}, EagerBackend(EagerConfig(), CPU), 3
    )
    for outcome in run(method, samples, 3).values():
        assert outcome.reached
        assert outcome.steps <= 12
        assert abs(outcome.prediction - outcome.target) <= 0.05


@pytest.mark.parametrize("name", GAUSS_NEWTON)
def test_the_recorded_prediction_is_that_of_the_saved_image(
    name: str, make_method: MakeMethod, networks: dict[str, nn.Module]
) -> None:
    for outcome in run(make_method(name, 4), reachable(make_method(name, 1), 5)).values():
        saved = (outcome.image * 255).round() / 255
        torch.testing.assert_close(saved, outcome.image, atol=1e-6, rtol=0)
        assert networks["regressor"](saved[None]).item() == pytest.approx(outcome.prediction, abs=1e-6)


@pytest.mark.parametrize("name", GAUSS_NEWTON)
def test_a_flat_regressor_is_given_up_early(name: str, make_method: MakeMethod) -> None:
    method = make_method(name, 2, replace={"regressor": Flat().eval()}, max_steps=50, patience=3)
    for outcome in run(method, [sample._replace(target=0.9) for sample in toy_samples(2)], 2).values():
        assert (outcome.reached, outcome.failure) == (False, None)
        assert outcome.evaluations.backward < 6 * method.cost["step"].backward + method.cost["encode"].backward
        assert outcome.prediction == pytest.approx(0.2)


@pytest.mark.parametrize("name", GAUSS_NEWTON)
def test_a_value_that_a_saturated_regressor_never_takes_ends_with_the_best_image(
    name: str, make_method: MakeMethod
) -> None:
    method = make_method(name, 1, replace={"regressor": Saturated().eval()}, max_steps=40, cap=0.2)
    sample = toy_samples(1)[0]._replace(target=0.9)
    outcome = run(method, [sample], 1)[sample.id]
    assert (outcome.reached, outcome.failure) == (False, None)
    assert 0.49 < outcome.prediction <= 0.6
    assert torch.isfinite(outcome.image).all()


@pytest.mark.parametrize(("inversion_steps", "depth"), [(30, 4), (5, 4), (2, 7), (50, 1)])
def test_inversion_ends_at_the_noise_level_that_decoding_starts_from(
    inversion_steps: int, depth: int, make_method: MakeMethod
) -> None:
    method: Any = make_method("diffae-re-gn", 1, inversion_steps=inversion_steps, depth=depth, probe_step=0)
    moves, signal = method._inversion_end()
    assert signal == method.decoding.alphas_cumprod[-1]
    # The level before the last move is less noisy than the one it ends at.
    assert method.inversion.timesteps[moves - 1] < method.decoding.timesteps[-1] or moves == 1


class _RejectsAfterwards(nn.Module):
    """Meets the reference value once; what is filtered again, and every later candidate, is far from it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        mean = image.flatten(1).mean(1)
        return mean - mean.detach() + (0.8 if self.calls in (2, 3) else 0.2)


def test_a_valid_candidate_that_noise_rejected_is_not_lost(make_method: MakeMethod) -> None:
    sample = toy_samples(1)[0]._replace(target=0.8)
    # Evaluations: 0.2, then 0.8 (met), 0.8 on the saved image; the filtered image and all that follows: 0.2.
    method: Any = make_method("ac-re-gn", 1, patience=2)
    method.regressor = _RejectsAfterwards()
    outcome = run(method, [sample], 1)[sample.id]
    assert method.regressor.calls > 4, "the search should have gone on after the rejection"
    assert (outcome.reached, outcome.failure) == (True, None)
    assert outcome.prediction == pytest.approx(0.8)


class _NotANumber(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1).sum(1) * float("nan")


@pytest.mark.parametrize("name", GAUSS_NEWTON)
def test_a_regressor_that_returns_nan_fails_the_sample(name: str, make_method: MakeMethod) -> None:
    method = make_method(name, 1, replace={"regressor": _NotANumber().eval()})
    outcome = run(method, [toy_samples(1)[0]._replace(target=0.0)], 1)["toy/0"]
    assert outcome.failure == "nonfinite@step 1"


def test_evaluations_are_counted(make_method: MakeMethod) -> None:
    far = [toy_samples(1)[0]._replace(target=5.0)]
    method = make_method("ac-re-gn", 1, max_steps=3, patience=9, confirmations=2, draws=2)
    assert run(method, far, 1)["toy/0"].evaluations == (3 * 2 * 5 + 2 * 5, 3 * 2 * 5)
    method = make_method("diffae-re-gn", 1, max_steps=2, patience=9, probes=4, depth=6, decoding_steps=10)
    # Inversion to the sixth noise level, the decoder down to the probed step and the probed step itself, two decodes.
    inversion = method._inversion_end()[0]  # type: ignore[attr-defined]
    assert run(method, far, 1)["toy/0"].evaluations == (inversion + 3 + 1 + 2 * 6, 4 + 2 * 6)


class _Counting(nn.Module):
    """Counts forward and backward calls of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forward_calls, self.backward_calls = network, 0, 0

    def forward(self, *inputs: Tensor) -> Tensor:
        self.forward_calls += 1
        out = self.network(*inputs)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, gradient: Tensor) -> None:
        self.backward_calls += 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ac-re-gn", {"gradient": "last-2", "confirmations": 3}),
        ("ac-re-gn", {"gradient": "one-1", "draws": 2}),
        ("diffae-re-gn", {"depth": 6, "gradient": "last-2"}),
        ("diffae-re-gn", {"depth": 6, "gradient": "one-3", "inversion": "fixed-point", "inversion_iterations": 3}),
        ("diffae-re-gn", {"metric": "identity"}),
    ],
)
def test_the_declared_cost_is_what_is_called(name: str, options: dict[str, Any], make_method: MakeMethod) -> None:
    method: Any = make_method(name, 2, **options)
    method.denoiser = _Counting(method.denoiser)
    counter, batch = method.denoiser, batch_of(toy_samples(2))
    state = method.encode(batch, lambda done, total: None)
    encode = (counter.forward_calls, counter.backward_calls)
    state = method.step(state).state
    step = (counter.forward_calls - encode[0], counter.backward_calls - encode[1])
    before = counter.forward_calls
    method.confirm(state, method.refine(state))
    assert (encode, step, counter.forward_calls - before) == (
        method.cost["encode"],
        method.cost["step"],
        method.cost["refine"].forward,
    )


def test_the_first_candidate_is_filtered_and_later_ones_keep_the_original(make_method: MakeMethod) -> None:
    method: Any = make_method("ac-re-gn", 1, threshold=0.5, dilation=1)
    sample = toy_samples(1)[0]
    state = method.encode(batch_of([sample]), lambda done, total: None)
    first = method._evaluate(state).candidate[0]
    assert ((first - sample.image).abs() > 1 / 255).float().mean() > 0.5
    state["point"][0, :, 3, 4] = 1 - state["point"][0, :, 3, 4].round()
    second = method._evaluate(state).candidate[0]
    changed = (second - quantised(sample.image)).abs().amax(0) > 0.5 / 255
    assert changed[3, 4]
    assert changed.sum() == 1


def test_candidates_that_fresh_noise_rejects_are_searched_on(make_method: MakeMethod) -> None:
    samples = reachable(make_method("ac-re-gn", 1), 6)
    # Three draws have to agree to a hair's breadth, so the first look rejects.
    strict = run(make_method("ac-re-gn", 4, confirmations=3, max_steps=30), samples)
    unseen = run(make_method("ac-re-gn", 4, confirmations=0, max_steps=30), samples)
    solved = [key for key in strict if unseen[key].reached]
    assert len(solved) >= 3
    assert any(strict[key].steps > unseen[key].steps for key in solved)
    assert all(strict[key].evaluations.forward > unseen[key].evaluations.forward for key in solved)


@pytest.mark.parametrize("name", ["ac-re-gn", "ac-re", "diffae-re-gn", "diffae-re"])
def test_a_continuation_starts_from_the_solution_before(name: str, make_method: MakeMethod) -> None:
    sample = reachable(make_method(name, 1), 1)[0]
    second = sample.target + 0.002
    options: dict[str, Any] = {"tolerance": 0.003, "max_steps": 30}
    if name.endswith("-gn"):
        options["aim"] = 0.003
    if name == "ac-re-gn":
        options["noise"] = "fixed"
    if name == "ac-re":
        options["step_size"] = 0.002
    outcomes = list(SlotSearch(make_method(name, 2, **options), 2).run([sample._replace(then=(second,))]))
    assert [outcome.target for outcome in outcomes] == [sample.target, second]
    first, continued = outcomes
    assert first.reached
    # The first step of the continuation starts from the first solution: solving for the same value again is free.
    again = SlotSearch(make_method(name, 2, **options), 2).run([sample._replace(then=(sample.target,))])
    repeated = list(again)[1]
    assert repeated.reached
    assert repeated.steps <= 1
    encoding = make_method(name, 2, **options).cost["encode"].forward
    assert repeated.evaluations.forward <= first.evaluations.forward - encoding
    assert continued.failure is None
    assert abs(continued.prediction - second) <= abs(first.prediction - second)


def test_gradient_paths() -> None:
    assert differentiated_steps("all", 3) == {0, 1, 2}
    assert differentiated_steps("last-2", 3) == {0, 1}
    assert differentiated_steps("one-2", 3) == {2}
    with pytest.raises(ValueError, match="'one-3' needs more than the 3 steps"):
        differentiated_steps("one-3", 3)


def test_the_path_changes_the_gradient_and_not_the_image(make_method: MakeMethod) -> None:
    method: Any = make_method("diffae-re-gn", 2)
    batch = batch_of(toy_samples(2))
    state = method.encode(batch, lambda done, total: None)
    results = {}
    for gradient in ("all", "last-9", "last-2", "one-4"):
        z = state["point"].clone().requires_grad_(True)
        steps = differentiated_steps(gradient, 10)
        image = ddim.ddim_decode(method.denoiser, method.decoding, state["x_T"], z, steps)
        results[gradient] = image.detach(), torch.autograd.grad(image.square().sum(), z)[0]
    for gradient, (image, slope) in results.items():
        torch.testing.assert_close(image, results["all"][0], atol=1e-5, rtol=1e-4)
        if gradient != "all":
            assert not torch.allclose(slope, results["all"][1], rtol=1e-3)
    nearly = F.cosine_similarity(results["last-9"][1], results["all"][1])
    truncated = F.cosine_similarity(results["last-2"][1], results["all"][1])
    assert (nearly > 0.99).all()
    assert (truncated < nearly).all()


def test_without_any_jacobian_the_filter_passes_the_gradient_on_unchanged(make_method: MakeMethod) -> None:
    method: Any = make_method("ac-re-gn", 2)
    image = torch.stack([sample.image for sample in toy_samples(2)]).requires_grad_(True)
    keys, draws = noise.sample_keys(0, ["a", "b"], "test"), 2 * method.config.depth
    keep = torch.zeros(2, 1, *image.shape[2:])
    out = ddpm.repaint(
        method.denoiser, method.schedule, image.detach(), image, keep, method.config.depth,
        noise.normal(keys, torch.zeros(2, dtype=torch.int64), draws, image.shape[1:]), frozenset(),
    )  # fmt: skip
    gradient = torch.autograd.grad(out.sum(), image)[0]
    torch.testing.assert_close(gradient, torch.ones_like(gradient), atol=1e-4, rtol=0)


def test_the_fixed_point_reconstructs_better_with_every_iteration(make_method: MakeMethod) -> None:
    method: Any = make_method("diffae-re-gn", 2)
    image = torch.stack([sample.image for sample in toy_samples(2)])
    errors = []
    with torch.no_grad():
        z = method.encoder(ddpm.to_network(image))
        for iterations in (1, 3, 8):
            x_T = ddim.fixed_point_invert(method.denoiser, method.decoding, image, z, iterations)
            decoded = ddim.ddim_decode(method.denoiser, method.decoding, x_T, z)
            errors.append((decoded - image).abs().mean().item())
    # What clipping of x_0 took away does not come back, so the error does not vanish.
    assert errors[2] < errors[1] < errors[0]


def test_translations_are_averaged() -> None:
    class Corner(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, 0, 1, 1]

    image = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    assert torch.equal(shifted_prediction(Corner(), image, 0), image[:, 0, 1, 1])
    around = image[:, 0, 1, 1] + image[:, 0, 0, 1] + image[:, 0, 2, 1] + image[:, 0, 1, 0] + image[:, 0, 1, 2]
    torch.testing.assert_close(shifted_prediction(Corner(), image, 1), around / 5)


@pytest.mark.skipif(CompileBackend.unavailable() is not None, reason="no C++ compiler")
def test_a_compiled_call_can_be_pulled_back_several_times(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERFACTUAL_BENCH_CACHE", str(tmp_path))
    backend = CompileBackend(CompileBackend.options(precision="float32"), CPU)
    image = torch.stack([sample.image for sample in toy_samples(1)])
    network = backend.prepare("regressor", networks["regressor"], (image,))
    point = image.clone().requires_grad_(True)
    out = network(point)
    first = torch.autograd.grad(out.sum(), point, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(out.sum(), point)[0])
