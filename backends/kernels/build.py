"""Compiling a C++ source to a shared library, once for each machine."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from backends.base import BackendError
from backends.cache import Entry, cached

_COMPILERS = ("g++", "clang++")
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC")


def find_compiler() -> str | None:
    """Path of a C++ compiler: $CXX, else g++ or clang++ on the PATH; None without one."""
    for name in (os.environ.get("CXX", ""), *_COMPILERS):
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


def build_library(source: Path) -> tuple[ctypes.CDLL, Entry]:
    """Compile `source` (about a second; kept in the cache) and load it.

    The entry depends on the source, the compiler, its flags and the processor, since code built for
    another processor may not run here.

    Raises:
        BackendError: no compiler, or it fails; the message ends with the compiler's last line.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BackendError("no C++ compiler found; install g++ (Debian: apt-get install g++) or set CXX")
    # Linux: PyTorch's own OpenMP library has the same name and is loaded already, so threads are shared.
    flags = _FLAGS if sys.platform == "darwin" else (*_FLAGS, "-fopenmp")
    facts = {
        "source": hashlib.sha256(source.read_bytes()).hexdigest(),
        "compiler": _run([compiler, "--version"]).splitlines()[0],
        "flags": flags,
        "processor": _processor(),
    }

    def build(folder: Path) -> None:
        _run([compiler, *flags, str(source), "-o", str(folder / "library.so")])

    entry = cached("kernels", facts, build)
    return ctypes.CDLL(str(entry.folder / "library.so")), entry


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        raise BackendError(f"{Path(command[0]).name} failed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{command[0]} cannot be run: {error}") from error


def _processor() -> str:
    """Architecture and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
