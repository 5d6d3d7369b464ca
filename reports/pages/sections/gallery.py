"""Pictures of every sample with its figures, sortable and paged in the page."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from reports.credits import credits_of
from reports.pages.blocks import Gallery, Section, Text
from reports.records import Cell
from reports.sweep import DIFFERENCE_MAXIMUM
from reports.thumbnails import Files, Thumbnails, choose, colour_bar, data_uri, encode, uri_bytes

PICTURES_LIMIT = 15_000_000
"""Bytes of all pictures as data URIs."""
GALLERY_LIMIT = 16_000_000
"""Bytes of pictures and figures together: a page of 20 MB has to hold the other sections, too."""
ITEMS_LIMIT = 10_000
"""Samples that are listed."""
FIRST = 500
"""Failures of a cell that come first where not everything fits, and worst samples of it that follow."""
_SPARE = 1.1
"""Pictures are made for this much more than is expected to fit; what does not fit in the end is left out."""

INTRO = (
    "Input, reconstruction (where one was recorded), counterfactual, and the mean signed difference between input and "
    "counterfactual on one colour scale for all pictures. r is the regressor's prediction on the saved image before "
    "and after; valid means within the tolerance of the target. Open a picture to see it larger with all its figures."
)


@dataclass(frozen=True)
class _Sample:
    """A row of a cell; `place` counts the samples in the order of the records."""

    place: int
    cell: int
    row: pd.Series
    files: Files

    @property
    def failed(self) -> bool:
        return bool(pd.notna(self.row["failure"]))

    @property
    def error(self) -> float:
        """|r - target|; infinite where it is not a number."""
        error = float(self.row["prediction_error"])
        return error if math.isfinite(error) else math.inf


def _samples(cells: Sequence[Cell]) -> list[_Sample]:
    """Every recorded row of the cells."""
    rows = (
        (number, cell, row)
        for number, cell in enumerate(cells)
        if len(cell.samples)
        for _, row in cell.samples.iterrows()
    )
    return [
        _Sample(
            place,
            number,
            row,
            Files(cell.input_path(row), cell.image_path(row), cell.reconstruction_path(row)),
        )
        for place, (number, cell, row) in enumerate(rows)
    ]


def _spread(samples: Sequence[_Sample]) -> list[_Sample]:
    """In an order of which every beginning is spread evenly over them: places by their reversed bits."""
    return [samples[place] for place in sorted(range(len(samples)), key=lambda place: f"{place:032b}"[::-1])]


def _of_one_cell(samples: Sequence[_Sample]) -> list[_Sample]:
    """Failures, then the worst by error, then spread evenly over the rest."""
    failures = [sample for sample in samples if sample.failed][:FIRST]
    judged = [sample for sample in samples if not sample.failed]
    worst = sorted(judged, key=lambda sample: -sample.error)[:FIRST]
    taken = {sample.place for sample in (*failures, *worst)}
    return [*failures, *worst, *_spread([sample for sample in samples if sample.place not in taken])]


def _by_priority(samples: Sequence[_Sample]) -> list[_Sample]:
    """What is shown where not everything fits, first what comes first; the cells take turns."""
    by_cell: dict[int, list[_Sample]] = {}
    for sample in samples:
        by_cell.setdefault(sample.cell, []).append(sample)
    turns = zip_longest(*(_of_one_cell(own) for own in by_cell.values()))
    return [sample for sample in chain.from_iterable(turns) if sample is not None]


def _figures(row: pd.Series) -> dict[str, float]:
    """All finite numbers of a row by column, to five significant digits; flags are no numbers."""
    numbers = {name: value for name, value in row.items() if isinstance(value, Real) and name != "valid"}
    return {
        name: float(f"{value:.5g}")
        for name, value in numbers.items()
        if not isinstance(value, bool) and math.isfinite(value)
    }


class _Identities:
    """Numbers of samples; cells that explain the same image with the same target share one.

    Where cells of a dataset have the same data, the id says it; else the bytes of the input decide.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.data: dict[str, set[Any]] = {}
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.digest = cache(_digest)
        for cell in cells:
            self.data.setdefault(cell.record.dataset, set()).add(cell.record.facts.get("data"))

    def number(self, sample: _Sample, cell: Cell) -> int:
        """Of the sample of a cell."""
        identity: tuple[Any, ...] = (cell.record.dataset, sample.row["id"])
        if len(self.data[cell.record.dataset]) > 1:
            data = self.digest(sample.files.original) or cell.record.facts.get("data")
            identity += (round(float(sample.row["target"]), 6), data)
        return self.numbers.setdefault(identity, len(self.numbers))


def _digest(path: Path) -> str:
    """sha256 of a file; empty where it cannot be read, which its picture tells."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _item(sample: _Sample, cell: Cell, number: int) -> dict[str, Any]:
    """A sample as the page's scripts get it, without pictures.

    Returns:
        cell: number of its cell. sample: `number`, which the same sample of other cells has as well. id, figures:
        column -> number. state: "valid", "invalid" or "failed". failure: its reason, where it failed.
    """
    row = sample.row
    item = {
        "cell": sample.cell,
        "sample": number,
        "id": row["id"],
        "state": "failed" if sample.failed else "valid" if row["valid"] > 0 else "invalid",
        "figures": _figures(row),
    }
    return item | ({"failure": str(row["failure"])} if sample.failed else {})


class _Pool:
    """Pictures as data URIs, each once, as long as they fit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self.places: dict[bytes, int] = {}

    def add(self, thumbnails: Thumbnails) -> list[int | None] | None:
        """The places of a sample's pictures; None where they do not fit."""
        new = {picture for picture in thumbnails.parts if picture is not None and picture not in self.places}
        if self.bytes + uri_bytes(new) > self.limit:
            return None
        self.bytes += uri_bytes(new)
        return [
            None if picture is None else self.places.setdefault(picture, len(self.places))
            for picture in thumbnails.parts
        ]

    def uris(self) -> list[str]:
        return [data_uri(picture) for picture in self.places]


def _add_pictures(samples: Sequence[_Sample], items: dict[int, dict[str, Any]], limit: int) -> tuple[list[str], int]:
    """Give items their pictures, in the order of the samples and as far as they fit.

    Each gets `pictures`, places of input, reconstruction, counterfactual and difference (None where there is none),
    and `problems` where images could not be used.

    Returns:
        The pictures as data URIs, and the number of samples that have theirs.
    """
    encoding, expected = choose([sample.files for sample in samples], limit)
    tried = samples[: math.ceil(expected * _SPARE)]
    pool, shown = _Pool(limit), 0
    for sample, thumbnails in zip(tried, encode([sample.files for sample in tried], encoding), strict=True):
        places = pool.add(thumbnails)
        if places is None:
            continue
        shown += 1
        items[sample.place]["pictures"] = places
        if thumbnails.problems:
            items[sample.place]["problems"] = list(thumbnails.problems)
    return pool.uris(), shown


def _notes(total: int, listed: int, shown: int, items: Sequence[dict[str, Any]]) -> Iterator[Text]:
    """What is left out, and what could not be read."""
    rule = f"of each cell up to {FIRST} failures, then the {FIRST} worst by error, then samples spread evenly"
    if listed < total:
        yield Text(f"{listed:,} of {total:,} samples are listed: {rule}.", "note")
    if shown < listed:
        yield Text(f"Pictures for {shown:,} of {listed:,} samples, so that the page stays small: {rule}.", "note")
    problems = sorted({problem for item in items for problem in item.get("problems", [])})
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        yield Text(f"Images that cannot be shown: {'; '.join(problems[:3])}{more}.", "warning")


def build(cells: Sequence[Cell]) -> Section | None:
    """The gallery of all cells' samples; None where no sample is recorded."""
    samples = _samples(cells)
    if not samples:
        return None
    listed = _by_priority(samples)[:ITEMS_LIMIT]
    identities = _Identities(cells)
    in_order = [(sample, cells[sample.cell]) for sample in sorted(listed, key=lambda sample: sample.place)]
    items = {sample.place: _item(sample, cell, identities.number(sample, cell)) for sample, cell in in_order}
    room = GALLERY_LIMIT - len(json.dumps(list(items.values()))) - 60 * len(items)  # 60: places of the pictures
    pictures, shown = _add_pictures(listed, items, min(PICTURES_LIMIT, room))
    shown_items = list(items.values())
    gallery = Gallery(
        id="gallery-pictures",
        cells=[cell.label for cell in cells],
        items=shown_items,
        pictures=pictures,
        scale=data_uri(colour_bar()),
        limit=DIFFERENCE_MAXIMUM,
    )
    notes = list(_notes(len(samples), len(listed), shown, shown_items))
    credits = [Text(credit, "note") for credit in credits_of(cells[sample.cell].record.dataset for sample in listed)]
    return Section("gallery", "Pictures", [*notes, gallery, *credits], intro=INTRO)
