"""A folder of the user's own 64x64 images, explained with the Square networks or with given weights."""

from pathlib import Path

import numpy as np

from bench.datasets.base import Dataset, DatasetConfig, Task, spread
from bench.datasets.square_task import digest
from bench.errors import UsageError
from bench.images import BadImage, read_image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class FolderConfig(DatasetConfig):
    """Options of a folder.

    Attributes:
        path: the folder, searched recursively.
        target: the reference value in [0, 1] for every image.
        size: height and width of the images.
    """

    path: str = ""
    target: float = 0.5
    size: int = 64


class FolderDataset(Dataset):
    """Images in a folder; a sample's id is its path relative to the folder."""

    options = FolderConfig
    config: FolderConfig
    weights = {role: f"square-{role}" for role in ("regressor", "oracle", "ddpm", "diffae")}

    def load(self, limit: int) -> Task:
        config = self.config
        if not config.path:
            raise UsageError("--dataset folder needs folder.path; give it with -s folder.path=DIR")
        root = Path(config.path)
        if not root.is_dir():
            raise UsageError(f"folder.path={config.path}: not a folder")
        if not 0 <= config.target <= 1:
            raise UsageError(f"folder.target={config.target} is outside [0, 1]")
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
        if not files:
            raise UsageError(f"folder.path={config.path} holds no images ({', '.join(sorted(SUFFIXES))})")
        names = [path.relative_to(root).as_posix() for path in files]
        chosen = spread(names, limit)
        files, ids = [files[i] for i in chosen], tuple(names[i] for i in chosen)
        try:
            images = np.stack([read_image(path, config.size) for path in files])
        except BadImage as error:
            raise UsageError(str(error)) from error
        targets = np.full(len(ids), config.target, dtype=np.float32)
        return Task(ids, images, targets, None, None, "1", digest(ids, images, targets))
