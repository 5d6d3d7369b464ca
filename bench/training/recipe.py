"""What makes a training run: a recipe's fields."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from methods.noise import TrainingNoise

LossFunction = Callable[[nn.Module, Tensor, Tensor, TrainingNoise], Tensor]
FigureFunction = Callable[[nn.Module, Path | None], dict[str, float]]


@dataclass(frozen=True)
class Start:
    """Weights that a recipe starts from instead of random ones; the user gives their file.

    Attributes:
        kind: key of bench.kinds.KINDS that the file has to be of.
        adopt: (fresh network, given network) -> None; copies what is adopted into the fresh one.
    """

    kind: str
    adopt: Callable[[nn.Module, nn.Module], None]


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        kind: key of bench.kinds.KINDS.
        config: options of the network.
        loss: (network, images (B, C, H, W) in [0, 1], attribute (B,), noise) -> per-sample loss (B,).
        figures: (frozen network, folder of prepared data) -> what the card says of quality.
        seed: of initial weights, data order and noise.
        data: name of bench.training.data.
        trained: prefixes of the parameters that are trained; the rest is frozen, and its batch statistics too.
        start: weights to start from, where they are not random.
        flip: mirror every image of a batch left to right with probability 1/2.
        vertical_flip: mirror it upside down with probability 1/2.
        quarter_turns: turn it by a random number of quarter turns.
        optimiser: called with the trained parameters, `lr` and `weight_decay`; the rest is torch's default.
        lr: peak learning rate.
        warmup: steps in which the learning rate rises linearly to it.
        schedule: what follows, a cosine down to 1 % at the last step, or the same rate to the end.
        ema: decay of the average of the weights, which is exported; None exports the weights themselves.
        clip_norm: largest norm of the whole gradient; None leaves it as it is.
        weight_decay: decoupled (AdamW).
        half_precision: of the exported weights.
    """

    name: str
    kind: str
    config: Mapping[str, object]
    loss: LossFunction
    figures: FigureFunction
    steps: int
    seed: int
    data: str = "square/train"
    trained: tuple[str, ...] = ("",)
    start: Start | None = None
    batch_size: int = 16
    lr: float = 4e-4
    warmup: int = 200
    ema: float | None = 0.999
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    half_precision: bool = True
    flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    schedule: Literal["cosine", "constant"] = "cosine"

    def facts(self) -> dict[str, object]:
        """What makes it this recipe: its fields, functions by their name.

        The fields in `_LATER` are left out at their default: checkpoints from before they existed go on.
        """
        named = {"loss": self.loss.__name__, "figures": self.figures.__name__, "start": self.start and self.start.kind}
        facts = asdict(replace(self, start=None)) | named | {"optimiser": self.optimiser.__name__}
        unchanged = {key for key, default in _LATER.items() if facts[key] == default}
        return {key: value for key, value in facts.items() if key not in unchanged}


_LATER = {"flip": False, "vertical_flip": False, "quarter_turns": False, "optimiser": "AdamW", "schedule": "cosine"}
"""Defaults of fields that recipes did not have from the beginning."""
