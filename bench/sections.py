"""Sections of the configuration that belong to no component: metrics, tracking, the accuracy gate."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from bench.errors import UsageError
from bench.tracking.address import secret_in


class MetricsConfig(BaseModel):
    """Options of the metrics.

    Attributes:
        mode: of every metric that has both: "paper", as the published code computes it, with its mistakes, or
            "corrected".
        inception_weights: clean-fid's Inception TorchScript file or its folder; empty: look in its cache.
        lpips_weights: torchvision's AlexNet weights file; empty: look in torch.hub's cache.
        split_seed: of the halves of sFID.
        bootstrap_seed: of the intervals' resamples.
        noise_draws: fresh filter noises that every saved counterfactual is tested under; 0 leaves that out.
        filter_respacing, filter_depth: of that filter; the defaults are the paper's for Square.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    mode: Literal["paper", "corrected"] = "corrected"
    inception_weights: str = ""
    lpips_weights: str = ""
    split_seed: int = 0
    bootstrap_seed: int = 0
    noise_draws: int = Field(4, ge=0)
    filter_respacing: str = "50"
    filter_depth: int = Field(5, ge=1)


class TrackingConfig(BaseModel):
    """Options of the MLflow copy.

    Attributes:
        enabled: import finished suites into MLflow.
        uri: tracking server; empty is $MLFLOW_TRACKING_URI, or an SQLite store beside the runs.
        experiment: name in MLflow.
        images: copy the pictures, too; without them pages that are made from MLflow have none.
        wait_s: longest time in seconds that a run waits for its copy, which then goes on alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    uri: str = ""
    experiment: str = Field("counterfactual-bench", min_length=1)
    images: bool = True
    wait_s: float = Field(10.0, ge=0)

    @field_validator("uri")
    @classmethod
    def _without_secrets(cls, uri: str) -> str:
        """The configuration is recorded as it is given, so nothing secret may stand in it.

        Raises:
            UsageError: the address holds a user name, a password, a token or a key.
        """
        found = secret_in(uri)
        if found is not None:
            raise UsageError(
                f"tracking.uri (--uri): an address with {found} would be recorded; leave it out and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or set MLFLOW_TRACKING_URI instead"
            )
        return uri


class VerifyConfig(BaseModel):
    """Margins and limits of the accuracy gate.

    Those for 16-bit networks were set with the first measurements of bfloat16 at hand: they catch faults, whether
    the counterfactuals are as good is decided end to end.

    Relative errors are largest absolute errors over the reference's largest value: of all calls for outputs
    (a noise predictor's are of order 1, though one call's may be small), of the call for gradients.

    Attributes:
        success_margin: success rates within this are equivalent (0.01 is one point).
        target_error_margin: ratios of oracle target errors within 1 -+ this are equivalent.
        prediction_tolerance: predictions on every saved image within this are numerically equal.
        forward_limit, gradient_limit, cosine_limit: of a network that runs in float32; the cosine is the worst
            sample's, over all its calls.
        half_forward_limit, half_gradient_limit: of a network in a 16-bit type. The gradient limit is a coarse one:
            single calls can be badly conditioned.
        half_cosine_limit, half_cosine_worst_limit: of its gradients, mean over samples and worst sample.
        repeat_limit: relative deviation of a repeated call from the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    success_margin: float = Field(0.01, gt=0, lt=1)
    target_error_margin: float = Field(0.01, gt=0, lt=1)
    prediction_tolerance: float = Field(1e-3, ge=0)
    forward_limit: float = Field(1e-4, gt=0)
    gradient_limit: float = Field(1e-4, gt=0)
    cosine_limit: float = Field(0.99999, gt=0, le=1)
    half_forward_limit: float = Field(0.03, gt=0)
    half_gradient_limit: float = Field(0.25, gt=0)
    half_cosine_limit: float = Field(0.999, gt=0, le=1)
    half_cosine_worst_limit: float = Field(0.99, gt=0, le=1)
    repeat_limit: float = Field(1e-4, ge=0)
