"""A store that is open: client, experiment, and one importer at a time."""

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.registry import suggestion
from bench.sections import TrackingConfig
from bench.tracking.address import redacted
from bench.tracking.server import ARTIFACTS, TrackingError, answers, is_http, sqlite_file, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEALTH_S = 5.0
"""Time within which a server has to answer when something is asked of it explicitly."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page opens such an experiment with the table of its runs, others with traces of language models."""
TURN_S = 600.0
"""Longest wait for other imports into the same store."""
PAGE = 1_000
"""Runs in one answer."""


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Whatever goes wrong with a store inside becomes one sentence.

    Raises:
        TrackingError: MLflow is not there, cannot be reached, or refuses.
    """
    try:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise TrackingError(f"MLflow cannot be imported ({error}); pip install mlflow") from error
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise TrackingError(redacted(f"MLflow at {uri}: {lines[0]}")) from error


def open_client(uri: str, seconds: float = HEALTH_S) -> "MlflowClient":
    """The client of a store; a server has to answer within some seconds.

    Raises:
        TrackingError: MLflow is not installed, or the server does not answer.
    """
    if not answers(uri, seconds):
        raise TrackingError(f"MLflow at {redacted(uri)} does not answer within {seconds:g} s")
    with told(uri):
        from mlflow import MlflowClient

        try:
            return MlflowClient(tracking_uri=uri)
        except (ImportError, ValueError) as error:  # a database's driver, or an address that is none
            raise TrackingError(redacted(f"MLflow cannot open {uri}: {error}")) from error


@contextmanager
def turn(uri: str) -> Iterator[None]:
    """Wait until no other process of this user on this machine imports into the store.

    Two that create one SQLite file at once both fail, and two that import one suite at once both create its runs.

    Raises:
        TrackingError: another process holds it for ten minutes, or its lock cannot be written.
    """
    path = lock_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = path.open("a")
    except OSError as error:
        raise TrackingError(f"cannot write the lock {path} of imports into MLflow: {error.strerror}") from error
    with held:
        deadline = time.monotonic() + TURN_S
        while not _taken(held.fileno()):
            if time.monotonic() > deadline:
                raise TrackingError(f"another import holds {path} for {TURN_S:g} s; end it and track again")
            time.sleep(0.1)
        yield


def lock_path(uri: str) -> Path:
    """The lock of a store: beside an SQLite file, whoever opens it from where; else in the user's cache."""
    file = sqlite_file(uri)
    if file is not None:
        return file.with_name(file.name + ".lock")
    from bench.datasets.square import cache_root  # late: it imports PyTorch, which `bench ui` does without

    return cache_root() / f"mlflow-{hashlib.sha256(uri.rstrip('/').encode()).hexdigest()[:16]}.lock"


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_experiment(client: "MlflowClient", uri: str, config: TrackingConfig) -> str:
    """The id of the configured experiment, made where there is none; an SQLite store keeps artifacts beside its file.

    Raises:
        TrackingError: the store refuses.
    """
    file = sqlite_file(uri)
    with told(uri):
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(config.experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {config.experiment!r} was deleted in MLflow at {redacted(uri)}; restore it or name another"
            )
        if found is not None:
            return found.experiment_id
        artifacts = None if file is None else (file.resolve().parent / ARTIFACTS).as_uri()
        try:
            return client.create_experiment(config.experiment, artifact_location=artifacts, tags=KIND)
        except MlflowException as error:
            made = client.get_experiment_by_name(config.experiment)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or made is None:
                raise
            return made.experiment_id  # another machine was faster


def search_all(client: "MlflowClient", experiment: str, query: str) -> list[Any]:
    """Every run of an experiment that a query finds (mlflow.entities.Run), page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], query, max_results=PAGE, page_token=token)
        found, token = found + list(page), page.token
        if not token:
            return found


def existing_experiment(root: Path, config: TrackingConfig) -> tuple["MlflowClient", str, str]:
    """Open a store to read it: client, its URI, and the id of the configured experiment.

    Raises:
        UsageError: there is no store, or no such experiment in it.
        TrackingError: it cannot be read.
    """
    uri = store_uri(root, config)
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise UsageError(f"no MLflow store at {file}; run something first, or name a server with --uri")
    client = open_client(uri)
    # The first call brings an older database up to date; a server has done that itself.
    with nullcontext() if is_http(uri) else turn(uri), told(uri):
        found = client.get_experiment_by_name(config.experiment)
    if found is not None and found.lifecycle_stage == "active":
        return client, uri, found.experiment_id
    with told(uri):
        names = [known.name for known in client.search_experiments()]
    raise UsageError(
        f"no experiment {config.experiment!r} in MLflow at {redacted(uri)}; {suggestion(config.experiment, names)}"
    )
