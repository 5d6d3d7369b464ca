"""Where a night runs: asked in a process of its own, so that the one that waits holds no GPU memory.

`python -m bench.nightly.machine DEVICE` prints it as JSON.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench.errors import BenchError, UsageError

FACTS = ("cpu", "cores", "threads", "device", "gpu")
"""Entries of the environment that decide how fast a machine is: those that the gate wants equal."""
ASK_S = 300.0


class Machine(BaseModel):
    """A machine and the device that is measured on it.

    Attributes:
        facts: `FACTS` of the environment.
        backends: those that can run here and claim to compute the networks, the reference first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: dict[str, Any]
    backends: tuple[str, ...]

    @property
    def name(self) -> str:
        """The GPU's model, or the processor's."""
        gpu = self.facts.get("gpu")
        return gpu["name"] if gpu else str(self.facts["cpu"])

    @property
    def key(self) -> str:
        """Folder name of this machine: readable, and another one wherever the gate would refuse to compare."""
        from bench.compare import machine  # it imports pandas

        content = hashlib.sha256(json.dumps(machine(self.facts), sort_keys=True).encode()).hexdigest()[:8]
        readable = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40]
        return f"{readable or 'machine'}-{content}"


def ask(device: str, environment: Mapping[str, str]) -> Machine:
    """The machine, from a process that ends before anything is measured.

    Raises:
        UsageError: the device cannot be used.
    """
    command = [sys.executable, "-m", "bench.nightly.machine", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=ASK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"--device {device} does not answer within {ASK_S:g} s; `python -m bench doctor`") from error
    if done.returncode:
        text = done.stderr.strip().splitlines()
        raise UsageError(text[-1].removeprefix("error: ") if text else f"--device {device} cannot be asked")
    return Machine.model_validate_json(done.stdout.splitlines()[-1])


def _here(device: str) -> Machine:
    """This process's machine; imports torch."""
    from bench.environment import environment
    from bench.suite import resolve_device
    from bench.verify import REFERENCE, candidates

    try:
        others = candidates()
    except UsageError:
        others = ()
    facts = environment(str(resolve_device(device)))
    return Machine(facts={key: facts.get(key) for key in FACTS}, backends=(REFERENCE, *others))


def main() -> int:
    """Print the machine; returns the exit code."""
    try:
        print(_here(sys.argv[1]).model_dump_json())
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
