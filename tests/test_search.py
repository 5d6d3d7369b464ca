"""The search engine and both methods on small real networks."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import methods
from backends.eager import EagerBackend, EagerConfig
from bench.checkpoints import load_network
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.images import to_float
from bench.registry import resolve
from methods.base import Batch, Method, State
from methods.search import Event, Outcome, Sample, SlotSearch
from tests.conftest import CPU, reachable, tiny_networks, toy_samples

METHODS = ["ac-re", "ac-re-gn", "diffae-re", "diffae-re-gn"]


def search(method: Method, samples: list[Sample], slots: int) -> dict[str, Outcome]:
    return {outcome.id: outcome for outcome in SlotSearch(method, slots).run(samples)}


def double_method(name: str, make_method: Callable[..., Method]) -> Method:
    """Two slots and a short search on networks of its own in float64."""
    return double({}, make_method(name, 2, replace=tiny_networks(), max_steps=3))


def double(networks: dict[str, nn.Module], method: Method) -> Method:
    """Run the method's networks in float64, where sums in another order do not show in the result."""
    for name in ("denoiser", "regressor", "encoder"):
        if hasattr(method, name):
            setattr(method, name, _Double(getattr(method, name)))
    return method


class _Double(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*(x.double() if x.is_floating_point() else x for x in inputs)).float()


@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_batch_size_or_order(
    name: str, make_method: Callable[..., Method], networks: dict[str, nn.Module]
) -> None:
    samples = reachable(make_method(name, 1), 8)
    reference = search(double(networks, make_method(name, 16)), samples, 16)
    steps = {outcome.steps for outcome in reference.values()}
    assert len(steps) > 1, "the samples should need different numbers of steps"
    for slots, order in ((1, samples), (3, samples), (3, samples[::-1]), (16, samples[3:] + samples[:3])):
        result = search(double(networks, make_method(name, slots)), order, slots)
        assert result.keys() == reference.keys()
        for key, outcome in result.items():
            assert outcome.steps == reference[key].steps
            assert outcome.reached == reference[key].reached
            torch.testing.assert_close(outcome.image, reference[key].image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_and_the_sample_id_decide_the_noise(name: str, make_method: Callable[..., Method]) -> None:
    samples = reachable(make_method(name, 1), 3)
    first = search(make_method(name, 2), samples, 2)
    again = search(make_method(name, 2), samples, 2)
    other = search(make_method(name, 2, seed=1), samples, 2)
    assert all(torch.equal(first[key].image, again[key].image) for key in first)
    changed = [not torch.equal(first[key].image, other[key].image) for key in first]
    assert not any(changed) if name == "diffae-re" else all(changed)


@pytest.mark.parametrize("name", METHODS)
def test_the_search_moves_the_prediction_to_the_target(name: str, make_method: Callable[..., Method]) -> None:
    samples = reachable(make_method(name, 1), 6)
    outcomes = search(make_method(name, 4, max_steps=40), samples, 4)
    reached = [outcomes[sample.id] for sample in samples if outcomes[sample.id].reached]
    assert len(reached) >= 4
    for sample in samples:
        outcome = outcomes[sample.id]
        if outcome.reached:
            assert abs(outcome.prediction - sample.target) <= 0.004
            assert 0 < outcome.steps < 40


def test_finished_samples_leave_their_slots(make_method: Callable[..., Method]) -> None:
    events: list[Event] = []
    engine = SlotSearch(make_method("ac-re", 2), 2, events.append)
    outcomes = list(engine.run(reachable(make_method("ac-re", 1), 7)))
    iterations = [outcome.steps + outcome.reached for outcome in outcomes]
    assert engine.statistics.busy_slots == sum(iterations)
    # With refill, two slots need at most half the total and one longest search.
    assert engine.statistics.steps <= sum(iterations) / 2 + max(iterations)
    assert engine.statistics.occupancy > 0.75
    assert {event.phase for event in events} == {"encoding", "searching", "refining"}
    total = sum(engine.statistics.seconds.values())
    assert sum(outcome.seconds for outcome in outcomes) == pytest.approx(total, rel=1e-6)


def test_evaluations_are_counted(make_method: Callable[..., Method]) -> None:
    outcome = search(make_method("ac-re", 1, max_steps=3, tolerance=0.0), toy_samples(1), 1)["toy/0"]
    assert (outcome.steps, outcome.evaluations) == (3, (3 * 5 + 5, 3 * 5))
    outcome = search(make_method("diffae-re", 1, max_steps=3, tolerance=0.0), toy_samples(1), 1)["toy/0"]
    assert (outcome.steps, outcome.evaluations) == (3, (10 + 3 * 10, 3 * 10))


def test_a_target_already_met_changes_nothing_in_the_search(make_method: Callable[..., Method]) -> None:
    sample = toy_samples(1)[0]
    outcome = search(make_method("ac-re", 1, tolerance=1.0), [sample], 1)[sample.id]
    assert (outcome.steps, outcome.reached, outcome.failure) == (0, True, None)
    torch.testing.assert_close(outcome.image, sample.image)


@pytest.mark.parametrize("name", METHODS)
def test_a_nonfinite_sample_fails_alone(name: str, make_method: Callable[..., Method]) -> None:
    samples = toy_samples(4)
    clean = search(make_method(name, 4), samples, 4)
    spoilt = [samples[0]._replace(image=samples[0].image * float("nan")), *samples[1:]]
    result = search(make_method(name, 4), spoilt, 4)
    assert result["toy/0"].failure is not None
    for key in ("toy/1", "toy/2", "toy/3"):
        assert result[key].failure is None
        assert torch.equal(result[key].image, clean[key].image)


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_another_value_of_a_fresh_encoding_is_an_encoding_for_that_value(
    name: str, make_method: Callable[..., Method]
) -> None:
    """What lets several values of an image share its encoding."""
    method = make_method(name, 2)
    sample = toy_samples(1)[0]
    images, ids = torch.stack([sample.image] * 2), (sample.id,) * 2
    values = torch.tensor([0.2, 0.3]), torch.tensor([0.7, 0.1])
    first, expected = (method.encode(Batch(ids, images, value), lambda done, total: None) for value in values)
    state = method.retarget(first, values[1])
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", ["ac-re-gn", "diffae-re"])
def test_values_of_an_image_share_its_encoding(name: str, make_method: Callable[..., Method]) -> None:
    samples = toy_samples(2)
    values = [[sample.target, sample.target + 0.01, sample.target - 0.01] for sample in samples]
    apart = [sample._replace(target=value) for sample, own in zip(samples, values, strict=True) for value in own]
    shared = [sample._replace(also=tuple(own[1:])) for sample, own in zip(samples, values, strict=True)]
    engines = [SlotSearch(double_method(name, make_method), 2) for _ in range(2)]
    expected, found = (
        {(outcome.id, outcome.target): outcome for outcome in engine.run(given)}
        for engine, given in zip(engines, (apart, shared), strict=True)
    )
    assert [len(engine.statistics.calls["encode"]) for engine in engines] == [3, 1]
    assert found.keys() == expected.keys()
    encoding = engines[0].method.cost["encode"]
    for (key, value), outcome in found.items():
        other = expected[key, value]
        assert (outcome.steps, outcome.reached, outcome.failure) == (other.steps, other.reached, other.failure)
        torch.testing.assert_close(outcome.image, other.image, rtol=0, atol=1e-5)
        bears = any(value == own[0] for own in values)
        assert outcome.evaluations + (encoding.times(0) if bears else encoding) == other.evaluations


@pytest.mark.parametrize("name", METHODS)
def test_reconstructions_come_with_the_outcomes(name: str, make_method: Callable[..., Method]) -> None:
    samples = [sample._replace(then=(0.52,)) for sample in toy_samples(3)]
    samples[2] = samples[2]._replace(image=samples[2].image * float("nan"))
    engine = SlotSearch(make_method(name, 2, max_steps=2), 2, reconstruct=True)
    found = {(outcome.id, outcome.target): outcome for outcome in engine.run(samples)}
    plain = SlotSearch(make_method(name, 2, max_steps=2), 2)
    for outcome in plain.run(samples):
        assert outcome.reconstruction is None
        assert torch.equal(outcome.image, found[outcome.id, outcome.target].image) or outcome.failure
    method, ids = make_method(name, 2), ("toy/0", "toy/1")
    images = torch.stack([sample.image for sample in samples[:2]])
    expected = method.reconstruct(method.encode(Batch(ids, images, torch.zeros(2)), lambda done, total: None))
    assert expected.min() >= 0 and expected.max() <= 1 and not expected.requires_grad
    for (key, _), outcome in found.items():
        if key == "toy/2":
            assert outcome.reconstruction is None
        else:
            assert torch.equal(outcome.reconstruction, expected[ids.index(key)])
    assert len(engine.statistics.calls["reconstruct"]) == 2 and "reconstruct" not in plain.statistics.calls
    searched = sum(seconds for phase, seconds in engine.statistics.seconds.items() if phase != "reconstruct")
    assert sum(outcome.seconds for outcome in found.values()) == pytest.approx(searched, rel=1e-6)


def test_latencies_leave_reconstructions_out(make_method: Callable[..., Method]) -> None:
    method = make_method("ac-re", 1, max_steps=1)
    reconstruct, pause = method.reconstruct, 1.0

    def slow(state: State) -> Tensor:
        time.sleep(pause)
        return reconstruct(state)

    method.reconstruct = slow  # type: ignore[method-assign]
    outcomes = list(SlotSearch(method, 1, reconstruct=True).run(toy_samples(2)))
    assert max(outcome.latency for outcome in outcomes) < pause


def test_no_gradient_of_weights_is_computed(make_method: Callable[..., Method]) -> None:
    for name in METHODS:
        method = make_method(name, 2)
        search(method, toy_samples(2), 2)
        for network in (method.denoiser, method.regressor):
            assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_a_batch_of_zero_slots_is_refused(make_method: Callable[..., Method]) -> None:
    with pytest.raises(ValueError, match="batch size 0"):
        SlotSearch(make_method("ac-re", 1), 0)


@pytest.mark.parametrize("name", METHODS)
def test_shipped_networks_in_float32_agree_across_batch_sizes(name: str) -> None:
    """Convolutions round differently at another batch size; nothing else may differ."""
    cls = resolve(methods.METHODS, name, "method")
    few = {"diffae-re": {"max_steps": 4, "inversion_steps": 20}, "ac-re": {"max_steps": 12}}.get(name, {"max_steps": 3})
    roles = ("regressor", *cls.networks)
    shipped = {role: load_network(f"square-{role}", role).network for role in roles}
    task = SquareDataset(SquareConfig()).load(4)
    samples = [
        Sample(key, torch.from_numpy(to_float(image)), float(target))
        for key, image, target in zip(task.ids, task.images, task.targets, strict=True)
    ]
    results = []
    for slots, order in ((1, samples), (3, samples[::-1]), (16, samples)):
        method = cls(cls.options(**few), 0, CPU)
        method.prepare(shipped, EagerBackend(EagerConfig(), CPU), slots)
        results.append(search(method, order, slots))
    for other in results[1:]:
        for key, outcome in results[0].items():
            assert other[key].steps == outcome.steps
            assert abs(other[key].prediction - outcome.prediction) < 1e-3
            changed = (other[key].image - outcome.image).abs() > 1.5 / 255
            assert changed.float().mean() < 0.01
