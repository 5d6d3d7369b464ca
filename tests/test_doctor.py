"""The doctor recognises what goes wrong in practice."""

import importlib.metadata

import pytest

from backends.compiled import CompileBackend
from bench import doctor


def test_a_healthy_machine() -> None:
    lines = list(doctor.diagnose())
    text = "\n".join(line for line, _ in lines)
    assert all(ok for _, ok in lines), text
    assert f"torch {importlib.metadata.version('torch')}" in text
    assert "backend compile: available" in text
    [shipped] = [line for line in text.splitlines() if line.startswith("shipped weights: ")]
    names = shipped.removeprefix("shipped weights: ").split(", ")
    roles = ("regressor", "oracle", "ddpm", "diffae")
    assert set(names) >= {f"{dataset}-{role}" for dataset in ("square", "elpv") for role in roles}


@pytest.mark.parametrize(
    ("error", "version"),
    [
        ("operator torchvision::nms does not exist", "2.13.0+cpu"),
        ("libcudart.so.13: cannot open shared object file", "2.13.0"),
    ],
)
def test_a_torch_that_does_not_fit_torchvision_is_recognised(
    error: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_import_check", lambda name: error if name == "torchvision" else None)
    lines = list(doctor.diagnose())
    text, ok = lines[-1]
    assert not ok
    assert error in text
    assert "pip install --force-reinstall torch torchvision" in text
    assert doctor.torchvision_diagnosis(error, version) is not None
    assert doctor.torchvision_diagnosis(None, version) is None


def test_no_compiler_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "install g++" in CompileBackend.unavailable()
