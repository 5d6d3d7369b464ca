"""Weights files: what is refused, and in which words."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.checkpoints import SHIPPED, load_network
from bench.errors import UsageError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A copy of the shipped regressor with its card."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(SHIPPED / f"square-regressor{suffix}", tmp_path / f"mine{suffix}")
    return tmp_path / "mine.safetensors"


def update_card(weights: Path, **changes: object) -> None:
    card = weights.with_suffix(".json")
    content = json.loads(card.read_text()) | changes
    if "sha256" not in changes:
        content["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    card.write_text(json.dumps(content))


def refused(weights: Path, words: str, role: str = "regressor") -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_network(str(weights), role)
    assert "\n" not in str(caught.value)
    assert str(weights.name.split(".")[0]) in str(caught.value)


def test_shipped_weights_load_frozen() -> None:
    for role in ("regressor", "oracle", "ddpm", "diffae"):
        loaded = load_network(f"square-{role}", role)
        assert not any(p.requires_grad for p in loaded.network.parameters())
        assert not any(m.training for m in loaded.network.modules())
        assert loaded.path.stat().st_size < 15 * 2**20
    files = list(SHIPPED.iterdir())
    assert sum(path.stat().st_size for path in files) < 30 * 2**20


def test_regressor_and_oracle_are_different_networks() -> None:
    assert load_network("square-regressor", "regressor").sha256 != load_network("square-oracle", "oracle").sha256


def test_a_good_copy_loads(weights: Path) -> None:
    load_network(str(weights), "regressor")


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.safetensors", "cannot read")


def test_a_misspelt_shipped_network_is_suggested() -> None:
    with pytest.raises(UsageError, match="weights.regressor: 'square-regresor'.*did you mean 'square-regressor'"):
        load_network("square-regresor", "regressor")


def test_truncated(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(weights, "damaged or not safetensors")


def test_one_flipped_bit(weights: Path) -> None:
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    refused(weights, "sha256 differs")


def test_a_web_page(weights: Path) -> None:
    weights.write_text("<html>quota exceeded</html>")
    refused(weights, "damaged or not safetensors")


def test_without_a_card(weights: Path) -> None:
    weights.with_suffix(".json").unlink()
    refused(weights, "no card")


def test_another_architecture(weights: Path) -> None:
    update_card(weights, config={"widths": [16, 32]})
    refused(weights, "do not fit this architecture")


def test_another_kind(weights: Path) -> None:
    refused(weights, "kind 'regressor'; 'adm' is needed", role="ddpm")


def test_nan_weights(weights: Path) -> None:
    state = load_file(weights)
    state["head.bias"] = torch.full_like(state["head.bias"], float("nan"))
    save_file(state, weights)
    update_card(weights)
    refused(weights, "head.bias holds NaN")


class _Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_not_run(weights: Path, tmp_path: Path, legacy: bool) -> None:
    canary = tmp_path / "canary"
    hostile = weights.with_suffix(".pt")
    torch.save({"x": _Hostile(canary)}, hostile, _use_new_zipfile_serialization=not legacy)
    refused(hostile, "refused")
    hostile.write_bytes(pickle.dumps(_Hostile(canary)))
    refused(hostile, "refused|damaged")
    assert not canary.exists()


def test_a_plain_torch_file_loads(weights: Path) -> None:
    plain = weights.with_suffix(".pt")
    torch.save(load_file(weights), plain)
    update_card(weights, sha256=hashlib.sha256(plain.read_bytes()).hexdigest())
    load_network(str(plain), "regressor")


def test_no_unsafe_loading_anywhere() -> None:
    root = Path(__file__).parent.parent
    for folder in ("backends", "methods", "metrics", "bench", "reports"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text()
            for phrase in ("pickle.load", "yaml.load", "eval(", "exec(", "hub.load", "allow_pickle=True"):
                assert phrase not in text.replace(".eval()", ""), f"{path}: {phrase}"
            for line in text.splitlines():
                assert "torch.load(" not in line or "weights_only=True" in line, f"{path}: {line}"
