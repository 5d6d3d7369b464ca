"""Where a run took place: software, hardware, code version."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "diffusers", "safetensors", "numpy", "scipy", "pandas", "clean-fid", "mlflow",
    "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "triton", "nvidia-ml-py", "elpv-dataset",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can move a number."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state() -> dict[str, Any]:
    """Commit and whether tracked files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": None if commit is None else bool(git("status", "--porcelain", "-uno"))}


def cpu_model() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """Everything the suite record says about its machine; imports torch."""
    import torch

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "device": device,
        "packages": package_versions(),
        "git": git_state(),
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        facts["gpu"] = {
            "name": properties.name,
            "memory_mib": properties.total_memory // 2**20,
            "cuda": torch.version.cuda,
        }
    return facts


def command_line() -> str:
    """The command as typed, with `python -m bench` for the module."""
    import shlex

    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])
