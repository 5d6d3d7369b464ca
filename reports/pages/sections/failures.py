from collections.abc import Sequence

from reports.pages.blocks import Section
from reports.records import Cell


def build(cells: Sequence[Cell]) -> Section | None:
    return None
