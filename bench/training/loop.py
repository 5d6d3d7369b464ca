"""The training loop: EMA, atomic checkpoints, exact resume, half-precision export with a card."""

import hashlib
import json
import math
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bench.datasets import square
from bench.errors import RunError
from bench.kinds import build_network
from bench.training.recipes import Recipe
from methods.noise import TrainingNoise, seeded_initialisation

CHECKPOINT_SECONDS = 60.0
CURVE_EVERY = 50


class TrainingError(RunError):
    """Training cannot go on; the text says why and what to do."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to 1 % of the peak."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class Trainer:
    """One recipe's state: network, EMA, optimiser, step and loss curve.

    Args:
        folder: where the checkpoint lives; an existing one of the same recipe is continued.
        device: "cpu" or "cuda".

    Raises:
        TrainingError: the folder holds a checkpoint of another recipe.
    """

    def __init__(self, recipe: Recipe, folder: Path, device: str = "cpu", fresh: bool = False) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.path = folder / "checkpoint.pt"
        with seeded_initialisation(recipe.seed):
            self.network = build_network(recipe.kind, recipe.config).to(self.device)
        self.average = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.lr)
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        data = square.load("train")
        self.images = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous().to(self.device)
        self.attribute = torch.from_numpy(data.attribute).to(self.device)
        if self.path.is_file() and not fresh:
            self._restore()

    def _identity(self) -> str:
        facts = {k: v for k, v in asdict(self.recipe).items() if k != "loss"} | {"loss": self.recipe.loss.__name__}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def _restore(self) -> None:
        try:
            saved = torch.load(self.path, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path} is damaged; delete it or use --fresh to start over") from error
        if saved["identity"] != self._identity():
            raise TrainingError(
                f"{self.path} belongs to another recipe of {self.recipe.name}; use --fresh to start over"
            )
        self.network.load_state_dict(saved["network"])
        self.average = saved["average"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.seconds, self.curve = saved["step"], saved["seconds"], saved["curve"]

    def checkpoint(self) -> None:
        """Write everything needed to go on, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        torch.save(
            {
                "identity": self._identity(),
                "network": self.network.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "curve": self.curve,
            },
            temporary,
        )
        os.replace(temporary, self.path)

    def _train_step(self) -> float:
        recipe, noise = self.recipe, TrainingNoise(self.recipe.seed, self.step, self.device)
        index = noise.indices(recipe.batch_size, len(self.images)).to(self.device)
        images = self.images[index].float() / 255
        loss = recipe.loss(self.network, images, self.attribute[index], noise).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimiser.step()
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
                else:
                    self.average[key].copy_(value)
        return loss.item()

    def run(self, report: Callable[[int, float], None], until: int | None = None) -> None:
        """Train to the recipe's last step (or `until`); `report(step, loss)` after each step.

        Raises:
            TrainingError: the loss became NaN or infinite; the last checkpoint is kept.
        """
        self.network.train()
        begun, saved = time.monotonic() - self.seconds, time.monotonic()
        window: list[float] = []
        while self.step < (until or self.recipe.steps):
            loss = self._train_step()
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{self.recipe.name}: the loss is {loss} at step {self.step}; lower the learning rate"
                )
            self.step += 1
            window.append(loss)
            self.seconds = time.monotonic() - begun
            if self.step % CURVE_EVERY == 0:
                self.curve.append((self.step, sum(window) / len(window)))
                window.clear()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.checkpoint()
                saved = time.monotonic()
            report(self.step, loss)
        self.checkpoint()

    def averaged(self) -> nn.Module:
        """A frozen network with the EMA weights rounded to half precision, as they will be shipped."""
        network = build_network(self.recipe.kind, self.recipe.config).to(self.device)
        network.load_state_dict({key: _halved(value).to(value.dtype) for key, value in self.average.items()})
        return network.eval().requires_grad_(False)

    def export(self, folder: Path, figures: dict[str, float]) -> Path:
        """Write `<name>.safetensors` (half precision, EMA) and its card beside it; returns the card's path."""
        folder.mkdir(parents=True, exist_ok=True)
        name = self.recipe.name.replace("/", "-")
        weights: dict[str, Tensor] = {key: _halved(value).cpu().contiguous() for key, value in self.average.items()}
        blob = save(weights)
        card = {
            "schema": 1,
            "recipe": self.recipe.name,
            "kind": self.recipe.kind,
            "config": dict(self.recipe.config),
            "training": {
                "loss": self.recipe.loss.__name__,
                "steps": self.step,
                "batch_size": self.recipe.batch_size,
                "learning_rate": self.recipe.lr,
                "ema": self.recipe.ema,
                "seed": self.recipe.seed,
                "seconds": round(self.seconds, 1),
                "device": str(self.device),
                "torch": torch.__version__,
            },
            "data": {"split": "train", "count": len(self.images), "sha256": square.data_digest("train")},
            "figures": figures,
            "curve": [[step, float(f"{loss:.4g}")] for step, loss in self.curve],
            "sha256": hashlib.sha256(blob).hexdigest(),
        }
        for path, content in (
            (folder / f"{name}.safetensors", blob),
            (folder / f"{name}.json", json.dumps(card, indent=1).encode()),
        ):
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(content)
            os.replace(temporary, path)
        return folder / f"{name}.json"


def _halved(value: Tensor) -> Tensor:
    """Half precision for floating-point tensors; counters stay as they are."""
    return value.half() if value.is_floating_point() else value
