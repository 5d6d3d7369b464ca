"""DenseNet-121 networks of the face experiments: the age regressor and the decision network it starts from.

Sources: Huang et al., "Densely connected convolutional networks" (2017), through torchvision; Jacob et al.,
"STEEX" (2022), whose decision network ACE explains; Ha and Bender, "Diffusion counterfactuals for image
regressors" (2025), whose age regressor has the same trunk. Both see the image as (x - 0.5) / 0.5.
"""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import densenet121

from methods.networks.config import PublishedConfig
from methods.networks.keys import UnfitKeys, renamed


class _DenseNetTrunk(nn.Module):
    """The convolutions of a DenseNet-121 with a linear head.

    `trunk` and `head` are separate modules, so that training can freeze the one and replace the other.
    """

    def __init__(self, config: PublishedConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.trunk = densenet121(weights=None).features
        self.head = nn.Linear(1024, outputs)

    def features(self, image: Tensor) -> Tensor:
        """Pooled activations (B, 1024) of image float (B, 3, H, W) in [0, 1], H and W at least 32."""
        return F.relu(self.trunk(image * 2 - 1)).mean(dim=(2, 3))


class DenseNetRegressor(_DenseNetTrunk):
    """Predicts age / 100: image (B, 3, H, W) in [0, 1] to (B,), unbounded. Published at 256x256."""

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__(config, outputs=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image)).squeeze(-1)


class DecisionDenseNet(_DenseNetTrunk):
    """The network that ACE and STEEX explain: image (B, 3, H, W) in [0, 1] to logits (B, 3), in the order of LABELS.

    A logit above 0 says that the attribute is there.
    """

    LABELS = ("Male", "Smiling", "Young")
    """CelebA's attributes 20, 31 and 39."""

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__(config, outputs=len(self.LABELS))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


def convert_regressor_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published keys of the age regressor to those of `DenseNetRegressor`.

    The file keeps the normalisation beside the weights (`mu`, `sigma`); here it is part of the network.

    Raises:
        UnfitKeys: it normalises with something else than 0.5 and 0.5.
    """
    state = dict(state)
    for key in ("mu", "sigma"):
        constant = state.pop(key, None)
        if constant is None:
            raise UnfitKeys(f"{key} is missing, which should hold the normalisation (0.5)")
        if constant.shape != (1, 3, 1, 1) or (constant.device.type != "meta" and (constant != 0.5).any()):
            raise UnfitKeys(f"{key} is not the published normalisation, three times 0.5")
    return renamed(state, {"classifier.0.feat_extract.features.": "trunk.", "classifier.1.": "head."})


def convert_decision_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published keys of STEEX's decision network to those of `DecisionDenseNet`."""
    return renamed(state, {"feat_extract.feat_extract.features.": "trunk.", "classifier.": "head."})
