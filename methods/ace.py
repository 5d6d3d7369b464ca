"""ACE: "Adversarial Counterfactual Visual Explanations" (Jeanneret et al. 2023).

The method that AC-RE was made from. It minimises, by sign-gradient steps on the image x,

    L_class(C(F(x)), y) + lambda_d d(x, x_0)

with the filter F (its equation 4) and l1 or l2 as d, and then repaints what changed (section 3.3). As published it
makes all of its steps, whether or not the class is reached. `ace-re` is the same with the paper's regression loss and
stopping rule: AC-RE with ACE's distance and settings.

What differs from the published code: the loss is summed over samples where that code averages the cross-entropy
over the batch but sums the distance, so that its lambda meant something else at every batch size (its scripts used
1, where both agree); noise belongs to the sample; a sample whose image did not change is not divided by zero.
"""

from pydantic import Field

from methods.ac_re import AcReConfig, Filtered
from methods.distance import Norm
from methods.targets import ClassTarget, ClassTargetConfig, RegressionTarget


class AceReConfig(AcReConfig):
    """ACE's published settings (celebahq-attack.sh): 50 steps of 1/255, five steps of a process respaced to 25,
    l1 distance times 0.001, dilation 15. Its l2 variant takes 0.1 (so says the code of AC-RE's paper).
    """

    max_steps: int = Field(50, ge=1)
    respacing: str = "25"
    step_size: float = Field(1 / 255, gt=0)
    dilation: int = Field(15, ge=1)
    distance: Norm = "l1"
    distance_weight: float = Field(0.001, ge=0)


class AceConfig(AceReConfig, ClassTargetConfig):
    """The same, and the options of the class; `threshold` is the mask's."""


class Ace(ClassTarget, Filtered):
    """ACE as published: cross-entropy of the reference value's class, all steps made."""

    name = "ace"
    options = AceConfig
    config: AceConfig  # type: ignore[assignment]
    stops_early = False


class AceRe(RegressionTarget, Filtered):
    """ACE for a reference value."""

    name = "ace-re"
    options = AceReConfig
