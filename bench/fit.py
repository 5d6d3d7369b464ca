"""Whether a network takes a task's images."""

from torch import nn

Shape = tuple[int, int, int]
"""(C, H, W)."""
CHANNELS = (1, 3)
"""Grey and colour."""


def shape_misfit(network: nn.Module, shape: Shape) -> tuple[str, str] | None:
    """What the images are and what the network needs, for people ("64x64 grey"); None where it takes them.

    Args:
        network: its `config` may name `image_size` and `in_channels`; what it does not name is taken to fit.
        shape: of the images.
    """
    config = getattr(network, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "in_channels", None)
    needed = (channels or shape[0], size or shape[1], size or shape[2])
    return None if needed == shape else (describe(shape), describe(needed))


def describe(shape: Shape) -> str:
    """(1, 64, 64) as "64x64 grey"."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"
