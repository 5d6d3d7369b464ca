"""The published Square regressor: a ResNet-18 for 64x64 images.

Source: Ha and Bender, "Diffusion counterfactuals for image regressors" (2025); torchvision's ResNet-18 with a
first convolution that keeps the resolution. Its keys are torchvision's.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models import resnet18

from methods.networks.config import PublishedConfig
from methods.networks.keys import renamed


class SquareResNet18(nn.Module):
    """Predicts red/255 of the square: image (B, 3, H, W) in [0, 1], seen as it is, to (B,), unbounded."""

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = resnet18(weights=None)
        self.trunk.conv1 = nn.Conv2d(3, 64, kernel_size=4, stride=1, padding=2, bias=False)
        self.head = nn.Linear(512, 1)
        self.trunk.fc = nn.Identity()

    def features(self, image: Tensor) -> Tensor:
        """Pooled activations (B, 512) of image (B, 3, H, W) in [0, 1]."""
        return self.trunk(image)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image)).squeeze(-1)


def convert_square_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published keys (torchvision's, with `fc` as the head) to those of `SquareResNet18`."""
    return renamed(state, {"fc.": "head.", "": "trunk."})
