"""Read a pickled dictionary of NumPy arrays without running anything that it holds.

VGGFace2's PyTorch weights are such a file, written by Python 2. The pure-Python unpickler is used with the
opcodes taken away that a dictionary of arrays does not need. The four names that such a file may ask for are
answered by the classes below: NumPy never sees what the file says of its arrays before it has been checked.
"""

import math
import pickle
import struct
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from bench.errors import UsageError

_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_MAX_SIDE = 1 << 40


_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, MemoryError, struct.error),
)
"""What the unpickler raises for damaged bytes, depending on where they lead it."""


class UnsafePickle(ValueError):
    """The pickle is not a plain dictionary of numeric arrays; the text is the reason."""


def read_numpy_pickle(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, in native byte order and C order.

    Args:
        path: a pickle of protocol 0 to 4 that holds one dictionary of text or bytes to numeric arrays.

    Raises:
        UsageError: unreadable, or anything else in it (the text says what).
    """
    try:
        with path.open("rb") as file:
            return _arrays(file)
    except UnsafePickle as error:
        raise UsageError(f"{path} is not a plain pickle of arrays and is refused: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    try:
        content = _ArrayUnpickler(file, encoding="bytes").load()
    except UnsafePickle:
        raise
    except _DAMAGE as error:
        raise UnsafePickle(f"it cannot be read ({type(error).__name__})") from error
    if file.read(1):
        _refuse("there is data after its end")
    if not isinstance(content, dict) or not content:
        _refuse(f"it holds a {type(content).__name__}, not a dictionary of arrays")
    arrays = {}
    for key, value in content.items():
        name = _short_text(key)
        if not isinstance(value, _Array) or value.values is None:
            _refuse(f"{name} is not an array")
        arrays[name] = value.values
    return arrays


def _refuse(reason: str) -> NoReturn:
    raise UnsafePickle(reason)


def _short_text(value: object) -> str:
    """ASCII text below 1,000 characters; Python 2 wrote its strings as bytes."""
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not text.isascii() or len(text) >= 1000:
        _refuse("a name is not short ASCII text")
    return text


class _ArrayType:
    """Stands for `numpy.ndarray`, which is only ever passed to `_reconstruct`."""


class _Dtype:
    """Stands for `numpy.dtype`: one of the numeric types, in a byte order."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = _short_text(code).lstrip("<>|=")
        self.order = "="
        if self.code not in _TYPES:
            _refuse(f"arrays of type {self.code!r}")

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            _refuse("a structured type")
        self.order = _short_text(state[1])
        if self.order not in ("<", ">", "|", "="):
            _refuse("an unknown byte order")

    def dtype(self) -> np.dtype:
        return np.dtype(("=" if self.order == "|" else self.order) + self.code)


class _Array:
    """Stands for what `_reconstruct` returns; `values` is filled once its state has been checked."""

    def __init__(self, array_type: object, *_: object) -> None:
        if array_type is not _ArrayType:
            _refuse("an array of another class")
        self.values: np.ndarray | None = None

    def set_state(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            _refuse("an array's state")
        _, shape, kind, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        sides = isinstance(shape, tuple) and all(type(side) is int and 0 <= side < _MAX_SIDE for side in shape)
        if not sides or not isinstance(kind, _Dtype) or not isinstance(raw, (bytes, bytearray)):
            _refuse("an array of objects, or one without plain data")
        dtype = kind.dtype()
        if math.prod(shape) * dtype.itemsize != len(raw):
            _refuse(f"{len(raw)} bytes for an array of shape {shape}")
        values = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        self.values = values.astype(dtype.newbyteorder("="), order="C")


def _latin1_bytes(text: object, encoding: object) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes in the old protocols."""
    if not isinstance(text, str) or _short_text(encoding) not in ("latin1", "latin-1"):
        _refuse("text in an unexpected encoding")
    return text.encode("latin1")


_ANSWERS = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _latin1_bytes,
}

_UNNEEDED = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
"""Opcodes that make objects by other ways than asking for a name and calling it."""


class _ArrayUnpickler(pickle._Unpickler):
    """The unpickler in Python, whose opcodes can be taken away one by one."""

    dispatch = {code: step for code, step in pickle._Unpickler.dispatch.items() if bytes([code]) not in _UNNEEDED}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ANSWERS:
            _refuse(f"it asks for {module}.{name}")
        return _ANSWERS[module, name]

    def load_build(self) -> None:
        """Set the state of the two classes that have one; the standard step would set any attribute."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Dtype)):
            _refuse("it sets the state of something else than an array")
        self.stack[-1].set_state(state)

    dispatch[pickle.BUILD[0]] = load_build
