"""MLflow's own page of a store, on this machine only."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import UsageError
from bench.tracking.server import ARTIFACTS, is_http, redacted, sqlite_file

ENDING_S = 10.0
"""Time that MLflow's processes have to end when they are asked to."""


def page_command(uri: str, port: int) -> list[str]:
    """The command that shows a store on 127.0.0.1.

    Raises:
        UsageError: a tracking server has its own page; or there is no such file.
    """
    if is_http(uri):
        raise UsageError(f"{redacted(uri)} is a tracking server, which has a page of its own: open that address")
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise UsageError(f"no MLflow store at {file}; run something first or name another folder with --runs")
    options = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if file is not None:  # else what is sent to this page would land in the working directory
        options += ["--artifacts-destination", (file.resolve().parent / ARTIFACTS).as_uri()]
    return [sys.executable, "-m", "mlflow", "ui", *options]


def show_page(command: list[str]) -> int:
    """Run MLflow's page until it ends, or Ctrl-C or SIGTERM ends it; returns its exit status.

    MLflow starts processes of its own and leaves them behind when only the first is told to stop, so all of them are.
    Workers for jobs of language models, which are most of them, are not started.
    """
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    with _stopped_by_termination():
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end_group(process)


@contextmanager
def _stopped_by_termination() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started: politely, then not."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            continue
