"""Two methods compared on the same images, `compare --pair`: planted gains are found, other terms are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import NotComparable, compare_records, parse_pairs
from bench.errors import UsageError
from bench.record import read_suite
from bench.sections import VerifyConfig
from methods.noise import numpy_normal
from tests.test_cli import bench, sentence
from tests.test_compare import cell_record, rewrite_suite, samples, verdicts, write_suite

PAIR = [("ac-re", "ac-re-gn")]


def with_costs(frame: pd.DataFrame, share: float, steps: int) -> pd.DataFrame:
    """What only comparisons of two methods look at; one sample in ten needs a step more."""
    count = steps + (np.arange(len(frame)) % 10 == 0)
    noise_success = share + 0.1 * np.sign(numpy_normal(25, (len(frame),)))
    error = frame["oracle_target_mae"]
    return frame.assign(
        noise_success=noise_success, oracle_regressor_mae=error, change_l1=error / 2, steps=count, forward=5 * count,
        backward=5 * count,
    )  # fmt: skip


def paired_suites(tmp_path: Path) -> tuple[Path, Path]:
    """The new method is twice as fast, with a third of the steps and more success under fresh noise."""
    base, new = cell_record("ac-re", "eager"), cell_record("ac-re-gn", "eager")
    new.options["ac-re-gn"] = {"depth": 4, "cap": 0.3}
    new.facts["weights"] = new.facts["weights"] | {"ddpm": "only here"}
    theirs = with_costs(samples(), 0.3, 9)
    ours = with_costs(samples(slower=0.5, jitter=23), 0.8, 3)
    return write_suite(tmp_path / "base", [(base, theirs)]), write_suite(tmp_path / "new", [(new, ours)])


def test_two_methods_are_compared_on_the_same_images(tmp_path: Path) -> None:
    found = compare_records(*paired_suites(tmp_path), 1.05, VerifyConfig(), PAIR)
    (cell,) = found.cells
    assert (cell.base, cell.new) == ("square--ac-re--eager--s0", "square--ac-re-gn--eager--s0")
    metrics = {metric.name: metric for metric in cell.metrics}
    assert metrics["success under fresh noise"].value == pytest.approx(0.5)
    assert metrics["success under fresh noise"].low == pytest.approx(0.5)  # each image gained just as much
    better = ["seconds per valid", "success under fresh noise", "steps", "forward evaluations", "backward evaluations"]
    assert [metrics[name].verdict for name in better] == ["improved"] * 5
    assert metrics["steps"].value == pytest.approx(3.1 / 9.1)
    assert (metrics["steps"].kind, metrics["steps"].limit) == ("cost", 1.0)
    assert {"oracle regressor error", "change L1"} <= metrics.keys()
    assert found.verdict == "improved"
    back = compare_records(tmp_path / "new", tmp_path / "base", 1.05, VerifyConfig(), [("ac-re-gn", "ac-re")])
    assert verdicts(back)["steps"] == verdicts(back)["success under fresh noise"] == "regressed"
    assert verdicts(back)["square MAE"] == "ok"


def test_a_figure_that_an_older_record_lacks_is_left_out(tmp_path: Path) -> None:
    base, new = paired_suites(tmp_path)
    table = next(base.glob("*/samples.parquet"))
    pd.read_parquet(table).drop(columns=["noise_success", "change_l1"]).to_parquet(table)
    found = verdicts(compare_records(base, new, 1.05, VerifyConfig(), PAIR))
    assert not {"success under fresh noise", "change L1"} & found.keys()
    assert "steps" in found


def test_only_the_named_pairs_are_compared(tmp_path: Path) -> None:
    base, new = paired_suites(tmp_path)
    both = [(cell_record(name, "eager"), with_costs(samples(), 0.3, 9)) for name in ("ac-re", "diffae-re")]
    base = write_suite(tmp_path / "both", both)
    assert len(compare_records(base, new, 1.05, VerifyConfig(), PAIR).cells) == 1
    lacking = compare_records(base, new, 1.05, VerifyConfig(), [*PAIR, ("diffae-re", "diffae-re-gn")])
    assert [cell.verdict for cell in lacking.cells] == ["improved", "missing"]
    assert "diffae-re-gn" in lacking.cells[1].note
    with pytest.raises(UsageError, match="no cell of method 'gradient'"):
        compare_records(base, new, 1.05, VerifyConfig(), [("gradient", "ac-re-gn")])
    for text in ("ac-re", "=ac-re", "ac-re="):
        with pytest.raises(UsageError, match="BASE=NEW"):
            parse_pairs([text])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda suite: suite.cells[0].facts.update(data="e"), "data"),
        (lambda suite: suite.cells[0].facts.update(batch_size=4), "batch_size"),
        (lambda suite: suite.cells[0].facts.update(weights={"regressor": "q"}), "weights (regressor)"),
        (lambda suite: suite.cells[0].options.update({"square": {"target": 0.5}}), "options of square"),
        (lambda suite: suite.cells[0].options["ac-re-gn"].update(tolerance=0.1), "tolerance (None and 0.1)"),
        (lambda suite: suite.config.update(metrics={"filter_depth": 9}), "metrics.filter_depth"),
    ],
)
def test_methods_are_compared_on_the_same_terms_only(change: Any, named: str, tmp_path: Path) -> None:
    base, new = paired_suites(tmp_path)
    theirs, ours = read_suite(base), read_suite(new)
    theirs.config["metrics"] = {"filter_depth": 5}
    ours.config["metrics"] = {"filter_depth": 5}
    change(ours)
    rewrite_suite(base, theirs)
    rewrite_suite(new, ours)
    with pytest.raises(NotComparable) as error:
        compare_records(base, new, 1.05, VerifyConfig(), PAIR)
    assert named in str(error.value)


def test_a_network_that_only_judges_does_not_hinder_a_comparison(tmp_path: Path) -> None:
    judged = cell_record("ac-re", "eager")
    judged.facts["weights"] = judged.facts["weights"] | {"ddpm": "d"}
    base = write_suite(tmp_path / "base", [(cell_record("ac-re", "eager"), samples())])
    new = write_suite(tmp_path / "new", [(judged, samples(jitter=23))])
    assert compare_records(base, new, 1.05, VerifyConfig()).verdict == "ok"


def test_a_comparison_of_methods_is_printed_and_written(tmp_path: Path) -> None:
    base, new = paired_suites(tmp_path)
    document = tmp_path / "results" / "comparison.json"
    arguments = ["compare", str(base), str(new), "--pair", "ac-re=ac-re-gn", "--output", str(document), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "valid per second" in done.output
    assert json.loads(document.read_text()) == json.loads(done.stdout.splitlines()[-1])
    rate = next(line for line in done.stdout.splitlines() if "valid per second" in line)
    assert 1.9 < float(rate.split(": ")[1].split("x")[0]) < 2.1
    assert "--pair compares methods" in sentence(bench("compare", "eager", "null", "--pair", "a=b", folder=tmp_path), 2)
