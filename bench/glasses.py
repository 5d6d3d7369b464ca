"""The glasses experiment: does a regressor of age rely on glasses?

    python -m bench.glasses --pipeline DIR --dataset celebahq -s weights.regressor=FILE -s weights.oracle=FILE -o OUT

An inpainting pipeline (diffusers; its weights are the user's) paints glasses into the eye region of every image. What
is outside the region stays as it is. A control fills the same region for a prompt without glasses: what inpainting
itself does to a prediction shows there, and the difference of the two is what glasses do.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.table import Table
from torch import nn

from bench.attribute_meters import probabilities
from bench.cell import load_task, load_weights
from bench.cli_options import console, ending
from bench.config import RunConfig, build_config, component_options
from bench.datasets import DATASETS
from bench.datasets.base import Task
from bench.errors import UsageError
from bench.images import BadImage, file_name, read_image, to_float, write_bytes, write_png
from bench.inpainting import EYE_REGION, Painter, fixed_region, load_painter, mask_region, parse_box
from bench.preparing.celebahq import ATTRIBUTES
from bench.progress import Display
from bench.registry import resolve
from methods import noise
from metrics.intervals import Estimate, mean_estimate, rate_estimate
from metrics.paired import paired_difference
from reports.spurious import contrast_figure
from reports.tables import format_estimate

PROMPTS = {
    "control": "a portrait photo of a face, natural eyes and eyebrows",
    "glasses": "a portrait photo of a face wearing eyeglasses",
}
"""What is painted. The control does not name glasses at all: text encoders hardly understand "no glasses"."""
CONTRASTS = {
    "glasses - original": ("glasses", "original"),
    "control - original": ("control", "original"),
    "glasses - control": ("glasses", "control"),
}
Region = Callable[[str, int], np.ndarray | None]
"""(sample id, size) -> bool (size, size), or None where the region is unknown."""


def paint_all(
    task: Task,
    painter: Painter,
    region: Region,
    prompts: dict[str, str],
    output: Path,
    settings: dict[str, Any],
    worn: Callable[[np.ndarray], bool] = lambda pixels: False,
    report: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """Paint every image for every prompt into `output`/NAME/; images that are there already are kept.

    Args:
        task: original images.
        prompts: condition -> prompt.
        settings: what else the images depend on; kept beside them.
        worn: whether an original (uint8) shows glasses already, which leaves it out.
        report: called with the number of finished images.

    Returns:
        A row an image: id, file, left_out (the reason, or None).

    Raises:
        UsageError: `output` was made with other settings.
    """
    _claim(output, settings | {"prompts": prompts, "data": task.digest}, [*prompts, "original"])
    rows: list[dict[str, Any]] = []
    for done, (name, pixels) in enumerate(zip(task.ids, task.images, strict=True), start=1):
        where = region(name, pixels.shape[0])
        if where is None:
            reason = "eye region unknown"
        elif worn(pixels):
            reason = "wears glasses already"
        else:
            reason = _paint(name, pixels, where, painter, prompts, output)
        rows.append({"id": name, "file": file_name(name), "left_out": reason})
        report(done)
    return pd.DataFrame(rows)


def _claim(output: Path, settings: dict[str, Any], conditions: list[str]) -> None:
    """Make the folders of an experiment, or go on with those of the same one."""
    path = output / "settings.json"
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    try:
        if path.is_file() and path.read_text() != text:
            raise UsageError(f"{output} was made with other settings (see settings.json); use another -o")
        for condition in conditions:
            (output / condition).mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except OSError as error:
        raise UsageError(f"cannot write to {output}: {error.strerror}; use another -o") from error


def _paint(
    name: str, pixels: np.ndarray, region: np.ndarray, painter: Painter, prompts: dict[str, str], output: Path
) -> str | None:
    """Write an image's original and painted forms; the reason where one was refused."""
    write_png(output / "original" / file_name(name), pixels)
    for condition, prompt in prompts.items():
        path = output / condition / file_name(name)
        if path.is_file():
            continue
        painted = painter.paint(pixels, region, prompt, name)
        if painted is None:
            return f"{condition} refused by the safety checker"
        write_png(path, np.where(region[..., None], painted, pixels))
    return None


def predict_all(frame: pd.DataFrame, networks: dict[str, nn.Module], prompts: dict[str, str], output: Path) -> None:
    """Add a column "CONDITION/ROLE" to `frame` for every network, from the saved images; NaN where left out.

    Args:
        networks: "regressor" and "oracle", image to (B,); "attributes", of which the probability of glasses is taken.

    Raises:
        UsageError: a saved image is damaged.
    """
    for condition in ("original", *prompts):
        values: dict[str, list[float]] = {role: [] for role in networks}
        for name, kept in zip(frame["file"], frame["left_out"].isna(), strict=True):
            pixels = _read(output / condition / name) if kept else None
            for role, network in networks.items():
                values[role].append(float("nan") if pixels is None else _predict(role, network, pixels))
        for role, column in values.items():
            frame[f"{condition}/{role}"] = column


def _read(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except BadImage as error:
        raise UsageError(f"{error}; delete it and run the same command again") from error


@torch.no_grad()
def _predict(role: str, network: nn.Module, pixels: np.ndarray) -> float:
    if role == "attributes":
        return float(probabilities(network, pixels[None])[0, ATTRIBUTES.index("Eyeglasses")])
    return float(network(torch.from_numpy(to_float(pixels))[None]))


def summarise(frame: pd.DataFrame, unit: str, seed: int) -> dict[str, dict[str, Estimate]]:
    """Paired differences of the predictions, role by role, and how often the prediction rose.

    Args:
        unit: of the predictions.
        seed: of the bootstrap.

    Returns:
        role -> contrast -> estimate; "rises with glasses" is a share, the rest are mean paired differences. Of
        "attributes" the mean probabilities of glasses by condition.

    Raises:
        UsageError: no image is left.
    """
    kept = frame[frame["left_out"].isna()]
    if kept.empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out(frame).items())
        raise UsageError(f"no image could be painted ({reasons})")
    generator = noise.numpy_generator("bootstrap", seed, "glasses")
    found: dict[str, dict[str, Estimate]] = {}
    for role in ("regressor", "oracle"):
        part: dict[str, Estimate] = {}
        for contrast, (after, before) in CONTRASTS.items():
            first, second = kept[f"{after}/{role}"].to_numpy(), kept[f"{before}/{role}"].to_numpy()
            value, low, high = paired_difference(first, second, generator, 0.95)
            part[contrast] = Estimate(value=value, low=low, high=high, n=len(kept), unit=unit)
        part["rises with glasses"] = rate_estimate((kept[f"glasses/{role}"] > kept[f"control/{role}"]).to_numpy())
        found[role] = part
    if "glasses/attributes" in kept:
        found["attributes"] = {
            condition: mean_estimate(kept[f"{condition}/attributes"].to_numpy(), generator)
            for condition in ("original", "control", "glasses")
        }
    return found


def left_out(frame: pd.DataFrame) -> dict[str, int]:
    """Reason -> images that were left out."""
    return {str(reason): int(count) for reason, count in frame["left_out"].value_counts().items()}


def table(summary: dict[str, dict[str, Estimate]], unit: str) -> Table:
    """A column a network; the last rows say whether the pipeline painted glasses at all."""
    made = Table(title=f"glasses: differences of the prediction ({unit}), 95 % intervals", title_justify="left")
    for heading in ("", "regressor", "oracle"):
        made.add_column(heading, justify="left" if not heading else "right")
    for row in (*CONTRASTS, "rises with glasses"):
        made.add_row(row, *(format_estimate(summary[role][row], 4) for role in ("regressor", "oracle")))
    for condition, estimate in summary.get("attributes", {}).items():
        made.add_row(f"p(glasses), {condition}", format_estimate(estimate, 3), "")
    return made


def _load(given: argparse.Namespace) -> tuple[RunConfig, Task, dict[str, nn.Module], dict[str, str]]:
    """Configuration, images and frozen networks with their hashes."""
    flags = {"dataset": [given.dataset], "limit": given.limit, "seed": given.seed}
    config = build_config(given.config, given.set, flags)
    source = resolve(DATASETS, given.dataset, "dataset")(component_options(config, "dataset", given.dataset))
    roles = ["regressor", "oracle", *(["attributes"] if "attributes" in source.weights | config.weights else [])]
    weights = load_weights(config, source, roles)
    task = load_task(config.model_copy(update={"targets": ()}), source, weights["regressor"])
    networks = {role: loaded.network for role, loaded in weights.items()}
    return config, task, networks, {role: loaded.sha256 for role, loaded in weights.items()}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.glasses", description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", type=Path, required=True, help="folder of a diffusers inpainting pipeline")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the images; continued")
    parser.add_argument("--dataset", default="celebahq")
    parser.add_argument("--limit", type=int, default=64, help="images, spread evenly; 0 is all")
    parser.add_argument("--seed", type=int, default=0, help="of the pipeline's noise")
    parser.add_argument("--config", help="preset or TOML file, as of `bench run`")
    parser.add_argument("-s", "--set", action="append", default=[], metavar="A.B=V", help="as of `bench run`")
    parser.add_argument("--masks", type=Path, help="CelebAMask-HQ-mask-anno: the region follows the eyes")
    box = ",".join(map(str, EYE_REGION))
    parser.add_argument("--region", default=box, metavar="T,L,B,R", help=f"shares of the image (default {box})")
    parser.add_argument("--prompt", default=PROMPTS["glasses"])
    parser.add_argument("--control-prompt", default=PROMPTS["control"])
    parser.add_argument("--size", type=int, default=512, help="of the pipeline's images")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--device", default="cpu", help="of the pipeline")
    parser.add_argument("--figure", type=Path, help="PNG of the differences")
    given = parser.parse_args(arguments)
    if given.limit < 0 or given.steps < 1 or given.size < 8 or given.size % 8:
        parser.error("--limit is not negative, --steps is at least 1, --size is a multiple of 8")
    return given


def run(given: argparse.Namespace, display: Display) -> tuple[dict[str, Any], dict[str, dict[str, Estimate]]]:
    """The whole experiment: paint, predict, summarise, write results.json.

    Raises:
        UsageError: anything the user gave that cannot be used; nothing is painted then.
    """
    box = parse_box(given.region)
    config, task, networks, hashes = _load(given)
    painter = load_painter(given.pipeline, given.size, given.steps, given.guidance, config.seed, given.device)

    def region(name: str, size: int) -> np.ndarray | None:
        return mask_region(given.masks, name, size) if given.masks else fixed_region(size, box)

    prompts = {"control": given.control_prompt, "glasses": given.prompt}
    settings = {"painter": painter.description, "region": str(given.masks) if given.masks else list(box)}

    def worn(pixels: np.ndarray) -> bool:
        return "attributes" in networks and _predict("attributes", networks["attributes"], pixels) > 0.5

    def show(done: int) -> None:
        display.phase("painting", done)

    display.begin("glasses", len(task.ids))
    frame = paint_all(task, painter, region, prompts, given.output, settings, worn, show)
    display.phase("predicting on saved images")
    predict_all(frame, networks, prompts, given.output)
    summary = summarise(frame, task.unit, config.seed)
    content = {
        "dataset": given.dataset, "data": task.digest, "unit": task.unit, "weights": hashes,
        "region": "eye masks" if given.masks else list(box), "prompts": prompts, "painter": painter.description,
        "images": int(frame["left_out"].isna().sum()), "left_out": left_out(frame),
        "summary": {role: {key: e.model_dump() for key, e in part.items()} for role, part in summary.items()},
        "samples": json.loads(frame.to_json(orient="records")),
    }  # fmt: skip
    return content, summary


@ending
def main(arguments: list[str] | None = None) -> int:
    """Run it, print the table; returns the exit code."""
    given = _parse(arguments)
    with Display() as display:
        content, summary = run(given, display)
    content["command"] = shlex.join(["python", "-m", "bench.glasses", *(arguments or sys.argv[1:])])
    write_bytes(given.output / "results.json", (json.dumps(content, indent=1) + "\n").encode())
    if given.figure:
        given.figure.parent.mkdir(parents=True, exist_ok=True)
        contrast_figure(summary, content["unit"], content["images"]).savefig(given.figure, dpi=130)
    out = console()
    out.print(table(summary, content["unit"]))
    for reason, count in content["left_out"].items():
        out.print(f"{count} images left out: {reason}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
