"""Running one step: a process group of its own, a log, a time limit."""

import os
import shlex
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict

from bench.images import write_bytes
from bench.processes import end_group

Status = Literal["ok", "failed", "warning", "skipped"]
SHOWN_LINES = 30
"""Of a log, where a step failed."""
TAIL_BYTES = 32_768
INTERRUPTED_S = 1.5
"""A runner that cancels a job kills it some seconds later, and the summary is to be written before."""


class StepRecord(BaseModel):
    """A step as it went.

    Attributes:
        status: "warning": it did not do its work, and the night is not red for that.
        exit: exit code; None where it was not started or was ended by the time limit.
        log: file below the night's folder, or "".
        note: why it did not end well, one sentence.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: str
    preset: str = ""
    command: str = ""
    status: Status
    exit: int | None = None
    seconds: float = 0.0
    log: str = ""
    note: str = ""


class Ended(BaseModel):
    """How a process ended: its exit code, None where the time limit ended it, and the seconds it took."""

    exit: int | None
    seconds: float


def execute(command: Sequence[str], environment: Mapping[str, str], log: Path, limit_s: float) -> Ended:
    """Run a command with its output in `log`, and end it with all its children after `limit_s`.

    Ctrl-C is passed on, and raised again when the command has ended.
    """
    begun = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            end_group(process, 15.0)
            code = None
        except KeyboardInterrupt:
            end_group(process, INTERRUPTED_S, signal.SIGINT)
            raise
    return Ended(exit=code, seconds=time.monotonic() - begun)


def shown(command: Sequence[str]) -> str:
    """A command as it would be typed."""
    return shlex.join(["python", *command[1:]])


def tail(log: Path, lines: int = SHOWN_LINES) -> list[str]:
    """The last lines of a log, without control characters; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    found = ["".join(c for c in line if c.isprintable() or c == "\t") for line in text.splitlines()]
    return found[-lines:]


def sentence(log: Path) -> str:
    """The error in a log's last lines: the last that says so, else the last one."""
    lines = [line.strip() for line in tail(log) if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error: ")]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")[:500]


def empty(folder: Path) -> None:
    """Remove what an unfinished attempt left, so that a repeat is one whole process."""
    if folder.is_dir():
        shutil.rmtree(folder)


def hide_secrets(log: Path) -> None:
    """Blank the tracking server's address and credentials, in case a library printed them: logs are uploaded."""
    if not log.is_file():
        return
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    values = {*_address_parts(os.environ.get("MLFLOW_TRACKING_URI", "")), *(os.environ.get(name, "") for name in names)}
    data = log.read_bytes()
    for value in sorted((value for value in values if len(value) > 3), key=len, reverse=True):
        data = data.replace(value.encode(), b"***")
    write_bytes(log, data)


def _address_parts(uri: str) -> set[str]:
    """An address as libraries may show it: whole, without its credentials, and these, escaped and not."""
    found = {uri, uri.rstrip("/")}
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        return found
    account, _, host = parts.netloc.rpartition("@")
    bare = urllib.parse.urlunsplit(parts._replace(netloc=host))
    user, _, password = account.partition(":")
    return found | {bare, bare.rstrip("/"), *(form for text in (user, password) for form in (text, unquote(text)))}
