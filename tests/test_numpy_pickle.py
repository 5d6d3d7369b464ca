"""Pickles of NumPy arrays: arrays come back as they were, and nothing else is let in."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError
from bench.importing.numpy_pickle import read_numpy_pickle
from tests.test_import import Hostile, refused


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_survive_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "a": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">f8"),
        "scalar": np.array(7),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    read = read_numpy_pickle(tmp_path / "a.pkl")
    for key, array in arrays.items():
        np.testing.assert_array_equal(read[key], array)
        assert read[key].dtype.isnative and read[key].flags.c_contiguous


def test_a_python_2_pickle(tmp_path: Path) -> None:
    # Python 2 wrote byte strings, here as the opcodes SHORT_BINSTRING (U) and BINSTRING (T).
    values = np.arange(2, dtype="<f4")
    raw = b"T" + len(values.tobytes()).to_bytes(4, "little") + values.tobytes()
    text = lambda word: b"U" + bytes([len(word)]) + word  # noqa: E731
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"f4") + b"K\x00K\x01\x87R" + b"(K\x03" + text(b"<") + b"NNNK\x00K\x00K\x00tb"
    state = b"(K\x01K\x02\x85" + dtype + b"\x89" + raw + b"tb"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}" + text(b"w") + array + state + b"s.")
    np.testing.assert_array_equal(read_numpy_pickle(tmp_path / "a.pkl")["w"], values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda canary: {"w": Hostile(canary)}, r"asks for (posix|nt)\.system"),
        (lambda canary: {"w": np.array([Hostile(canary)], dtype=object)}, "asks for|type 'O8'"),
        (lambda canary: {"w": np.zeros(2, dtype=[("a", "f4")])}, "type 'V4'"),
        (lambda canary: {"w": np.zeros(2, dtype=complex)}, "type 'c16'"),
        (lambda canary: {"w": [1.0]}, "w is not an array"),
        (lambda canary: [np.zeros(2)], "holds a list"),
        (lambda canary: {}, "not a dictionary of arrays"),
        (lambda canary: {"w": np.zeros(2).view(np.matrix)}, r"asks for numpy.*matrix"),
        (lambda canary: {"w": Path("a")}, "asks for pathlib"),
    ],
)
def test_pickles_of_anything_but_arrays(tmp_path: Path, content: Callable[[Path], object], words: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(content(canary), protocol=2))
    refused(words, "vggface2-resnet50", tmp_path / "weights.pkl")
    assert not canary.exists()


def test_damaged_pickles_are_arrays_or_refused(tmp_path: Path) -> None:
    whole = pickle.dumps({"w": np.arange(4, dtype=np.float16)}, protocol=2)
    file = tmp_path / "weights.pkl"
    accepted = 0
    for place in range(len(whole)):
        for change in (whole[:place], whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]):
            file.write_bytes(change)
            try:
                arrays = read_numpy_pickle(file)
            except UsageError:
                continue
            accepted += 1
            assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in arrays.values())
    assert accepted < len(whole)
    file.write_bytes(whole + b"more")
    refused("data after its end", "vggface2-resnet50", file)


@pytest.mark.parametrize(
    "content",
    [
        b"(inumpy\nndarray\n.",  # INST
        b"(cnumpy\nndarray\no.",  # OBJ
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x04cnumpy\nndarray\n)}\x92.",  # NEWOBJ_EX
        b"\x82\x01.",  # EXT1
        b"Pname\n.",  # PERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ],
)
def test_opcodes_that_make_objects_are_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pkl").write_bytes(content)
    refused(r"cannot be read \(KeyError\)", "vggface2-resnet50", tmp_path / "weights.pkl")
