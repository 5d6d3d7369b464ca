"""Names, curves and addresses as MLflow gets and people see them."""

import math
import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import UsageError
from bench.sections import TrackingConfig
from bench.tracking import TrackingError
from bench.tracking.address import redacted
from bench.tracking.connection import open_client
from bench.tracking.names import finite, flat, metric_name, safe_key, summary_metrics, text
from bench.tracking.page import page_command
from bench.tracking.series import search_series
from bench.tracking.server import store_uri
from bench.tracking.tracker import Tracker
from metrics.intervals import Estimate


@pytest.mark.parametrize(
    ("key", "unit", "name"),
    [
        ("validity/success_rate", "fraction", "validity/success_rate"),
        ("quality/square_mae", "1", "quality/square_mae"),
        ("cost/steps", "steps", "cost/steps"),
        ("cost/forward", "network evaluations", "cost/forward_evaluations"),
        ("throughput/seconds_per_image", "s", "throughput/seconds_per_image"),
        ("throughput/valid_per_second", "1/s", "throughput/valid_per_second"),
        ("x/delay", "s", "x/delay_s"),
        ("x/pirates", "fraction", "x/pirates_fraction"),
        ("x/energy", "J", "x/energy_J"),
    ],
)
def test_metric_names_say_their_unit_once(key: str, unit: str, name: str) -> None:
    assert metric_name(key, unit) == name


def test_names_that_mlflow_refuses() -> None:
    assert safe_key("attributes/5_o'Clock (%)") == "attributes/5_o_Clock ___"
    assert safe_key("../../a//./b") == "__/__/a/_/b"
    assert safe_key("") == "_"
    assert len(safe_key("x" * 400)) == 250
    assert flat({"a": {"b": [1, 2], "c": None}, "d": "text"}) == {"a.b": "[1, 2]", "a.c": "null", "d": "text"}
    assert text("a\udcffb\0") == "a\\udcffb\\0"
    assert len(text("x" * 9000)) == 8000
    assert finite({"a": 1.0, "b": math.nan, "c": -math.inf}) == ({"a": 1.0}, 2)
    assert summary_metrics({"a/b": Estimate(value=None)}) == {}


def test_series_carry_the_last_prediction_forward() -> None:
    trace = pd.DataFrame(
        {"id": ["a", "a", "a", "b", "x"], "iteration": [1, 2, 3, 1, 9], "prediction": [0.1, 0.4, 0.52, 0.5, 7.0]}
    )
    found = search_series(trace, {"a": 0.5, "b": 0.9}, 0.05)
    errors = [point.value for point in found["series/target_error"]]
    assert errors == pytest.approx([(0.4 + 0.4) / 2, (0.1 + 0.4) / 2, (0.02 + 0.4) / 2])
    assert [point.value for point in found["series/within_tolerance_rate"]] == [0, 0, 0.5]
    trace.loc[2, "prediction"] = np.nan  # where a search failed
    broken = search_series(trace, {"a": 0.5, "b": 0.9}, 0.05)
    assert [point.value for point in broken["series/target_error"]] == pytest.approx([0.4, 0.25, 0.4])
    assert [point.value for point in broken["series/within_tolerance_rate"]] == [0, 0, 0]
    assert len(search_series(trace.iloc[2:3], {"a": 0.5}, 0.05)["series/target_error"]) == 0
    long = pd.DataFrame({"id": "a", "iteration": range(1, 5001), "prediction": np.linspace(0, 0.5, 5000)})
    points = search_series(long, {"a": 0.5}, 0.05)["series/target_error"]
    assert (len(points), points[0].step, points[-1].step) == (200, 1, 5000)
    assert points[-1].value == 0


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:can%40ary@host:8443/x")
    assert store_uri(tmp_path, TrackingConfig()) == "https://host:8443/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "can@ary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:canary@host/x?sslmode=require")
    assert Tracker(tmp_path, TrackingConfig()).uri == "postgresql://***@host/x?***"


SECRETS = {
    "postgresql://me:canary@host/x": "postgresql://***@host/x",
    "postgresql://me:can@ary@host/x": "postgresql://***@host/x",
    "postgresql://me:ca/nary@host/db": "postgresql://***@host/db",
    "postgresql://me:ca?nary@host/db": "postgresql://***@host/db",
    "postgresql://me:ca#nary@host/db": "postgresql://***@host/db",
    "postgresql://host/db?user=me&password=canary": "postgresql://host/db?***",
    "postgresql://host/db?sslkey=canary": "postgresql://host/db?***",
    "mysql://host/db?p%61sswd=canary": "mysql://host/db?***",
    "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dcanary": "mssql+pyodbc:///?***",
    "sqlite+pysqlcipher://:canary@/x": "sqlite+pysqlcipher://***@/x",
    "http://host/?token=canary": "http://host/?***",
    "https://canary@host/x": "https://***@host/x",
}


@pytest.mark.parametrize("uri", SECRETS)
def test_secrets_in_an_address_are_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        TrackingConfig(uri=uri)
    assert "nary" not in str(refused.value)
    assert redacted(f"a {uri} b") == f"a {SECRETS[uri]} b"


@pytest.mark.parametrize(
    "uri", ["", "http://host:5000/x", "postgresql://host/db", "sqlite:////home/me@there/a#1/mlflow.db"]
)
def test_addresses_without_secrets_are_taken_and_shown(uri: str) -> None:
    assert TrackingConfig(uri=uri).uri == uri
    assert redacted(f"a {uri} b") == f"a {uri} b"


@pytest.mark.parametrize(
    "uri", ["http://[::1", "http://me:canary@host:port", "http://", "http://host/?canary", "http://ho st", "http://h:0"]
)
def test_an_address_that_is_none_is_not_shown(uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI is no address of a tracking server") as refused:
        store_uri(tmp_path, TrackingConfig())
    assert uri not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


@pytest.mark.parametrize("uri", ["postgresql://me:canary@host:port/x", "nonsense://me:canary@host/x"])
def test_a_database_that_cannot_be_opened_is_one_sentence(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="MLflow") as refused:
        open_client(uri)
    assert "canary" not in str(refused.value)


def test_the_page_of_a_server_is_its_own() -> None:
    with pytest.raises(UsageError, match="open that address"):
        page_command("http://host:5000", 5000)


def test_no_secret_is_in_the_command_of_the_page() -> None:
    assert not [word for word in page_command("postgresql://me:canary@host/x", 5000) if "canary" in word]


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} cannot be had"):
            page_command(store, port)
    with pytest.raises(UsageError, match="--port 70000"):
        page_command(store, 70000)
    assert str(port) in page_command(store, port)
