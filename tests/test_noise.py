"""The noise scheme: known answers, independence from position, and nothing random elsewhere."""

import ast
import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kernels.build import find_compiler
from methods import noise

ROOT = Path(__file__).parent.parent
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    words = noise.philox4x32([torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key])
    assert tuple(int(w) for w in words) == expected


def test_numbers_do_not_change_between_versions() -> None:
    keys = noise.sample_keys(0, ["a"], "stream")
    values = noise.normal(keys, torch.tensor([7]), 1, (49152,)).double().round(decimals=5) + 0.0
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    assert digest == "b281a56629ef4d7c8fa219beabb7eef30b94e69d0207a2912a0b52455ddf0f7e"


def test_normal_is_standard_normal() -> None:
    values = noise.normal(noise.sample_keys(1, ["a", "b"], "s"), torch.tensor([0, 1]), 4, (50_000,)).double()
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    assert torch.corrcoef(values.reshape(8, -1)).fill_diagonal_(0).abs().max() < 0.02


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_noise_depends_on_the_name_and_not_on_the_place(order: list[int], batch: int) -> None:
    names, steps = [f"img/{i}" for i in range(6)], torch.tensor([0, 3, 1, 9, 2, 0])
    full = noise.normal(noise.sample_keys(5, names, "s"), steps, 2, (3, 4, 4))
    chosen = order[:batch]
    part = noise.normal(noise.sample_keys(5, [names[i] for i in chosen], "s"), steps[chosen], 2, (3, 4, 4))
    assert torch.equal(part, full[chosen])


def test_streams_steps_seeds_and_draws_differ() -> None:
    def draw(seed: int = 0, name: str = "a", stream: str = "s", step: int = 0) -> torch.Tensor:
        return noise.normal(noise.sample_keys(seed, [name], stream), torch.tensor([step]), 2, (64,))

    base = draw()
    others = [draw(seed=1), draw(name="b"), draw(stream="t"), draw(step=1)]
    assert not torch.equal(base[:, 0], base[:, 1])
    assert all(not torch.equal(base, other) for other in others)
    assert noise.sample_key("ab", "c") != noise.sample_key("a", "bc")


def test_training_noise_is_a_function_of_seed_and_step() -> None:
    assert torch.equal(noise.TrainingNoise(3, 5).normal(8), noise.TrainingNoise(3, 5).normal(8))
    assert not torch.equal(noise.TrainingNoise(3, 5).normal(8), noise.TrainingNoise(3, 6).normal(8))


def test_nothing_random_outside_the_noise_module() -> None:
    forbidden = {
        "randn",
        "rand",
        "randn_like",
        "rand_like",
        "randint",
        "randperm",
        "manual_seed",
        "default_rng",
        "RandomState",
        "normal_",
    }
    found = []
    for folder in ("backends", "methods", "metrics", "bench", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "noise.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in forbidden:
                    found.append(f"{path}:{node.lineno} {node.attr}")
    assert found == []


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")
def test_the_compiled_generator_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, step = noise.sample_keys(3, ["a", "b", "c"], "s"), torch.tensor([0, 7, 2**33 + 5])
    assert noise._kernel() is not None
    compiled = noise.normal(keys, step, 4, (3, 7, 5))
    monkeypatch.setattr(noise, "_kernel", lambda: None)
    assert torch.equal(compiled, noise.normal(keys, step, 4, (3, 7, 5)))
