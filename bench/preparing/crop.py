"""The face crop of CelebA-HQ, for data that was not cropped so: an upright square from five landmarks.

Source: Karras et al., "Progressive growing of GANs" (ICLR 2018), appendix C, which made CelebA-HQ; the published code
crops imdb-wiki-clean by the same rule, to 1024 pixels, and resizes to 256 when it trains.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

WORKING_SIZE = 1024
"""Size at which the published rule crops, in pixels."""


@dataclass
class _Frame:
    """An image and the square to cut out of it, which follows every change of the image's coordinates.

    Attributes:
        corners: x and y of the upper left, lower left, lower right and upper right corner, float64 (4, 2).
        zoom: pixels of the result for one pixel of the image.
    """

    image: Image.Image
    corners: np.ndarray
    zoom: float

    def bounds(self) -> np.ndarray:
        """Left, top, right and bottom of the square's bounding box, int (4,)."""
        low, high = np.floor(self.corners.min(0)), np.ceil(self.corners.max(0))
        return np.concatenate([low, high]).astype(int)

    def scale(self, size: tuple[int, int], factor: float) -> None:
        """Resize the image to (width, height); `factor` is what its coordinates are multiplied with."""
        self.image = self.image.resize(size, Image.Resampling.LANCZOS)
        self.corners = self.corners * factor
        self.zoom /= factor


def _quarter_turn(vector: np.ndarray) -> np.ndarray:
    return np.array([-vector[1], vector[0]])


def face_square(landmarks: np.ndarray) -> np.ndarray:
    """The square that CelebA-HQ cuts around a face.

    Its sides follow the line between the eyes and that from the eyes to the mouth; its width is 4 times the first
    or 3.6 times the second, whichever is more.

    Args:
        landmarks: left eye, right eye, nose, left and right corner of the mouth, as seen, (x, y): float (5, 2).

    Returns:
        Corners as `_Frame` has them.

    Raises:
        ValueError: landmarks that span no square of at least a pixel.
    """
    left, right, _, mouth_left, mouth_right = np.asarray(landmarks, dtype=np.float64).reshape(5, 2)
    eyes, mouth = (left + right) / 2 + 0.5, (mouth_left + mouth_right) / 2 + 0.5
    across, down = right - left, mouth - eyes
    direction = across - _quarter_turn(down)
    length = np.hypot(*direction)
    half = max(2.0 * np.hypot(*across), 1.8 * np.hypot(*down))
    if not (length > 0 and half >= 1):  # false for NaN as well
        raise ValueError("the landmarks span no face")
    x = direction / length * half
    y, centre = _quarter_turn(x), eyes + 0.1 * down
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def align_face(image: Image.Image, landmarks: np.ndarray, size: int) -> Image.Image:
    """The face of an RGB image, upright, size x size.

    At 256 this is what the published code trains on, less the JPEG files of 1024 pixels that it keeps in between:
    cropped at 1024 pixels (four times `size`, at most 1024), supersampled four times, then resized with Pillow's
    bilinear filter.

    Args:
        landmarks: in pixels of `image`; see `face_square`.
        size: 1 to 1024.

    Raises:
        ValueError: landmarks that span no face.
    """
    working = min(WORKING_SIZE, 4 * size)
    corners = face_square(landmarks)
    width = np.hypot(*(corners[3] - corners[0]))
    frame = _Frame(image, corners, working / width)
    _shrink(frame)
    border = max(round(0.1 * working / frame.zoom), 3)
    _cut(frame, border)
    _enlarge(frame)
    _pad(frame, border, working)
    canvas = (4 * working, 4 * working)
    quad = tuple((frame.corners + 0.5).ravel())
    turned = frame.image.transform(canvas, Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)
    return turned.resize((working, working), Image.Resampling.LANCZOS).resize((size, size), Image.Resampling.BILINEAR)


def _shrink(frame: _Frame) -> None:
    """Bring a much too large image near the wanted size first."""
    factor = int(np.floor(0.5 / frame.zoom))
    if factor > 1:
        frame.scale((round(frame.image.width / factor), round(frame.image.height / factor)), 1 / factor)


def _cut(frame: _Frame, border: int) -> None:
    """Leave away what is farther than `border` pixels from the square."""
    left, top, right, bottom = frame.bounds()
    width, height = frame.image.size
    box = (max(left - border, 0), max(top - border, 0), min(right + border, width), min(bottom + border, height))
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("the landmarks lie outside of the image")
    if box[2] - box[0] < width or box[3] - box[1] < height:
        frame.image = frame.image.crop(box)
        frame.corners = frame.corners - np.array(box[:2])


def _enlarge(frame: _Frame) -> None:
    """Enlarge a small face by the next power of two with a sharper filter than the turn has."""
    factor = int(2 ** np.ceil(np.log2(frame.zoom)))
    if factor > 1:
        frame.scale((frame.image.width * factor, frame.image.height * factor), factor)


def _pad(frame: _Frame, border: int, working: int) -> None:
    """Where the square leaves the image: mirror the image outwards, blur and fade it towards its median colour."""
    left, top, right, bottom = frame.bounds()
    width, height = frame.image.size
    sides = np.maximum([-left + border, -top + border, right - width + border, bottom - height + border], 0)
    if sides.max() <= border - 4:
        return
    sides = np.maximum(sides, round(0.3 * working / frame.zoom))
    before_x, before_y, after_x, after_y = map(int, sides)
    pixels = np.asarray(frame.image, dtype=np.float32)
    pixels = np.pad(pixels, ((before_y, after_y), (before_x, after_x), (0, 0)), "reflect")
    height, width = pixels.shape[:2]
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    # 1 at the outer edge, 0 at the border of the original image, negative inside it
    outside = 1 - np.minimum(
        np.minimum(columns / before_x, rows / before_y),
        np.minimum((width - 1 - columns) / after_x, (height - 1 - rows) / after_y),
    )
    outside = outside[:, :, None]
    blur = 0.02 * working / frame.zoom
    pixels += (gaussian_filter(pixels, [blur, blur, 0]) - pixels) * np.clip(outside * 3 + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    frame.image = Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
    frame.corners = frame.corners + np.array([before_x, before_y])
