"""`bench doctor`: what this machine can run, and what to install for the rest."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator

from bench.datasets import PACKAGES
from bench.energy import nvml_counter
from bench.environment import cpu_model
from bench.listing import backend_lines
from bench.weights import SHIPPED
from metrics.frechet import inception_folder

Line = tuple[str, bool]
"""A line, and whether it is fine (a missing extra is)."""


def _import_check(name: str) -> str | None:
    """The error of importing a package, or None."""
    try:
        __import__(name)
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def torchvision_diagnosis(error: str | None, torch_version: str) -> str | None:
    """The cure where torchvision's compiled operators do not fit the installed torch.

    A CPU-only torch beside PyPI's torchvision fails with "operator torchvision::nms does not exist", and
    takes diffusers, torchmetrics and clean-fid down with it.
    """
    if error is None:
        return None
    cure = (
        "install both from the same index: pip install --force-reinstall torch torchvision "
        "(PyPI's default build runs without a GPU)"
    )
    if "+cpu" in torch_version or "nms" in error or "libcudart" in error or "undefined symbol" in error:
        return f"torchvision does not fit torch {torch_version} (built for another one: {error}); {cure}"
    return f"torchvision cannot be imported ({error}); {cure}"


def diagnose() -> Iterator[Line]:
    """One finding a line."""
    yield f"python {sys.version.split()[0]}, {os.cpu_count()} cores, {cpu_model()}", sys.version_info >= (3, 11)
    problem = _import_check("torch")
    if problem:
        yield f"torch: cannot be imported ({problem}); run `make setup`", False
        return
    import torch

    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads", True
    problem = torchvision_diagnosis(_import_check("torchvision"), torch.__version__)
    yield problem or f"torchvision {importlib.metadata.version('torchvision')}", problem is None
    if problem:
        return
    for package, module in (
        ("diffusers", "diffusers"),
        ("clean-fid", "cleanfid"),
        ("mlflow", "mlflow"),
        ("pyarrow", "pyarrow"),
    ):
        problem = _import_check(module)
        found = f"cannot be imported ({problem}); run `make setup`" if problem else importlib.metadata.version(package)
        yield f"{package}: {found}", not problem
    if torch.cuda.is_available():
        yield f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name()}", True
        counter = nvml_counter(torch.device("cuda"))
        yield f"energy: {counter if isinstance(counter, str) else 'read through NVML'}", True
    else:
        yield "CUDA: no usable device; runs take place on the CPU", True
    for line in backend_lines():
        yield f"backend {line}", True
    for extra, module in (("onnx", "onnxruntime"), ("gpu", "tensorrt"), ("elpv", PACKAGES["elpv"])):
        found = _import_check(module) is None
        yield f"extra {extra}: {'installed' if found else f'not installed (pip install -e .[{extra}])'}", True
    weights = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))
    yield f"shipped weights: {', '.join(weights) or 'none; train them with `python -m bench train`'}", bool(weights)
    folder, reason = inception_folder(None)
    yield f"FID: {f'weights in {folder}' if folder else reason}", True
    free = shutil.disk_usage(".").free / 2**30
    yield f"disk: {free:.0f} GiB free", free > 1
