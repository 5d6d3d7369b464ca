"""`bench train`: a recipe with progress, checkpoints, export and an MLflow entry."""

import json
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.datasets import square
from bench.errors import UsageError
from bench.images import to_float
from bench.listing import RECIPES as NAMES
from bench.registry import check_name
from bench.sections import TrackingConfig
from bench.suite import resolve_device
from bench.tracking import Tracker
from bench.training.loop import Trainer, TrainingError
from bench.training.recipes import RECIPES
from methods import noise
from methods.diffusion import ddim, ddpm


@torch.no_grad()
def held_out_figures(kind: str, network: torch.nn.Module, count: int = 64) -> dict[str, float]:
    """What the card says of quality, on images that were not trained on.

    regressor: `clean_mae` over all 1,000; adm: `filter_l1`, the mean absolute difference of F(x) and x over
    the first `count` (noise of the images included); diffae: `reconstruction_l1` of 100-step inversion and
    10-step decoding.
    """
    data = square.load("held-out")
    images = torch.from_numpy(to_float(data.images))
    if kind == "regressor":
        predictions = torch.cat([network(chunk) for chunk in images.split(100)])
        return {"clean_mae": float((predictions - torch.from_numpy(data.attribute)).abs().mean())}
    images = images[:count]
    if kind == "adm":
        keys = noise.sample_keys(0, data.ids[:count], "held-out")
        draws = noise.normal(keys, torch.zeros_like(keys), 5, images.shape[1:])
        filtered = ddpm.filter_image(network, network.config.schedule("50"), images, 5, draws)
        return {"filter_l1": float((filtered - images).abs().mean())}
    z_sem = network.encode(ddpm.to_network(images))
    x_T = ddim.ddim_invert(network, network.config.schedule(100), images, z_sem)
    decoded = ddim.ddim_decode(network, network.config.schedule(10), x_T, z_sem).clamp(0, 1)
    return {"reconstruction_l1": float((decoded - images).abs().mean())}


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("eta"),
        TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.5f}"), console=Console(stderr=True),
    )  # fmt: skip


def train_recipe(name: str, output: Path, device: str, steps: int | None, fresh: bool, runs: Path) -> str:
    """Train (or go on training) a recipe and export it; returns what to print.

    Raises:
        UsageError: unknown recipe, or a checkpoint that does not belong to it.
        TrainingError: the loss became non-finite.
    """
    check_name(NAMES, name, "recipe")
    recipe = RECIPES[name]
    folder = runs / "training" / name.replace("/", "-")
    chosen = resolve_device(device)
    try:
        trainer = Trainer(recipe, folder, str(chosen), fresh)
    except TrainingError as error:
        raise UsageError(str(error)) from error
    last = steps or recipe.steps
    with _progress() as progress:
        task = progress.add_task(name, total=last, completed=trainer.step, loss=float("nan"))

        def report(step: int, loss: float) -> None:
            progress.update(task, completed=step, loss=loss)
            if not progress.console.is_terminal and step % 100 == 0:
                progress.console.print(
                    f"{name} {step}/{last} loss {loss:.5f}, {trainer.seconds:.0f} s", highlight=False
                )

        trainer.run(report, until=last)
    figures = held_out_figures(recipe.kind, trainer.averaged().cpu())
    card = trainer.export(output, figures)
    tracker = Tracker(runs, TrackingConfig())
    tracker.log_training(json.loads(card.read_text()), card)
    text = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    return f"{card.with_suffix('.safetensors')} ({text}); card {card}; MLflow {tracker.uri}"
