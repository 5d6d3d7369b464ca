"""The copy of a finished run: a process of its own makes it, so that MLflow can neither fail nor hold up the run."""

import shlex
import subprocess
import sys
from pathlib import Path

from bench.sections import TrackingConfig
from bench.tracking.address import redacted
from bench.tracking.server import TrackingError, answers, is_http, store_uri

ALIVE_S = 1.0
"""A server that does not answer within this time is left alone."""
LOG = "track.log"
"""What the process says: in the suite's folder, or behind a card's name."""


def copy_suite(folder: Path, runs: Path, config: TrackingConfig) -> str:
    """Import a finished suite; whatever becomes of it, the record is whole and this returns.

    It takes at most `ALIVE_S` where the server does not answer, and `config.wait_s` where it is slow: the process then
    goes on alone. Ctrl-C only ends the waiting.

    Args:
        runs: folder of the default store.

    Returns:
        What became of it, for people; where it is not there, the command that imports it.
    """
    return _copy(folder, folder / LOG, runs, config)


def copy_training(card: Path, runs: Path, config: TrackingConfig) -> str:
    """Import a finished training by its card; like `copy_suite`."""
    return _copy(card, card.with_suffix(f".{LOG}"), runs, config)


def _copy(path: Path, log: Path, runs: Path, config: TrackingConfig) -> str:
    if not config.enabled:
        return "off (tracking.enabled=false)"
    later = f"import it later with `{shlex.join(import_command(path, runs, config))}`"
    try:
        uri = store_uri(runs, config)
        if not answers(uri, ALIVE_S):
            return f"not written: {redacted(uri)} does not answer within {ALIVE_S:g} s; {later}"
        process = _start(import_command(path, runs, config), log)
    except (TrackingError, OSError) as error:
        return f"not written: {error}; {later}"
    except KeyboardInterrupt:
        return f"not written: interrupted; {later}"
    try:
        code = process.wait(config.wait_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return f"{redacted(uri)}: process {process.pid} is still writing, see {log}; should it fail, {later}"
    if code == 0:
        return redacted(uri) if is_http(uri) else f"{redacted(uri)} (look with `{_page_command(runs, config)}`)"
    return f"not written: {_reason(log, code)}; {later}"


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command that neither Ctrl-C nor the end of the terminal reaches."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def import_command(path: Path, runs: Path, config: TrackingConfig) -> list[str]:
    """The command that imports a suite's folder, or a training's card, with this configuration."""
    command = ["python", "-m", "bench", "track", str(path), "--runs", str(runs)]
    command += ["--experiment", config.experiment, *(["--uri", config.uri] if config.uri else [])]
    return command if config.images else [*command, "--no-images"]


def _page_command(runs: Path, config: TrackingConfig) -> str:
    """The command that shows a store, which is no server's."""
    where = ["--uri", config.uri] if config.uri else ["--runs", str(runs)]
    return shlex.join(["python", "-m", "bench", "ui", *where])


def _reason(log: Path, code: int) -> str:
    """The error that the process ended with."""
    lines = log.read_text(errors="replace").splitlines()
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else f"the import ended with code {code}, see {log}"
