"""Painting into a region of an image with a diffusers inpainting pipeline, and the regions for glasses."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from bench.errors import UsageError
from bench.images import BadImage, read_image
from methods import noise

EYE_REGION = (0.36, 0.14, 0.60, 0.86)
"""Top, left, bottom, right of the glasses in an aligned face (CelebA-HQ, FFHQ), as shares of height and width."""
MASK_PARTS = ("l_eye", "r_eye")
MASKS_A_FOLDER = 2000
"""CelebAMask-HQ keeps the masks of this many images in one folder."""
MARGIN = 0.3
"""By how much of the eyes' common width glasses reach beyond them, on every side."""


class Painter(Protocol):
    """What the experiment needs of a pipeline.

    Attributes:
        description: what it is made of, for the record.
    """

    description: dict[str, Any]

    def paint(self, pixels: np.ndarray, region: np.ndarray, prompt: str, name: str) -> np.ndarray | None:
        """Fill a region as a prompt says.

        Args:
            pixels: uint8 (H, W, 3).
            region: bool (H, W), True where to paint.
            name: of the image; the same name gets the same noise whatever the prompt.

        Returns:
            uint8 (H, W, 3), of which only the region is used; None where the pipeline's safety checker refused it.
        """
        ...


@dataclass
class DiffusersPainter:
    """A diffusers inpainting pipeline that takes a prompt, an image and a mask (Stable Diffusion and its kin).

    Args:
        pipeline: the loaded pipeline.
        folder: where it lies.
        size: of the images that it paints; they are resized there and back (bicubic).
        steps, guidance: of the sampling.
        seed: of its noise, with the image's name.
        sha256: of all its weights.
    """

    pipeline: Any
    folder: Path
    size: int
    steps: int
    guidance: float
    seed: int
    sha256: str

    @property
    def description(self) -> dict[str, Any]:
        """Class, versions and options."""
        import diffusers

        return {
            "pipeline": type(self.pipeline).__name__,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "folder": self.folder.name,
            "sha256": self.sha256,
            "size": self.size,
            "steps": self.steps,
            "guidance": self.guidance,
            "seed": self.seed,
            "diffusers": diffusers.__version__,
            "torch": torch.__version__,
        }

    def paint(self, pixels: np.ndarray, region: np.ndarray, prompt: str, name: str) -> np.ndarray | None:
        """As `Painter.paint`."""
        large = (self.size, self.size)
        key = noise.sample_key(self.seed, name, "inpainting") & (2**63 - 1)
        # Pipelines draw from torch's global generator where they are given none; this one depends on names alone.
        with noise.seeded_initialisation(key):
            result = self.pipeline(
                prompt=prompt,
                image=Image.fromarray(pixels).resize(large, Image.Resampling.BICUBIC),
                mask_image=Image.fromarray(region.astype(np.uint8) * 255).resize(large, Image.Resampling.NEAREST),
                height=self.size,
                width=self.size,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
            )
        if any(getattr(result, "nsfw_content_detected", None) or []):
            return None
        painted = result.images[0].convert("RGB").resize(pixels.shape[1::-1], Image.Resampling.BICUBIC)
        return np.asarray(painted)


def load_painter(
    folder: Path, size: int = 512, steps: int = 50, guidance: float = 7.5, seed: int = 0, device: str = "cpu"
) -> DiffusersPainter:
    """A painter from the folder of a diffusers pipeline; nothing is downloaded, only safetensors are read.

    Raises:
        UsageError: no such pipeline there, weights in another format, or transformers is not installed.
    """
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"--pipeline {folder} is not the folder of a diffusers pipeline: it has no model_index.json; "
            "download an inpainting pipeline there"
        )
    try:
        import transformers  # noqa: F401  # the text encoders of these pipelines are its
    except ImportError as error:
        raise UsageError("--pipeline: inpainting pipelines need the package transformers; install it") from error
    from diffusers import AutoPipelineForInpainting

    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"--pipeline {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return DiffusersPainter(pipeline.to(device), folder, size, steps, guidance, seed, _digest(folder))


def _digest(folder: Path) -> str:
    """sha256 over the names and contents of a pipeline's weights and configurations."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".txt") and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder)} {content}\n".encode())
    return total.hexdigest()


def parse_box(text: str) -> tuple[float, float, float, float]:
    """ "0.36,0.14,0.6,0.86" to (top, left, bottom, right).

    Raises:
        UsageError: not four shares in rising order.
    """
    try:
        top, left, bottom, right = map(float, text.split(","))
    except ValueError as error:
        raise UsageError(f"--region {text!r} is not four numbers like 0.36,0.14,0.6,0.86") from error
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise UsageError(f"--region {text!r}: top < bottom and left < right are needed, all in [0, 1]")
    return top, left, bottom, right


def fixed_region(size: int, box: tuple[float, float, float, float] = EYE_REGION) -> np.ndarray:
    """A rectangle as a mask: bool (size, size).

    Args:
        box: top, left, bottom, right as shares of the size.
    """
    top, left, bottom, right = (round(share * size) for share in box)
    region = np.zeros((size, size), dtype=bool)
    region[top:bottom, left:right] = True
    return region


def mask_number(sample_id: str) -> int:
    """CelebA-HQ's number of an image: the last digits in the name of its file.

    Raises:
        UsageError: no digits there.
    """
    digits = re.findall(r"\d+", Path(sample_id).stem)
    if not digits:
        raise UsageError(f"--masks: {sample_id!r} has no CelebA-HQ number in its name, so that its masks are unknown")
    return int(digits[-1])


def mask_region(folder: Path, sample_id: str, size: int) -> np.ndarray | None:
    """The rectangle around both eyes of a CelebA-HQ image, wide enough for glasses: bool (size, size).

    Args:
        folder: CelebAMask-HQ-mask-anno, as it is published (0/00000_l_eye.png and so on).

    Returns:
        None where the image has no mask of one of the eyes.

    Raises:
        UsageError: no such folder, or a damaged mask.
    """
    number = mask_number(sample_id)
    place = folder / str(number // MASKS_A_FOLDER)
    if not place.is_dir():
        raise UsageError(f"--masks {folder} has no folder {place.name}; give CelebAMask-HQ-mask-anno")
    eyes = np.zeros((size, size), dtype=bool)
    for part in MASK_PARTS:
        path = place / f"{number:05d}_{part}.png"
        if not path.is_file():
            return None
        try:
            mask = Image.fromarray(read_image(path)[..., 0])
        except BadImage as error:
            raise UsageError(f"--masks: {error}") from error
        found = np.asarray(mask.resize((size, size), Image.Resampling.BILINEAR)) > 127
        if not found.any():
            return None
        eyes |= found
    rows, columns = np.nonzero(eyes.any(axis=1))[0], np.nonzero(eyes.any(axis=0))[0]
    margin = round(MARGIN * (columns[-1] - columns[0] + 1))
    region = np.zeros((size, size), dtype=bool)
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    region[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin] = True
    return region
