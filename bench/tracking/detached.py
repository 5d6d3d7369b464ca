"""The copy of a finished run: a process of its own makes it, so that MLflow can neither fail nor hold up the run."""

import shlex
import subprocess
import sys
from pathlib import Path

from bench.sections import TrackingConfig
from bench.tracking.server import answers, redacted, store_uri

ALIVE_S = 1.0
"""A server that does not answer within this time is left alone."""
LOG = "track.log"
"""In the suite's folder: what the process says."""


def copy_suite(folder: Path, runs: Path, config: TrackingConfig) -> str:
    """Import a finished suite; whatever becomes of it, the record is whole and this returns.

    It takes at most `ALIVE_S` where the server does not answer, and `config.wait_s` where it is slow: the process then
    goes on alone. Ctrl-C only ends the waiting.

    Args:
        runs: folder of the default store.

    Returns:
        What became of it, for people; where it is not there, the command that imports it.
    """
    if not config.enabled:
        return "off (tracking.enabled=false)"
    uri = store_uri(runs, config)
    shown, later = redacted(uri), f"import it later with `{shlex.join(import_command(folder, runs, config))}`"
    if not answers(uri, ALIVE_S):
        return f"not written: {shown} does not answer within {ALIVE_S:g} s; {later}"
    command = [sys.executable, *import_command(folder, runs, config)[1:]]
    try:
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        code = process.wait(config.wait_s)
    except OSError as error:
        return f"not written: {error}; {later}"
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return f"{shown}: process {process.pid} is still writing, see {folder / LOG}; should it fail, {later}"
    if code == 0:
        return f"{shown} (look with `{_page_command(runs, config)}`)"
    return f"not written: {_reason(folder / LOG, code)}; {later}"


def import_command(folder: Path, runs: Path, config: TrackingConfig) -> list[str]:
    """The command that imports a suite with this configuration."""
    command = ["python", "-m", "bench", "track", str(folder), "--runs", str(runs)]
    command += ["--experiment", config.experiment, *(["--uri", config.uri] if config.uri else [])]
    return command if config.images else [*command, "--no-images"]


def _page_command(runs: Path, config: TrackingConfig) -> str:
    where = ["--uri", config.uri] if config.uri else ["--runs", str(runs)]
    return shlex.join(["python", "-m", "bench", "ui", *where])


def _reason(log: Path, code: int) -> str:
    """The error that the process ended with."""
    lines = log.read_text(errors="replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else f"the import ended with code {code}, see {log}"
