"""Energy of a GPU, from NVML's total-energy counter (package nvidia-ml-py)."""

import time
from collections.abc import Callable

import torch

MINIMUM_SECONDS = 2.0
"""The counter is refreshed every 20 to 100 ms, so a shorter window says little."""


class EnergyMeter:
    """Reads the counter before and after a piece of work; windows add up.

    Args:
        counter: millijoules since the driver was loaded, or why they cannot be read; see `nvml_counter`.
        clock: seconds.
    """

    def __init__(self, counter: Callable[[], int] | str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._counter, self._clock = counter, clock
        self._millijoules, self._seconds = 0, 0.0
        self._open: tuple[int, float] | None = None

    def start(self) -> None:
        """Open a window."""
        if not isinstance(self._counter, str):
            self._open = (self._counter(), self._clock())

    def stop(self) -> None:
        """Close it; does nothing where none is open."""
        if self._open is not None and not isinstance(self._counter, str):
            millijoules, begun = self._open
            self._millijoules += self._counter() - millijoules
            self._seconds += self._clock() - begun
            self._open = None

    def joules(self) -> float | None:
        """Energy of the whole GPU over all windows, or None with `reason`."""
        return None if self.reason() else self._millijoules / 1000

    def reason(self) -> str | None:
        """Why there is no figure, or None."""
        if isinstance(self._counter, str):
            return self._counter
        if self._seconds < MINIMUM_SECONDS:
            return f"the work took less than the {MINIMUM_SECONDS:g} s that NVML's energy counter needs"
        return None


def nvml_counter(device: torch.device) -> Callable[[], int] | str:
    """A function that reads the total energy of a CUDA device in millijoules, or why there is none."""
    if device.type != "cuda":
        return "energy is read through NVML, from NVIDIA GPUs only"
    try:
        import pynvml
    except ImportError:
        return "NVML's Python bindings are not installed; pip install nvidia-ml-py"
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"  # an index would ignore CUDA_VISIBLE_DEVICES
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return f"NVML gives no energy for {uuid}: {error}"
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
