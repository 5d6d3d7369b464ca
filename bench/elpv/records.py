"""Finished records of ELPV brought together: the same photographs, explained by several methods, under one judge."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.checkpoints import load_network, weights_path
from bench.datasets.elpv import ElpvConfig, ElpvDataset
from bench.datasets.elpv_files import manifest
from bench.elpv.changes import CHANGES, DEFECTS, brightness_changes, defects
from bench.errors import UsageError
from bench.images import BadImage, read_saved, to_float
from bench.state_files import Loaded
from reports.records import Cell, read_cells

DATASET = "elpv"
ORACLE = "oracle_before"
"""Column of a table of samples: o(x), the oracle on the unchanged photograph."""
_FROM_MANIFEST = ["probability", "type"]


def elpv_cells(folders: Sequence[Path]) -> tuple[list[Cell], list[Cell]]:
    """The finished cells on ELPV of some runs: those with one reference value an image, and those with several.

    Raises:
        UsageError: a folder is no record, there is no such cell, a method is there twice, or the cells are not of the
            same images or networks.
    """
    cells = [cell for cell in read_cells(folders) if cell.finished and cell.record.dataset == DATASET]
    if not cells:
        named = ", ".join(map(str, folders))
        raise UsageError(f"{named}: no finished cell of the data set elpv; make one with `run --dataset elpv`")
    granular = [cell for cell in cells if "source" in cell.samples]
    single = [cell for cell in cells if "source" not in cell.samples]
    for part in (single, granular):
        _refuse_twice(part)
    for cell in cells[1:]:
        _refuse_others(cells[0], cell)
    return single, granular


def _refuse_twice(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.record.method, cell)
        if other is not cell:
            raise UsageError(
                f"{cell.folder / cell.record.id} and {other.folder / other.record.id} are of one method "
                f"({cell.record.method}); give one run of each"
            )


def _refuse_others(first: Cell, cell: Cell) -> None:
    """Refuse what cannot be compared with the first cell."""
    where = f"{cell.folder / cell.record.id} and {first.folder / first.record.id}"
    for role in ("regressor", "oracle"):
        if cell.record.weights.get(role) != first.record.weights.get(role):
            raise UsageError(f"{where} have different networks as weights.{role}; run both with the same one")
    if data_options(cell) != data_options(first):
        raise UsageError(f"{where} have different options of the data set elpv; run both with the same ones")


def data_options(cell: Cell) -> dict[str, object]:
    """A cell's options of the data set, without where its files lie."""
    return {key: value for key, value in cell.record.options[DATASET].items() if key != "path"}


def common_ids(cells: Sequence[Cell]) -> list[str]:
    """Photographs that all cells explain, in the order of the published list.

    Raises:
        UsageError: there is none, or a cell explains one for another reference value.
    """
    targets = [cell.samples.set_index("id")["target"] for cell in cells]
    ids = [name for name in targets[0].index if all(name in other.index for other in targets)]
    if not ids:
        raise UsageError("the runs have no image in common; run them with the same --limit")
    for cell, other in zip(cells, targets, strict=True):
        if not other[ids].equals(targets[0][ids]):
            raise UsageError(
                f"{cell.folder / cell.record.id} and {cells[0].folder / cells[0].record.id} explain the same image "
                "for different reference values; run both with the same regressor and elpv.target"
            )
    return ids


def table_of(cell: Cell, unchanged: pd.DataFrame) -> pd.DataFrame:
    """A cell's samples of some photographs, a row each, by id, with what this comparison adds.

    Args:
        unchanged: of `unchanged_table`, its photographs among the cell's.

    Returns:
        The columns of samples.parquet; "probability" and "type" of the published list; "oracle_before"; the columns
        of `bench.elpv.changes.CHANGES`, NaN for a failed sample.

    Raises:
        UsageError: a saved image is gone or damaged.
    """
    frame = cell.samples.set_index("id").loc[list(unchanged.index)]
    frame = frame.join(manifest().set_index("file")[_FROM_MANIFEST], how="left")
    frame[ORACLE] = unchanged[ORACLE]
    changes = [_changes(cell, row, unchanged.loc[name]) for name, row in frame.iterrows()]
    return frame.join(pd.DataFrame(changes, index=frame.index))


def _changes(cell: Cell, row: pd.Series, unchanged: pd.Series) -> dict[str, float]:
    path = cell.image_path(row)
    if path is None:
        return dict.fromkeys(CHANGES, float("nan"))
    counterfactual = read(path)
    found = {key: after - float(unchanged[key]) for key, after in defects(counterfactual).items()}
    return brightness_changes(read(cell.input_path(row)), counterfactual) | found


def read(path: Path) -> np.ndarray:
    """An image of a record, uint8 (H, W, C).

    Raises:
        UsageError: gone or damaged.
    """
    try:
        return read_saved(path)
    except BadImage as error:
        raise UsageError(f"{error}; run the cell again") from error


def load_oracle(cell: Cell) -> Loaded:
    """The oracle that judged a cell.

    Raises:
        UsageError: its file is gone or another one, or it is not in a file but made by code.
    """
    config = ElpvConfig.model_validate(data_options(cell))
    references = ElpvDataset(config).weights | cell.suite.config.get("weights", {})
    path = weights_path(str(references.get("oracle", "")))
    if not path.is_file():
        raise UsageError(f"{cell.folder}: its oracle is needed for the unchanged images, and {path} is no file")
    loaded = load_network(str(path), "oracle")
    if loaded.sha256 != cell.record.weights.get("oracle"):
        raise UsageError(f"{cell.folder}: weights.oracle ({path}) is not the file of the record; restore that one")
    return loaded


@torch.no_grad()
def unchanged_table(cell: Cell, ids: Sequence[str], oracle: Loaded) -> pd.DataFrame:
    """What is measured on photographs themselves that a cell explains, a row each, by id.

    Returns:
        "oracle_before", o(x), one at a time, as saved images are judged; and the attributes of
        `bench.elpv.changes.DEFECTS`.

    Raises:
        UsageError: a saved original is gone or damaged.
    """
    found = []
    for _, row in cell.samples.set_index("id").loc[list(ids)].iterrows():
        image = read(cell.input_path(row))
        prediction = float(oracle.network(torch.from_numpy(to_float(image))[None]))
        found.append({ORACLE: prediction} | defects(image))
    return pd.DataFrame(found, index=list(ids), columns=[ORACLE, *DEFECTS])
