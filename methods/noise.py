"""All randomness of the project: counter-based noise that depends on names, never on position.

A draw is a function of (run seed, sample id, stream, step, draw) and of nothing else, so a sample's
noise does not depend on its batch, slot, neighbours, order, shard, or on a resumed run. The generator
is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), written in
int64 tensor operations; where there is a C++ compiler, the CPU runs it as one loop with the same bits.

Training and dataset generation use ordinary seeded generators; their entry points stand here too, so
that a search for randomness ends in this file.
"""

import contextlib
import ctypes
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backends import kernels
from backends.kernels.build import build_library, find_compiler

SCHEME = "philox4x32-10/v1"
"""Name of the noise scheme; part of every run's fingerprint."""

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_NORMAL_DOMAIN = 0x6E6F726D


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor], rounds: int = 10) -> tuple[Tensor, ...]:
    """Philox4x32 on tensors of 32-bit words held in int64.

    Args:
        counter: four int64 tensors of one shape, values in [0, 2**32).
        key: two int64 tensors that broadcast against them, values in [0, 2**32).
        rounds: 10 is the published choice.

    Returns:
        Four int64 tensors with values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # int64 multiplication wraps; the low 64 bits equal those of the unsigned product.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def sample_key(*parts: object) -> int:
    """Hash names, for example (seed, sample id, stream), to a signed 64-bit key.

    Parts are joined with their lengths, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (SCHEME, *parts):
        data = str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little", signed=True)


def sample_keys(seed: int, sample_ids: Sequence[str], stream: str, device: torch.device | str = "cpu") -> Tensor:
    """One key a sample: int64 of shape (B,)."""
    return torch.tensor([sample_key(seed, name, stream) for name in sample_ids], dtype=torch.int64, device=device)


def normal(keys: Tensor, step: Tensor, draws: int, shape: Sequence[int]) -> Tensor:
    """Standard-normal noise for every sample of a batch.

    Args:
        keys: int64 (B,), from `sample_keys`.
        step: int64 (B,), the optimisation step each sample is at.
        draws: independent draws a sample and step.
        shape: shape of one draw.

    Returns:
        float32 (B, draws, *shape). Computed in float64 and rounded, so that the last bits of a device's
        logarithm and cosine do not show.
    """
    size = math.prod(shape)
    quads = (size + 3) // 4
    batch = keys.shape[0]
    kernel = _kernel() if keys.device.type == "cpu" else None
    if kernel is None:
        u0, u1, u2, u3 = _uniform(keys, step, draws, quads)
    else:
        uniform = torch.empty(4, batch, draws, quads, dtype=torch.float64)
        keys, step = keys.contiguous(), step.contiguous()
        kernel(keys.data_ptr(), step.data_ptr(), uniform.data_ptr(), batch, draws, quads, _NORMAL_DOMAIN)
        u0, u1, u2, u3 = uniform.unbind()
    out = torch.empty(batch, draws, quads, 4, dtype=torch.float32, device=keys.device)
    for radius, angle, first in ((u0, u1, 0), (u2, u3, 2)):  # Box and Muller (1958)
        radius, angle = radius.log().mul_(-2).sqrt_(), angle * (2 * math.pi)
        torch.mul(radius, angle.cos(), out=out[..., first])
        torch.mul(radius, angle.sin_(), out=out[..., first + 1])
    return out.reshape(batch, draws, quads * 4)[..., :size].reshape(batch, draws, *shape)


def _uniform(keys: Tensor, step: Tensor, draws: int, quads: int) -> tuple[Tensor, ...]:
    """Four float64 tensors (B, draws, quads), uniform in (0, 1)."""
    batch, device = keys.shape[0], keys.device
    block = torch.arange(quads, device=device).view(1, 1, quads).expand(batch, draws, quads)
    draw = torch.arange(draws, device=device).view(1, draws, 1).expand(batch, draws, quads)
    when = (step & _MASK).view(batch, 1, 1).expand(batch, draws, quads)
    domain = torch.full_like(block, _NORMAL_DOMAIN)
    key = ((keys & _MASK).view(batch, 1, 1), ((keys >> 32) & _MASK).view(batch, 1, 1))
    words = philox4x32((block, draw, when, domain), key)
    return tuple((word.to(torch.float64) + 0.5) * 2.0**-32 for word in words)


@cache
def _kernel() -> Callable[..., None] | None:
    """The compiled form of `_uniform` on the CPU; None without a compiler."""
    if find_compiler() is None:
        return None
    library, _ = build_library(Path(kernels.__file__).with_name("philox.cpp"))
    function = library.philox_uniform
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_uint32]
    function.restype = None
    return function


def numpy_normal(seed: int, shape: Sequence[int]) -> np.ndarray:
    """`RandomState(seed).randn(*shape)`, float64: the noise rule of the published Square generator."""
    return np.random.RandomState(seed).randn(*shape)


def numpy_generator(*parts: object) -> np.random.Generator:
    """A NumPy generator named by its parts: dataset latents, bootstrap resamples."""
    return np.random.Generator(np.random.PCG64(sample_key(*parts) & (2**64 - 1)))


class TrainingNoise:
    """Random numbers of one training step, a function of (seed, step): resuming replays nothing.

    Drawn on the CPU and moved to `device`, so that every device trains on the same numbers.
    """

    def __init__(self, seed: int, step: int, device: torch.device | str = "cpu") -> None:
        self.device = device
        self._generator = torch.Generator().manual_seed(sample_key("training", seed, step) & (2**63 - 1))

    def indices(self, batch_size: int, size: int) -> Tensor:
        """int64 (batch_size,), uniform over [0, size)."""
        return torch.randint(0, size, (batch_size,), generator=self._generator).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """float32, uniform over [0, 1)."""
        return torch.rand(*shape, generator=self._generator).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """float32, standard normal."""
        return torch.randn(*shape, generator=self._generator).to(self.device)


@contextlib.contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Fix torch's global generator while a network draws its initial weights; restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
