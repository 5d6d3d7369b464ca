"""The table of backends on one device, at a small size on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backends import BACKENDS
from backends.eager import EagerBackend
from bench import gpu_table
from bench.costs import count_flops
from bench.gpu_cases import CELEBA_HQ, FFHQ, make_cases
from methods.diffusion.adm import AdmUNet
from methods.diffusion.diffae import DiffAe
from tests.conftest import CPU


def test_operations_of_the_published_shapes() -> None:
    """GFLOP of one image, counted on the published code: ADM-256 563.6 and 569.7, Diff-AE-256 554.4 and 555.1."""
    with torch.device("meta"):
        image, time = torch.zeros(1, 3, 256, 256), torch.zeros(1, dtype=torch.int64)
        adm = count_flops(AdmUNet(CELEBA_HQ).eval().requires_grad_(False), [image, time])
        diffae = count_flops(DiffAe(FFHQ).eval().requires_grad_(False), [image, time, torch.zeros(1, 512)])
    assert [round(value / 1e9, 1) for value in (*adm, *diffae)] == [563.6, 569.7, 554.4, 555.1]


def table(path: Path, *arguments: str) -> int:
    return gpu_table.main(["-o", str(path), "--small", "--size", "64", "--batch", "1", "--device", "cpu", *arguments])


def test_the_table_of_backends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.json"
    assert table(path, "--backend", "eager") == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["loop"], row["status"]) for row in rows] == [("filter", "ok"), ("decode", "ok")]
    for row in rows:
        assert row["gradient_cosine"] == pytest.approx(1, abs=1e-6)
        assert row["images_per_second"] == pytest.approx(1 / row["seconds"])
        assert row["model_tflop_per_s"] > 0
        assert row["dtype"] == "float32"
    before = path.read_bytes()
    assert table(path, "--backend", "eager") == 0
    assert path.read_bytes() == before, "what is there is not measured again"
    assert table(path, "--backend", "null") == 2
    assert table(path, "--backend", "eager", "-s", "compile.checkpointing=on") == 2
    assert "made with other settings" in capsys.readouterr().err


def test_a_row_that_fails_does_not_end_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(EagerBackend):
        """Out of memory from two images on, and broken where the network takes a code."""

        def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
            if len(example_inputs) == 3:
                raise KeyError("unsupported operator")
            if len(example_inputs[0]) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().build(name, network, example_inputs)

    monkeypatch.setitem(BACKENDS, "full", f"{__name__}:Full")
    monkeypatch.setitem(globals(), "Full", Full)
    path = tmp_path / "table.json"
    assert table(path, "--backend", "full", "--batch", "2", "--batch", "4") == 0
    rows = json.loads(path.read_text())["rows"]
    found = {(row["loop"], row["batch"]): (row["status"], row.get("reason")) for row in rows}
    assert found[("filter", 1)] == ("ok", None)
    assert found[("filter", 2)] == ("out_of_memory", "OutOfMemoryError: CUDA out of memory")
    assert found[("filter", 4)] == ("out_of_memory", "not tried: memory ran out at batch 2")
    assert found[("decode", 1)] == ("failed", "KeyError: 'unsupported operator'")


def test_an_inaccurate_gradient_shows_in_the_table() -> None:
    case = next(make_cases([64], small=True))
    exact = torch.linspace(-1, 1, 2 * 12).reshape(2, 3, 2, 2)
    swapped = torch.stack([exact[0], exact[1].flip(0)])
    assert gpu_table.agreement(exact, exact)["gradient_cosine"] == pytest.approx(1)
    assert gpu_table.agreement(swapped, exact)["gradient_cosine"] < 0.99
    data = case.inputs(3, CPU)
    assert torch.equal(data["image"][:2], case.inputs(2, CPU)["image"]), "image i is the same in every batch"
