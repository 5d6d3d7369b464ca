"""MLflow's own page of a store, on this machine only."""

import os
import socket
import subprocess
import sys

from bench.errors import UsageError
from bench.processes import end_group, terminable
from bench.tracking.address import redacted
from bench.tracking.server import ARTIFACTS, is_http, sqlite_file

ENDING_S = 10.0
"""Time that MLflow's processes have to end when they are asked to."""


def page_command(uri: str, port: int) -> list[str]:
    """The command that shows a store on 127.0.0.1, which it is told by its environment (`show_page`).

    Raises:
        UsageError: a tracking server has its own page; or there is no such file; or the port is taken.
    """
    if is_http(uri):
        raise UsageError(f"{redacted(uri)} is a tracking server, which has a page of its own: open that address")
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise UsageError(f"no MLflow store at {file}; run something first or name another folder with --runs")
    _check_free(port)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if file is not None:  # else what is sent to this page would land in the working directory
        options += ["--artifacts-destination", (file.resolve().parent / ARTIFACTS).as_uri()]
    return [sys.executable, "-m", "mlflow", "ui", *options]


def _check_free(port: int) -> None:
    """MLflow ends with success where it cannot have its port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UsageError(f"--port {port} cannot be had ({error}); name another one") from error


def show_page(command: list[str], uri: str) -> int:
    """Run MLflow's page until it ends, or Ctrl-C or SIGTERM ends it; returns its exit status.

    MLflow starts processes of its own and leaves them behind when only the first is told to stop, so all of them are.
    Workers for jobs of language models, which are most of them, are not started.

    Args:
        command: from `page_command`.
        uri: of the store. It is not in the command, as everyone on a machine can read the commands of all processes.
    """
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ | {"MLFLOW_BACKEND_STORE_URI": uri}
    with terminable():
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            end_group(process, ENDING_S)
