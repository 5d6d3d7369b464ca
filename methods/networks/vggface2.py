"""The two ResNet-50 judges of faces: VGGFace2's identity features and STEEX's oracle of 40 attributes.

Sources: Cao et al., "VGGFace2" (2018), whose Caffe network was converted to PyTorch twice, under two sets of
names; Jacob et al., "STEEX" (2022), which fine-tuned it on CelebA's 40 attributes. Both are torchvision's
ResNet-50 with the strides and the pooling of Caffe.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet, resnet50

from methods.networks.config import PublishedConfig
from methods.networks.keys import renamed

SIZE = 224
"""Both networks were trained at this height and width; other sizes are resized."""


def _caffe_resnet50() -> ResNet:
    """ResNet-50 to pooled features (B, 2048): the first 1x1 of a block strides, max pooling rounds up, unpadded."""
    network = resnet50(weights=None)
    network.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
    for layer in (network.layer2, network.layer3, network.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    network.fc = nn.Identity()
    return network


class VggFace2ResNet50(nn.Module):
    """Identity features: image (B, 3, H, W) in [0, 1] to (B, 2048), of which the cosine of two faces is taken.

    The image is resized to 224x224 with antialiasing, its channels turned to BGR, scaled to 0..255, and
    VGGFace2's mean colour is subtracted.
    """

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = _caffe_resnet50()
        self.register_buffer("mean_bgr", torch.tensor([91.4953, 103.8827, 131.0912]).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-2:] != (SIZE, SIZE):
            image = F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        return self.trunk(image.flip(1) * 255 - self.mean_bgr)


class AttributeOracle(nn.Module):
    """CelebA's 40 attributes: image (B, 3, H, W) in [0, 1] to logits (B, 40), in the order of the data set.

    The image is normalised to [-1, 1] and resized to 224x224 (bicubic, not antialiased), as in training.
    """

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = _caffe_resnet50()
        self.head = nn.Linear(2048, 40)

    def features(self, image: Tensor, normalisations: int = 1) -> Tensor:
        """Pooled activations (B, 2048); arguments as in `forward`."""
        for _ in range(normalisations):
            image = image * 2 - 1
        if image.shape[-2:] != (SIZE, SIZE):
            image = F.interpolate(image, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        return self.trunk(image)

    def forward(self, image: Tensor, normalisations: int = 1) -> Tensor:
        """Logits (B, 40).

        Args:
            normalisations: how often (x - 0.5) / 0.5 is applied. 1 is what the network was trained with; 2 is
                the mistake of the published evaluation, whose MNAC can only be reproduced with it.
        """
        return self.head(self.features(image, normalisations))


def _with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the batch counters of batch normalisation, which Caffe does not have and inference does not use."""
    means = [key for key in state if key.endswith(".running_mean")]
    counters = {f"{key.removesuffix('running_mean')}num_batches_tracked": state[key] for key in means}
    zeros = {
        key: torch.zeros((), dtype=torch.int64, device=mean.device)
        for key, mean in counters.items()
        if key not in state
    }
    return state | zeros


def convert_vggface2_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of `resnet50_ft_weight.pkl` (torchvision's names) to those of `VggFace2ResNet50`.

    The classifier of 8,631 identities (`fc`) is dropped.
    """
    identities = {"fc.weight": (8631, 2048), "fc.bias": (8631,)}
    kept = {key: value for key, value in state.items() if tuple(value.shape) != identities.get(key)}
    return _with_counters(renamed(kept, {"fc.": "fc.", "": "trunk."}))


_CAFFE_KEY = re.compile(
    r"feat_extract\.conv(?P<stage>[2-5])_(?P<block>\d+)_(?P<layer>1x1_reduce|3x3|1x1_increase|1x1_proj)"
)
_CAFFE_LAYERS = {"1x1_reduce": ("conv1", "bn1"), "3x3": ("conv2", "bn2"), "1x1_increase": ("conv3", "bn3")}
_CAFFE_LAYERS["1x1_proj"] = ("downsample.0", "downsample.1")


def convert_attribute_oracle_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of STEEX's attribute oracle (Caffe's layer names) to those of `AttributeOracle`."""
    converted = {}
    for key, tensor in state.items():
        layer, _, leaf = key.rpartition(".")
        normalises = layer.endswith("_bn")
        match = _CAFFE_KEY.fullmatch(layer.removesuffix("_bn"))
        if match:
            name = _CAFFE_LAYERS[match["layer"]][normalises]
            layer = f"trunk.layer{int(match['stage']) - 1}.{int(match['block']) - 1}.{name}"
        elif layer.removesuffix("_bn") == "feat_extract.conv1_7x7_s2":
            layer = "trunk.bn1" if normalises else "trunk.conv1"
        elif layer == "classifier":
            layer = "head"
        converted[f"{layer}.{leaf}"] = tensor
    return _with_counters(converted)
