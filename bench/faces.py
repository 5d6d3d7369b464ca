"""The figures of a cell that rest on face networks: CD, and why the others are missing."""

import hashlib

import numpy as np
import pandas as pd
import torch

from bench.datasets.base import Task
from bench.evaluators import TYPE_KEY, Evaluators, Figures, Found, definition
from metrics.faces import attribute_correlations, correlation_difference
from metrics.intervals import Estimate

FACE_KEYS = {
    "fs": "identity/fs",
    "fva": "identity/fva",
    "mnac": "attributes/mnac",
    "lpips": "perceptual/lpips",
}
"""Of the metrics that need further networks; apart, so that they do not move the resamples of the others' intervals."""
CD_KEY = "attributes/cd"
QUERY = "Young"
"""CelebA's attribute that a change of age is a change of (CD)."""


def correlations(evaluators: Evaluators, task: Task, found: Found, valid: np.ndarray, image: str) -> Figures:
    """CD of the valid counterfactuals, where there are an attribute network and labelled data.

    Args:
        valid: samples whose counterfactual is valid, bool (N,).
        image: of `image_format`.
    """
    if found.correlated is None:
        return Figures()  # explained with the other metrics of the network
    labels: pd.DataFrame | None = task.attributes
    before, after = found.correlated
    count = int(valid.sum())
    empty = {CD_KEY: Estimate(value=None, n=count)}
    if labels is None:
        reason = "the data have no attribute labels, whose correlations CD compares with"
        return Figures(empty, {CD_KEY: reason})
    columns = list(labels.columns)
    if QUERY not in columns or len(columns) != before.shape[1]:
        reason = f"the data's {len(columns)} attribute labels are not the network's {before.shape[1]} with {QUERY!r}"
        return Figures(empty, {CD_KEY: reason})
    query = columns.index(QUERY)
    data = attribute_correlations(labels.to_numpy(), labels[QUERY].to_numpy())
    value = correlation_difference(before[valid], after[valid], query, data, evaluators.mode == "paper")
    if value is None:
        return Figures(empty, {CD_KEY: f"no correlations: {QUERY!r} changes on no valid counterfactual, or on all"})
    facts = definition(
        mode=evaluators.mode,
        image=image,
        torch=torch.__version__,
        network="attributes",
        weights=evaluators.sha256["attributes"],
        normalisations=1,
        query=QUERY,
        labels=hashlib.sha256(labels.to_csv().encode()).hexdigest(),
        counterfactuals="valid",
    )
    note = f"correlations of {len(labels)} labelled images of the data, {count} valid counterfactuals"
    return Figures({CD_KEY: Estimate(value=value, n=count)}, {CD_KEY: note}, {CD_KEY: facts})


def may_show_faces(task: Task) -> bool:
    """Whether face metrics may mean something: colour images of which no mask is known.

    Square has masks, and ground truth instead; what a solar cell or an X-ray shows is grey.
    """
    return task.masks is None and task.image_shape[0] == 3


def explain_missing(evaluators: Evaluators, task: Task, summary: dict[str, Estimate]) -> dict[str, str]:
    """Add empty figures for the metrics that could not be computed; returns why, by metric.

    Face metrics are left out where there are no faces, and the type where the data has no labelled real images to
    learn it from.
    """
    faces = may_show_faces(task)
    reasons = {
        "identity": ["identity/fs", "identity/fva"] if faces else [],
        "attributes": ["attributes/mnac", CD_KEY] if faces else [],
        "type": [TYPE_KEY] if task.held_out is not None else [],
        "perceptual": ["perceptual/lpips"],
    }
    notes = {}
    for role, keys in reasons.items():
        for key in keys:
            if key not in summary:
                summary[key] = Estimate(value=None)
                notes[key] = evaluators.reasons.get(role, "no sample has a counterfactual")
    return notes
