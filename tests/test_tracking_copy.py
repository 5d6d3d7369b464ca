"""The copy that a run makes of itself: MLflow that is slow, down or broken neither fails nor holds up the run."""

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.sections import TrackingConfig
from bench.tracking.detached import LOG, copy_suite, import_command
from bench.tracking.download import download_suites
from bench.tracking.server import answers
from bench.training.command import tracked
from tests.synthetic_record import write_record

ROOT = Path(__file__).parent.parent
SOON_S = 8.0
"""Far less than MLflow takes to give up (minutes), and more than a busy machine adds to a second."""


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell's background processes, and so their tests, ignore Ctrl-C from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("COUNTERFACTUAL_BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever a test sets
        monkeypatch.delenv(name)
    return write_record(tmp_path / "one", 2, size=16)


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port at which connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent.getsockname()[1]


@contextlib.contextmanager
def serving(health_s: float, status: int, other_s: float) -> Iterator[int]:
    """A server that is healthy after some seconds, and answers everything else with a status after others."""
    asked = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            healthy = self.path == "/health"
            asked.wait(health_s if healthy else other_s)
            with contextlib.suppress(OSError):  # the one who asked may be gone
                self.send_response(200 if healthy else status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"no")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        asked.set()
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    with listening() as port:
        return port


def test_a_closed_port_costs_nothing(suite: Path, tmp_path: Path) -> None:
    config = TrackingConfig(uri=f"http://127.0.0.1:{closed_port()}")
    begun = time.perf_counter()
    told = copy_suite(suite, tmp_path, config)
    assert time.perf_counter() - begun < SOON_S
    assert told.startswith(
        f"not written: {config.uri} does not answer within 1 s; import it later with `python -m bench"
    )
    assert not (suite / LOG).exists()


def test_a_server_that_never_answers_costs_a_second(suite: Path, tmp_path: Path) -> None:
    with listening() as port:
        begun = time.perf_counter()
        told = copy_suite(suite, tmp_path, TrackingConfig(uri=f"http://127.0.0.1:{port}"))
        assert time.perf_counter() - begun < SOON_S
    assert "not written" in told


def test_what_counts_as_an_answer() -> None:
    with serving(0.0, 200, 0.0) as port:
        assert answers(f"http://127.0.0.1:{port}", 5.0)
        assert answers(f"http://127.0.0.1:{port}/", 5.0)
    with serving(1.0, 200, 0.0) as port:
        assert not answers(f"http://127.0.0.1:{port}", 0.2)
    with serving(0.0, 404, 0.0) as port:
        assert answers(f"http://127.0.0.1:{port}/behind/a/proxy", 5.0)
    with serving(0.0, 503, 0.0) as port:
        assert not answers(f"http://127.0.0.1:{port}/down", 5.0)
    assert not answers("http://127.0.0.1:99999", 1.0)
    assert answers("sqlite:///nowhere.db", 0.0)


@pytest.mark.parametrize("ended_by", ["time", "ctrl-c"])
def test_a_slow_server_is_left_to_a_process_of_its_own(
    ended_by: str, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.tracking.detached.ALIVE_S", 30.0)  # the machine may be busy
    with serving(0.0, 200, 60.0) as port:
        config = TrackingConfig(uri=f"http://127.0.0.1:{port}", wait_s=0.3 if ended_by == "time" else 60)
        begun = time.perf_counter()
        with monkeypatch.context() as patched:
            if ended_by == "ctrl-c":
                patched.setattr(subprocess.Popen, "wait", interrupt)
            told = copy_suite(suite, tmp_path, config)
        assert time.perf_counter() - begun < SOON_S
        found = re.search(r"process (\d+) is still writing, see (\S+);", told)
        assert found is not None, told
        process = int(found[1])
        os.kill(process, 0)  # it is there
        assert os.getsid(process) == process  # and neither Ctrl-C nor the end of the terminal reaches it
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert Path(found[2]) == suite / LOG


def interrupt(*_: object) -> None:
    """Ctrl-C at this moment: a signal of the main thread to itself is there before the call returns."""
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_the_server_is_asked_ends_only_that(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as port:
        monkeypatch.setattr("bench.tracking.detached.answers", interrupt)
        told = copy_suite(suite, tmp_path, TrackingConfig(uri=f"http://127.0.0.1:{port}"))
    assert told.startswith("not written: interrupted; import it later with `python -m bench track")
    assert not (suite / LOG).exists()


def test_an_address_that_is_none_fails_no_run(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://[::1")
    told = copy_suite(suite, tmp_path, TrackingConfig())
    assert told.startswith("not written: MLFLOW_TRACKING_URI is no address of a tracking server; ")
    assert "import it later with `python -m bench track" in told
    assert "::1" not in told


def test_the_copy_on_a_server_is_looked_at_there(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")  # an import that goes well
    monkeypatch.setattr("bench.tracking.detached.ALIVE_S", 30.0)
    with serving(0.0, 200, 0.0) as port:
        config = TrackingConfig(uri=f"http://127.0.0.1:{port}")
        assert copy_suite(suite, tmp_path, config) == config.uri
    told = copy_suite(suite, tmp_path, TrackingConfig())
    assert told.endswith(f"(look with `python -m bench ui --runs {tmp_path}`)")


def test_a_training_does_not_wait_for_a_server(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "weights.json"
    card.write_text(json.dumps({"figures": {"mae": 0.25}}))
    with listening() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        begun = time.perf_counter()
        told = tracked(card, tmp_path / "runs")
        assert time.perf_counter() - begun < SOON_S
    assert told.startswith(f"{tmp_path}/weights.safetensors (mae 0.2500); card {card}; MLflow not written: http://")
    assert f"python -m bench track {card} --runs {tmp_path}/runs" in told


def test_a_broken_server_is_told_without_its_password(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(0.0, 403, 0.0) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:canary@127.0.0.1:{port}")
        told = copy_suite(suite, tmp_path, TrackingConfig(wait_s=120))
    assert told.startswith(f"not written: MLflow at http://127.0.0.1:{port}: ")
    assert "403" in told
    assert "import it later with" in told
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode("latin-1") + told
    assert "canary" not in everything
    assert "me:" not in told


@pytest.mark.slow
def test_two_runs_that_end_at_once_create_one_store(suite: Path, tmp_path: Path) -> None:
    other = write_record(tmp_path / "two", 2, size=16)
    told: list[str] = []
    config = TrackingConfig(wait_s=300)
    threads = [
        threading.Thread(target=lambda folder=folder: told.append(copy_suite(folder, tmp_path / "runs", config)))
        for folder in (suite, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = f"sqlite:///{tmp_path}/runs/mlflow.db (look with `python -m bench ui --runs {tmp_path}/runs`)"
    assert told == [store, store]
    assert len(download_suites(config, tmp_path / "runs", tmp_path / "back")) == 2


def test_the_command_that_is_told_imports_the_same() -> None:
    config = TrackingConfig(uri="http://host:1", experiment="my own", images=False)
    command = import_command(Path("runs/a b"), Path("runs"), config)
    assert command[:6] == ["python", "-m", "bench", "track", "runs/a b", "--runs"]
    assert command[7:] == ["--experiment", "my own", "--uri", "http://host:1", "--no-images"]


def test_off_is_off(suite: Path, tmp_path: Path) -> None:
    assert copy_suite(suite, tmp_path, TrackingConfig(enabled=False)) == "off (tracking.enabled=false)"
    assert not (suite / LOG).exists()
