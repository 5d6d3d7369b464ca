"""The JSON files of the studies, and the options that they share."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.elpv import confounders, neighbours, networks
from bench.elpv.neighbours import Alike, Quality, Study, lines
from bench.environment import environment
from bench.study_results import FACTS, study_parser, write_results

PHOTOGRAPHS = [confounders.main, neighbours.main, networks.main]


def test_figures_come_after_the_command_and_what_made_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.json"
    write_results(path, "bench.study", ["a b", "--results", "r.json"], {"figure": 0.25})
    first, found = path.read_bytes(), json.loads(path.read_text())
    assert list(found) == ["command", "environment", "figure"] and found["figure"] == 0.25
    assert found["command"] == "python -m bench.study 'a b' --results r.json"
    assert found["environment"]["packages"] == environment("cpu")["packages"]
    assert set(found["environment"]) == set(FACTS) and "load_average" not in FACTS
    write_results(path, "bench.study", ["a b", "--results", "r.json"], {"figure": 0.25})
    assert path.read_bytes() == first, "no date, so that a study that is made again has the same file"


def test_the_command_is_as_typed_where_no_arguments_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "--top", "3"])
    for arguments, command in ((None, "python -m bench.study --top 3"), ([], "python -m bench.study")):
        write_results(tmp_path / "r.json", "bench.study", arguments, {})
        assert json.loads((tmp_path / "r.json").read_text())["command"] == command


def test_a_parser_shows_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = study_parser("bench.study", "What is found.\n\nMore.")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "python -m bench.study" in shown and "What is found." in shown and "More." not in shown
    assert parser.parse_args(["--results", "x.json"]).results == Path("x.json")


@pytest.mark.parametrize("main", PHOTOGRAPHS)
def test_a_folder_that_is_not_there_is_one_sentence(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--path", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --path nowhere: not a folder") and said.count("\n") == 1


def test_the_figures_of_neighbours_are_shown() -> None:
    quality = [Quality(mae=0.1 * n, spearman=0.5, auc=0.8) for n in range(4)]
    found = Study(
        cells=2624, modules=44, nearest=2, by_number=quality[0], ridge=quality[1], ridge_cells=quality[2],
        ridge_modules=quality[3], alike=Alike(tested=651, alike=118, near=0.885, same_label=0.84),
    )  # fmt: skip
    shown = list(lines(found))
    assert shown[0] == "2624 cells, 44 inferred modules" and "the 2 nearest" in shown[1] and "MAE 0.000" in shown[1]
    assert shown[2].endswith("118 of 651") and [line[-4:] for line in shown[3:5]] == ["0.89", "0.84"]
    for line, start, mae in zip(
        shown[5:],
        ("test split", "all cells, four folds of single", "all cells, four folds of whole"),
        (1, 2, 3),
        strict=True,
    ):
        assert line.startswith(start) and f"MAE 0.{mae}00, Spearman 0.50, AUC 0.800" in line


@pytest.mark.slow
def test_the_committed_figures_of_neighbours_are_made_again(tmp_path: Path) -> None:
    """Half a minute: every photograph, compared with every other."""
    path = tmp_path / "r.json"
    assert neighbours.main(["--results", str(path)]) == 0
    made = json.loads(path.read_text())
    committed = json.loads((Path(neighbours.__file__).parents[2] / "reports/results/elpv-neighbours.json").read_text())
    assert {"alike", "by_number", "ridge_modules"} < made.keys()
    for name in made.keys() - {"command", "environment"}:
        assert made[name] == pytest.approx(committed[name], abs=1e-3), name
