"""Predictions of a regressor that are averaged over small translations."""

import torch.nn.functional as F
from torch import Tensor, nn


def shifted_prediction(regressor: nn.Module, image: Tensor, pixels: int) -> Tensor:
    """Mean prediction over an image and its four shifts by `pixels`, edges repeated.

    An adversarial pattern is tuned to the regressor's strides and rarely survives a shift; a change of the
    object does.

    Args:
        image: (B, C, H, W).
        pixels: 0 is the plain prediction.

    Returns:
        (B,).
    """
    if pixels == 0:
        return regressor(image)
    height, width = image.shape[-2:]
    padded = F.pad(image, [pixels] * 4, mode="replicate")
    total = regressor(image)
    for row, column in ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels)):
        total = total + regressor(padded[..., row : row + height, column : column + width])
    return total / 5
