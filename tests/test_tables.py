"""Renderings of a table: numbers, CSV, Markdown, LaTeX; and the table of a suite's cells."""

import csv
import io
import math
import re

import pandas as pd
import pytest

from reports.table import (
    Column,
    Entry,
    Table,
    Value,
    format_entry,
    latex_text,
    markdown_text,
    printable,
    to_csv,
    to_latex,
    to_markdown,
)

FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1+1", "＝1+1"]


def table(*rows: list[Entry], columns: list[Column] | None = None, **more: object) -> Table:
    width = len(rows[0]) if rows else 1
    return Table("A caption", columns or [Column(f"c{place}") for place in range(width)], list(rows), **more)


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, "-"),
        (Value(None), "-"),
        ("words", "words"),
        (7, "7"),
        (Value(0.13, 0.121, 0.14, 3), "0.130 [0.121, 0.140]"),
        (Value(0.5), "0.5"),
        (Value(0.00012349), "0.0001235"),
        (Value(1234.56), "1235"),
        (Value(-0.0001, decimals=2), "0.00"),
        (Value(math.nan, 0.0, 1.0), "NaN"),
        (Value(math.inf), "inf"),
        (Value(-math.inf), "-inf"),
        (Value(0.5, math.nan, 1.0), "0.5"),
        (Value(0.5, 0.1, math.inf), "0.5 [0.1, inf]"),
        (Value(0.5, 0.1), "0.5"),
    ],
)
def test_an_entry_for_people(entry: Entry, text: str) -> None:
    assert format_entry(entry) == text


def test_csv_keeps_figures_in_full_with_their_limits() -> None:
    made = table(
        ["a", Value(1 / 3, 0.1, 0.9, 2), 4],
        ["b", None, None],
        ["c", Value(math.nan), 5],
        columns=[Column("name"), Column("error", "s"), Column("n")],
    )
    rows = cells(to_csv(made))
    assert rows[0] == ["name", "error (s)", "error (s) low", "error (s) high", "n"]
    assert rows[1] == ["a", repr(1 / 3), "0.1", "0.9", "4"]
    assert rows[2] == ["b", "", "", "", ""]
    frame = pd.read_csv(io.StringIO(to_csv(made)))
    assert frame["error (s)"][0] == 1 / 3 and frame["error (s)"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_runs_no_formula(text: str) -> None:
    found = cells(to_csv(table([text], columns=[Column(text)])))
    assert [row[0][0] for row in found] == ["'", "'"]


@pytest.mark.parametrize("text", ["-0.5", "+3", "-1e-05", "-inf", "a=b", "x-y"])
def test_numbers_and_ordinary_texts_are_not_guarded(text: str) -> None:
    assert cells(to_csv(table([text])))[1] == [text]
    assert cells(to_csv(table([Value(-0.5)])))[1] == ["-0.5"]


@pytest.mark.parametrize("text", ['a,b"c"', "two\nlines", "a\rb", "tab\tbed", "semi;colon"])
def test_csv_is_read_back_as_it_was(text: str) -> None:
    assert cells(to_csv(table(["x", text, "y"])))[1] == ["x", text.replace("\r", "\n"), "y"]


def test_markdown_cells_stay_in_their_columns() -> None:
    hostile = "a|b\\|c\nd `e` <img src=x> [l](javascript:1) *f* _g_ h_i & ~~j~~"
    text = to_markdown(table([hostile, Value(0.5, 0.4, 0.6, 1)], ["x", None], notes=["n|o"]))
    lines = text.splitlines()
    assert lines[0] == "**A caption**" and lines[3] == "| --- | ---: |"
    assert len(re.findall(r"(?<!\\)\|", lines[4].replace(r"\\", ""))) == 3
    assert r"a\|b\\\|c d \`e\` &lt;img src=x&gt; \[l\](javascript:1) \*f\* \_g\_ h_i &amp; \~\~j\~\~" in lines[4]
    assert "| 0.5 [0.4, 0.6] |" in lines[4]
    assert lines[5] == "| x | - |" and lines[-1] == r"- n\|o"


def test_latex_is_in_booktabs_layout_with_the_best_in_bold() -> None:
    columns = [Column("method"), Column("error", better="low"), Column("rate", "%", better="high"), Column("n")]
    text = to_latex(
        table(
            ["a", Value(0.15, 0.1, 0.2, 2), Value(50.0, 45.0, 55.0, 0), 3],
            ["b", Value(0.3, 0.25, 0.4, 2), Value(math.inf), 3],
            ["c", Value(0.3, 0.21, 0.4, 2), Value(40.0, 35.0, 44.0, 0), 3],
            ["null", Value(0.01, 0.0, 0.02, 2), Value(99.0, 98.0, 99.5, 0), 3],
            columns=columns,
            tones={3: "bad"},
            bold=True,
            notes=["50 % of it"],
        )
    )
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert r"\begin{tabular}{lrrr}" in lines and r"\label{tab:a-caption}" in lines
    assert [lines.index(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == sorted(
        lines.index(rf"\{rule}rule") for rule in ("top", "mid", "bottom")
    )
    assert r"method & error & rate (\%) & n \\" in lines
    assert r"a & \textbf{0.15} {\scriptsize [0.10, 0.20]} & \textbf{50} {\scriptsize [45, 55]} & 3 \\" in lines
    assert r"b & 0.30 {\scriptsize [0.25, 0.40]} & inf & 3 \\" in lines
    assert text.count("textbf") == 2  # a row that means nothing is never the best
    assert r"\par\footnotesize 50 \% of it" in lines
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_latex_marks_no_noise_as_the_best() -> None:
    columns = [Column("error", better="low")]

    def marked(*figures: Entry, bold: bool = True) -> bool:
        return "textbf" in to_latex(table(*([figure] for figure in figures), columns=columns, bold=bold))

    best = Value(0.5, 0.4, 0.6)
    assert marked(best, Value(0.7, 0.61, 0.8), None)
    assert not marked(best, Value(0.7, 0.59, 0.8))  # the next one's interval overlaps
    assert not marked(best, Value(0.7, 0.61, 0.8), Value(0.9, 0.5, 1.3))  # a third one's does
    assert not marked(best, Value(0.7)) and not marked(Value(0.5), Value(0.6))  # nobody knows
    assert not marked(best)  # there is nothing to be better than
    assert not marked(best, Value(0.7, 0.61, 0.8), bold=False)


def test_latex_has_a_papers_columns_unless_all_are_asked_for() -> None:
    columns = [Column("cell", paper=True), Column("steps"), Column("success", paper=True)]
    made = table(["a", 7, Value(0.5)], columns=columns)
    assert r"cell & success \\" in to_latex(made) and r"a & 0.5 \\" in to_latex(made)
    assert r"cell & steps & success \\" in to_latex(made, everything=True)
    assert "steps" in to_csv(made) and "steps" in to_markdown(made)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"50% & $1_2 #{}", r"50\% \& \$1\_2 \#\{\}"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("<|>", r"\textless{}\textbar{}\textgreater{}"),
        ("square--ac-re---x", "square-{}-ac-re-{}-{}-x"),
        ("−1 ± 2 × 3 ≤ µs…", r"$-$1 $\pm$ 2 $\times$ 3 $\leq$ $\mu$s\ldots{}"),
        ("[a] *", "{[}a] {*}"),
        ("é 漢 😀", "é [U+6F22] [U+1F600]"),
        ("two\nlines", "two lines"),
        ("\udc80", r"\textbackslash{}udc80"),
    ],
)
def test_latex_escapes(text: str, written: str) -> None:
    assert latex_text(text) == written


def test_negative_numbers_have_a_minus_sign_in_latex() -> None:
    assert r"$-$0.5 {\scriptsize [$-$0.6, $-$0.4]}" in to_latex(table([Value(-0.5, -0.6, -0.4)]))


def test_what_a_terminal_would_act_on_is_shown_as_an_escape() -> None:
    assert printable("a\x1b[31m\u202eb\u00a0c\x00\ud800é") == "a\\x1b[31m\\u202eb\u00a0c\\x00\\ud800é"
    for render in (to_csv, to_markdown, to_latex):
        text = render(table(["\x1b]0;x\x07\udcff"], notes=["\x9b"]))
        assert text.encode("utf-8") and "\x1b" not in text and "\x9b" not in text and "\x07" not in text
    assert markdown_text("\x07") == r"\\x07"


@pytest.mark.parametrize("render", [to_csv, to_markdown, to_latex])
def test_a_table_without_rows_has_its_heading(render: object) -> None:
    assert "name" in render(Table("Nothing", [Column("name")], []))  # type: ignore[operator]
