"""What refilling free slots saves against waiting for a whole batch, from a recorded cell.

`python -m bench.occupancy DIR...` reads `samples.parquet` of every finished cell in suites' folders and counts
the steps that both ways need for the same searches in the recorded order. A step costs the same however many
of its slots work, so the ratio of steps is the ratio of search time; nothing is run.
"""

import heapq
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.errors import BenchError, UsageError
from bench.record import CellRecord, read_suite


@dataclass(frozen=True)
class Occupancy:
    """Steps of B slots for the same searches.

    Attributes:
        busy: slot-steps that work on an unfinished sample; the same both ways.
        refill: calls of the method's step where a free slot takes the next sample at once.
        masking: where a batch stays until all of it is done, as in the published code.
    """

    slots: int
    busy: int
    refill: int
    masking: int

    @property
    def ratio(self) -> float:
        """How many times more steps masking needs."""
        return self.masking / self.refill

    def __str__(self) -> str:
        def share(steps: int) -> str:
            return f"{steps} steps, occupancy {self.busy / (steps * self.slots):.4f}"

        refill, masking = share(self.refill), share(self.masking)
        return f"{self.slots} slots: refill {refill}; masking {masking}; ratio {self.ratio:.3f}"


def occupancy(iterations: Sequence[int], slots: int) -> Occupancy:
    """Count the steps both ways.

    Args:
        iterations: steps each sample holds a slot, at least 1, in the order of the run.
        slots: B.
    """
    free_at = [0] * slots  # a heap: the slot that is free first takes the next sample
    for count in iterations:
        heapq.heappush(free_at, heapq.heappop(free_at) + count)
    batches = [max(iterations[start : start + slots]) for start in range(0, len(iterations), slots)]
    return Occupancy(slots, sum(iterations), max(free_at), sum(batches))


def held_steps(frame: pd.DataFrame) -> list[int]:
    """How long each sample held its slot.

    Records from before "iterations" was kept have updates only; the step that found a sample done updated nothing.
    """
    if "iterations" in frame:
        return frame["iterations"].tolist()
    return (frame["steps"] + frame["reached"].astype(int)).tolist()


def of_cell(folder: Path, cell: CellRecord) -> Occupancy:
    """The count for a finished cell, in a suite's folder.

    Raises:
        UsageError: the cell's samples cannot be read.
    """
    path = folder / cell.id / "samples.parquet"
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    return occupancy(held_steps(frame), cell.facts["batch_size"])


def main(arguments: Sequence[str]) -> int:
    """Print a line for each finished cell; returns the exit code."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: python -m bench.occupancy DIR...", file=sys.stderr)
        return 2
    try:
        for folder in map(Path, arguments):
            for cell in read_suite(folder).cells:
                if cell.status == "ok":
                    print(f"{folder / cell.id}: {of_cell(folder, cell)}")
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
