"""Which MLflow store is used, whether it answers, and what of its address may be shown: passwords never."""

import http.client
import os
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from bench.errors import BenchError
from bench.sections import TrackingConfig

# MLflow reads these when it is imported, which every function of this package does late.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")

DATABASE = "mlflow.db"
"""The default store, in the folder of the runs."""
ARTIFACTS = "mlflow-artifacts"
"""Folder beside an SQLite store."""


class TrackingError(BenchError):
    """MLflow cannot be used; the records are unaffected."""


def store_uri(root: Path, config: TrackingConfig) -> str:
    """The tracking URI: configured, $MLFLOW_TRACKING_URI, or an SQLite file under `root`.

    Of an http address the user name and the password move into the environment variables that MLflow reads them
    from, so that no message of any library can show them.

    Raises:
        TrackingError: a server's address that is none, or has a query; the text does not show it.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return f"sqlite:///{(root / DATABASE).resolve()}"
    if not is_http(uri):
        return uri
    parts = _split(uri, "tracking.uri (--uri)" if config.uri else "MLFLOW_TRACKING_URI")
    account, found, host = parts.netloc.rpartition("@")
    if not found:
        return uri
    user, _, password = account.partition(":")
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", urllib.parse.unquote(user))
    os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", urllib.parse.unquote(password))
    return urllib.parse.urlunsplit(parts._replace(netloc=host))


def _split(uri: str, source: str) -> urllib.parse.SplitResult:
    """A server's address in its parts; an error quotes nothing of it, as any part may be a secret at a wrong place."""
    try:
        parts = urllib.parse.urlsplit(uri)
        usable = bool(parts.hostname) and parts.port != 0 and not any(letter.isspace() for letter in uri)
    except ValueError:  # brackets without an end, a port that is no number
        usable = False
    if not usable or parts.query or parts.fragment:
        raise TrackingError(f"{source} is no address of a tracking server; give one like https://mlflow.example.org")
    return parts


def is_http(uri: str) -> bool:
    """Whether it is a tracking server's address, not a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for others."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def answers(uri: str, seconds: float) -> bool:
    """Whether a tracking server answers a question for its health within that time; true for databases.

    Any answer below 500 will do: what the server wants besides (a login, a certificate) MLflow finds out itself.
    """
    if not is_http(uri):
        return True
    found: list[bool] = []

    def ask() -> None:
        found.append(_health(f"{uri.rstrip('/')}/health", seconds))

    # In a thread, as no timeout of a socket covers looking the name up, or a server that sends byte by byte.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(found and found[0])


def _health(url: str, seconds: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)
    except (OSError, ValueError, http.client.HTTPException):
        return False
