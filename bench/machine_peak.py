"""What this machine reaches at best: measured peak of matrix products and 3x3 convolutions.

`python -m bench.machine_peak` prints it. The largest of the figures is the machine's practical ceiling for one
precision, under the same threads and the same TF32 settings as a run. On a shared machine it is the best of
what others left.
"""

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

SECONDS = 0.5
"""Time a figure; there are three, so a measurement takes about 2 seconds with warm-up."""

DTYPES = {"torch.float32": torch.float32, "torch.float16": torch.float16, "torch.bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """Best rates measured, in GFLOP/s; a multiply-add is two operations."""

    matmul_gflop_per_s: float
    convolution_contiguous_gflop_per_s: float
    convolution_channels_last_gflop_per_s: float

    @property
    def gflop_per_s(self) -> float:
        """The best of them."""
        return max(asdict(self).values())


def _rate(call: Callable[[], object], operations: float, device: torch.device) -> float:
    """Best GFLOP/s of repeated calls, within `SECONDS` after one call to warm up."""

    def seconds() -> float:
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    seconds()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until or best == float("inf"):
        best = min(best, seconds())
    return operations / best / 1e9


@functools.cache
@torch.no_grad()
def measured_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """Measure once a process.

    Args:
        device: "cpu" or a CUDA device.
        dtype: what products are computed in; float16 on a CPU takes longer than `SECONDS`.
    """
    # Large enough to fill the device, small enough for several calls in the time.
    width, batch, channels, side = (8192, 64, 256, 64) if device.type == "cuda" else (1024, 8, 128, 32)
    a = torch.linspace(-1, 1, width * width, device=device).reshape(width, width).to(dtype)
    image = torch.linspace(-1, 1, batch * channels * side * side, device=device)
    image = image.reshape(batch, channels, side, side).to(dtype)
    weight = torch.linspace(-1, 1, channels * channels * 9, device=device).reshape(channels, channels, 3, 3).to(dtype)
    last = [x.contiguous(memory_format=torch.channels_last) for x in (image, weight)]
    operations = 2.0 * batch * channels * channels * 9 * side * side
    return Peak(
        matmul_gflop_per_s=_rate(lambda: a @ a, 2.0 * width**3, device),
        convolution_contiguous_gflop_per_s=_rate(lambda: F.conv2d(image, weight, padding=1), operations, device),
        convolution_channels_last_gflop_per_s=_rate(lambda: F.conv2d(*last, padding=1), operations, device),
    )


def main() -> None:
    """Print the peaks of one device."""
    parser = argparse.ArgumentParser(prog="python -m bench.machine_peak", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], action="append", help="repeatable")
    given = parser.parse_args()
    device = torch.device(given.device)
    default = ["float32", "float16", "bfloat16"] if device.type == "cuda" else ["float32", "bfloat16"]
    for name in given.dtype or default:
        peak = measured_peak(device, DTYPES[f"torch.{name}"])
        figures = ", ".join(f"{key} {value:.0f}" for key, value in asdict(peak).items())
        print(f"{device} {name}: {figures} ({torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
