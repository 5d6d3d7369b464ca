"""Baselines: pixel-space PGD, ACE and DiME, each with a class and with a reference value as its target."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from backends.eager import EagerBackend, EagerConfig
from bench.costs import MethodFlops, NetworkFlops, method_flops
from bench.registry import resolve
from methods import METHODS, noise
from methods.base import Batch, Evaluations, Method, State
from methods.diffusion import ddpm
from methods.diffusion.per_slot import Tables, p_mean_variance
from methods.diffusion.schedule import Schedule
from methods.dime import DimeConfig, DimeReConfig
from methods.pgd import Pgd
from methods.search import Outcome, Sample, SlotSearch
from tests.conftest import CPU, SHAPE, SIZE, ToyDecision, randomise, reachable, toy_samples
from tests.tiny_cell import OPTIONS, run_cell, tiny_cell

REGRESSION = ["pgd-re", "ace-re", "dime-re"]
CLASSES = ["pgd", "ace", "dime"]
ALL = [*REGRESSION, *CLASSES]

Make = Callable[..., Method]


def search(method: Method, samples: list[Sample], slots: int) -> dict[str, Outcome]:
    return {outcome.id: outcome for outcome in SlotSearch(method, slots).run(samples)}


def encoded(method: Method, samples: list[Sample]) -> State:
    batch = Batch(
        tuple(sample.id for sample in samples),
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.target for sample in samples]),
    )
    return method.encode(batch, lambda done, total: None)


class Counting(nn.Module):
    """Counts a network's calls and pull-backs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, *inputs: Tensor) -> Tensor:
        self.forwards += 1
        out = self.network(*inputs)
        if out.requires_grad:
            out.register_hook(self._pulled_back)
        return out

    def _pulled_back(self, gradient: Tensor) -> None:
        self.backwards += 1


class Double(nn.Module):
    """A network in float64, where sums in another order do not show in the result."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*(x.double() if x.is_floating_point() else x for x in inputs)).float()


def double(method: Method) -> Method:
    for name in ("denoiser", "regressor"):
        if hasattr(method, name):
            setattr(method, name, Double(getattr(method, name)))
    return method


# What holds for every method


@pytest.mark.parametrize("name", ["pgd-re", "ace-re", "dime-re", "pgd", "dime"])
def test_results_do_not_depend_on_neighbours(name: str, make_method: Make) -> None:
    samples = reachable(make_method(name, 1), 4)
    reference = search(double(make_method(name, 4)), samples, 4)
    if name in REGRESSION:
        assert len({outcome.iterations for outcome in reference.values()}) > 1
    for slots, order in ((1, samples), (3, samples[::-1])):
        for key, outcome in search(double(make_method(name, slots)), order, slots).items():
            assert (outcome.steps, outcome.iterations) == (reference[key].steps, reference[key].iterations)
            torch.testing.assert_close(outcome.image, reference[key].image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["pgd", "ace", "dime-re"])
def test_a_nonfinite_sample_fails_alone(name: str, make_method: Make) -> None:
    samples = toy_samples(3)
    clean = search(make_method(name, 3), samples, 3)
    spoilt = search(make_method(name, 3), [samples[0]._replace(image=samples[0].image * float("nan")), *samples[1:]], 3)
    assert spoilt["toy/0"].failure is not None
    for key in ("toy/1", "toy/2"):
        assert spoilt[key].failure is None
        assert torch.equal(spoilt[key].image, clean[key].image)


@pytest.mark.parametrize("name", ALL)
def test_the_declared_cost_is_what_is_called(name: str, make_method: Make) -> None:
    method = make_method(name, 2)
    counters = {key: Counting(getattr(method, key)) for key in ("denoiser", "regressor") if hasattr(method, key)}
    vars(method).update(counters)
    denoiser = counters.get("denoiser", Counting(nn.Identity()))

    def used(phase: str, call: Callable[[], Any]) -> Any:
        before = Evaluations(denoiser.forwards, denoiser.backwards)
        result = call()
        after = Evaluations(denoiser.forwards - before.forward, denoiser.backwards - before.backward)
        assert after == method.cost[phase], phase
        return result

    state = used("encode", lambda: encoded(method, toy_samples(2)))
    for _ in range(3):
        state = used("step", lambda: method.step(state).state)  # noqa: B023
    assert (counters["regressor"].forwards, counters["regressor"].backwards) == (3, 3)
    used("refine", lambda: method.confirm(state, method.refine(state)))
    assert ("ddpm" in method.networks) == ("denoiser" in counters)


@pytest.mark.parametrize("name", ["pgd-re", "ace", "dime-re"])
def test_seeds_decide_the_noise(name: str, make_method: Make) -> None:
    samples = [sample._replace(target=0.7) for sample in toy_samples(2)]
    first, again, other = (search(make_method(name, 2, seed=seed), samples, 2) for seed in (0, 0, 1))
    for key, outcome in first.items():
        assert torch.equal(outcome.image, again[key].image)
        assert torch.equal(outcome.image, other[key].image) == name.startswith("pgd")


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_forms_reach_the_reference_value_and_stop(name: str, make_method: Make) -> None:
    options = {"scales": (8.0, 20.0, 40.0), "max_steps": 21} if name == "dime-re" else {"max_steps": 40}
    options |= {"tolerance": 0.006} if name == "dime-re" else {}
    samples = reachable(make_method(name, 1), 6)
    outcomes = search(make_method(name, 4, **options), samples, 4)
    reached = [outcomes[sample.id] for sample in samples if outcomes[sample.id].reached]
    assert len(reached) >= 3
    assert min(outcome.iterations for outcome in reached) < options["max_steps"]


@pytest.mark.parametrize("name", CLASSES)
def test_class_forms_push_to_the_class_of_the_target(name: str, make_method: Make) -> None:
    def regress(image: Tensor) -> float:
        return float(method.regressor(image[None]))

    method = make_method(name, 1)
    for sample in toy_samples(2):
        boundary = regress(sample.image)
        for side in (-1, 1):
            # How far the target lies beyond the boundary does not matter.
            near, far = (
                search(
                    make_method(name, 1, boundary=boundary, tolerance=0.0),
                    [sample._replace(target=boundary + side * distance)],
                    1,
                )[sample.id]
                for distance in (0.001, 0.3)
            )
            assert torch.equal(near.image, far.image)
            if name != "dime":  # whose three steps of noise may outweigh the guidance of so small a regressor
                assert (regress(near.image) - boundary) * side > 0


@pytest.mark.parametrize(("name", "steps"), [("pgd", 12), ("ace", 6)])
def test_published_class_forms_make_all_their_steps(name: str, steps: int, make_method: Make) -> None:
    sample = toy_samples(1)[0]._replace(target=0.9)
    method = make_method(name, 1, boundary=0.0)  # the image is in the class already
    outcome = search(method, [sample], 1)[sample.id]
    assert (outcome.steps, outcome.iterations) == (steps, steps)


@pytest.mark.parametrize("name", CLASSES)
def test_a_decision_network_may_say_what_the_class_is(
    name: str, make_method: Make, networks: dict[str, nn.Module]
) -> None:
    decision = randomise(ToyDecision(), 11)
    cls = resolve(METHODS, name, "method")
    options: dict[str, Any] = {"classifier": "decision", "boundary": 0.5}
    assert cls.roles(cls.options(**options)) == (*cls.networks, "classifier")
    assert cls.roles(cls.options()) == cls.networks
    with pytest.raises(ValueError, match=r"weights\.classifier"):
        make_method(name, 2, **options)
    samples = [sample._replace(target=0.8) for sample in toy_samples(2)]
    images = []
    for label, low in ((2, True), (2, False), (0, False)):
        method = make_method(name, 2, replace={"classifier": decision}, label=label, label_is_low=low, **options)
        state = encoded(method, samples)
        result = method.step(state)
        expected = networks["regressor"](state["original"])
        if name != "ace":  # which looks at the filtered image
            torch.testing.assert_close(result.prediction, expected)
        margin = decision(state["original"])[:, label] * (-1 if low else 1)
        judged = method.judge(state["original"], state["target"])
        assert judged.reached.tolist() == (margin > 0).tolist()
        torch.testing.assert_close(judged.loss, -margin if name == "dime" else F.softplus(-margin))
        images.append(search(method, samples, 2)["toy/0"].image)
    assert not any(torch.equal(images[0], other) for other in images[1:])


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_label_means_is_assumed_of_young_alone(name: str) -> None:
    cls = resolve(METHODS, name, "method")
    assert cls.options(classifier="decision").label_is_low
    assert cls.options(label=1).label_is_low  # the regressor decides, and the label says nothing
    for label, low in ((0, "Male"), (1, "Smiling")):
        with pytest.raises(ValidationError, match=f"label_is_low is needed .*label={label}: true if {low} stands"):
            cls.options(classifier="decision", label=label)
        for given in (True, False):
            assert cls.options(classifier="decision", label=label, label_is_low=given).label_is_low == given


# PGD


def test_pgd_stays_in_its_ball_and_knows_its_size(make_method: Make, networks: dict[str, nn.Module]) -> None:
    samples = [sample._replace(target=1.0) for sample in toy_samples(2)]
    bounded = search(make_method("pgd-re", 2, epsilon=3.5 / 255, tolerance=0.0), samples, 2)
    free = search(make_method("pgd-re", 2, tolerance=0.0), samples, 2)
    for sample in samples:
        change = (bounded[sample.id].image - sample.image).abs()
        assert float(change.max()) == pytest.approx(3.5 / 255, abs=1e-6)
        assert float((free[sample.id].image - sample.image).abs().max()) > 10 / 255
    method = Pgd(Pgd.options(), 0, CPU)
    with pytest.raises(ValueError, match="pgd needs image_shape"):
        method.prepare(networks, EagerBackend(EagerConfig(), CPU), 1)


# DiME


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_steps_of_single_slots_are_those_of_a_batch(
    learned: bool, scaled: bool, networks: dict[str, nn.Module]
) -> None:
    schedule = Schedule.create(500, "linear", "7", rescale_timesteps=scaled)
    channels = slice(0, 6 if learned else 3)

    class Network(nn.Module):
        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return networks["ddpm"](x, time)[:, channels]

    network, tables = Network(), Tables.of(schedule, CPU)
    x = noise.normal(torch.arange(7), torch.zeros(7, dtype=torch.int64), 1, (3, SIZE, SIZE))[:, 0]
    together = p_mean_variance(network, tables, x, torch.arange(7))
    for step in range(7):
        single = ddpm.p_mean_variance(network, schedule, x[step : step + 1], step)
        for mine, theirs in zip(together, single, strict=True):
            torch.testing.assert_close(mine[step : step + 1], theirs, rtol=0, atol=1e-3)


def published_loop(method: Method, sample: Sample) -> tuple[Tensor, int]:
    """DiME as nested loops over one image: the counterfactual, and how many attempts were made."""
    config, schedule = method.config, method.schedule
    step_key, start_key = (
        noise.sample_keys(0, [sample.id], f"{method.name}/{stream}") for stream in ("steps", "start")
    )
    target, calls, attempts = torch.tensor([sample.target]), 0, 0

    def draw(key: Tensor, count: int) -> Tensor:
        return noise.normal(key, torch.tensor([count]), 1, sample.image.shape)[:, 0]

    def judged(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_(True)
        verdict = method.judge(((x + 1) / 2).clamp(0, 1), target)
        return torch.autograd.grad(verdict.loss.sum(), x)[0], verdict.reached

    def reverse(x: Tensor, level: int, guidance: Tensor | float) -> tuple[Tensor, Tensor]:
        nonlocal calls
        mean, log_variance, x_0 = ddpm.p_mean_variance(method.denoiser, schedule, x, level)
        moved = mean - log_variance.exp() * guidance
        if level > 0:
            moved = moved + (0.5 * log_variance).exp() * draw(step_key, calls)
        calls += 1
        return moved, x_0

    original = sample.image[None] * 2 - 1
    start = ddpm.q_sample(schedule, original, config.depth - 1, draw(start_key, 0))
    for scale in config.scales:
        attempts += 1
        z, clean = start, original
        for level in reversed(range(config.depth)):
            difference = z - original
            slope = difference.sign() if config.distance == "l1" else F.normalize(difference, dim=1)
            guidance = scale * judged(clean)[0] / float(schedule.alphas_cumprod[level]) ** 0.5
            z, x_0 = reverse(z, level, guidance + config.distance_weight * slope)
            clean = z
            if config.clean == "one-shot":
                clean = x_0
            else:
                for inner in reversed(range(level)):
                    clean, _ = reverse(clean, inner, 0.0)
        calls += 1
        if judged(z)[1]:
            break
    return ((z[0] + 1) / 2).clamp(0, 1), attempts


@pytest.mark.parametrize("name", ["dime", "dime-re"])
@pytest.mark.parametrize("clean", ["nested", "one-shot"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
@torch.no_grad()
def test_dime_in_slots_is_dime_in_loops(name: str, clean: str, norm: str, make_method: Make) -> None:
    with torch.enable_grad():
        options = {"clean": clean, "distance": norm, "distance_weight": 0.5, "tolerance": 0.01}
        samples = [*reachable(make_method(name, 1), 3), toy_samples(4)[3]._replace(target=0.95)]
        outcomes = search(make_method(name, 2, **options), samples, 2)
        method, attempts = make_method(name, 1, **options), set()
        calls = 6 if clean == "nested" else 3
        for sample in samples:
            image, attempt = published_loop(method, sample)
            attempts.add(attempt)
            torch.testing.assert_close(outcomes[sample.id].image, image, rtol=0, atol=2e-4)
            assert outcomes[sample.id].iterations == attempt * (calls + 1)
            assert outcomes[sample.id].steps == 3 * attempt
        if name == "dime-re":
            assert attempts == {1, 2}, "some samples should need a second attempt"


def test_slots_are_at_different_steps(make_method: Make) -> None:
    method = make_method("dime-re", 2, clean="one-shot")
    state = encoded(method, toy_samples(2))
    ahead = method.step(state).state
    mixed = {key: torch.cat([state[key][:1], ahead[key][1:]]) for key in state}
    assert mixed["level"].tolist() == [2, 1]
    result, whole, single = method.step(mixed).state, method.step(ahead).state, method.step(state).state
    for key in ("z", "x", "level", "call"):
        torch.testing.assert_close(result[key][0], single[key][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(result[key][1], whole[key][1], rtol=0, atol=1e-5)


def test_a_further_target_begins_at_the_solution(make_method: Make) -> None:
    method = make_method("dime-re", 1, scales=(8.0,), max_steps=7, distance="none")
    state = fresh = encoded(method, toy_samples(1))
    again = method.retarget(fresh, torch.tensor([0.7]))
    assert all(torch.equal(again[key], fresh[key]) for key in fresh if key != "target")
    for _ in range(7):
        state = method.step(state).state
    image = method.refine(state)
    moved = method.retarget(state, torch.tensor([0.7]))
    torch.testing.assert_close((moved["source"] + 1) / 2, image, atol=1e-6, rtol=0)
    assert moved["level"].tolist() == [2] and moved["attempt"].tolist() == [0] and moved["step"].tolist() == [0]
    assert not torch.equal(moved["start"], fresh["start"])


def test_every_attempt_has_to_fit() -> None:
    assert DimeConfig().calls == DimeConfig().max_steps == 3 * 1831
    assert DimeReConfig(clean="one-shot").calls == 3 * 61
    with pytest.raises(ValidationError, match="max_steps 100 is less than the 5493 steps"):
        DimeReConfig(max_steps=100)


# Reconstructions


@pytest.mark.parametrize("name", ["ac-re", "ac-re-gn", "ace-re", "diffae-re", "diffae-re-gn", "dime", "pgd"])
def test_reconstructions_are_what_the_generator_makes_of_the_image(name: str, make_method: Make) -> None:
    method = make_method(name, 2, seed=1)
    samples = toy_samples(2)
    state = encoded(method, samples)
    image = method.reconstruct(state)
    assert not image.requires_grad and image.min() >= 0 and image.max() <= 1
    again = method.reconstruct(encoded(method, samples[::-1]))
    torch.testing.assert_close(image, again.flip(0), rtol=0, atol=1e-4)
    if name == "pgd":
        assert torch.equal(image, state["original"])
    elif "diffae" in name:
        code = state["point"] if name.endswith("-gn") else state["z_original"]
        torch.testing.assert_close(image, reference_decode(method, state["x_T"], code), rtol=0, atol=1e-5)
    elif name == "dime":
        for sample, found in zip(samples, image, strict=True):
            torch.testing.assert_close(found, reference_denoising(method, sample, seed=1), rtol=0, atol=1e-4)
    else:
        # Only the noise differs from that of the search, and F is none but the method's own.
        keys = noise.sample_keys(1, [sample.id for sample in samples], f"{name}/reconstruct")
        draws = noise.normal(keys, torch.zeros(2, dtype=torch.int64), method.config.depth, (3, SIZE, SIZE))
        filtered = ddpm.filter_image(method.denoiser, method.schedule, state["original"], method.config.depth, draws)
        torch.testing.assert_close(image, filtered.clamp(0, 1))


def reference_denoising(method: Method, sample: Sample, seed: int) -> Tensor:
    """DiME's loop over one image without guidance: from the search's noised image, under noise of its own."""
    start_key, key = (
        noise.sample_keys(seed, [sample.id], f"{method.name}/{stream}") for stream in ("start", "reconstruct")
    )

    def draw(key: Tensor, count: int) -> Tensor:
        return noise.normal(key, torch.tensor([count]), 1, sample.image.shape)[:, 0]

    z = ddpm.q_sample(method.schedule, sample.image[None] * 2 - 1, method.config.depth - 1, draw(start_key, 0))
    for level in reversed(range(method.config.depth)):
        mean, log_variance, _ = ddpm.p_mean_variance(method.denoiser, method.schedule, z, level)
        z = mean + (0.5 * log_variance).exp() * draw(key, level) if level > 0 else mean
    return ((z[0] + 1) / 2).clamp(0, 1)


def reference_decode(method: Method, x_T: Tensor, z: Tensor) -> Tensor:
    """DDIM written out (Song et al. 2021, equation 12)."""
    x, schedule = x_T, method.decoding
    for step in reversed(range(len(schedule))):
        signal, below = float(schedule.alphas_cumprod[step]), float(schedule.alphas_cumprod_prev[step])
        eps = method.denoiser(x, torch.full((len(x),), int(schedule.timesteps[step])), z)
        x_0 = ((x - (1 - signal) ** 0.5 * eps) / signal**0.5).clamp(-1, 1)
        x = below**0.5 * x_0 + (1 - below) ** 0.5 * (x - signal**0.5 * x_0) / (1 - signal) ** 0.5
    return ((x + 1) / 2).clamp(0, 1)


# Costs and whole cells


def test_operations_are_counted_without_a_denoiser_and_with_a_classifier(networks: dict[str, nn.Module]) -> None:
    cls = resolve(METHODS, "pgd", "method")
    plain = method_flops(cls, cls.options(), networks, SHAPE)
    assert plain.networks.keys() == {"regressor"} and plain.denoiser == NetworkFlops(0, 0)
    costs = dict.fromkeys(("encode", "step", "refine"), Evaluations(0, 0))
    known = MethodFlops({"regressor": NetworkFlops(10, 11)}, costs)
    assert (known.phase("step"), known.phase("step", recomputed=True), known.phase("refine")) == (21, 31, 0)
    assert known.total([0, 0], [0, 0], iterations=[3, 4]) == 7 * 21
    with pytest.raises(ValueError, match="pass iterations"):
        known.total([0, 0], [0, 0])
    decided = MethodFlops({"regressor": NetworkFlops(10, 11), "classifier": NetworkFlops(5, 6)}, costs)
    assert decided.phase("step") == 10 + 5 + 6
    guided = MethodFlops(
        {"denoiser": NetworkFlops(100, 110), "regressor": NetworkFlops(10, 11)}, costs | {"step": Evaluations(1, 0)}
    )
    assert guided.total([7], [0], iterations=[7]) == 7 * (100 + 21)


@pytest.mark.parametrize("name", ALL)
def test_a_whole_cell(name: str, networks: dict[str, nn.Module], tmp_path: Path) -> None:
    record, frame = run_cell(tiny_cell(networks, name, count=3), tmp_path)
    assert record.status == "ok" and record.failures == {}
    assert np.isfinite(frame["prediction"]).all() and (frame["iterations"] > 0).all()
    assert (frame["forward"] == 0).all() == name.startswith("pgd")
    assert (frame["backward"] > 0).all() == name.startswith("ace")
    cls = resolve(METHODS, name, "method")
    flops = method_flops(cls, cls.options(**OPTIONS[name]), networks, SHAPE)
    expected = flops.total(
        frame["forward"].to_list(), frame["backward"].to_list(), False, frame["iterations"].to_list()
    )
    assert record.timings["model_tflop"] * 1e12 == pytest.approx(expected)
