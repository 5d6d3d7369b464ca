"""What a recipe is trained on: images and their attribute, named, so that a card can say what a network has seen."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.datasets import elpv_files, square
from bench.errors import UsageError
from bench.preparing.prepared import Prepared, open_prepared

YEARS = 100.0
"""What 1.0 of an age attribute means."""
_READERS = 8
_ELPV_NAME = re.compile(r"(train|valid|test)(?:-(64|128)(?:-(type))?)?")


class TrainingData(ABC):
    """Images with one number each.

    Attributes:
        name: of the data and its split, for the card.
        digest: sha256 of the content; a checkpoint continues on the same data only.
        unit: what 1.0 of the attribute means, for people.
    """

    name: str
    digest: str
    unit: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images and attributes.

        Args:
            index: int64 (B,), on the CPU or the training device.

        Returns:
            uint8 (B, C, H, W) and float32 (B,) in [0, 1], on the training device.

        Raises:
            UsageError: an image that is gone or damaged; names the file.
        """


class InMemory(TrainingData):
    """Images that are kept on the training device as a whole.

    Args:
        name, digest, unit: as in `TrainingData`.
        pixels: uint8 (N, H, W, C).
        values: the attribute, float (N,) in [0, 1].
    """

    def __init__(
        self, name: str, digest: str, unit: str, pixels: np.ndarray, values: np.ndarray, device: torch.device
    ) -> None:
        self.name, self.digest, self.unit = name, digest, unit
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
        self.attribute = torch.tensor(values, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.to(self.images.device)
        return self.images[index], self.attribute[index]


class SquareData(InMemory):
    """A split of the Square dataset (200 MB for 16,000 images)."""

    def __init__(self, split: str, device: torch.device) -> None:
        data = square.load(split)
        super().__init__(split, square.data_digest(split), "red / 255", data.images, data.attribute, device)


class PreparedData(TrainingData):
    """A split of a prepared data set: images are read and checked when their batch is wanted, so memory stays small.

    Args:
        prepared: whose labels have a column "attribute" in [0, 1].
        split: "train", "valid" or "test".

    Raises:
        UsageError: the split was not prepared.
    """

    unit = "age / 100"

    def __init__(self, prepared: Prepared, split: str, device: torch.device) -> None:
        self.prepared, self.device = prepared, device
        self.rows = prepared.split(split)
        self.name, self.digest = f"{prepared.manifest['name']}/{split}", prepared.digest
        self.attribute = torch.tensor(self.rows["attribute"].to_numpy(np.float32))
        self._pool = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1))

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        index = index.cpu()
        chosen = [self.rows.iloc[row] for row in index.tolist()]
        images = np.stack(list(self._pool.map(self.prepared.image, chosen)))
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return pixels.to(self.device), self.attribute[index].to(self.device)


class ElpvData(InMemory):
    """A split of ELPV at one size (11 MB for all of it at 64x64).

    Args:
        name: "SPLIT", "SPLIT-SIZE" or "SPLIT-SIZE-type": the attribute is the defect probability, or 1 for a
            polycrystalline and 0 for a monocrystalline cell.
        folder: the data folder; None for the installed package's.

    Raises:
        UsageError: no such split, the package is not installed, or a file is not the manifest's.
    """

    def __init__(self, name: str, device: torch.device, folder: Path | None) -> None:
        found = _ELPV_NAME.fullmatch(name)
        if found is None:
            raise UsageError(f"elpv/{name}: not a split of ELPV; SPLIT, SPLIT-SIZE or SPLIT-SIZE-type is needed")
        split, size, attribute = found.groups()
        rows = elpv_files.manifest()
        rows = rows[rows["split"] == split]
        pixels = elpv_files.read_pixels(elpv_files.data_folder(str(folder or "")), rows, int(size or 64))
        values = (rows["type"] == "poly") if attribute else rows["probability"]
        unit = "1 = polycrystalline" if attribute else "defect probability"
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        super().__init__(f"elpv/{name}", digest, unit, pixels, values.to_numpy(np.float32), device)


def open_data(name: str, device: torch.device, folder: Path | None) -> TrainingData:
    """The data that a recipe names.

    Args:
        name: "square/SPLIT", "elpv/SPLIT" (see `ElpvData`) or "imdb-wiki-clean/SPLIT".
        folder: where the data lies; None for data that is generated or installed.

    Raises:
        UsageError: a folder that is missing or not wanted, or data that cannot be used.
    """
    family, _, split = name.partition("/")
    if family == "square":
        if folder is not None:
            raise UsageError(f"--data {folder}: the Square benchmark generates its own data; leave the option out")
        return SquareData(split, device)
    if family == "elpv":
        return ElpvData(split, device, folder)
    if folder is None:
        raise UsageError(
            f"{family} is needed; make it with `python -m bench prepare {family} --root DIR -o OUT` and give it with "
            "--data OUT"
        )
    prepared = open_prepared(folder, family)
    prepared.split("valid")  # training ends with it: better to miss it now than after days
    return PreparedData(prepared, split, device)
