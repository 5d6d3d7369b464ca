"""The null backend: real signatures and shapes, no network behind them, and a record that says so."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backends.base import BackendConfig, BackendError
from backends.null import NullBackend
from methods.diffae_re import _Encoder
from tests.conftest import CPU, SIZE
from tests.tiny_cell import run_cell, tiny_cell

SLOTS = 3


def inputs_for(network: str) -> tuple[Tensor, ...]:
    image = torch.linspace(-1, 1, SLOTS * 3 * SIZE * SIZE).reshape(SLOTS, 3, SIZE, SIZE)
    time = torch.tensor([5, 80, 7])
    return {
        "ddpm": (image, time),
        "diffae": (image, time, torch.linspace(-0.3, 0.3, SLOTS * 8).reshape(SLOTS, 8)),
        "regressor": (image,),
        "encoder": (image,),
    }[network]


@pytest.mark.parametrize("name", ["ddpm", "diffae", "regressor", "encoder"])
def test_shapes_are_those_of_the_real_network_and_gradients_exist(name: str, networks: dict[str, nn.Module]) -> None:
    network = _Encoder(networks["diffae"]).eval() if name == "encoder" else networks[name]
    inputs = inputs_for(name)
    backend = NullBackend(BackendConfig(), CPU)
    prepared = backend.prepare(name, network, inputs)
    lifted = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    out = prepared(*lifted)
    assert out.shape == network(*inputs).shape
    gradients = torch.autograd.grad(out.sum(), [x for x in lifted if x.requires_grad])
    assert torch.any(gradients[0])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert not list(prepared.parameters())
    assert backend.report.networks[name]["computes"] == "nothing"


def test_what_it_returns_is_its_input(networks: dict[str, nn.Module]) -> None:
    backend = NullBackend(BackendConfig(), CPU)
    image = inputs_for("regressor")[0]
    assert torch.equal(
        backend.prepare("d", networks["ddpm"], inputs_for("ddpm"))(*inputs_for("ddpm")), torch.cat([image, image], 1)
    )
    torch.testing.assert_close(backend.prepare("r", networks["regressor"], (image,))(image), image.mean((1, 2, 3)))
    encoder = backend.prepare("e", _Encoder(networks["diffae"]).eval(), (image,))
    assert torch.equal(encoder(image), image.flatten(1)[:, :8])


def test_samples_do_not_touch_each_other(networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for("diffae")
    prepared = NullBackend(BackendConfig(), CPU).prepare("d", networks["diffae"], inputs)
    inputs[2][1] = float("nan")
    assert torch.isfinite(prepared(*inputs)).flatten(1).all(1).tolist() == [True, False, True]


def test_networks_that_are_not_frozen_are_refused() -> None:
    with pytest.raises(BackendError, match="require gradients"):
        NullBackend(BackendConfig(), CPU).prepare("x", nn.Conv2d(3, 1, 1).eval(), (torch.zeros(1, 3, 4, 4),))


@pytest.mark.parametrize("method", ["ac-re", "diffae-re"])
def test_a_run_says_that_its_counterfactuals_mean_nothing(
    method: str, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    record, frame = run_cell(tiny_cell(networks, method, "null"), tmp_path)
    assert "mean nothing" in record.notes["backend"]
    assert len(frame) == record.finished == 7
    timings = record.timings
    assert timings["search_wall_s"] >= timings["harness_s"] > 0
    assert timings["step_median_s"] > 0
    assert "model_tflop" not in timings, "no network was computed"
    plain, _ = run_cell(tiny_cell(networks, method), tmp_path)
    assert "backend" not in plain.notes
