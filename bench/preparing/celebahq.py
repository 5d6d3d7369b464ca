"""CelebA-HQ as CelebAMask-HQ publishes it, with the splits of CelebA: 256x256 PNG images and their 40 labels.

Sources: CelebAMask-HQ (images, labels, mapping to CelebA), CelebA (partition). An image's split is that of the
CelebA image it was made from, which gives 24,183 training, 2,993 validation and 2,824 test images.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from bench.errors import UsageError
from bench.images import BadImage, png_bytes, read_image
from bench.preparing.plan import SPLITS, Job, Plan, check_files
from bench.preparing.tables import find, image_name, once, read_csv, read_lines

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
"""The 40 binary attributes of CelebA, in the order of its files."""

PUBLISHED_SPLITS = {"train": 24_183, "valid": 2_993, "test": 2_824}
ANNOTATION = "CelebAMask-HQ-attribute-anno.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTITION = "list_eval_partition.txt"
CELEBA_LABELS = "list_attr_celeba.txt"
IMAGES = "CelebA-HQ-img"
_ORIGIN = "CelebAMask-HQ.zip (github.com/switchablenorms/CelebAMask-HQ)"
_CELEBA = "CelebA (mmlab.ie.cuhk.edu.hk/projects/CelebA.html, folder Eval)"
_MAX_DIFFERING_LABELS = 0.05


def plan_celebahq(root: Path, split: str) -> Plan:
    """Check everything but the pixels.

    Args:
        root: CelebAMask-HQ, or the folder it lies in; the partition file in it, beside it, or in CelebA's Eval.
        split: "train", "valid", "test" or "all": whose images are wanted. Labels are kept of all splits.

    Raises:
        UsageError: a file that is missing or does not fit the others; names it, and the line.
    """
    base = next((folder for folder in (root, root / "CelebAMask-HQ") if (folder / ANNOTATION).is_file()), root)
    annotation, mapping = find(ANNOTATION, [base], _ORIGIN), find(MAPPING, [base], _ORIGIN)
    partition = _find_partition(base)
    tables = {path.name: path for path in (annotation, mapping, partition)}
    names, labels = read_attributes(annotation, r"\d+\.jpg")
    originals = _read_mapping(mapping, names)
    splits = _assign_splits(partition, mapping, originals)
    notes = _check_sizes(splits, partition)
    celeba = next((path for path in (base / CELEBA_LABELS, base.parent / CELEBA_LABELS) if path.is_file()), None)
    if celeba is not None:
        tables[celeba.name] = celeba
        notes.append(_compare_labels(celeba, annotation, originals, labels))
    wanted = [index for index, kind in enumerate(splits) if split in (kind, "all")]
    check_files(base / IMAGES, [names[i] for i in wanted], set(names), annotation, _ORIGIN)
    files = [""] * len(names)
    jobs = []
    for index in wanted:
        files[index] = f"images/{Path(names[index]).stem}.png"
        jobs.append(Job(names[index], base / IMAGES / names[index], files[index]))
    frame = pd.DataFrame({"id": names, "file": files, "split": splits})
    frame = pd.concat([frame, pd.DataFrame(labels, columns=list(ATTRIBUTES))], axis=1)
    recipe = {"crop": "none", "resize": "Pillow BILINEAR (antialiased)", "encoding": "PNG"}
    return Plan("celebahq", tables, frame, jobs, recipe, notes, render)


def render(job: Job, size: int) -> bytes:
    """A 1024x1024 JPEG as a PNG of the wanted size: Pillow's bilinear filter, which the published code used.

    Raises:
        BadImage: damaged, not square, or smaller than `size`.
    """
    pixels = read_image(job.source)
    height, width = pixels.shape[:2]
    if height != width or height < size:
        raise BadImage(f"{job.source}: {width}x{height} pixels; a square of at least {size} is needed")
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return png_bytes(np.asarray(resized))


def read_attributes(path: Path, pattern: str) -> tuple[list[str], np.ndarray]:
    """A CelebA attribute file: number of images, names of the attributes, then a line an image.

    Returns:
        File names, and labels int8 (N, 40) in {-1, 1}.

    Raises:
        UsageError: another form, a label out of range, an image twice, or fewer or more images than line 1 says.
    """
    lines = read_lines(path)
    if len(lines) < 3 or not lines[0][1][0].isdecimal() or tuple(lines[1][1]) != ATTRIBUTES:
        raise UsageError(f"{path}: not an attribute file of CelebA; its second line has to name the 40 attributes")
    names: list[str] = []
    seen: dict[str, str] = {}
    labels = np.empty((len(lines) - 2, len(ATTRIBUTES)), dtype=np.int8)
    for index, (number, words) in enumerate(lines[2:]):
        where = f"{path}, line {number}"
        names.append(image_name(words[0], pattern, where))
        once(words[0], seen, where)
        wrong = next((word for word in words[1:] if word not in ("1", "-1")), None)
        if wrong is not None or len(words) != 1 + len(ATTRIBUTES):
            fault = f"{len(words) - 1} labels" if wrong is None else f"label {wrong!r}"
            raise UsageError(f"{where}: {fault}; 40 labels of -1 or 1 are needed")
        labels[index] = [int(word) for word in words[1:]]
    if len(names) != int(lines[0][1][0]):
        raise UsageError(f"{path}: line 1 says {lines[0][1][0]} images, {len(names)} follow; the file is incomplete")
    return names, labels


def _read_mapping(path: Path, names: list[str]) -> list[str]:
    """The CelebA file that every image was made from."""
    lines = read_lines(path)
    if not lines or lines[0][1] != ["idx", "orig_idx", "orig_file"]:
        raise UsageError(f"{path}: not the mapping of CelebAMask-HQ; line 1 has to be 'idx orig_idx orig_file'")
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    images: dict[str, str] = {}
    for number, words in lines[1:]:
        where = f"{path}, line {number}"
        if len(words) != 3 or not words[0].isdecimal():
            raise UsageError(f"{where}: idx, orig_idx and orig_file are needed")
        original = image_name(words[2], r"\d+\.jpg", where)
        once(original, seen, where)
        once(f"{words[0]}.jpg", images, where)
        found[f"{words[0]}.jpg"] = original
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"{path} lacks {len(missing)} of the {len(names)} images, the first {missing[0]}")
    return [found[name] for name in names]


def _find_partition(base: Path) -> Path:
    """`list_eval_partition`, as CelebA has it (.txt) or as Kaggle's copy (.csv)."""
    near = [base, base.parent, *(f / "Eval" for f in (base, base.parent)), base.parent / "CelebA" / "Eval"]
    near += [base.parent / "CelebA", base.parent / "celeba"]
    copies = (folder / f"{Path(PARTITION).stem}{ending}" for ending in (".txt", ".csv") for folder in near)
    there = next((path for path in copies if path.is_file()), None)
    if there is not None:
        return there
    return find(PARTITION, near, _CELEBA)


def _assign_splits(partition: Path, mapping: Path, originals: list[str]) -> list[str]:
    """The split of every image, by the CelebA image it was made from."""
    if partition.suffix == ".csv":
        rows = [(n, [row["image_id"], row["partition"]]) for n, row in read_csv(partition, ("image_id", "partition"))]
    else:
        rows = read_lines(partition)
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    for number, words in rows:
        where = f"{partition}, line {number}"
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise UsageError(f"{where}: an image of CelebA and its partition (0, 1 or 2) are needed")
        once(words[0], seen, where)
        found[words[0]] = SPLITS[int(words[1])]
    missing = [name for name in originals if name not in found]
    if missing:
        raise UsageError(
            f"{partition} does not match {mapping.name}: it lacks {len(missing)} of its {len(originals)} "
            f"images, the first {missing[0]}"
        )
    return [found[name] for name in originals]


def _check_sizes(splits: list[str], partition: Path) -> list[str]:
    """Refuse a partition of the full set that is not the published one; say where a set is not the full one."""
    counts = {name: splits.count(name) for name in SPLITS}
    total = sum(PUBLISHED_SPLITS.values())
    if len(splits) != total:
        return [f"not the full set: {len(splits)} of {total} images"]
    wrong = [name for name in SPLITS if counts[name] != PUBLISHED_SPLITS[name]]
    if wrong:
        raise UsageError(
            f"{partition} is not CelebA's partition: {counts[wrong[0]]} {wrong[0]} images instead of the published "
            f"{PUBLISHED_SPLITS[wrong[0]]}"
        )
    return []


def _compare_labels(celeba: Path, annotation: Path, originals: list[str], labels: np.ndarray) -> str:
    """Labels of the two data sets for the same faces; many that differ mean files of different sets."""
    names, others = read_attributes(celeba, r"\d+\.jpg")
    rows = {name: index for index, name in enumerate(names)}
    missing = [name for name in originals if name not in rows]
    if missing:
        raise UsageError(f"{celeba} lacks {len(missing)} of the {len(originals)} images, the first {missing[0]}")
    differing = int((others[[rows[name] for name in originals]] != labels).sum())
    if differing > _MAX_DIFFERING_LABELS * labels.size:
        raise UsageError(
            f"{celeba} does not match {annotation.name}: {differing} of {labels.size} labels of the same faces differ"
        )
    return f"{differing} of {labels.size} labels differ from those in {celeba.name}"
