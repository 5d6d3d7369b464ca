"""How many network evaluations do encoding and decoding of a Diffusion Autoencoder need?

`python -m bench.inversion_study -o reports/results/inversion.json` takes images of the Square grid and the shipped
`square-diffae`, eager and in float32, and measures codes x_T (DDIM inversion, fixed point of the decoder, inverse
DPM-Solver++) together with decoders (DDIM, DPM-Solver++(2M), UniPC, with steps spread in different ways) in two
respects:

- reconstruction: PSNR, mean absolute error, and what the regressor makes of the difference;
- editability: one minimal-norm Gauss-Newton step in z_sem towards the mirror target, through the very decoder,
  then the same errors as for any counterfactual. A code that holds the image by itself reconstructs well and
  does not follow z_sem.

Images are rounded to 8 bits before they are judged, as if saved.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from bench.checkpoints import load_network
from bench.cli_options import console
from bench.datasets.base import Task
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.environment import environment
from bench.errors import BenchError, UsageError
from bench.images import to_float, write_bytes
from methods import noise
from methods.base import clipped, quantised
from methods.diffusion.ddim import ddim_decode, ddim_invert, fixed_point_invert
from methods.diffusion.ddpm import to_network
from methods.diffusion.diffae import DiffAe, DiffAeConfig
from methods.diffusion.schedule import Schedule
from methods.diffusion.solvers import quadratic_schedule, solver_decode, solver_encode
from methods.minimal_norm import EUCLIDEAN, minimal_step
from metrics.intervals import mean_estimate
from metrics.measured import Measured
from metrics.sparsity import change_l1
from metrics.square import background_error, square_error
from metrics.validity import oracle_target_error, prediction_error

CAP = 1.0
"""Longest step in z_sem, in its own unit."""
DDIM_STEPS, ITERATIONS, DECODER_STEPS = (250, 100, 50, 20), (2, 3, 5, 8), (10, 5)


@dataclass(frozen=True)
class Coder:
    """A way from an image in [0, 1] to x_T, or back (then not clipped): run(network, from, z_sem) -> to.

    Attributes:
        evaluations: network calls.
    """

    name: str
    evaluations: int
    run: Callable[[DiffAe, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Networks:
    """What judges and what is studied; frozen, float32, on the CPU."""

    diffae: DiffAe
    regressor: nn.Module
    oracle: nn.Module


SPACINGS: dict[str, Callable[[DiffAeConfig, int], Schedule]] = {
    "DDIM": DiffAeConfig.schedule,
    "DDIM quadratic": quadratic_schedule,
}


def _ddim_encoder(steps: int) -> Coder:
    return Coder(f"DDIM {steps}", steps, lambda net, image, z: ddim_invert(net, net.config.schedule(steps), image, z))


def _fixed_point_encoder(spacing: str, steps: int, iterations: int) -> Coder:
    def run(network: DiffAe, image: Tensor, z_sem: Tensor) -> Tensor:
        return fixed_point_invert(network, SPACINGS[spacing](network.config, steps), image, z_sem, iterations)

    return Coder(f"fixed point {steps}x{iterations} of {spacing}", steps * iterations, run)


def _solver_encoder(title: str, solver: str, steps: int) -> Coder:
    return Coder(
        f"{title} {steps}", steps, lambda net, image, z: solver_encode(net, net.config, image, z, solver, steps)
    )


def _ddim_decoder(spacing: str, steps: int) -> Coder:
    def run(network: DiffAe, x_T: Tensor, z_sem: Tensor) -> Tensor:
        return ddim_decode(network, SPACINGS[spacing](network.config, steps), x_T, z_sem)

    return Coder(f"{spacing} {steps}", steps, run)


def _solver_decoder(title: str, solver: str, steps: int) -> Coder:
    return Coder(f"{title} {steps}", steps, lambda net, x_T, z: solver_decode(net, net.config, x_T, z, solver, steps))


def combinations() -> list[tuple[Coder, Coder]]:
    """The rows of the table; a name stands for one and the same encoder wherever it occurs."""
    reference = _ddim_encoder(DDIM_STEPS[0])
    karras = [_solver_encoder("inverse DPM++ Karras", "dpm++2m-karras", steps) for steps in (10, 20)]
    rows: list[tuple[Coder, Coder]] = []
    for steps in DECODER_STEPS:
        codes = {
            _ddim_decoder("DDIM", steps): [
                *(_ddim_encoder(n) for n in DDIM_STEPS),
                *(_fixed_point_encoder("DDIM", steps, k) for k in ITERATIONS),
            ],
            _ddim_decoder("DDIM quadratic", steps): [
                reference,
                *(_fixed_point_encoder("DDIM quadratic", steps, k) for k in ITERATIONS),
            ],
            _solver_decoder("DPM++2M", "dpm++2m", steps): [
                reference,
                _solver_encoder("inverse DPM++", "dpm++2m", steps),
            ],
            _solver_decoder("DPM++2M log-SNR", "dpm++2m-logsnr", steps): [reference, *karras],
            _solver_decoder("UniPC", "unipc", steps): [reference],
            # diffusers has no inverse UniPC; this one integrates the same equation.
            _solver_decoder("UniPC Karras", "unipc-karras", steps): [reference, *karras],
        }
        rows += [(encoder, decoder) for decoder, encoders in codes.items() for encoder in encoders]
    return rows


def gauss_newton_step(prediction: Tensor, gradient: Tensor, target: Tensor, cap: float = CAP) -> Tensor:
    """The smallest step that moves the prediction to the target to first order, of at most length `cap`.

    Args:
        prediction, target: (B,).
        gradient: of the prediction, (B, D).

    Returns:
        (B, D); zero where the gradient is zero.
    """
    return minimal_step(EUCLIDEAN, gradient, target - prediction, torch.full_like(target, cap))


def measure(
    networks: Networks, decoder: Coder, image: Tensor, target: Tensor, masks: np.ndarray, z_sem: Tensor, x_T: Tensor
) -> dict[str, np.ndarray]:
    """Every figure of a batch, (B,) each: reconstruction, then one step and its result."""
    z = z_sem.detach().requires_grad_(True)
    decoded = decoder.run(networks.diffae, x_T, z)
    # Clipped in value only, as in the search: the gradient passes where a pixel is outside [0, 1].
    prediction = networks.regressor(clipped(decoded))
    gradient = torch.autograd.grad(prediction.sum(), z)[0]
    with torch.no_grad():
        step = gauss_newton_step(prediction, gradient, target)
        edited = quantised(decoder.run(networks.diffae, x_T, z_sem + step))
        recon = quantised(decoded)
        change = (networks.regressor(recon) - networks.regressor(image)).abs()
        outcome = Measured(
            original=image.numpy(), counterfactual=edited.numpy(), target=target.double().numpy(),
            prediction=networks.regressor(edited).double().numpy(), oracle=networks.oracle(edited).double().numpy(),
            mask=masks, tolerance=0.05,
        )  # fmt: skip
    error = (recon - image).double()
    return {
        "psnr": -10 * error.square().mean((1, 2, 3)).log10().numpy(),
        "l1": error.abs().mean((1, 2, 3)).numpy(),
        "regressor_change": change.double().numpy(),
        "code_std": x_T.double().std((1, 2, 3)).numpy(),
        "step_length": step.double().norm(dim=1).numpy(),
        "edit_prediction_error": prediction_error(outcome),
        "edit_oracle_error": oracle_target_error(outcome),
        "edit_change_l1": change_l1(outcome),
        "edit_square_error": square_error(outcome),
        "edit_background_error": background_error(outcome),
    }


UNITS = {"psnr": "dB"}


def study(
    networks: Networks, task: Task, batch_size: int, announce: Callable[[str], None]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """Per-sample figures of every combination, (N,) each; every code is made once."""
    collected: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for start in range(0, len(task.ids), batch_size):
        part = slice(start, start + batch_size)
        image, target = torch.from_numpy(to_float(task.images[part])), torch.from_numpy(task.targets[part])
        codes: dict[str, Tensor] = {}
        with torch.no_grad():
            z_sem = networks.diffae.encode(to_network(image))
        for encoder, decoder in combinations():
            if encoder.name not in codes:
                with torch.no_grad():
                    codes[encoder.name] = encoder.run(networks.diffae, image, z_sem)
            row = measure(networks, decoder, image, target, task.masks[part], z_sem, codes[encoder.name])
            collected.setdefault((encoder.name, decoder.name), []).append(row)
        announce(f"{min(start + batch_size, len(task.ids))} of {len(task.ids)} images")
    return {
        key: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for key, parts in collected.items()
    }


def summarise(samples: dict[tuple[str, str], dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """A row a combination: names, network evaluations, and means with 95 % bootstrap intervals."""
    rows: list[dict[str, Any]] = []
    for encoder, decoder in combinations():
        figures = samples[encoder.name, decoder.name]
        generator = noise.numpy_generator("bootstrap", "inversion", encoder.name, decoder.name)
        estimates = {name: mean_estimate(values, generator, UNITS.get(name, "1")) for name, values in figures.items()}
        rows.append(
            {
                "encoder": encoder.name,
                "decoder": decoder.name,
                "encode_evaluations": encoder.evaluations,
                "decode_evaluations": decoder.evaluations,
                "n": len(figures["psnr"]),
                "figures": {name: estimate.model_dump() for name, estimate in estimates.items()},
            }
        )
    return rows


COLUMNS = {
    "PSNR": ("psnr", ".2f"),
    "L1": ("l1", ".4f"),
    "|dr|": ("regressor_change", ".4f"),
    "std x_T": ("code_std", ".3f"),
    "step": ("step_length", ".3f"),
    "|r-t|": ("edit_prediction_error", ".3f"),
    "|o-t|": ("edit_oracle_error", ".3f"),
    "L1 edit": ("edit_change_l1", ".4f"),
    "square": ("edit_square_error", ".3f"),
    "backgr.": ("edit_background_error", ".4f"),
}


def table(rows: list[dict[str, Any]]) -> Table:
    """Means: reconstruction up to the code's deviation, then the result of one step; intervals are in the JSON."""
    made = Table(title=f"codes and decoders, means over {rows[0]['n']} images", title_justify="left")
    for heading in ("code", "decoder", "calls", *COLUMNS):
        made.add_column(heading, justify="left" if heading in ("code", "decoder") else "right", no_wrap=True)
    for row in rows:
        calls = f"{row['encode_evaluations']}+{row['decode_evaluations']}"
        cells = [format(row["figures"][name]["value"], form) for name, form in COLUMNS.values()]
        made.add_row(row["encoder"], row["decoder"], calls, *cells)
    return made


def _load() -> Networks:
    weights = SquareDataset.weights
    diffae, regressor, oracle = (
        load_network(weights[role], role).network for role in ("diffae", "regressor", "oracle")
    )
    return Networks(diffae, regressor, oracle)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.inversion_study", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--limit", type=int, default=32, help="images, spread over the grid; 0 is all 630")
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args(arguments)
    if given.limit < 0 or given.batch_size < 1:
        raise UsageError("--limit must be at least 0 and --batch-size at least 1")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the JSON and print the table; returns the exit code."""
    try:
        given = _parse(arguments)
        task = SquareDataset(SquareConfig()).load(given.limit)
        samples = study(_load(), task, given.batch_size, partial(print, file=sys.stderr, flush=True))
        content = {
            "command": shlex.join(["python", "-m", "bench.inversion_study", *(arguments or sys.argv[1:])]),
            "environment": environment("cpu"),
            "n": len(task.ids),
            "data": task.digest,
            "backend": "eager float32",
            "step_cap": CAP,
            "rows": summarise(samples),
        }
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(given.output, (json.dumps(content, indent=1) + "\n").encode())
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console().print(table(content["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
