"""Distances and optimisers: of Diff-AE-RE as in the ablation of the paper, and the distances of AC-RE."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from methods.ac_re import AcReConfig
from methods.base import Batch, Method, State, clipped
from methods.diffae_re import DiffAeReConfig
from methods.diffusion import ddim
from methods.distance import distance
from methods.search import SlotSearch
from tests.conftest import toy_samples

SHORT = {"inversion_steps": 3, "decoding_steps": 3, "tolerance": 0.0}


def encoded(method: Method, count: int = 2) -> State:
    """The state of samples with targets out of reach."""
    samples = toy_samples(count)
    images = torch.stack([sample.image for sample in samples])
    batch = Batch(tuple(sample.id for sample in samples), images, torch.linspace(0.9, 0.95, count))
    return method.encode(batch, lambda done, total: None)


def loss_of(method: Method, state: State, z: Tensor, image: Tensor) -> Tensor:
    """The loss of every sample, written out from the definitions."""
    config = method.config
    decoded = clipped(ddim.ddim_decode(method.denoiser, method.decoding, state["x_T"], z))
    change = decoded - image if config.distance_space == "pixel" else z - state["z_original"]
    norms = {
        "none": torch.zeros(len(z)),
        "l1": change.flatten(1).norm(p=1, dim=1),
        "l2": change.flatten(1).norm(p=2, dim=1),
    }
    return (method.regressor(decoded) - state["target"]).square() + config.distance_weight * norms[config.distance]


@pytest.mark.parametrize("space", ["latent", "pixel"])
@pytest.mark.parametrize("norm", ["none", "l1", "l2"])
def test_a_step_descends_the_loss_with_its_distance(norm: str, space: str, make_method: Callable[..., Method]) -> None:
    options = {"distance": norm, "distance_space": space, "distance_weight": 0.01, "optimiser": "sgd", "lr": 5.0}
    method = make_method("diffae-re", 2, **SHORT, **options)
    state = encoded(method)
    image = state["output"].clone()
    for _ in range(2):  # at the first step nothing has moved yet, and the codes' distance has no gradient
        z = state["z"].clone().requires_grad_(True)
        expected = z - 5.0 * torch.autograd.grad(loss_of(method, state, z, image).sum(), z)[0]
        state = method.step(state).state
        torch.testing.assert_close(state["z"], expected.detach())
    assert ("original" in state) == (space == "pixel" and norm != "none")


@pytest.mark.parametrize(
    ("optimiser", "entries", "reference"),
    [
        ("adam", {"moment1", "moment2"}, lambda z: torch.optim.Adam([z], lr=0.1)),
        ("sgd", set(), lambda z: torch.optim.SGD([z], lr=0.1)),
        ("momentum", {"moment1"}, lambda z: torch.optim.SGD([z], lr=0.1, momentum=0.7)),
    ],
)
def test_optimisers_are_those_of_pytorch(
    optimiser: str,
    entries: set[str],
    reference: Callable[[Tensor], torch.optim.Optimizer],
    make_method: Callable[..., Method],
) -> None:
    method = make_method("diffae-re", 2, **SHORT, optimiser=optimiser, lr=0.1, momentum=0.7)
    state = encoded(method)
    assert {key for key in state if key.startswith("moment")} == entries
    image, z = state["output"].clone(), state["z"].clone().requires_grad_(True)
    theirs = reference(z)
    for _ in range(3):
        theirs.zero_grad()
        loss_of(method, state, z, image).sum().backward()
        theirs.step()
        state = method.step(state).state
        torch.testing.assert_close(state["z"], z.detach(), rtol=1e-4, atol=1e-5)
    again = method.retarget(state, state["target"])
    assert all(torch.count_nonzero(again[key]) == 0 for key in entries)


def test_a_finished_sample_keeps_its_code_and_its_moments(make_method: Callable[..., Method]) -> None:
    method = make_method("diffae-re", 2, **(SHORT | {"tolerance": 0.001}), optimiser="momentum", lr=0.1)
    state = method.step(encoded(method)).state
    state["target"] = torch.stack([method.step(state).prediction[0], state["target"][1]])
    after = method.step(state)
    assert after.done.tolist() == [True, False]
    for key in ("z", "moment1", "step"):
        assert torch.equal(after.state[key][0], state[key][0])
        assert not torch.equal(after.state[key][1], state[key][1])


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_distances_are_a_samples_own(norm: str) -> None:
    difference = torch.linspace(-1, 2, 12).view(2, 1, 2, 3).requires_grad_(True)
    value = distance(norm, difference)
    rows = [distance(norm, difference[row : row + 1])[0] for row in range(2)]
    assert torch.equal(value, torch.stack(rows))
    unchanged = torch.zeros(1, 3, requires_grad=True)
    assert torch.autograd.grad(distance(norm, unchanged).sum(), unchanged)[0].tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="'none' has no value"):
        distance("none", difference)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_ac_re_with_a_distance_stays_closer(norm: str, make_method: Callable[..., Method]) -> None:
    changes = []
    for weight in (0.0, 50.0):
        options = {"distance": norm, "distance_weight": weight, "tolerance": 0.0, "max_steps": 4}
        method = make_method("ac-re", 2, **options)
        state = encoded(method)
        for _ in range(4):
            state = method.step(state).state
        changes.append((state["image"] - state["original"]).abs().sum())
    assert changes[1] < 0.5 * changes[0]


def test_no_distance_is_a_distance_without_weight(make_method: Callable[..., Method]) -> None:
    for name, norm in (("ac-re", "l2"), ("diffae-re", "l1")):
        plain, weightless = (
            make_method(name, 2, max_steps=2, distance=kind, distance_weight=0.0) for kind in ("none", norm)
        )
        for one, other in zip(
            SlotSearch(plain, 2).run(toy_samples(2)), SlotSearch(weightless, 2).run(toy_samples(2)), strict=True
        ):
            assert torch.equal(one.image, other.image)


def test_defaults_are_the_papers() -> None:
    config = DiffAeReConfig()
    assert (config.distance, config.distance_space, config.distance_weight) == ("l1", "latent", 1e-5)
    assert (config.optimiser, config.lr) == ("adam", 0.002)
    assert AcReConfig().distance == "none"
    for wrong in ({"distance": "l3"}, {"distance_space": "x"}, {"optimiser": "lion"}, {"momentum": 1.0}):
        with pytest.raises(ValidationError):
            DiffAeReConfig(**wrong)
