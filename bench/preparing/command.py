"""The verb `prepare`: a published data set, checked, cropped and resized, in a folder with a manifest."""

from pathlib import Path

from bench.errors import UsageError
from bench.preparing.plan import SPLITS
from bench.registry import resolve

PLANS: dict[str, str] = {
    "celebahq": "bench.preparing.celebahq:plan_celebahq",
    "imdb-wiki-clean": "bench.preparing.imdb:plan_imdb",
}
"""Data set -> "module:function" that checks it."""

_MAX_SIZE = 1024


def prepare(name: str, root: Path, output: Path | None, size: int, split: str) -> list[str]:
    """Prepare a data set; an interrupted preparation goes on from where it was.

    Args:
        name: "celebahq" or "imdb-wiki-clean".
        root: the folder of the data set as published; see docs/data.md.
        output: the folder to write; default: ROOT-prepared-SIZE, beside `root`.
        size: height and width of the images, at most 1024 (the published size); 256 in the paper.
        split: "train", "valid", "test" or "all".

    Returns:
        Lines for people.

    Raises:
        UsageError: the data cannot be used. Tables are checked before anything is written.
        RunError: the folder cannot be written.
    """
    plan = resolve(PLANS, name, "data set")
    if split not in (*SPLITS, "all"):
        raise UsageError(f"--split {split}: train, valid, test or all are there")
    if not 8 <= size <= _MAX_SIZE:
        raise UsageError(f"--size {size}: 8 to {_MAX_SIZE} pixels are possible")
    if not root.is_dir():
        raise UsageError(f"--root {root}: not a folder")
    checked = plan(root, split)
    target = output or root.resolve().with_name(f"{root.resolve().name}-prepared-{size}")
    from bench.preparing.store import write_prepared

    return write_prepared(checked, target, size, split)
