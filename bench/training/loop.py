"""The training loop: schedule, EMA, atomic checkpoints, exact resume, half-precision export with a card."""

import hashlib
import json
import math
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bench.datasets import CREDITS
from bench.errors import RunError
from bench.kinds import build_network
from bench.state_files import TORCH_DAMAGE
from bench.training.data import TrainingData
from bench.training.recipe import Recipe
from methods.noise import TrainingNoise, seeded_initialisation

CHECKPOINT_SECONDS = 60.0
CURVE_EVERY = 50


class TrainingError(RunError):
    """Training cannot go on; the text says why and what to do."""


class Initial(NamedTuple):
    """A frozen network that a recipe starts from, and the sha256 of its file."""

    network: nn.Module
    sha256: str


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to 1 % of the peak, or the peak to the end."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "constant":
        return recipe.lr
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def augmented(images: Tensor, recipe: Recipe, noise: TrainingNoise) -> Tensor:
    """Images (B, C, H, H) mirrored and turned as the recipe says; takes B uniform numbers for each of the three."""
    if recipe.flip:
        images = torch.where(_drawn(images, noise) < 0.5, images.flip(-1), images)
    if recipe.vertical_flip:
        images = torch.where(_drawn(images, noise) < 0.5, images.flip(-2), images)
    if recipe.quarter_turns:
        turns, upright = (_drawn(images, noise) * 4).long(), images
        for count in (1, 2, 3):
            images = torch.where(turns == count, upright.rot90(count, (-2, -1)), images)
    return images


def _drawn(images: Tensor, noise: TrainingNoise) -> Tensor:
    """A uniform number an image, (B, 1, 1, 1)."""
    return noise.uniform(len(images)).to(images.device).view(-1, 1, 1, 1)


class Trainer:
    """One recipe's state: network, EMA (`average`, None where the recipe has none), optimiser, step and loss curve.

    Args:
        data: on the training device; what `recipe.data` names.
        folder: where the checkpoint lives; an existing one of the same recipe is continued.
        device: "cpu" or "cuda".
        initial: the network that `recipe.start` adopts weights from, with its sha256.

    Raises:
        TrainingError: the folder holds a checkpoint of another recipe, of other data or of another start.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        folder: Path,
        device: str = "cpu",
        fresh: bool = False,
        initial: Initial | None = None,
    ) -> None:
        self.recipe, self.data, self.initial, self.device = recipe, data, initial, torch.device(device)
        self.path = folder / "checkpoint.pt"
        with seeded_initialisation(recipe.seed):
            self.network = build_network(recipe.kind, recipe.config)
        if recipe.start is not None and initial is not None:
            recipe.start.adopt(self.network, initial.network)
        self.network.to(self.device)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(recipe.trained))
        self.average: dict[str, Tensor] | None = None
        if recipe.ema is not None:
            self.average = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimiser = recipe.optimiser(self.trained, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.step, self.seconds = 0, 0.0
        self.curve: list[tuple[int, float]] = []
        if self.path.is_file() and not fresh:
            self._restore()

    def _identity(self) -> str:
        facts = self.recipe.facts() | {"data_digest": self.data.digest, "initial": self.initial and self.initial.sha256}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def _restore(self) -> None:
        try:
            saved = torch.load(self.path, map_location=self.device, weights_only=True)
        except (*TORCH_DAMAGE, pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path} is damaged; delete it or use --fresh to start over") from error
        if saved["identity"] != self._identity():
            raise TrainingError(
                f"{self.path} belongs to another recipe of {self.recipe.name}, other data or another start; "
                "use --fresh to start over"
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
        pixels, attribute = self.data.batch(noise.indices(recipe.batch_size, len(self.data)))
        images = augmented(pixels.float() / 255, recipe, noise)
        loss = recipe.loss(self.network, images, attribute, noise).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, recipe.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimiser.step()
        if self.average is not None and recipe.ema is not None:
            self._update(self.average, min(recipe.ema, (1 + self.step) / (10 + self.step)))
        return loss.item()

    @torch.no_grad()
    def _update(self, average: dict[str, Tensor], decay: float) -> None:
        """Move the average towards the network; counters are taken as they are."""
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                average[key].lerp_(value, 1 - decay)
            else:
                average[key].copy_(value)

    def run(self, report: Callable[[int, float], None], until: int | None = None) -> None:
        """Train to the recipe's last step (or `until`); `report(step, loss)` after each step.

        Raises:
            TrainingError: the loss became NaN or infinite; the last checkpoint is kept.
        """
        _train_mode(self.network)
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

    def result(self) -> nn.Module:
        """A frozen network with the weights as they will be exported."""
        network = build_network(self.recipe.kind, self.recipe.config).to(self.device)
        network.load_state_dict(self._exported())  # copied into float32
        return network.eval().requires_grad_(False)

    def _exported(self) -> dict[str, Tensor]:
        """The EMA weights, or the last ones without EMA, in the recipe's precision; counters stay as they are."""
        halved = self.recipe.half_precision
        weights = self.network.state_dict() if self.average is None else self.average
        return {key: value.half() if halved and value.is_floating_point() else value for key, value in weights.items()}

    def export(self, folder: Path, figures: dict[str, float]) -> Path:
        """Write `<name>.safetensors` and its card beside it; returns the card's path."""
        folder.mkdir(parents=True, exist_ok=True)
        name = self.recipe.name.replace("/", "-")
        credit = CREDITS.get(self.data.name.partition("/")[0])
        blob = save({key: value.cpu().contiguous() for key, value in self._exported().items()})
        card = {
            "schema": 1,
            "recipe": self.recipe.name,
            "kind": self.recipe.kind,
            "config": dict(self.recipe.config),
            "training": {
                "loss": self.recipe.loss.__name__,
                "steps": self.step,
                "batch_size": self.recipe.batch_size,
                "optimiser": self.recipe.optimiser.__name__,
                "weight_decay": self.recipe.weight_decay,
                "learning_rate": self.recipe.lr,
                "warmup": self.recipe.warmup,
                "schedule": self.recipe.schedule,
                "clip_norm": self.recipe.clip_norm,
                "ema": self.recipe.ema,
                "flip": self.recipe.flip,
                "vertical_flip": self.recipe.vertical_flip,
                "quarter_turns": self.recipe.quarter_turns,
                "seed": self.recipe.seed,
                "seconds": round(self.seconds, 1),
                "device": str(self.device),
                "torch": torch.__version__,
                **({"initial_sha256": self.initial.sha256} if self.initial else {}),
            },
            "data": {"split": self.data.name, "count": len(self.data), "sha256": self.data.digest},
            **({"data_licence": credit.licence} if credit else {}),
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


def _train_mode(network: nn.Module) -> None:
    """Training mode, but for modules all of whose parameters are frozen: they keep their batch statistics."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
