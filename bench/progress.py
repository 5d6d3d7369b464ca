"""Live progress on standard error: a display on a terminal, a line every few seconds elsewhere."""

import sys
import threading
import time
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

HEARTBEAT_SECONDS = 5.0


class Display:
    """What is being done, how far it is, how long it will take. Use as a context manager.

    `phase` may be called from the working thread at any rate; a thread of the display's own keeps it
    moving while that thread is busy, for example inside a compiler.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.console = Console(file=self.stream)
        self._begun = self._phase_begun = time.monotonic()
        self._title, self._text, self._done, self._total = "", "", 0, 0
        self._stop = threading.Event()
        self._bar: Progress | None = None

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.fields[title]}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=self.console, refresh_per_second=4)
            self._bar.start()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def begin(self, title: str, total: int) -> None:
        """Start a new bar, for example a cell with `total` images."""
        self._title, self._done, self._total, self._begun = title, 0, total, time.monotonic()
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task("", total=total, title=title, text="")

    def phase(self, text: str, done: int | None = None) -> None:
        """Say what is being done now; `done` moves the bar."""
        if text.partition(" ")[0] != self._text.partition(" ")[0]:
            self._phase_begun = time.monotonic()
        self._text = text
        self._done = self._done if done is None else done
        self._refresh()

    def message(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        if self._bar is not None and self._bar.task_ids:
            seconds = time.monotonic() - self._phase_begun
            text = f"{self._text} ({seconds:.0f} s)" if seconds >= 1 else self._text
            self._bar.update(self._bar.task_ids[0], completed=self._done, text=text)

    def _line(self) -> str:
        elapsed = time.monotonic() - self._begun
        eta = f", eta {elapsed / self._done * (self._total - self._done):.0f} s" if 0 < self._done < self._total else ""
        return f"{self._title}  {self._done}/{self._total}  {elapsed:.0f} s{eta}  {self._text}"

    def _beat(self) -> None:
        last = 0.0
        while not self._stop.wait(0.25):
            if self._bar is not None:
                self._refresh()
            elif time.monotonic() - last >= HEARTBEAT_SECONDS and self._title:
                last = time.monotonic()
                print(self._line(), file=self.stream, flush=True)
