"""Ending: this process like Ctrl-C would, and other processes with all that they started."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt, so that a job that is cancelled ends like Ctrl-C ends it.

    Only in a process's main thread, as Python sets no signal's handler in another (ValueError).
    """

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def end_group(process: subprocess.Popen[bytes], grace_s: float, politely: signal.Signals = signal.SIGTERM) -> None:
    """End a process and all that it started, and wait for the process; nothing is done to those that have ended.

    Args:
        process: leader of a group of its own (`start_new_session=True`).
        grace_s: seconds that the process has between being asked and being killed.
        politely: the signal that asks it.
    """
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, politely)
        process.wait(grace_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what the process left behind, too
    process.wait()
