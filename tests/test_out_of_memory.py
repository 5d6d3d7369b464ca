"""A cell that runs out of memory goes on with half the slots, loses nothing and says so."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from backends import BACKENDS
from backends.base import BackendError
from backends.eager import EagerBackend
from bench.errors import RunError
from bench.images import read_image
from bench.memory import is_out_of_memory
from bench.record import read_cell
from tests.tiny_cell import run_cell, tiny_cell

ROOM = "room"
"""Name of the backend below, whose networks hold at most `Room.rows` rows."""


class _Small(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        if len(inputs[0]) > Room.rows and (Room.once is None or Room.once.is_file()):
            raise torch.OutOfMemoryError(f"no room for {len(inputs[0])} rows")
        return self.network(*inputs)


class Room(EagerBackend):
    """Eager, but out of memory above `rows` rows, from the start or as soon as the file `once` is there."""

    name = ROOM
    rows = 2
    once: Path | None = None

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Small(super().build(name, network, example_inputs))


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, ROOM, f"{__name__}:Room")
    monkeypatch.setattr(Room, "rows", 2)
    monkeypatch.setattr(Room, "once", None)


def assert_same(folders: list[Path], frames: list[pd.DataFrame]) -> None:
    """The same counterfactuals, up to rounding."""
    first, second = frames
    assert sorted(first.index) == sorted(second.index)
    assert len(set(first["steps"])) > 1, "the samples should need different numbers of steps"
    for name, row in first.iterrows():
        other = second.loc[name]
        assert other["steps"] == row["steps"]
        assert other["prediction"] == pytest.approx(row["prediction"], abs=1e-3)
        pixels = [read_image(folder / "images" / row["image"]).astype(int) for folder in folders]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


@pytest.mark.parametrize("method", ["ac-re", "diffae-re"])
def test_the_cell_continues_with_fewer_slots_and_the_same_results(
    method: str, networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(networks, method, ROOM, slots=8)
    record, frame = run_cell(cell, tmp_path / "halved")
    monkeypatch.setattr(Room, "rows", 99)
    reference, expected = run_cell(tiny_cell(networks, method, ROOM, slots=2), tmp_path / "reference")
    assert record.status == "ok"
    assert record.timings["timing_flags"] == [
        "out of memory at 8 slots, continued with 4",
        "out of memory at 4 slots, continued with 2",
    ]
    assert record.timings["slots"] == 2
    assert record.facts["batch_size"] == 8, "facts hold what was asked for, so that the cell can be resumed"
    assert reference.timings["timing_flags"] == []
    assert_same([tmp_path / name / cell.id for name in ("halved", "reference")], [frame, expected])


def test_samples_recorded_before_are_kept(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = tiny_cell(networks, "ac-re", ROOM, slots=3, count=9)
    journal = tmp_path / "halved" / cell.id / "samples.jsonl"
    monkeypatch.setattr(Room, "once", journal)
    monkeypatch.setattr(Room, "rows", 1)
    record, frame = run_cell(cell, tmp_path / "halved")
    assert record.timings["timing_flags"] == ["out of memory at 3 slots, continued with 1"]
    assert len(journal.read_text().splitlines()) == 9, "no sample is searched or recorded twice"
    monkeypatch.setattr(Room, "rows", 99)
    _, expected = run_cell(tiny_cell(networks, "ac-re", ROOM, slots=1, count=9), tmp_path / "reference")
    assert_same([tmp_path / name / cell.id for name in ("halved", "reference")], [frame, expected])


def test_one_slot_that_does_not_fit_is_a_clear_sentence(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "rows", 0)
    cell = tiny_cell(networks, "ac-re", ROOM, slots=2, count=3)
    with pytest.raises(RunError, match="out of memory with one slot on cpu; use a device with more memory"):
        run_cell(cell, tmp_path)
    record = read_cell(tmp_path / cell.id)
    assert record.status == "failed"
    assert "out of memory with one slot" in record.error


def test_other_errors_are_not_taken_for_it(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(self: Room, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        raise BackendError(f"{name} cannot be built")

    monkeypatch.setattr(Room, "build", build)
    with pytest.raises(RunError, match="denoiser cannot be built"):
        run_cell(tiny_cell(networks, "ac-re", ROOM), tmp_path)


def test_the_allocator_of_the_cpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)


def test_whoever_says_it() -> None:
    wrapped = BackendError("the engine failed")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(wrapped)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(BackendError("a shape changed"))
    assert not is_out_of_memory(OSError("Cannot allocate memory"))


def test_onnx_runtime_is_recognised() -> None:
    pytest.importorskip("onnxruntime")
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

    assert is_out_of_memory(RuntimeException("Failed to allocate memory for requested buffer of size 68719476736"))
    assert is_out_of_memory(Fail("CUDA failure 2: out of memory"))
    assert not is_out_of_memory(RuntimeException("Non-zero status code returned while running Conv node"))
