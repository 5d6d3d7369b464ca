"""The synthetic Square dataset: regress the red of an 8x8 square (Ha and Bender 2025, section 4.1).

An image is 64x64: a coloured background, a 12x12 grey frame, and in it the 8x8 square whose red channel
is the attribute (green and blue are zero), all under Gaussian noise of standard deviation 20.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import UsageError
from methods import noise

SIZE, INNER, FRAME = 64, 8, 2
OUTER = INNER + 2 * FRAME
POSITIONS = SIZE - OUTER
GREY = 127.0
NOISE_SIGMA = 20.0
GENERATOR_VERSION = "square/v1"
CACHE_VARIABLE = "COUNTERFACTUAL_BENCH_CACHE"
_TRAIN_SEED, _HELD_OUT_SEED = 2025, 2026
_GRID_NOISE_SEED = 100_000
BACKGROUND_SIGMA = 5.0
"""Of the background about the red in the correlated splits, in grey levels; their correlation is then 0.998."""


@dataclass(frozen=True)
class Squares:
    """Images with their latents.

    Attributes:
        ids: name of each image inside its split.
        images: uint8 (N, 64, 64, 3).
        latents: int64 (N, 4): red, background, row, column; colours in 0..255, positions in 0..52.
    """

    ids: tuple[str, ...]
    images: np.ndarray
    latents: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def attribute(self) -> np.ndarray:
        """The regression target red/255, float32 (N,), in [0, 1]."""
        return (self.latents[:, 0] / 255).astype(np.float32)


def render(red: float, background: float, row: int, column: int, pixel_noise: np.ndarray) -> np.ndarray:
    """One image from its latents.

    Args:
        red, background: colours in 0..255.
        row, column: upper left corner of the frame, 0..52.
        pixel_noise: float64 (64, 64, 3) in grey levels.

    Returns:
        uint8 (64, 64, 3), truncated as in the published generator.
    """
    colour = np.full((SIZE, SIZE, 3), background, dtype=np.float32)
    frame = np.s_[row : row + OUTER, column : column + OUTER]
    inner = np.s_[row + FRAME : row + FRAME + INNER, column + FRAME : column + FRAME + INNER]
    colour[frame] = GREY
    colour[inner] = (red, 0.0, 0.0)
    return np.clip(colour + pixel_noise, 0, 255).astype(np.float32).astype(np.uint8)


def noise_for(seed: int) -> np.ndarray:
    """Pixel noise of a seed, float64 (64, 64, 3): the published rule."""
    return noise.numpy_normal(seed, (SIZE, SIZE, 3)) * NOISE_SIGMA


def inner_mask(latents: np.ndarray) -> np.ndarray:
    """True on the 8x8 square: bool (N, 64, 64)."""
    rows, columns = latents[:, 2, None, None] + FRAME, latents[:, 3, None, None] + FRAME
    i, j = np.arange(SIZE)[None, :, None], np.arange(SIZE)[None, None, :]
    return (i >= rows) & (i < rows + INNER) & (j >= columns) & (j < columns + INNER)


def mirror_target(attribute: np.ndarray) -> np.ndarray:
    """Targets of the mirror experiment: red <= 127 gains 128, otherwise loses 128; float32 in [0, 1].

    The published code truncates red to uint8 before it decides, so 1/255 became 128/255; here red is
    rounded.
    """
    red = np.rint(np.asarray(attribute, dtype=np.float64) * 255)
    return (np.where(red <= 127, red + 128, red - 128) / 255).astype(np.float32)


def training_latents(count: int, seed: int) -> np.ndarray:
    """Random latents, balanced over the halves of red, background, row and column; int64 (count, 4)."""
    generator = noise.numpy_generator(GENERATOR_VERSION, "latents", seed)
    index = np.arange(count)
    columns = []
    for bit, size in enumerate((256, 256, POSITIONS, POSITIONS)):
        upper = (index >> bit) % 2 == 0
        offset = generator.integers(0, size // 2, count)
        columns.append(np.where(upper, size // 2 + offset, offset))
    return np.stack(columns, axis=1).astype(np.int64)


def correlated_latents(count: int, seed: int) -> np.ndarray:
    """`training_latents` with a background that follows the red: red + N(0, BACKGROUND_SIGMA), clipped to 0..255.

    A regressor can then read the red off the background, which is sixty times larger; int64 (count, 4).
    """
    latents = training_latents(count, seed)
    generator = noise.numpy_generator(GENERATOR_VERSION, "correlated background", seed)
    background = np.rint(latents[:, 0] + BACKGROUND_SIGMA * generator.standard_normal(count))
    latents[:, 1] = np.clip(background, 0, 255).astype(np.int64)
    return latents


def grid_latents() -> np.ndarray:
    """The 315 validation latents of the lower half: 9 positions x 5 reds x 7 backgrounds; int64 (315, 4)."""
    places = np.linspace(0, POSITIONS, 3, dtype=int)
    reds, backgrounds = np.linspace(0, 127, 5, dtype=int), np.linspace(0, 255, 7, dtype=int)
    return np.array([(red, back, row, col) for row in places for col in places for red in reds for back in backgrounds])


def _render_all(latents: np.ndarray, seeds: list[int]) -> np.ndarray:
    return np.stack([render(*map(int, row), noise_for(seed)) for row, seed in zip(latents, seeds, strict=True)])


def _make_grid() -> Squares:
    """630 images: each latent with its red, and again with red + 128 under the same noise."""
    lower = grid_latents()
    latents = np.concatenate([lower, lower + np.array([128, 0, 0, 0])])
    seeds = [_GRID_NOISE_SEED + i for i in range(len(lower))] * 2
    ids = [f"{half}/{i:08d}" for half in ("lower", "upper") for i in range(len(lower))]
    return Squares(tuple(ids), _render_all(latents, seeds), latents)


def _make_random(latents: np.ndarray, seed: int, split: str) -> Squares:
    """A split of random images; "held-out" and "held-out-correlated" share their pixel noise, but not their colours."""
    seeds = [noise.sample_key(GENERATOR_VERSION, seed, i) & 0xFFFFFFFF for i in range(len(latents))]
    ids = tuple(f"{split}/{i:08d}" for i in range(len(latents)))
    return Squares(ids, _render_all(latents, seeds), latents)


SPLITS = {
    "train": lambda: _make_random(training_latents(16_000, _TRAIN_SEED), _TRAIN_SEED, "train"),
    "held-out": lambda: _make_random(training_latents(1_000, _HELD_OUT_SEED), _HELD_OUT_SEED, "held-out"),
    "train-correlated": lambda: _make_random(correlated_latents(16_000, _TRAIN_SEED), _TRAIN_SEED, "train-correlated"),
    "held-out-correlated": lambda: _make_random(
        correlated_latents(1_000, _HELD_OUT_SEED), _HELD_OUT_SEED, "held-out-correlated"
    ),
    "grid": _make_grid,
}


def cache_root() -> Path:
    """Where generated data lives: $COUNTERFACTUAL_BENCH_CACHE, or a folder in the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counterfactual-bench"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(split: str, cache: Path | None = None) -> Squares:
    """A split, generated on first use and checked against its manifest of sha256 hashes afterwards.

    Args:
        split: "train" (16,000 balanced images), "held-out" (1,000), "train-correlated" and "held-out-correlated"
            (the same number, with a background that follows the red) or "grid" (the 630 validation images).
        cache: folder to keep it in; default `cache_root()`.

    A damaged cache is generated again.
    """
    folder = (cache or cache_root()) / GENERATOR_VERSION.replace("/", "-") / split
    manifest = folder / "manifest.json"
    wanted = _manifest(manifest)
    if wanted and all((folder / name).is_file() and _digest(folder / name) == sha for name, sha in wanted.items()):
        ids = tuple(json.loads((folder / "ids.json").read_text()))
        return Squares(ids, np.load(folder / "images.npy"), np.load(folder / "latents.npy"))
    squares = SPLITS[split]()
    try:
        _store(squares, folder, split)
    except OSError as error:
        raise UsageError(
            f"cannot write the generated data to {folder} ({error.strerror}); set $" + CACHE_VARIABLE
        ) from error
    return squares


def _manifest(path: Path) -> dict[str, str]:
    """File hashes of a cached split; empty where there is none or it is damaged."""
    try:
        return json.loads(path.read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        return {}


def _store(squares: Squares, folder: Path, split: str) -> None:
    """Write arrays first, the manifest last; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        staging = Path(temporary)
        np.save(staging / "images.npy", squares.images)
        np.save(staging / "latents.npy", squares.latents)
        (staging / "ids.json").write_text(json.dumps(squares.ids))
        names = ("images.npy", "latents.npy", "ids.json")
        facts = {"generator": GENERATOR_VERSION, "split": split, "count": len(squares)}
        facts["sha256"] = {name: _digest(staging / name) for name in names}
        (staging / "manifest.json").write_text(json.dumps(facts, indent=2))
        for name in (*names, "manifest.json"):
            os.replace(staging / name, folder / name)


def data_digest(split: str, cache: Path | None = None) -> str:
    """sha256 over the hashes in a split's manifest; identifies the data in records and cards."""
    load(split, cache)
    folder = (cache or cache_root()) / GENERATOR_VERSION.replace("/", "-") / split
    hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
