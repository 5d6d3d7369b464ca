"""`import` of published checkpoints: what is written loads, and what is wrong is refused with one sentence."""

import argparse
import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from bench.checkpoints import load_network
from bench.cli import app
from bench.errors import UsageError
from bench.importing.command import import_checkpoint
from bench.importing.configs import CONFIGS
from bench.importing.torch_file import read_torch_file
from methods.diffusion.published import convert
from tests.parity.synthetic import synthetic_state
from tests.test_published import PARITY

ADM = json.loads((PARITY / "adm_tiny_heads4.json").read_text())
DIFFAE = json.loads((PARITY / "diffae_tiny32.json").read_text())
ADM_CONFIG, DIFFAE_CONFIG = json.dumps(ADM["config"]), json.dumps(DIFFAE["config"])


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def adm_state() -> dict[str, Tensor]:
    return synthetic_state(ADM["shapes"], ADM["seed"])


def numbered_state(fixture: str) -> dict[str, Tensor]:
    """A published state in which every tensor is filled with a number of its own: quick, and no two are equal."""
    shapes = json.loads((PARITY / f"{fixture}.json").read_text())["shapes"]
    state = {key: torch.full(shape, index / 1000) for index, (key, shape) in enumerate(shapes.items())}
    counters = {key: torch.tensor(0) for key in state if key.endswith("num_batches_tracked")}
    normalisation = {key: torch.full_like(state[key], 0.5) for key in state if key in ("model.mu", "model.sigma")}
    return state | counters | normalisation


def lightning(state: dict[str, Tensor], **beside: object) -> dict[str, object]:
    """What Lightning writes: the tensors, hyper-parameters of any class, an optimiser."""
    optimiser = torch.optim.AdamW([torch.zeros(2, requires_grad=True)])
    hparams = argparse.Namespace(learning_rate=1e-4, root=Path("data"))
    return {
        "state_dict": state,
        "hyper_parameters": {"args": hparams, "loss": torch.nn.MSELoss()},
        "optimizer_states": [optimiser.state_dict()],
        "epoch": 3,
    } | beside


def steex(state: dict[str, Tensor]) -> dict[str, object]:
    return {"epoch": 5, "optimizer_state_dict": {"lr": 1e-4}, "loss": 0.1, "model_state_dict": state}


def same_network(output: Path, role: str, kind: str, state: dict[str, Tensor], config: dict[str, object]) -> None:
    """The written file, loaded as a run loads it, holds exactly the published weights."""
    loaded = load_network(str(output), role).network.state_dict()
    for key, tensor in convert(kind, state, config).items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize("zipped", [True, False])
def test_adm_with_its_card(tmp_path: Path, zipped: bool) -> None:
    source, output = tmp_path / "ddpm.pt", tmp_path / "out" / "ddpm.safetensors"
    torch.save(adm_state(), source, _use_new_zipfile_serialization=zipped)
    lines = import_checkpoint("adm", source, output, ADM_CONFIG)
    assert len(lines) == 1 and "ddpm.safetensors: adm, configuration custom" in lines[0]
    card = json.loads(output.with_suffix(".json").read_text())
    assert card["kind"] == "adm" and card["config"]["diffusion_steps"] == 1000
    assert card["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert card["source"] == {
        "file": "ddpm.pt",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "bytes": source.stat().st_size,
        "config": "custom",
        "inert": [],
    }
    same_network(output, "ddpm", "adm", adm_state(), ADM["config"])


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in adm_state().items()}
    torch.save(half, tmp_path / "half.pt")
    import_checkpoint("adm", tmp_path / "half.pt", tmp_path / "half.safetensors", ADM_CONFIG)
    same_network(tmp_path / "half.safetensors", "ddpm", "adm", {k: v.float() for k, v in half.items()}, ADM["config"])


def test_diffae_takes_the_ema_weights(tmp_path: Path) -> None:
    averaged = synthetic_state(DIFFAE["shapes"], 0)
    state = {f"model.{key}": tensor + 1 for key, tensor in averaged.items()}
    state |= {f"ema_model.{key}": tensor for key, tensor in averaged.items()} | {"x_T": torch.zeros(8, 3, 32, 32)}
    torch.save(lightning(state), tmp_path / "last.ckpt")
    lines = import_checkpoint("diffae", tmp_path / "last.ckpt", tmp_path, DIFFAE_CONFIG)
    assert "argparse.Namespace" in lines[1]
    same_network(tmp_path / "diffae-custom.safetensors", "diffae", "diffae", averaged, DIFFAE["config"])


@pytest.mark.parametrize(
    ("kind", "role", "wrap"),
    [
        ("densenet-regressor", "regressor", lightning),
        ("steex-decision-densenet", "classifier", steex),
    ],
)
def test_networks_without_options(
    tmp_path: Path, kind: str, role: str, wrap: Callable[[dict[str, Tensor]], dict[str, object]]
) -> None:
    state = numbered_state(kind.replace("-", "_"))
    torch.save(wrap(state), tmp_path / "checkpoint.tar")
    import_checkpoint(kind, tmp_path / "checkpoint.tar", tmp_path, None)
    same_network(tmp_path / f"{kind}.safetensors", role, kind, state, {})


def test_vggface2_pickle(tmp_path: Path) -> None:
    state = numbered_state("vggface2_resnet50")
    pickled = {key: tensor.numpy() for key, tensor in state.items() if "num_batches" not in key}
    (tmp_path / "resnet50_ft_weight.pkl").write_bytes(pickle.dumps(pickled, protocol=3))
    import_checkpoint("vggface2-resnet50", tmp_path / "resnet50_ft_weight.pkl", tmp_path / "identity.safetensors", None)
    same_network(tmp_path / "identity.safetensors", "identity", "vggface2-resnet50", state, {})


def refused(words: str, kind: str, file: Path, config: str | None = None) -> None:
    """One sentence that names the file, and nothing written."""
    output = file.parent / "out"
    with pytest.raises(UsageError, match=words) as caught:
        import_checkpoint(kind, file, output, config)
    assert "\n" not in str(caught.value) and file.name in str(caught.value)
    assert caught.value.exit_code == 2
    assert not output.exists()


def changed_adm(path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    state = adm_state()
    change(state)
    torch.save(state, path)
    return path


QKV = "middle_block.1.qkv.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("out.0.weight"), r"1 missing \(unet.conv_norm_out.weight\)"),
        (lambda state: state.update(more=torch.zeros(1)), r"1 unexpected \(more\)"),
        (lambda state: state.update({"out.2.bias": torch.zeros(3)}), r"\(3,\) instead of \(6,\)"),
        (lambda state: state.update({QKV: torch.zeros(190, 64, 1)}), QKV + r".* cannot be split into attention heads"),
        (lambda state: state.update({QKV: torch.tensor(1.0)}), QKV + r".* cannot be split into attention heads"),
        (lambda state: state["out.2.bias"].fill_(torch.nan), "conv_out.bias holds NaN"),
        (lambda state: state.update({"out.2.bias": torch.zeros(6).to_sparse()}), "out.2.bias is not a dense tensor"),
        (lambda state: state.update({"out.2.bias": torch.zeros(1).expand(1 << 40)}), "more than the file holds"),
        (lambda state: state.update({"out.2.bias": "six"}), "'out.2.bias' is not a tensor"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], words: str) -> None:
    refused(words, "adm", changed_adm(tmp_path / "ddpm.pt", change), ADM_CONFIG)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    torch.save(steex(numbered_state("steex_attribute_oracle")), tmp_path / "checkpoint.tar")
    refused("but of kind 'steex-attribute-oracle'", "steex-decision-densenet", tmp_path / "checkpoint.tar")
    refused("but of kind 'steex-attribute-oracle'", "adm", tmp_path / "checkpoint.tar")
    refused("is a torch file", "vggface2-resnet50", tmp_path / "checkpoint.tar")


def test_weights_of_no_published_configuration(tmp_path: Path) -> None:
    file = changed_adm(tmp_path / "ddpm.pt", lambda state: None)
    refused("for another give --config", "adm", file)
    refused(r"instead of \(128, 3, 3, 3\)", "adm", file, "square-64")


def test_ema_absent(tmp_path: Path) -> None:
    raw = {f"model.{key}": tensor for key, tensor in synthetic_state(DIFFAE["shapes"], 0).items()}
    torch.save(lightning(raw), tmp_path / "last.ckpt")
    refused("EMA absent", "diffae", tmp_path / "last.ckpt", DIFFAE_CONFIG)
    refused("EMA absent", "diffae", tmp_path / "last.ckpt")


@pytest.mark.parametrize("kind", ["adm", "vggface2-resnet50"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"\x1f\x8b\x08" + bytes(50), "is an archive; extract it"),
        (bytes(1000), "begins with zeros"),
        (b"no weights at all", "damaged or not a torch file|not a plain pickle of arrays"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, kind: str, content: bytes, words: str) -> None:
    (tmp_path / "weights.bin").write_bytes(content)
    refused(words, kind, tmp_path / "weights.bin")


def test_a_real_tar_and_a_missing_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "checkpoint.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("celebamaskhq/checkpoint.tar"), io.BytesIO())
    refused("is an archive; extract it", "steex-attribute-oracle", tmp_path / "checkpoint.tar")
    refused("cannot read .*: No such file", "adm", tmp_path / "nothing.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "ddpm.pt"
    torch.save(adm_state(), file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    for length in (100, 5000, len(whole) // 2, len(whole) - 20):
        file.write_bytes(whole[:length])
        refused("damaged or not a torch file", "adm", file, ADM_CONFIG)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_that_wants_to_run_code(tmp_path: Path, zipped: bool) -> None:
    file, canary = tmp_path / "ddpm.pt", tmp_path / "canary"
    torch.save(adm_state() | {"hook": Hostile(canary)}, file, _use_new_zipfile_serialization=zipped)
    refused(r"asks for (posix|nt)\.system", "adm", file, ADM_CONFIG)
    assert not canary.exists()


def test_shells_keep_nothing_and_import_nothing(tmp_path: Path) -> None:
    torch.save(lightning({"a": torch.ones(2)}), tmp_path / "last.ckpt")
    state, inert = read_torch_file(tmp_path / "last.ckpt")
    assert list(state) == ["a"] and torch.equal(state["a"], torch.ones(2))
    assert "torch.nn.modules.loss.MSELoss" in inert
    assert not any("Inert_" in str(known) for known in torch.serialization.get_safe_globals())


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("adn", ADM_CONFIG, "did you mean 'adm'"),
        ("regressor", None, "unknown kind of published network"),
        ("adm", "celebahq", "did you mean 'celebahq-256'"),
        ("adm", "{broken", "--config is not a JSON object"),
        ("adm", '{"colour": 1}', "--config: adm config: colour"),
        ("adm", '{"image_size": 48}', "--config: channel_mult is empty"),
    ],
)
def test_options(tmp_path: Path, kind: str, config: str | None, words: str) -> None:
    file = changed_adm(tmp_path / "ddpm.pt", lambda state: None)
    with pytest.raises(UsageError, match=words):
        import_checkpoint(kind, file, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_outputs(tmp_path: Path) -> None:
    file = changed_adm(tmp_path / "ddpm.pt", lambda state: None)
    for output in (tmp_path / "ddpm.ckpt", file, file / "out"):
        with pytest.raises(UsageError, match="--output"):
            import_checkpoint("adm", file, output, ADM_CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["ddpm.pt"]


def test_from_the_command_line(tmp_path: Path) -> None:
    file = changed_adm(tmp_path / "ddpm.pt", lambda state: None)
    arguments = ["import", "adm", str(file), "-o", str(tmp_path / "a.safetensors"), "--config"]
    assert CliRunner().invoke(app, [*arguments, ADM_CONFIG]).exit_code == 0
    assert (tmp_path / "a.json").is_file()


def test_named_configurations_are_complete() -> None:
    assert set(CONFIGS["adm"]) == {"celebahq-256", "square-64", "square-64-defaults"}
    assert CONFIGS["adm"]["celebahq-256"]["diffusion_steps"] == 500
    assert all(CONFIGS[kind] == {"published": {}} for kind in CONFIGS if kind not in ("adm", "diffae"))
