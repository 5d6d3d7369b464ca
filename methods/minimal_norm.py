"""Minimal-norm steps for one scalar reference value: Gauss-Newton with a trust region, one for every slot.

To first order the smallest change that moves the prediction y by (target - y) is

    delta = (target - y) M g / (g^T M g),      g = dy/dpoint,

where M is the inverse of the metric in which "smallest" is meant (Gauss-Newton on the squared error, minimal
norm because one equation leaves all other dimensions free). DeepFool (Moosavi-Dezfooli et al. 2016) takes the
same step towards a class boundary. Nothing here knows what the point is: pixels or a semantic code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from methods.base import MethodConfig, State, per_slot
from methods.diffusion.gradient_path import PATTERN

PROGRESS = 0.9
"""A step that leaves more than this share of the error has not helped."""


class StepRuleConfig(MethodConfig):
    """Options of the step rule and its trust region.

    Attributes:
        aim: the search stops when the prediction on the quantised candidate is this close to what it aims at;
            smaller than `tolerance`, so that what a fast backend or another noise draw changes does not matter.
        rule: "gauss-newton"; "secant" also divides by the slope that the last step really had over the predicted
            one, which truncated gradients need; "polyak" is Polyak's step on the squared error, half as long.
        cap: largest step, in the method's own length (see there); the trust region's first and largest radius.
        damping: added to g^T M g.
        backtrack: return to the best point after a step that did not come closer; otherwise go on from where it
            led, with the smaller radius.
        patience: steps in a row that left 90 % of the error or more, after which the search gives up.
        gradient: what it goes through, "all", "last-K" or "one-J" (`methods.diffusion.gradient_path`).
        translation: the prediction is averaged over the candidate and its four shifts by this many pixels; the
            stopping rule looks at the mean.
    """

    max_steps: int = Field(20, ge=1)
    aim: float = Field(0.02, gt=0)
    rule: Literal["gauss-newton", "secant", "polyak"] = "gauss-newton"
    cap: float = Field(gt=0)
    damping: float = Field(0.0, ge=0)
    backtrack: bool = True
    patience: int = Field(4, ge=1)
    gradient: str = Field("all", pattern=PATTERN)
    translation: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _aim_within_tolerance(self) -> Self:
        if self.aim > self.tolerance:
            raise ValueError(f"aim {self.aim:g} is larger than tolerance {self.tolerance:g}")
        return self


@dataclass(frozen=True)
class Geometry:
    """What "smallest" means.

    Attributes:
        direction: M g of a gradient, both of the point's shape.
        length: (B,), compared with the trust region's radius.
        lower, upper: bounds of the point.
    """

    direction: Callable[[Tensor], Tensor]
    length: Callable[[Tensor], Tensor]
    lower: float = -torch.inf
    upper: float = torch.inf


def euclidean(step: Tensor) -> Tensor:
    """Length of every sample's step: (B,)."""
    return step.flatten(1).norm(dim=1)


EUCLIDEAN = Geometry(lambda gradient: gradient, euclidean)


def minimal_step(
    geometry: Geometry,
    gradient: Tensor,
    change: Tensor,
    radius: Tensor,
    slope: Tensor | float = 1.0,
    damping: float = 0.0,
) -> Tensor:
    """The smallest step that changes the prediction by `change` to first order, at most `radius` long.

    Args:
        gradient: of the prediction, (B, ...).
        change, radius: (B,).
        slope: factor on the predicted slope.
        damping: added to g^T M g.

    Returns:
        Of the gradient's shape; zero where the gradient is.
    """
    direction = geometry.direction(gradient)
    gain = (gradient * direction).flatten(1).sum(1) * slope + damping
    # Where the regressor is flat there is no direction to go, and the search runs out of patience.
    scale = torch.where(gain > 0, change / gain, torch.zeros_like(gain))
    # Limited before it is multiplied: where the gradient all but vanishes the whole step would overflow.
    limit = radius / geometry.length(direction).clamp(min=1e-30)
    return per_slot(scale.clamp(-limit, limit), direction) * direction


class Evaluation(NamedTuple):
    """What was found at the point of a state: prediction (B,), its gradient, and the candidate image."""

    prediction: Tensor
    gradient: Tensor
    candidate: Tensor


def initial_state(point: Tensor, candidate: Tensor, target: Tensor, cap: float) -> State:
    """The rule's part of a search's state.

    Entries: point (to evaluate next); anchor, gradient, anchor_prediction (the best point so far, unless the rule
    does not backtrack); expected, length (predicted change of y and length of the last step); radius, slope;
    goal (what r is to be; at first the target); error, best_point, output, prediction (of the best candidate); rejected
    (steps in a row without progress).
    """
    batch, device = len(target), target.device
    one = torch.ones(batch, device=device)
    return {
        "point": point.clone(),
        "anchor": point.clone(),
        "gradient": torch.zeros_like(point),
        "anchor_prediction": torch.zeros_like(one),
        "expected": torch.zeros_like(one),
        "length": torch.zeros_like(one),
        "radius": one * cap,
        "slope": one.clone(),
        "target": target.clone(),
        "goal": target.clone(),
        "error": torch.full_like(one, torch.inf),
        "output": candidate.clone(),
        "best_point": point.clone(),
        "prediction": torch.full_like(one, torch.nan),
        "rejected": torch.zeros(batch, dtype=torch.int64, device=device),
        "step": torch.zeros(batch, dtype=torch.int64, device=device),
    }


def restart(state: State, goal: Tensor, cap: float, chosen: Tensor) -> State:
    """Aim at another value from the best point: errors made so far mean nothing any more.

    Args:
        goal: (B,).
        chosen: bool (B,), the samples meant.
    """
    fresh = {
        "point": state["best_point"],
        "goal": goal,
        "error": torch.full_like(state["error"], torch.inf),
        "radius": torch.full_like(state["radius"], cap),
        "rejected": torch.zeros_like(state["rejected"]),
    }
    return state | {key: torch.where(per_slot(chosen, value), value, state[key]) for key, value in fresh.items()}


def retargeted(state: State, target: Tensor, cap: float) -> State:
    """Aim at another reference value (B,) from the best point, for every sample."""
    everyone = torch.ones_like(target, dtype=torch.bool)
    return restart(state, target, cap, everyone) | {"target": target, "step": torch.zeros_like(state["step"])}


def advance(config: StepRuleConfig, geometry: Geometry, state: State, found: Evaluation) -> tuple[State, Tensor]:
    """Judge the last step by what it led to, and make the next one.

    Returns:
        The state, and bool (B,): within `aim`, or out of patience. Finished samples keep their point.
    """
    error = (found.prediction - state["goal"]).abs()
    better = error < state["error"]  # never true for NaN
    progress = error < PROGRESS * state["error"]
    first = torch.isinf(state["error"])
    state = state | _trust(config, state, found.prediction, better, first)
    moves_on = better if config.backtrack else torch.ones_like(better)
    state |= _anchored(moves_on, state, found)
    kept = {"best_point": state["point"], "output": found.candidate, "prediction": found.prediction, "error": error}
    state |= {key: torch.where(per_slot(better, value), value, state[key]) for key, value in kept.items()}
    state["rejected"] = torch.where(progress, 0, state["rejected"] + 1)
    done = (state["error"] <= config.aim) | (state["rejected"] >= config.patience)
    return state | _next_point(config, geometry, state, ~done), done


def _anchored(flag: Tensor, state: State, found: Evaluation) -> State:
    """The anchor with its gradient and prediction, replaced where `flag` is set."""
    new = {"anchor": state["point"], "gradient": found.gradient, "anchor_prediction": found.prediction}
    return {key: torch.where(per_slot(flag, value), value, state[key]) for key, value in new.items()}


def _trust(config: StepRuleConfig, state: State, prediction: Tensor, better: Tensor, first: Tensor) -> State:
    """Radius and slope after a step: twice the radius after an improvement, half the step's length otherwise."""
    radius = torch.where(better, 2 * state["radius"], 0.5 * state["length"]).clamp(max=config.cap)
    ratio = (prediction - state["anchor_prediction"]) / state["expected"]
    # A step the wrong way says nothing about the slope, only that it was too long.
    usable = ~first & torch.isfinite(ratio) & (ratio > 0) & (config.rule == "secant")
    return {
        "radius": torch.where(first, state["radius"], radius),
        "slope": torch.where(usable, ratio.clamp(0.2, 5), state["slope"]),
    }


def _next_point(config: StepRuleConfig, geometry: Geometry, state: State, moves: Tensor) -> State:
    """From the anchor, the smallest step that reaches the goal to first order, at most `radius` long."""
    gradient, anchor = state["gradient"], state["anchor"]
    change = (state["goal"] - state["anchor_prediction"]) * (0.5 if config.rule == "polyak" else 1.0)
    step = minimal_step(geometry, gradient, change, state["radius"], state["slope"], config.damping)
    point = (anchor + step).clamp(geometry.lower, geometry.upper)
    made = point - anchor
    update = {
        "point": point,
        "expected": (gradient * made).flatten(1).sum(1),
        "length": geometry.length(made),
        "step": state["step"] + 1,
    }
    return {key: torch.where(per_slot(moves, value), value, state[key]) for key, value in update.items()}
