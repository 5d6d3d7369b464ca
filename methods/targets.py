"""What a search aims at: a reference value of the regressor, or the class that this value belongs to.

The paper's methods take reference values. The methods they are compared with were published for binary
classifiers; here they push an image to the class of its reference value, and the same methods with a
regression target are their `-re` forms.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from backends.base import Backend
from methods.base import Method, MethodConfig, reached


class Judgement(NamedTuple):
    """What is thought of an image.

    Attributes:
        prediction: r of the image, (B,), without a gradient.
        loss: (B,), differentiable in the image.
        reached: bool (B,), the image is what was aimed at.
    """

    prediction: Tensor
    loss: Tensor
    reached: Tensor


class Judging(Method):
    """A method whose target is chosen by one of the classes below, put before it in the bases.

    Attributes:
        stops_early: a sample is over as soon as it is what was aimed at; otherwise it takes all steps.
    """

    regressor: nn.Module
    stops_early: bool = True

    @abstractmethod
    def example(self, networks: Mapping[str, nn.Module], slots: int) -> Tensor:
        """Images of the shape that every network will see: zeros (slots, C, H, W) on the device."""

    @abstractmethod
    def judge(self, image: Tensor, target: Tensor) -> Judgement:
        """What is thought of images (B, C, H, W) in [0, 1], differentiably."""

    def finished(self, judged: Judgement) -> Tensor:
        """bool (B,), the samples that need no further step."""
        return judged.reached if self.stops_early else torch.zeros_like(judged.reached)


class RegressionTarget(Judging):
    """A method that brings r to the reference value: loss (r - target)^2 (Ha and Bender 2025, section 3.1)."""

    def judge(self, image: Tensor, target: Tensor) -> Judgement:
        """Judge images (B, C, H, W) in [0, 1] by r and its tolerance."""
        prediction = self.regressor(image)
        loss = (prediction - target).square()
        prediction = prediction.detach()
        return Judgement(prediction, loss, reached(prediction, target, self.config.tolerance))


class ClassTargetConfig(MethodConfig):
    """Options of a classification target.

    The target's class is "high" where target >= boundary.

    Attributes:
        classifier: "regressor" reads r as a classifier with the logit slope * (r - boundary); "decision" takes the
            network of `weights.classifier`, as the published methods do on CelebA-HQ.
        boundary: between the two classes, in units of the target.
        slope: of the logit, for "regressor".
        label: which output of the decision network: 0, 1, 2 are Male, Smiling, Young.
        label_is_low: the label is positive for the low class. The default says so of Young on a scale of age; what
            Male and Smiling mean for another scale has to be given.
    """

    classifier: Literal["regressor", "decision"] = "regressor"
    boundary: float = 0.5
    slope: float = Field(10.0, gt=0)
    label: int = Field(2, ge=0, le=2)
    label_is_low: bool = True

    @model_validator(mode="after")
    def _meaning_of_the_label(self) -> Self:
        unsaid = "label_is_low" not in self.model_fields_set
        if self.classifier == "decision" and self.label in (0, 1) and unsaid:
            name = ("Male", "Smiling")[self.label]
            raise ValueError(
                f"label_is_low is needed with classifier=decision and label={self.label}: true if {name} stands for "
                "low values of the target, false if for high ones; the default holds for label=2, Young and ages"
            )
        return self


class ClassTarget(Judging):
    """A method that brings an image to the class of its reference value, whatever r is there."""

    config: ClassTargetConfig
    classifier: nn.Module

    @classmethod
    def roles(cls, config: MethodConfig) -> tuple[str, ...]:
        decides = isinstance(config, ClassTargetConfig) and config.classifier == "decision"
        return (*super().roles(config), *(["classifier"] if decides else []))

    def check(self, networks: Mapping[str, nn.Module]) -> None:
        super().check(networks)
        if self.config.classifier == "decision" and "classifier" not in networks:
            raise ValueError("classifier=decision needs a decision network; give one as weights.classifier")

    def prepare(self, networks: Mapping[str, nn.Module], backend: Backend, slots: int) -> None:
        super().prepare(networks, backend, slots)
        if self.config.classifier == "decision":
            self.classifier = backend.prepare("classifier", networks["classifier"], (self.example(networks, slots),))

    def judge(self, image: Tensor, target: Tensor) -> Judgement:
        """Judge images (B, C, H, W) in [0, 1] by the classifier; `prediction` is r's all the same."""
        config = self.config
        side = torch.where(target >= config.boundary, 1.0, -1.0)
        if config.classifier == "regressor":
            value = self.regressor(image)
            prediction, margin = value.detach(), side * config.slope * (value - config.boundary)
        else:
            with torch.no_grad():
                prediction = self.regressor(image)
            logit = self.classifier(image)[:, config.label]
            margin = (-side if config.label_is_low else side) * logit
        return Judgement(prediction, self.class_loss(margin), margin.detach() > 0)

    def class_loss(self, margin: Tensor) -> Tensor:
        """Cross-entropy of the logit in favour of the wanted class: (B,) to (B,)."""
        return F.softplus(-margin)
