"""The table of backends on one device: gradients through diffusion loops, by image size and batch size.

`python -m bench.gpu_table -o reports/results/gpu-h100.json` measures, for every backend,

- "filter": the gradient of a weighted sum of the image that AC-RE's filter returns, through 5 reverse steps, and
- "decode": the same of the image that Diff-AE decodes in 10 DDIM steps, with respect to z_sem,

at 64x64 with the shipped networks and at 256x256 with the published shapes of CelebA-HQ (ACE's ADM) and FFHQ-256
(Diff-AE) with synthetic weights, whose operations, memory and time are those of trained ones. Noise is the
project's own; no regressor is involved.

Every row is written when it is known, so the same command continues what was cut off; failed rows are tried
again. A row that fails or runs out of memory does not end the table. Backends are measured one after the other,
so use an idle device.
"""

import argparse
import functools
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from backends import BACKENDS
from backends.base import Backend
from bench.config import describe, parse_assignment
from bench.costs import count_flops
from bench.environment import environment
from bench.errors import BenchError, UsageError
from bench.gpu_cases import DECODING_STEPS, DEPTH, Case, make_cases, reference_gradient
from bench.images import write_bytes
from bench.machine_peak import DTYPES, measured_peak
from bench.memory import allocation_errors, is_out_of_memory, release
from bench.registry import resolve

WARM_UP, REPEATS = 2, 7


def _seconds(call: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    begun = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun, result


def measure(case: Case, backend: Backend, batch: int, reference: Tensor | None) -> dict[str, Any]:
    """One row of the table: building, first call, median of repeats, memory and agreement."""
    device = backend.device
    data = case.inputs(batch, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    network = backend.prepare("denoiser", case.network, case.example(data), case.calls)
    row: dict[str, Any] = {"build_s": time.perf_counter() - begun}

    def call() -> Tensor:
        return case.gradient(network, data)

    row["first_s"], gradient = _seconds(call, device)
    for _ in range(WARM_UP):
        _seconds(call, device)
    repeats = [_seconds(call, device)[0] for _ in range(REPEATS)]
    backend.check()
    median = statistics.median(repeats)
    row |= {"seconds": median, "seconds_all": repeats, "images_per_second": batch / median}
    row |= memory_figures(device) | agreement(gradient, reference)
    return row | {"execution": backend.report.to_dict()}


def work_figures(case: Case, row: dict[str, Any], peaks: dict[str, float]) -> dict[str, float | str | None]:
    """Model operations a second (recomputation not counted), and their share of the measured peak.

    Args:
        row: what `measure` returned, with its batch.
        peaks: GFLOP/s by dtype.
    """
    with torch.device("meta"):
        network = type(case.network)(case.network.config).eval().requires_grad_(False)
    one = tuple(x.to("meta") for x in case.example(case.inputs(1, torch.device("cpu"))))
    rate = sum(count_flops(network, one)) * case.calls * row["batch"] / row["seconds"]
    dtype = str(row["execution"]["networks"]["denoiser"].get("dtype")).removeprefix("torch.")
    share = rate / 1e9 / peaks[dtype] if dtype in peaks else None
    return {"dtype": dtype, "model_tflop_per_s": rate / 1e12, "fraction_of_peak": share}


def memory_figures(device: torch.device) -> dict[str, float | None]:
    """PyTorch's peak on a GPU, and what is used on it by everything, other runtimes' arenas included."""
    if device.type != "cuda":
        return {"torch_peak_mib": None, "device_used_mib": None}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "torch_peak_mib": torch.cuda.max_memory_allocated(device) / 2**20,
        "device_used_mib": (total - free) / 2**20,
    }


def agreement(gradient: Tensor, reference: Tensor | None) -> dict[str, float | None]:
    """Cosine and relative error against the reference, the worst of the images that both have."""
    if reference is None:
        return {"gradient_cosine": None, "gradient_relative_error": None}
    count = min(len(gradient), len(reference))
    mine, exact = (x[:count].detach().cpu().double().flatten(1) for x in (gradient, reference))
    error = (mine - exact).abs().amax(1) / exact.abs().amax(1)
    return {
        "gradient_cosine": float(F.cosine_similarity(mine, exact).min()),
        "gradient_relative_error": float(error.max()),
    }


class Table:
    """The JSON file: a header that says where, and a row for each (loop, size, backend, batch).

    Raises:
        UsageError: the file was made on another device, with other software or other settings.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.content = path, {"header": header, "rows": []}
        if not path.is_file():
            return
        try:
            earlier = json.loads(path.read_text())
            known = {key: earlier["header"][key] for key in ("device_name", "packages", "settings")}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a table of this command ({error}); use another -o") from error
        differing = [key for key, value in known.items() if value != header[key]]
        if differing:
            raise UsageError(f"{path} was made with other {', '.join(differing)}; use another -o")
        self.content["rows"] = [row for row in earlier["rows"] if row["status"] != "failed"]

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a key, if it is there."""
        return next((row for row in self.content["rows"] if all(row[k] == v for k, v in key.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write the file whole."""
        self.content["rows"].append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, (json.dumps(self.content, indent=1) + "\n").encode())


def attempt(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row, or its failure as one: a table goes on after memory ran out or a backend gave up."""
    try:
        return {"status": "ok", **call()}
    except Exception as error:  # compilers, exporters and runtimes raise types of their own; none may end the table
        text = str(error).splitlines()[0] if str(error) else ""
        status = "out_of_memory" if is_out_of_memory(error) else "failed"
        return {"status": status, "reason": f"{type(error).__name__}: {text}"}


def fill(table: Table, cases: Iterator[Case], given: argparse.Namespace, device: torch.device) -> None:
    """Measure every row that is not there."""
    peaks = table.content["header"]["peak_gflop_per_s"]
    for case in cases:
        reference = functools.cache(functools.partial(_reference, case, device))
        for name in given.backend:
            full: int | None = None
            for batch in sorted(given.batch):
                key = {"loop": case.loop, "size": case.size, "backend": name, "batch": batch}
                row = table.find(key)
                if row is None:
                    row = _row(case, key, given.options.get(name, {}), device, reference(), full, peaks)
                    table.add(row)
                    gc.collect()
                    release(device)
                print(_line(row), flush=True)
                full = batch if full is None and row["status"] == "out_of_memory" else full


def _reference(case: Case, device: torch.device) -> Tensor | None:
    """The exact gradients, or None where even one image does not fit; computed once a case, when a row needs it."""
    try:
        return reference_gradient(case, device)
    except allocation_errors() as error:
        if not is_out_of_memory(error):
            raise
        return None


def _row(
    case: Case,
    key: dict[str, Any],
    options: dict[str, Any],
    device: torch.device,
    reference: Tensor | None,
    full: int | None,
    peaks: dict[str, float],
) -> dict[str, Any]:
    """Measure a row, unless it is known beforehand that there is nothing to measure."""
    backend_class = resolve(BACKENDS, key["backend"], "backend")
    reason = backend_class.unavailable()
    if reason:
        return key | {"status": "unavailable", "reason": reason}
    if full is not None:
        return key | {"status": "out_of_memory", "reason": f"not tried: memory ran out at batch {full}"}
    row = key | attempt(
        lambda: measure(case, backend_class(backend_class.options(**options), device), key["batch"], reference)
    )
    return row | work_figures(case, row, peaks) if row["status"] == "ok" else row


def _line(row: dict[str, Any]) -> str:
    where = f"{row['loop']:6} {row['size']:3} {row['backend']:8} batch {row['batch']:2}"
    if row["status"] != "ok":
        return f"{where}  {row['status']}: {row['reason']}"
    cosine = row["gradient_cosine"]
    return (
        f"{where}  {row['seconds']:.4f} s, {row['images_per_second']:.2f} images/s, "
        f"{row['model_tflop_per_s']:.3f} TFLOP/s, cosine {'-' if cosine is None else f'{cosine:.6f}'}, {row['dtype']}"
    )


def _header(given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    facts = environment(str(device))
    name = facts["gpu"]["name"] if "gpu" in facts else facts["cpu"]
    settings = {
        "small": given.small, "options": given.options, "depth": DEPTH, "decoding_steps": DECODING_STEPS,
        "repeats": REPEATS, "convolution_precision": torch.backends.cudnn.conv.fp32_precision,
        "matmul_precision": torch.backends.cuda.matmul.fp32_precision,
    }  # fmt: skip
    half = "float16" if device.type == "cuda" else "bfloat16"
    names = [] if given.small else ["float32", half]
    peaks = {dtype: measured_peak(device, DTYPES[f"torch.{dtype}"]) for dtype in names}
    return {
        "device_name": name,
        "packages": facts["packages"],
        "settings": settings,
        "peak_gflop_per_s": {dtype: peak.gflop_per_s for dtype, peak in peaks.items()},
        "peaks": {dtype: asdict(peak) for dtype, peak in peaks.items()},
        "environment": facts,
    }


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_table", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file; continued where it exists")
    parser.add_argument("--backend", action="append", help="repeatable; default: eager, compile, onnx")
    parser.add_argument("--size", type=int, choices=[64, 256], action="append", help="repeatable; default: both")
    parser.add_argument("--batch", type=int, action="append", help="repeatable; default: 1, 2, 4, ... 64")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="BACKEND.KEY=V", help="backend option")
    parser.add_argument("--small", action="store_true", help="tiny networks, to test this command")
    given = parser.parse_args(arguments)
    given.backend = given.backend or [name for name in ("eager", "compile", "onnx") if name in BACKENDS]
    given.size, given.batch = given.size or [64, 256], given.batch or [1, 2, 4, 8, 16, 32, 64]
    given.options = {}
    for (name, key), value in (parse_assignment(text) for text in given.set):
        given.options.setdefault(name, {})[key] = value
    for name in [*given.backend, *given.options]:
        if not resolve(BACKENDS, name, "backend").faithful:
            raise UsageError(f"--backend {name} computes nothing that could be compared")
        try:
            resolve(BACKENDS, name, "backend").options(**given.options.get(name, {}))
        except ValidationError as error:
            raise UsageError(describe(error, name)) from error
    return given


def main(arguments: list[str] | None = None) -> int:
    """Fill the table; returns the exit code."""
    try:
        given = _parse(arguments)
        device = torch.device(given.device)
        fill(Table(given.output, _header(given, device)), make_cases(given.size, given.small), given, device)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
