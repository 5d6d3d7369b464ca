"""Grey images through every method, the backends and `explain`; networks that do not take them are refused."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch import Tensor, nn

from backends import cache
from backends.engines import EngineNetwork
from bench import explain
from bench.cell import resolve_cell
from bench.checkpoints import load_network
from bench.config import RunConfig
from bench.errors import UsageError
from bench.gpu_cases import Case
from bench.images import read_saved
from bench.noise_check import build_noise_check
from bench.own_models import DiffusersDenoiser
from bench.record import Journal
from bench.sections import MetricsConfig
from methods.diffusion.adm import AdmConfig, AdmUNet
from methods.diffusion.ddpm import p_mean_variance
from methods.diffusion.diffae import DiffAe
from tests.conftest import CPU, SIZE, randomise, reachable, tiny_networks
from tests.grey_images import grey_fixture, photographs_fixture, pixels, weights_fixture  # noqa: F401 (fixtures)
from tests.test_backends import assert_near, faithful, forward_and_gradients, make
from tests.test_baselines import Make
from tests.test_search import double, search
from tests.tiny_cell import OPTIONS, run_cell, tiny_cell

SLOTS = 2
COMPILED = [
    pytest.param(backend, name, marks=[pytest.mark.slow] * ((backend, name) != ("onnx", "ddpm")))
    for backend in faithful()
    for name in ("ddpm", "diffae")
    if backend != "eager"
]
"""Backends that do something to a network; torch.compile takes long, and the graphs of "diffae" are tested below."""
FAST = {"max_steps": 2, "depth": 2}


# Methods


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_method_runs_and_saves_grey_pictures(name: str, grey: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = tiny_cell(grey, name, count=2, channels=1, metrics={"noise_draws": 1})
    if not name.startswith("dime"):  # every attempt of which has to fit
        cell.options[name] = cell.options[name].model_copy(update={"max_steps": 2})
    record, frame = run_cell(cell, tmp_path)
    assert record.status == "ok" and record.failures == {}
    for row, original in zip(frame.itertuples(), cell.task.images, strict=True):
        paths = tmp_path / "inputs" / row.input, tmp_path / cell.id / "images" / row.image
        assert [Image.open(path).mode for path in paths] == ["L", "L"]
        before, after = (read_saved(path, SIZE) for path in paths)
        assert np.array_equal(before, original) and after.shape == (SIZE, SIZE, 1)
        assert np.abs(after.astype(float) - before).mean() / 255 == pytest.approx(row.change_l1, abs=1e-6)


@pytest.mark.parametrize("name", ["ac-re", pytest.param("diffae-re-gn", marks=pytest.mark.slow)])
def test_results_do_not_depend_on_batch_size_or_order(name: str, make_method: Make, grey: dict[str, nn.Module]) -> None:
    def run(slots: int, turned: bool) -> dict[str, Tensor]:
        method = double({}, make_method(name, slots, replace=tiny_networks(channels=1), max_steps=2))
        return {key: found.image for key, found in search(method, samples[::-1] if turned else samples, slots).items()}

    samples = reachable(make_method(name, 1, replace=grey), 3)
    together, apart = run(3, turned=False), run(1, turned=True)
    assert {tuple(image.shape) for image in together.values()} == {(1, SIZE, SIZE)}
    for key, image in together.items():
        torch.testing.assert_close(apart[key], image, rtol=0, atol=1e-5)


def test_an_interrupted_cell_goes_on_to_the_same_pictures(grey: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = tiny_cell(grey, "ac-re-gn", slots=1, count=2, channels=1, reconstructions=True)
    run_cell(cell, tmp_path)
    folder = tmp_path / cell.id
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert len(before) == 4 and {Image.open(path).mode for path in before} == {"L"}
    rows = Journal(folder / "samples.jsonl").rows()
    for name in ("samples.jsonl", "result.json"):
        (folder / name).unlink()
    Journal(folder / "samples.jsonl").append(rows[0])
    for path in before:
        if path.name not in (rows[0]["image"], rows[0]["reconstruction"]):
            path.unlink()
    run_cell(cell, tmp_path)
    assert {path: path.read_bytes() for path in before} == before


# Backends


def calls(grey: dict[str, nn.Module]) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """A network with one input channel, and one that folds 2x2 patches as the shipped ones do, with their inputs."""
    folded = grey["diffae"].config.model_copy(update={"patch_size": 2})
    image = torch.linspace(-1, 1, SLOTS * SIZE * SIZE).reshape(SLOTS, 1, SIZE, SIZE)
    time, code = torch.tensor([5, 80]), torch.linspace(-0.3, 0.3, SLOTS * 8).reshape(SLOTS, 8)
    return {"ddpm": (grey["ddpm"], (image, time)), "diffae": (randomise(DiffAe(folded), 2), (image, time, code))}


def exact(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients in float64."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return forward_and_gradients(copy.deepcopy(network).double(), wide)


@pytest.mark.parametrize(("backend", "name"), COMPILED)
def test_forward_and_gradients_agree_with_float64(
    backend: str, name: str, grey: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    network, inputs = calls(grey)[name]
    runner = make(backend)
    value, gradients = forward_and_gradients(runner.prepare("denoiser", network, inputs), inputs)
    expected, wanted = exact(network, inputs)
    dtype = str(runner.report.networks["denoiser"].get("dtype", "torch.float32"))
    for found, right in zip([value, *gradients], [expected, *wanted], strict=True):
        assert found.shape == right.shape
        assert_near(found, right, dtype)


def test_graphs_for_tensorrt_have_the_gradients(
    grey: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from backends.onnx_runtime import OnnxConfig, OnnxEngine
    from backends.tensorrt_engines import explicit_graphs
    from tests.test_tensorrt import SUPPORTED

    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    network, inputs = calls(grey)["diffae"]
    folder = explicit_graphs("denoiser", network, inputs, "float32", True).folder
    for path in folder.glob("*.onnx"):
        nodes = onnx.load(path, load_external_data=False).graph.node
        assert {node.op_type for node in nodes} <= SUPPORTED
    engine = OnnxEngine("denoiser", folder, "cpu", CPU, inputs, torch.float32, OnnxConfig())
    value, gradients = forward_and_gradients(EngineNetwork("denoiser", engine, inputs, torch.float32), inputs)
    expected, wanted = exact(network, inputs)
    for found, right in zip([value, *gradients], [expected, *wanted], strict=True):
        assert_near(found, right, "torch.float32")


@pytest.mark.parametrize("loop", ["filter", "decode"])
def test_the_gpu_table_can_measure_grey_networks(loop: str, grey: dict[str, nn.Module]) -> None:
    network = grey["ddpm" if loop == "filter" else "diffae"]
    case = Case(loop, SIZE, network, network.config.schedule("50" if loop == "filter" else 3))
    data = case.inputs(2, CPU)
    assert data["image"].shape == (2, 1, SIZE, SIZE)
    found = case.gradient(network, data)
    assert found.shape == ((2, 1, SIZE, SIZE) if loop == "filter" else (2, 8))
    assert torch.isfinite(found).all() and found.abs().max() > 0


# The library call


def test_explain_takes_both_layouts(grey: dict[str, nn.Module]) -> None:
    images = pixels(2)
    forms = images, torch.from_numpy(images).permute(0, 3, 1, 2), images.astype(np.float64) / 255
    found = [explain(grey["regressor"], form, 0.6, generator=grey["ddpm"], **FAST) for form in forms]
    assert found[0].counterfactuals.shape == (2, 1, SIZE, SIZE) and found[0].failures == (None, None)
    for other in found[1:]:
        torch.testing.assert_close(other.counterfactuals, found[0].counterfactuals)
    torch.testing.assert_close(found[0].predictions, grey["regressor"](found[0].counterfactuals))
    latent = explain(grey["regressor"], images, 0.6, "diffae-re", grey["diffae"], max_steps=1, inversion_steps=4)
    assert latent.counterfactuals.shape == (2, 1, SIZE, SIZE) and latent.failures == (None, None)


def grey_unet(**changes: object) -> UNet2DModel:
    options: dict[str, object] = {
        "sample_size": SIZE,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32, 32),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
    }
    return randomise(UNet2DModel(**(options | changes)), 11)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_grey_diffusers_denoiser(outputs: int, grey: dict[str, nn.Module], tmp_path: Path) -> None:
    """One output channel is the noise, the second of two its variance."""
    kind = "learned_range" if outputs == 2 else "fixed_small"
    grey_unet(out_channels=outputs).save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"variance_type": kind}))
    network = load_network(str(tmp_path), "ddpm").network
    assert network.config.in_channels == 1
    step = p_mean_variance(network, network.config.schedule("50"), torch.zeros(2, 1, SIZE, SIZE), 3)
    assert step.mean.shape == (2, 1, SIZE, SIZE)
    assert bool(step.log_variance.min() < step.log_variance.max()) == (outputs == 2)
    found = explain(grey["regressor"], pixels(1), 0.6, generator=network, **FAST)
    assert (found.counterfactuals * 255 != torch.from_numpy(pixels(1)).permute(0, 3, 1, 2)).any()


@pytest.mark.parametrize("outputs", [3, 6])
def test_a_denoiser_gives_back_as_many_channels_as_it_takes(outputs: int) -> None:
    with pytest.raises(ValueError, match=f"out_channels {outputs} is not supported; 1 or 2 is needed"):
        DiffusersDenoiser(grey_unet(out_channels=outputs))


# What is refused


def test_networks_for_colour_do_not_explain_grey_images_nor_the_reverse(
    grey: dict[str, nn.Module], networks: dict[str, nn.Module]
) -> None:
    colour = np.repeat(pixels(1), 3, axis=-1)
    for images, own, other, words in (
        (pixels(1), grey, networks, "images are 16x16 grey; the network for 'ddpm' needs 16x16 RGB"),
        (colour, networks, grey, "images are 16x16 RGB; the network for 'ddpm' needs 16x16 grey"),
    ):
        with pytest.raises(UsageError, match=words):
            explain(own["regressor"], images, 0.5, generator=other["ddpm"], **FAST)
    with pytest.raises(UsageError, match="regressor: images are 16x16 grey; the network needs 16x16 RGB"):
        explain("square-regressor", pixels(1), 0.5, generator=grey["ddpm"], **FAST)
    with pytest.raises(UsageError, match="square images .*3 channels, or 1 for grey, are needed"):
        explain(grey["regressor"], pixels(1)[..., 0], 0.5, generator=grey["ddpm"], **FAST)


@pytest.mark.parametrize("role", ["regressor", "oracle", "ddpm", "diffae", "classifier"])
def test_a_run_refuses_a_network_for_colour(role: str, weights: dict[str, str], photographs: Path) -> None:
    method = {"diffae": "diffae-re", "classifier": "ace"}.get(role, "ac-re")
    options = {"folder": {"path": str(photographs), "size": SIZE, "channels": 1}, "ace": {"classifier": "decision"}}
    given = weights if role == "classifier" else weights | {role: f"square-{role}"}
    config = RunConfig(method=(method,), options=options, weights=given)
    size = "64x64" if role in ("ddpm", "diffae") else "16x16"
    with pytest.raises(UsageError, match=f"images are 16x16 grey; (the network|weights.{role}) needs {size} RGB"):
        resolve_cell(config, "folder", method, "eager", CPU)


def test_the_noise_check_says_that_its_filter_is_for_colour(grey: dict[str, nn.Module]) -> None:
    coloured = AdmUNet(AdmConfig(**(grey["ddpm"].config.model_dump() | {"in_channels": 3})))
    found, reason = build_noise_check(MetricsConfig(), coloured, grey["regressor"], 0, (1, SIZE, SIZE))
    assert found is None
    assert reason == "the ddpm network is for 16x16 RGB images; these are 16x16 grey"
