"""Credits of data sets whose licence asks for one, on pages and at the foot of figures."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from bench.datasets import CREDITS

_SIZE, _LINE, _MARGIN = 5.5, 0.1, 0.1  # of letters in points; of a line, and beside and above the text in inches
_LETTERS = 23
"""Letters of that size an inch, at least."""


def credits_of(datasets: Iterable[str]) -> list[str]:
    """The credits that pictures of these data sets have to show, each once; none for data sets that ask for none."""
    return [CREDITS[name].text() for name in dict.fromkeys(datasets) if name in CREDITS]


@dataclass(frozen=True)
class Foot:
    """Lines at the foot of a figure, beneath its pictures."""

    lines: list[str]

    @property
    def height(self) -> float:
        """What the figure has to be higher by, in inches; 0 without lines."""
        return _LINE * len(self.lines) + _MARGIN if self.lines else 0.0

    def write(self, figure: Figure) -> None:
        """Write the lines on a figure that has room for them."""
        if self.lines:
            width, height = figure.get_size_inches()
            place = _MARGIN / width, 0.5 * _MARGIN / height
            figure.text(*place, "\n".join(self.lines), fontsize=_SIZE, color="0.3", va="bottom")


def foot_of(datasets: Iterable[str], width: float) -> Foot:
    """The credits of some data sets, broken into lines.

    Args:
        width: of the figure, in inches.
    """
    letters = int((width - 2 * _MARGIN) * _LETTERS)
    credits = credits_of(datasets)
    return Foot([line for credit in credits for line in textwrap.wrap(credit, letters, break_on_hyphens=False)])
