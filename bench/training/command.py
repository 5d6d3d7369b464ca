"""`bench train`: a recipe with progress, checkpoints, export and an MLflow entry."""

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.checkpoints import load_kind
from bench.datasets.elpv_files import data_folder
from bench.errors import UsageError
from bench.listing import RECIPES as NAMES
from bench.registry import check_name
from bench.sections import TrackingConfig
from bench.suite import resolve_device
from bench.tracking.detached import copy_training
from bench.training.data import open_data
from bench.training.loop import Initial, Trainer, TrainingError
from bench.training.recipe import Recipe
from bench.training.recipes import RECIPES


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("eta"),
        TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.5f}"), console=Console(stderr=True),
    )  # fmt: skip


def _initial(recipe: Recipe, file: Path | None) -> Initial | None:
    """The network that the recipe starts from.

    Raises:
        UsageError: one that is missing, not wanted, or of another kind.
    """
    if recipe.start is None:
        if file is not None:
            raise UsageError(f"--from {file}: {recipe.name} starts from random weights; leave the option out")
        return None
    kind = recipe.start.kind
    if file is None:
        raise UsageError(
            f"{recipe.name} starts from a network of kind {kind!r}; import one with "
            f"`python -m bench import {kind} FILE -o OUT` and give it with --from OUT.safetensors"
        )
    loaded = load_kind(file, kind, "--from")
    return Initial(loaded.network, loaded.sha256)


def _data_folder(recipe: Recipe, given: Path | None) -> Path | None:
    """The folder of the recipe's data: the given one, or for ELPV that of the installed package.

    Raises:
        UsageError: for ELPV, one that is not there, or no package; names --data.
    """
    return data_folder(str(given or ""), "--data ") if recipe.data.startswith("elpv/") else given


def tracked(card: Path, runs: Path) -> str:
    """An MLflow entry for exported weights, which never fails or holds up a training; returns what to print.

    Args:
        card: from `train_and_export`.
        runs: folder of the MLflow store.
    """
    figures = json.loads(card.read_text())["figures"]
    text = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
    copied = copy_training(card, runs, TrackingConfig())
    return f"{card.with_suffix('.safetensors')} ({text}); card {card}; MLflow {copied}"


def train_and_export(
    name: str,
    output: Path,
    device: str,
    steps: int | None,
    fresh: bool,
    runs: Path,
    initial: Path | None = None,
    data: Path | None = None,
) -> Path:
    """Train a recipe, or go on training it, and export it; returns the path of the card.

    Args:
        output: folder for the weights and the card.
        device: "auto", "cpu" or "cuda".
        steps: train until this step instead of the recipe's last.
        fresh: do not go on from a checkpoint.
        runs: folder whose `training/` holds the checkpoint.
        initial: weights with a card, for recipes that start from given ones.
        data: folder of prepared data, for recipes that need it; for elpv/* a copy of the package's folder data/.

    Raises:
        UsageError: unknown recipe, a checkpoint that does not belong to it, or an option that is missing or too many.
        TrainingError: the loss became non-finite.
    """
    check_name(NAMES, name, "recipe")
    recipe = RECIPES[name]
    folder = runs / "training" / name.replace("/", "-")
    chosen = resolve_device(device)
    start, data = _initial(recipe, initial), _data_folder(recipe, data)
    images = open_data(recipe.data, chosen, data)
    try:
        trainer = Trainer(recipe, images, folder, str(chosen), fresh, start)
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
    return trainer.export(output, recipe.figures(trainer.result(), data))
