"""Tiny networks for grey images, their files, and a folder of such images; fixtures are imported by name."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from bench.images import to_uint8, write_png
from tests.celebahq_weights import write_network
from tests.conftest import tiny_networks, toy_samples


@pytest.fixture(scope="module", name="grey")
def grey_fixture() -> dict[str, nn.Module]:
    """ddpm, diffae and regressor for (B, 1, 16, 16)."""
    return tiny_networks(channels=1)


def pixels(count: int) -> np.ndarray:
    """uint8 (N, H, W, 1)."""
    return np.stack([to_uint8(sample.image.numpy()) for sample in toy_samples(count, channels=1)])


@pytest.fixture(scope="module", name="weights")
def weights_fixture(grey: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of grey networks by role, for 16x16 images; "classifier" is one for colour, as it is published."""
    folder = tmp_path_factory.mktemp("weights")
    small = {"widths": [8, 16], "in_channels": 1}
    kinds = {
        "regressor": ("regressor", small),
        "oracle": ("regressor", small),
        "ddpm": ("adm", grey["ddpm"].config.model_dump(mode="json")),
        "diffae": ("diffae", grey["diffae"].config.model_dump(mode="json")),
        "classifier": ("steex-decision-densenet", {}),
    }
    files = {role: folder / f"{role}.safetensors" for role in kinds}
    for seed, (role, (kind, config)) in enumerate(kinds.items()):
        write_network(files[role], kind, config, seed)
    return {role: str(path) for role, path in files.items()}


@pytest.fixture(scope="module", name="photographs")
def photographs_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three grey images."""
    folder = tmp_path_factory.mktemp("photographs")
    for index, image in enumerate(pixels(3)):
        write_png(folder / f"{index}.png", image)
    return folder
