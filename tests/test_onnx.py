"""The ONNX Runtime backend: gradients, its gate, its cache, and clear refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends import cache
from backends.base import BackendError
from backends.engines import GOLDEN, repeatability
from tests.conftest import CPU, randomise

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
from backends.exports import export_facts
from backends.graphs.onnx_export import export, refuse_races
from backends.onnx_runtime import OnnxBackend, OnnxConfig

IMAGE = torch.linspace(-1, 1, 2 * 4 * 8 * 8).reshape(2, 4, 8, 8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


class Everything(nn.Module):
    """One of each operator whose gradient PyTorch would write with an index, in a few layers.

    Inputs: image (B, 4, 8, 8), rows (B,) int64, code (B, 3), all of them used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 8, 3, padding=1)
        self.strided = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.upward = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.group, self.plain = nn.GroupNorm(4, 8), nn.GroupNorm(2, 8, affine=False)
        self.batch, self.layer = nn.BatchNorm2d(8), nn.LayerNorm(8)
        self.code = nn.Linear(3, 16)
        self.qkv = nn.Conv1d(8, 24, 1)
        self.head = nn.Conv2d(8, 16, 1)
        self.register_buffer("table", torch.linspace(0.5, 1.5, 10))

    def forward(self, image: Tensor, rows: Tensor, code: Tensor) -> Tensor:
        h = F.silu(self.first(F.pixel_unshuffle(image, 2)))
        scale, shift = self.code(code)[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.group(h) * (1 + scale) + shift)
        h = F.interpolate(self.strided(h), scale_factor=2, mode="nearest") + F.relu(self.batch(h))
        h = torch.cat([h[:, 2:5], h[:, :2], h[:, 5:]], dim=1) + F.avg_pool2d(self.upward(h), 2)
        tokens = self.qkv(self.plain(h).flatten(2)).reshape(2, 2, 3, 4, 16)
        query, key, value = (part.transpose(-1, -2) for part in tokens.unbind(2))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(2, 16, 8)
        h = h + self.layer(attended).transpose(1, 2).reshape(2, 8, 4, 4)
        h = h + F.gelu(F.adaptive_avg_pool2d(h, 2)).repeat(1, 1, 2, 2) + h[:, :, 1:2, -1:].mean((2, 3), keepdim=True)
        return F.pixel_shuffle(self.head(torch.sigmoid(h)), 2) * self.table[rows].view(-1, 1, 1, 1) + image


def backend(**options: object) -> OnnxBackend:
    return OnnxBackend(OnnxConfig(**options), CPU)


def everything() -> tuple[nn.Module, tuple[Tensor, ...]]:
    network = randomise(Everything(), 7)
    network.batch.running_mean.fill_(0.1)
    network.batch.running_var.fill_(0.7)
    return network, (IMAGE, torch.tensor([3, 8]), torch.linspace(-1, 1, 6).reshape(2, 3))


def gradients(network: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    leaves = [x.to(dtype).requires_grad_(True) if x.is_floating_point() else x for x in inputs]
    output = network(*leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=dtype).reshape(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weight).sum(), [x for x in leaves if x.requires_grad])]


def assert_exact(values: list[Tensor], expected: list[Tensor], limit: float = 2e-5) -> None:
    for value, reference in zip(values, expected, strict=True):
        assert (value.double() - reference).abs().max() <= limit * reference.abs().max()


@pytest.mark.parametrize("residuals", [True, False])
def test_gradients_agree_with_float64_in_fifty_runs(residuals: bool) -> None:
    network, inputs = everything()
    onnx = backend(residuals=residuals)
    prepared = onnx.prepare("everything", network, inputs)
    assert_exact(gradients(prepared, inputs), gradients(network.double(), inputs, torch.float64))
    assert repeatability(prepared, inputs, 50) == 0
    facts = onnx.report.networks["everything"]
    assert facts["provider"] == "CPUExecutionProvider"
    assert set(facts["nodes"]) == {"forward", *(("forward_saving", "backward") if residuals else ("pullback",))}
    assert (facts["residual_mib"] > 0) == residuals


def test_a_loop_of_steps_has_the_gradient_of_autograd() -> None:
    network, (image, rows, code) = everything()
    prepared = backend().prepare("everything", network, (image, rows, code))

    def loop(step: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        start, z = image.to(dtype).requires_grad_(True), code.to(dtype).requires_grad_(True)
        x = start
        for t in (9, 5, 1):
            x = 0.9 * x - 0.1 * step(x, rows * 0 + t, z)
        return list(torch.autograd.grad(x.square().sum(), [start, z]))

    assert_exact(loop(prepared, torch.float32), loop(network.double(), torch.float64))


def test_max_pooling_has_the_gradient_of_autograd() -> None:
    layers = (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    network = randomise(nn.Sequential(*layers), 8)
    prepared = backend().prepare("pooled", network, (IMAGE,))
    assert_exact(gradients(prepared, (IMAGE,)), gradients(network.double(), (IMAGE,), torch.float64))


def test_second_gradients_are_refused() -> None:
    network, inputs = everything()
    prepared = backend().prepare("everything", network, inputs)
    x = inputs[0].clone().requires_grad_(True)
    weight = torch.ones(2, 4, 8, 8, requires_grad=True)
    (first,) = torch.autograd.grad((prepared(x, *inputs[1:]) * weight).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        first.sum().backward()


def test_another_shape_or_dtype_is_refused() -> None:
    network, inputs = everything()
    prepared = backend().prepare("everything", network, inputs)
    with pytest.raises(BackendError, match=r"built for 2x4x8x8 .* called with 3x4x8x8 "):
        prepared(torch.zeros(3, 4, 8, 8), *inputs[1:])
    with pytest.raises(BackendError, match="float64"):
        prepared(inputs[0].double(), *inputs[1:])


class _Lookup(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, torch.tensor([0, 2, 2, 5])]


class _Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[torch.tensor([1, 1])]


class _Put(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.index_put(x, (torch.tensor([0, 0]),), x[:2] * 2, accumulate=True)


class _Fraction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(12, 12), mode="nearest")


class _Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).abs()


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (_Lookup(), "indexing is supported with one integer tensor on the first dimension"),
        (_Rows(), "aten.index_add.default|index_put"),
        (_Put(), "index_put"),
        (_Fraction(), "not by whole factors"),
        (_Spectrum(), "fft_r2c"),
        (_Pair(), "returns 2 values"),
    ],
)
def test_operators_without_a_safe_form_are_named(network: nn.Module, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        backend().prepare("denoiser", network.eval(), (IMAGE,))
    assert not list(cache.cache_root().glob("onnx/*/entry.json"))


def test_the_gate_refuses_scatter_and_gather_nd() -> None:
    import onnx

    network, inputs = everything()
    model = export("everything", network, inputs, "ln").graphs["backward"]
    refuse_races("everything", model)
    model.graph.node.append(onnx.helper.make_node("ScatterND", ["a", "b", "c"], ["d"], reduction="add"))
    with pytest.raises(BackendError, match="everything exports to ScatterND, which ONNX Runtime computes wrongly"):
        refuse_races("everything", model)


def entry_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Path, Tensor]:
    """The cache entry that preparing writes, and the output."""
    prepared = backend().prepare("everything", network, inputs)
    (manifest,) = cache.cache_root().glob("onnx/*/entry.json")
    return manifest.parent, prepared(*inputs)


def test_a_second_start_takes_the_cached_files() -> None:
    network, inputs = everything()
    folder, output = entry_of(network, inputs)
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = backend()
    prepared = again.prepare("everything", network, inputs)
    assert again.report.networks["everything"]["cache"] == "hit"
    assert again.report.networks["everything"]["export_seconds"] == 0
    assert torch.equal(prepared(*inputs), output)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


@pytest.mark.parametrize("file", ["backward.onnx", "weights.bin"])
@pytest.mark.parametrize("how", ["altered", "truncated"])
def test_damaged_files_are_refused(file: str, how: str) -> None:
    network, inputs = everything()
    folder, _ = entry_of(network, inputs)
    data = bytearray((folder / file).read_bytes())
    if how == "altered":
        data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data if how == "altered" else data[:-1])
    with pytest.raises(BackendError, match=f"{file} is missing, truncated or altered; delete {re.escape(str(folder))}"):
        backend().prepare("everything", network, inputs)


def forge(folder: Path, file: str) -> None:
    """Make the manifest agree with an altered file."""
    manifest = json.loads((folder / "entry.json").read_text())
    manifest["sha256"][file] = cache._sha256(folder / file)
    (folder / "entry.json").write_text(json.dumps(manifest))


def test_an_engine_that_computes_something_else_is_caught() -> None:
    network, inputs = everything()
    folder, _ = entry_of(network, inputs)
    weights = np.fromfile(folder / "weights.bin", np.uint8)
    weights.view(np.float32)[: weights.size // 8] *= 1.01
    weights.tofile(folder / "weights.bin")
    forge(folder, "weights.bin")
    with pytest.raises(BackendError, match=f"deviates from the golden outputs .* delete {re.escape(str(folder))}"):
        backend().prepare("everything", network, inputs)


def test_a_changed_golden_output_is_caught() -> None:
    network, inputs = everything()
    folder, _ = entry_of(network, inputs)
    with np.load(folder / GOLDEN) as stored:
        values = {key: stored[key] for key in stored.files}
    last = max(key for key in values if key.startswith("arr_"))  # a gradient
    values[last] = values[last] + 0.01 * np.abs(values[last]).max()
    np.savez(folder / GOLDEN, **values)
    forge(folder, GOLDEN)
    with pytest.raises(BackendError, match=GOLDEN):
        backend().prepare("everything", network, inputs)


def test_a_start_with_other_timesteps_uses_the_same_entry() -> None:
    network, (x, time, z) = everything()
    for examples in ((x, time, z), (x, time + 3, z)):
        runner = backend()
        runner.prepare("everything", network, examples)
    assert runner.report.networks["everything"]["cache"] == "hit"


def test_each_fact_has_its_own_entry() -> None:
    network, inputs = everything()
    base = export_facts(network, inputs, "float32", "ln", True)
    other = randomise(Everything(), 8)
    variants = [
        base,
        export_facts(other, inputs, "float32", "ln", True),
        export_facts(network, (inputs[0][:1], inputs[1][:1], inputs[2][:1]), "float32", "ln", True),
        export_facts(network, inputs, "float16", "ln", True),
        export_facts(network, inputs, "float32", "explicit", True),
        export_facts(network, inputs, "float32", "ln", False),
    ]
    assert len({cache.content_key(facts) for facts in variants}) == len(variants)
    assert cache.content_key(base) == cache.content_key(export_facts(network, inputs, "float32", "ln", True))


@pytest.mark.parametrize(
    ("options", "device", "words"),
    [
        ({"precision": "float16"}, "cpu", "onnx.precision=float16 is not usable on a CPU"),
        ({"provider": "cuda"}, "cpu", "onnx.provider=cuda does not run on device cpu"),
        ({"provider": "cpu"}, "cuda", "onnx.provider=cpu does not run on device cuda"),
    ],
)
def test_what_the_device_cannot_do_is_refused(options: dict[str, str], device: str, words: str) -> None:
    with pytest.raises(BackendError, match=words):
        OnnxBackend(OnnxConfig(**options), torch.device(device)).prepare("r", nn.Identity().eval(), (IMAGE,))


def test_a_provider_that_is_not_installed_is_refused() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider .*\.\[gpu\]"):
        OnnxBackend(OnnxConfig(), torch.device("cuda")).prepare("r", nn.Identity().eval(), (IMAGE,))


def test_half_precision_graphs_are_close() -> None:
    """The float16 graphs of CUDA; the CPU provider runs them with casts of its own."""
    from backends.engines import EngineNetwork
    from backends.exports import export_network
    from backends.onnx_runtime import OnnxEngine

    network, inputs = everything()
    folder = cache.cache_root()
    folder.mkdir()
    export_network(folder, "everything", network, inputs, "float16", "ln", True)
    engine = OnnxEngine("everything", folder, "cpu", CPU, inputs, torch.float16, OnnxConfig())
    values = gradients(EngineNetwork("everything", engine, inputs, torch.float16), inputs)
    assert all(value.dtype == torch.float32 for value in values)
    assert_exact(values, gradients(network.double(), inputs, torch.float64), limit=2e-2)


def test_building_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    network, inputs = everything()
    backend().prepare("everything", network, inputs)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
