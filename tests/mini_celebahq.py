"""Miniature face data sets in the published layouts: file names, columns and formats are real, the pixels are not."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from bench.preparing.celebahq import ATTRIBUTES
from bench.preparing.imdb import LANDMARKS
from methods import noise

_PARTITIONS = (2, 0, 2, 0, 1, 2)  # test, train and validation, as list_eval_partition.txt numbers them
_IMDB_HEADER = "filename,age,gender,x_min,y_min,x_max,y_max,head_roll,head_yaw,head_pitch"


def picture(seed: int, size: int, brightness: float = 0.5) -> Image.Image:
    """A smooth random RGB image; `brightness` is its mean in [0, 1]."""
    coarse = brightness + 0.12 * noise.numpy_normal(seed, (8, 8, 3))
    coarse += brightness - coarse.mean()
    pixels = np.rint(coarse.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def write_jpeg(path: Path, image: Image.Image) -> None:
    """A JPEG of quality 95."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    path.write_bytes(buffer.getvalue())


def attribute_labels(count: int) -> np.ndarray:
    """Labels of -1 and 1, int (count, 40); Young takes both values in every split."""
    labels = np.where(noise.numpy_normal(40, (count, len(ATTRIBUTES))) > 0, 1, -1)
    labels[:, ATTRIBUTES.index("Young")] = np.where(np.arange(count) // 2 % 2 == 0, 1, -1)
    return labels


def write_celebahq(root: Path, count: int = 12, size: int = 64) -> Path:
    """A CelebAMask-HQ folder with the partition file of CelebA beside it.

    Half of the images are of the test split, a third of train, the rest of validation.

    Args:
        root: the folder to fill; made where it is missing.
        count: number of images.
        size: their height and width (1024 in the published set).

    Returns:
        root.
    """
    root.mkdir(parents=True, exist_ok=True)
    labels = attribute_labels(count)
    annotation = [str(count), " ".join(ATTRIBUTES)]
    mapping = ["idx      orig_idx   orig_file"]
    partition = []
    for index in range(count):
        write_jpeg(root / "CelebA-HQ-img" / f"{index}.jpg", picture(index, size))
        original = 1000 + 7 * index % 1000
        annotation.append(f"{index}.jpg  " + " ".join(map(str, labels[index])))
        mapping.append(f"{index}        {original - 1}     {original:06d}.jpg")
        partition.append(f"{original:06d}.jpg {_PARTITIONS[index % len(_PARTITIONS)]}")
    partition += ["000001.jpg 0", "000002.jpg 0"]  # CelebA holds more images than CelebA-HQ
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(annotation) + "\n")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(sorted(partition)) + "\n")
    return root


def write_imdb_clean(root: Path, count: int = 24, size: int = 64) -> Path:
    """An imdb-clean folder as its repository lays it out, with the detector's landmarks.

    Two thirds of the images are of train, a sixth each of valid and test; bright images are of old people, so that
    a regressor has something to learn.

    Args:
        root: the folder to fill; made where it is missing.
        count: number of images.
        size: their height and width (up to 1024 in the published set).

    Returns:
        root.
    """
    tables: dict[str, list[str]] = {split: [_IMDB_HEADER] for split in ("train", "valid", "test")}
    points = ["filename," + ",".join(LANDMARKS)]
    face = np.array([0.4, 0.4, 0.6, 0.4, 0.5, 0.52, 0.43, 0.65, 0.57, 0.65]) * size
    for index in range(count):
        age = 10 + 80 * index // max(1, count - 1)
        name = f"{index % 3:02d}/nm{index:07d}_rm{index}_1950-1-1_{1950 + age}.jpg"
        write_jpeg(root / "data" / "imdb-clean-1024" / name, picture(1000 + index, size, age / 100))
        split = ("train", "train", "valid", "train", "train", "test")[index % 6]
        tables[split].append(f"{name},{age},F,{size // 4},{size // 4},{size // 2},{size // 2},0.0,0.0,0.0")
        points.append(f"{name}," + ",".join(f"{value:.4f}" for value in face))
    folder = root / "csvs"
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in tables.items():
        (folder / f"imdb_{split}_new_1024.csv").write_text("\n".join(lines) + "\n")
    (folder / "imdb_1024_retinaface_predictions.csv").write_text("\n".join(points) + "\n")
    return root
