"""A cell: dataset x method x backend x seed, resolved to data, weights and options before anything runs."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from backends import BACKENDS
from backends.base import BackendError
from bench import __version__
from bench.checkpoints import Loaded, load_network
from bench.config import RunConfig, component_options
from bench.datasets import DATASETS
from bench.datasets.base import Dataset, Task
from bench.errors import UsageError
from bench.evaluators import MEASURING, build_evaluators, file_digest, label_digest
from bench.fit import shape_misfit
from bench.images import to_float
from bench.judge import Judge
from bench.noise_check import build_noise_check
from bench.own_models import try_regressor
from bench.paths import expand
from bench.record import SCHEMA
from bench.registry import resolve
from bench.sections import MetricsConfig
from bench.target_class import held_out_digest
from methods import METHODS, noise
from methods.base import Method
from metrics.frechet import INCEPTION_FILE, inception_folder

JUDGES = ("oracle", *MEASURING, "ddpm")
"""Roles whose networks only judge, where the method does not search with them."""
FILES = ("inception_weights", "lpips_weights")
"""Metric options that name files; the files' hashes count, not where they are."""


@dataclass
class Cell:
    """A resolved cell, before anything runs.

    Attributes:
        weights: role -> loaded network: those of the method, and those that judge.
        options: component name -> validated options.
    """

    id: str
    config: RunConfig
    dataset: str
    method: str
    backend: str
    device: torch.device
    task: Task
    weights: dict[str, Loaded]
    options: dict[str, BaseModel]

    def facts(self) -> dict[str, Any]:
        """What moves the search: its counterfactuals, or, as the batch size does, its timings.

        What only moves the figures made of the saved images is in `judged_with`.
        """
        searching = searching_roles(self.method, self.options[self.method])
        facts = {
            "schema": SCHEMA,
            "version": __version__,
            "dataset": self.dataset,
            "data": self.task.digest,
            "method": self.method,
            "backend": self.backend,
            "device": self.device.type,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "noise": noise.SCHEME,
            "torch": torch.__version__,
            "weights": {role: loaded.sha256 for role, loaded in self.weights.items() if role in searching},
            "options": {name: _recorded(options) for name, options in self.options.items()},
        }
        if self.config.targets:  # absent otherwise: a record of the dataset's own targets stays resumable
            facts |= {"targets": list(self.config.targets), "path": self.config.path}
        return facts


def _recorded(options: BaseModel) -> dict[str, Any]:
    """Options as plain JSON; those that came later are left out at their default, so that older records go on."""
    later = getattr(options, "LATER", ())
    dropped = {key for key in later if getattr(options, key) == type(options).model_fields[key].default}
    return options.model_dump(mode="json", exclude=dropped)


def fingerprint(facts: dict[str, Any]) -> str:
    """Hash of a cell's facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def search_facts(facts: dict[str, Any], searching: Collection[str]) -> dict[str, Any]:
    """Recorded facts without the networks that only judged, which records from before `judged` hold too.

    Args:
        searching: roles of the networks that the method searches with.
    """
    weights = {role: sha256 for role, sha256 in facts["weights"].items() if role in searching or role not in JUDGES}
    return facts | {"weights": weights}


def judged_with(
    weights: Mapping[str, Loaded], searching: Collection[str], judge: Judge, metrics: MetricsConfig, task: Task
) -> dict[str, Any]:
    """What moves the figures of saved images and not the search that made them; plain JSON.

    Args:
        weights: the networks of the cell; those of the search (`searching`) are in its facts already.

    Returns:
        "metrics": the section's options; "weights": role -> sha256 of the networks that only judge; "labels": digest
        of the data's attribute labels; "lpips", "inception": sha256 of their weights. None where there are none.
        "held_out", where the data has any: digest of the real images that counterfactuals are compared with.
    """
    folder, _ = inception_folder(metrics.inception_weights or None)
    found = {
        "metrics": metrics.model_dump(mode="json", exclude=set(FILES)),
        "weights": {role: loaded.sha256 for role, loaded in weights.items() if role not in searching},
        "labels": None if task.attributes is None else label_digest(task.attributes),
        "lpips": judge.evaluators.sha256.get("perceptual"),
        "inception": None if folder is None else file_digest(folder / INCEPTION_FILE),
    }
    if task.held_out is not None:  # absent otherwise: a record of other data was judged with what would judge it now
        found["held_out"] = held_out_digest(task.held_out)
    return found


@dataclass
class Shared:
    """Networks and tasks of the cells resolved so far: cells that name the same ones hold them once.

    Networks are frozen, and every backend works on a copy; nobody writes into a task's arrays.
    """

    networks: dict[tuple[str, str], Loaded] = field(default_factory=dict)
    tasks: dict[tuple[Any, ...], Task] = field(default_factory=dict)

    def network(self, reference: str, role: str) -> Loaded:
        """`load_network`, once."""
        key = (reference, role)
        if key not in self.networks:
            self.networks[key] = load_network(reference, role)
        return self.networks[key]

    def task(self, config: RunConfig, source: Dataset, regressor: Loaded) -> Task:
        """`load_task`, once for the same options, limit and targets, and the same regressor where targets follow it."""
        predicts = regressor.sha256 if source.needs_predictions else None
        key = (type(source), source.config.model_dump_json(), config.limit, config.targets, predicts)
        if key not in self.tasks:
            self.tasks[key] = load_task(config, source, regressor)
        return self.tasks[key]


def resolve_cell(
    config: RunConfig, dataset: str, method: str, backend: str, device: torch.device, shared: Shared | None = None
) -> Cell:
    """Load data and weights and validate every option of one cell.

    Args:
        shared: what the other cells of the suite have loaded already.

    Raises:
        UsageError: anything the user gave that cannot be used.
    """
    options = {
        dataset: component_options(config, "dataset", dataset),
        method: component_options(config, "method", method),
        backend: component_options(config, "backend", backend),
    }
    shared = shared or Shared()
    source = resolve(DATASETS, dataset, "dataset")(options[dataset])
    _check_backend(backend, options[backend], device)
    roles = (*judging_roles(config, source), *searching_roles(method, options[method]))
    weights = load_weights(config, source, dict.fromkeys(roles), shared)
    if weights["regressor"].sha256 == weights["oracle"].sha256:
        raise UsageError("weights.oracle: the oracle is the regressor itself; its errors would mean nothing")
    task = shared.task(config, source, weights["regressor"])
    identity = f"{dataset}--{method}--{backend}--s{config.seed}"
    cell = Cell(identity, config, dataset, method, backend, device, task, weights, options)
    _check_fit(cell)
    judge_of(cell).preflight(task)
    return cell


def load_task(config: RunConfig, source: Dataset, regressor: Loaded) -> Task:
    """The images of a run with their targets, some of which follow from what the regressor predicts.

    Raises:
        UsageError: the data cannot be used.
    """
    task = source.load(config.limit)
    if source.needs_predictions:
        task = source.retarget(task, _predictions(regressor, task.images))
    return expand(task, config.targets)


@torch.no_grad()
def _predictions(regressor: Loaded, images: np.ndarray) -> np.ndarray:
    """r of uint8 (N, H, W, C) images, float64 (N,); one at a time, so that no batch can matter."""
    batches = (torch.from_numpy(to_float(image))[None] for image in images)
    return np.array([float(try_regressor(regressor.network, image, "weights.regressor")) for image in batches])


def judging_roles(config: RunConfig, source: Dataset) -> list[str]:
    """Networks that judge saved images; the filter's is among them where the data has one."""
    filtered = config.metrics.noise_draws > 0 and ("ddpm" in config.weights or "ddpm" in source.weights)
    measuring = [role for role in MEASURING if role in source.weights | config.weights]
    return ["regressor", "oracle", *(["ddpm"] if filtered else []), *measuring]


def searching_roles(method: str, options: BaseModel) -> tuple[str, ...]:
    """Networks that a method searches with."""
    return ("regressor", *resolve(METHODS, method, "method").roles(options))


def load_weights(
    config: RunConfig, source: Dataset, roles: Iterable[str], shared: Shared | None = None
) -> dict[str, Loaded]:
    """The given or shipped network of every role.

    Args:
        shared: what was loaded already.

    Raises:
        UsageError: weights that cannot be used.
    """
    given = source.weights | config.weights
    missing = [role for role in roles if role not in given]
    if missing:
        raise UsageError(
            f"weights.{missing[0]}: no network is shipped for this data; give one with -s weights.{missing[0]}=FILE"
        )
    shared = shared or Shared()
    return {role: shared.network(given[role], role) for role in roles}


def build_method(cell: Cell) -> Method:
    """The cell's method, before any network is prepared."""
    method = resolve(METHODS, cell.method, "method")
    return method(cell.options[cell.method], cell.config.seed, cell.device, cell.task.image_shape)


def _check_backend(name: str, options: BaseModel, device: torch.device) -> None:
    """Refuse a backend that is not available, and options that it cannot do on this device."""
    backend = resolve(BACKENDS, name, "backend")
    reason = backend.unavailable()
    if reason:
        raise UsageError(f"backend {name!r} is not available here: {reason}")
    try:
        backend(options, device).validate()
    except BackendError as error:
        raise UsageError(str(error)) from error


def _check_fit(cell: Cell) -> None:
    """Refuse options that the networks cannot do, and images of another size."""
    method = build_method(cell)
    networks = {role: loaded.network for role, loaded in cell.weights.items()}
    try:
        method.check(networks)
    except ValueError as error:
        raise UsageError(f"{cell.method}: {error}") from error
    for role in method.roles(method.config):
        misfit = shape_misfit(networks[role], cell.task.image_shape)
        if misfit:
            raise UsageError(f"{cell.dataset}: images are {misfit[0]}; weights.{role} needs {misfit[1]}")
    weights = cell.config.metrics.inception_weights
    if weights and inception_folder(weights)[0] is None:
        raise UsageError(f"metrics.inception_weights={weights}: {inception_folder(weights)[1]}")


def judge_of(cell: Cell) -> Judge:
    """The reference regressor and oracle, and the filter for fresh noise where there is one."""
    return build_judge(cell.weights, cell.config.metrics, cell.config.seed, cell.task)


def build_judge(weights: Mapping[str, Loaded], metrics: MetricsConfig, seed: int, task: Task) -> Judge:
    """The judge of a task's counterfactuals.

    Args:
        weights: "regressor", "oracle" and, where there is one, "ddpm".

    Raises:
        UsageError: options of the filter that do not fit its network.
    """
    networks = {role: weights[role].network for role in ("regressor", "oracle", "ddpm") if role in weights}
    regressor = networks["regressor"]
    check = build_noise_check(metrics, networks.get("ddpm"), regressor, seed, task.image_shape)
    channels, _, width = task.image_shape
    evaluators = build_evaluators(weights, metrics, width, channels)
    return Judge(regressor, networks["oracle"], *check, evaluators, weights["oracle"].sha256)
