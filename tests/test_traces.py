"""The course of every search: in the outcome, in the journal, in the table; also of a partial record."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from torch import nn

from bench.record import Journal
from methods.base import Method
from methods.search import SlotSearch
from tests.conftest import reachable
from tests.tiny_cell import run_cell, tiny_cell

METHODS = ["ac-re", "ac-re-gn", "diffae-re", "diffae-re-gn"]


@pytest.mark.parametrize("name", METHODS)
def test_a_trace_has_an_entry_for_every_iteration_and_ends_with_the_outcome(
    name: str, make_method: Callable[..., Method]
) -> None:
    method = make_method(name, 3)
    outcomes = list(SlotSearch(method, 3).run(reachable(method, 7)))
    assert len({outcome.iterations for outcome in outcomes}) > 1, "the searches should differ in length"
    for outcome in outcomes:
        predictions, seconds = outcome.trace
        assert len(predictions) == len(seconds) == outcome.iterations
        assert predictions[-1] == outcome.prediction
        assert list(seconds) == sorted(seconds)
        assert seconds[0] > 0 and seconds[-1] <= outcome.seconds  # refinement comes after it


def test_values_of_one_image_have_traces_of_their_own(make_method: Callable[..., Method]) -> None:
    method = make_method("ac-re", 2)
    sample = reachable(method, 1)[0]
    together = sample._replace(also=(sample.target + 0.01, sample.target - 0.02))
    for outcome in SlotSearch(method, 2).run([together]):
        assert len(outcome.trace.predictions) == outcome.iterations
    in_turn = sample._replace(then=(sample.target + 0.01,))
    for outcome in SlotSearch(method, 2).run([in_turn]):
        assert len(outcome.trace.predictions) == outcome.iterations


def test_the_table_holds_what_the_journal_holds(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = tiny_cell(networks, "ac-re")
    _, samples = run_cell(cell, tmp_path)
    trace = pd.read_parquet(tmp_path / cell.id / "trace.parquet")
    assert "trace" not in samples
    rows = {row["id"]: row for row in Journal(tmp_path / cell.id / "samples.jsonl").rows()}
    assert trace.groupby("id")["iteration"].max().to_dict() == samples["iterations"].to_dict()
    for name, part in trace.groupby("id"):
        assert part["prediction"].tolist() == rows[name]["trace"]["predictions"]
        assert part["iteration"].tolist() == list(range(1, len(part) + 1))
        assert part["prediction"].iloc[-1] == pytest.approx(samples.loc[name, "search_prediction"], abs=1e-6)


def test_a_record_without_traces_goes_on(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = tiny_cell(networks, "ac-re")
    run_cell(cell, tmp_path)
    folder = tmp_path / cell.id
    journal = Journal(folder / "samples.jsonl")
    older = [{key: value for key, value in row.items() if key != "trace"} for row in journal.rows()]
    journal.replace(older[:3])
    (folder / "result.json").write_text(
        json.dumps(json.loads((folder / "result.json").read_text()) | {"status": "interrupted"})
    )
    run_cell(cell, tmp_path)
    trace = pd.read_parquet(folder / "trace.parquet")
    assert set(trace["id"]) == {row["id"] for row in journal.rows()} - {row["id"] for row in older[:3]}


def test_peeking_leaves_a_torn_line_alone(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = tiny_cell(networks, "ac-re", count=3)
    run_cell(cell, tmp_path)
    path = tmp_path / cell.id / "samples.jsonl"
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert len(Journal(path).peek()) == 2
    assert path.read_bytes() == torn
    assert len(Journal(path).rows()) == 2
    assert path.read_bytes() != torn
