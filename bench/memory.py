"""Memory: how much was used, and recognising that it ran out, whoever says so."""

import gc
import importlib
import resource
import sys

import torch

# PyTorch's allocator on the CPU (Linux, Windows), CUDA and its libraries, ONNX Runtime's arena and std::bad_alloc.
_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "Failed to allocate memory for requested buffer",
    "bad_alloc",
    "bad allocation",
)


def allocation_errors() -> tuple[type[Exception], ...]:
    """The exception types that can mean "out of memory"; ONNX Runtime's only where it is loaded."""
    errors: tuple[type[Exception], ...] = (RuntimeError, MemoryError)  # torch.OutOfMemoryError is a RuntimeError
    if "onnxruntime" in sys.modules:
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        errors += (state.RuntimeException, state.Fail, state.EPFail)
    return errors


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, says that memory ran out."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, allocation_errors()) and any(phrase in str(error) for phrase in _PHRASES):
            return True
        error = error.__cause__
    return False


def release(device: torch.device) -> None:
    """Give freed memory back; call it outside the `except` block, whose traceback keeps tensors alive."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory: of this cell on the device for CUDA, else of the whole process so far on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
