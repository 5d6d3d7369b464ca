"""The harness: command line, configuration, datasets, training, shipped weights, runner, record, tracking."""

__version__ = "0.1.0"

import os
from typing import Any

# Idle OpenMP threads of PyTorch spin for milliseconds by default, on the cores that another pool of threads
# (ONNX Runtime's) needs by then. This many rounds are some 0.1 ms: enough between PyTorch's own operators.
# Read once, when PyTorch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def __getattr__(name: str) -> Any:
    """`bench.explain`, imported when it is asked for: the command line answers --help without PyTorch."""
    if name != "explain":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.explaining import explain

    return explain
