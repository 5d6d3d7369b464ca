"""The project's own small network: the regressor and the oracle of the shipped benchmarks."""

import itertools
from typing import Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class RegressorConfig(BaseModel):
    """Shape of a `SmallRegressor`; `in_channels` is 3 for colour images, 1 for grey ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[int, ...] = (32, 64, 128)
    in_channels: Literal[1, 3] = 3


class _Block(nn.Module):
    """Two 3x3 convolutions with a residual connection; the first may halve the resolution."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.SiLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip = nn.Conv2d(channels, out_channels, stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class SmallRegressor(nn.Module):
    """One number an image: (B, C, H, W) in [0, 1] to (B,), unbounded; sides are multiples of 8.

    A small residual network with attention pooling: what counts (the square, a crack) covers a few per cent of
    the image, and a mean over all positions would drown it. Batch statistics are frozen after training, so that
    far pixels do not touch each other through a normalisation. `features` are the pooled activations,
    (B, widths[-1]).
    """

    def __init__(self, config: RegressorConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(config.in_channels, widths[0], 4, stride=2, padding=1)
        pairs = list(itertools.pairwise(widths))
        self.body = nn.Sequential(_Block(widths[0], widths[0], 1), *(_Block(a, b, 2) for a, b in pairs))
        self.norm = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.SiLU())
        self.score = nn.Conv2d(widths[-1], 1, 1)
        self.head = nn.Linear(widths[-1], 1)

    def features(self, image: Tensor) -> Tensor:
        h = self.norm(self.body(self.stem(image * 2 - 1)))
        weight = self.score(h).flatten(2).softmax(dim=-1)
        return (h.flatten(2) * weight).sum(dim=-1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image)).squeeze(-1)
