"""What `bench gate` found, for people and for CI: terminal, Markdown for a job's page, JUnit XML.

Names of cells, reasons and paths come from records and may hold anything. In Markdown they stand in code spans, where
GitHub makes nothing of them (no tag, link, mention or issue); in XML, characters that XML does not have are replaced.
"""

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from bench.compare_metrics import Metric
from bench.gate.model import BAD, ORDER, CellGate, Check, GateReport
from metrics.equivalence import LEVEL

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def headline(report: GateReport, strict: bool = False) -> str:
    """The verdict in one line."""
    counts = Counter(cell.verdict for cell in report.cells)
    cells = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict])
    refuted = sum(result.verdict == "different" for result in report.verification)
    verified = f"; verify: {refuted} of {len(report.verification)} different" if refuted else ""
    return f"Gate {'passed' if report.passed(strict) else 'failed'}: {cells}{verified}"


def gate_table(report: GateReport) -> Table:
    """One row a cell."""
    title = f"{report.new} against {report.base}: {report.verdict}"
    table = Table(title=Text(title), title_justify="left")
    for heading in ("cell", "correctness", "quality", "speed", "seconds per image", "repeats"):
        table.add_column(heading, justify="right" if heading in ("seconds per image", "repeats") else "left")
    for cell in report.cells:
        row = [f"{cell.cell} (new)" if cell.added else cell.cell, *(check.verdict for check in cell.checks)]
        table.add_row(*(Text(text) for text in [*row, _speed(cell), _repeats(cell)]))
    return table


def reason_lines(report: GateReport) -> list[str]:
    """Why a check is not simply fine, one line each, and the notes."""
    told = [f"{cell.cell}: {check.kind} {check.verdict}: {reason}" for cell, check, reason in _reasons(report)]
    return told + [f"note: {note}" for note in _notes(report)]


def _reasons(report: GateReport) -> list[tuple[CellGate, Check, str]]:
    return [
        (cell, check, reason)
        for cell in report.cells
        for check in cell.checks
        if check.verdict in (*BAD, "inconclusive")
        for reason in check.reasons
        if check is not cell.speed or not any(f"({note})" in reason for note in _too_few(cell))
    ]


def _too_few(cell: CellGate) -> list[str]:
    """Notes of figures that have too few process repeats for any test: they can only be inconclusive."""
    figures = cell.speed.figures
    return list(dict.fromkeys(figure.note for figure in figures if figure.base_repeats and figure.low is None))


def _notes(report: GateReport) -> list[str]:
    """Too few repeats, once for all cells that have as many; then the report's own notes."""
    cells: dict[str, list[str]] = {}
    for cell in report.cells:
        for note in _too_few(cell):
            cells.setdefault(note, []).append(cell.cell)
    return [f"{note}: the speed of {', '.join(names)} is inconclusive" for note, names in cells.items()] + report.notes


def _speed(cell: CellGate) -> str:
    return _change(cell.speed.figures[0]) if cell.speed.figures else "-"


def _repeats(cell: CellGate) -> str:
    figures = cell.speed.figures
    return f"{len(figures[0].base_repeats)} + {len(figures[0].new_repeats)}" if figures else "-"


def _change(figure: Metric) -> str:
    """ "1.032x [0.99, 1.08]" or "+0.010 [-0.020, 0.030]"."""
    if figure.value is None:
        return "-"
    ratio = figure.measure == "ratio"
    text = f"{figure.value:.3f}x" if ratio else f"{figure.value:+.3f}"
    if figure.low is None or figure.high is None:
        return text
    return text + (f" [{figure.low:.3f}, {figure.high:.3f}]" if ratio else f" [{figure.low:+.3f}, {figure.high:+.3f}]")


def code(text: object) -> str:
    """Foreign text as a Markdown code span that may stand in a table."""
    flat = " ".join(_NOT_XML.sub("\ufffd", str(text)).split()) or " "
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if "`" in (flat[0], flat[-1]) else ""
    # A table takes "\\|" for an escaped backslash and a delimiter, so the two are kept apart.
    return f"{fence}{pad}{flat}{pad}{fence}".replace("\\|", "\\ |").replace("|", "\\|")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def markdown(report: GateReport, strict: bool = False) -> str:
    """The page for $GITHUB_STEP_SUMMARY: verdict first, then cells, reasons and every figure."""
    lines = [f"**{headline(report, strict)}**", "", _sides(report), ""]
    rows = [
        [code(cell.cell) + (" (new)" if cell.added else ""), *(_strong(check) for check in cell.checks), _speed(cell)]
        for cell in report.cells
    ]
    lines += _table(["cell", "correctness", "quality", "speed", "seconds per image, NEW over BASE"], rows)
    reasons = [
        f"- {code(cell.cell)}: {check.kind} {check.verdict}: {code(why)}" for cell, check, why in _reasons(report)
    ]
    lines += ["", *reasons] if reasons else []
    different = [result for result in report.verification if result.verdict == "different"]
    for result in different:
        name = f"{result.dataset} {result.method} {result.backend}"
        lines += ["", f"- verify: {code(name)} is different: {code('; '.join(result.reasons))}"]
    notes = _notes(report)
    lines += ["", *(f"- {code(note)}" for note in notes)] if notes else []
    return "\n".join([*lines, "", *_details(report), ""])


def _sides(report: GateReport) -> str:
    sides = [("NEW", report.new, report.new_commit, report.new_repeats)]
    sides += [("BASE", report.base, report.base_commit, report.base_repeats)]
    texts = [
        f"{name} {code(folder)} ({f'commit {code(_short(commit))}, ' if commit else ''}{len(repeats)} process repeats)"
        for name, folder, commit, repeats in sides
    ]
    gpu = report.machine.get("gpu") or {}
    place = gpu.get("name") or report.machine.get("cpu")
    return f"{' against '.join(texts)}, on {code(place)}."


def _short(commit: str) -> str:
    sha, _, dirty = commit.partition("-")
    return f"{sha[:12]} (with changes)" if dirty else sha[:12]


def _strong(check: Check) -> str:
    return f"**{check.verdict}**" if check.verdict in BAD else check.verdict


def _details(report: GateReport) -> list[str]:
    """Every figure, folded."""
    rows = []
    for cell in report.cells:
        for figure in (*cell.quality.figures, *cell.speed.figures):
            note = f" ({code(figure.note)})" if figure.note else ""
            p = getattr(figure, "p", None)
            verdict = figure.verdict + (f", p = {p:.3g}" if p is not None else "") + note
            sides = [code("-" if value is None else f"{value:.4g}") for value in (figure.base, figure.new)]
            rows.append([code(cell.cell), figure.name, *sides, _change(figure), f"{figure.limit:g}", verdict])
    if not rows:
        return []
    headings = ["cell", "figure", "BASE", "NEW", f"change, {LEVEL:.0%} interval", "limit", "verdict"]
    margins = (
        f"Quality is judged on the first repeats with margins of {report.margins.success_margin:g} (success rate) and "
        f"{report.margins.target_error_margin:g} (errors); speed on the medians of the repeats: slower than "
        f"{report.factor:g} times and significant (exact test over repeats, p <= 0.05 for a slowdown)."
    )
    return ["<details><summary>Every figure</summary>", "", *_table(headings, rows), "", margins, "", "</details>"]


def junit(report: GateReport, strict: bool = False) -> bytes:
    """JUnit XML: a test case for every cell and check, and one for every result of `bench verify`."""
    suite = ElementTree.Element("testsuite", name="bench gate")
    for cell in report.cells:
        for check in cell.checks:
            if cell.added and check is not cell.correctness:
                continue
            case = _case(suite, cell.cell, check.kind)
            _outcome(case, check.verdict, check.reasons, strict)
    for result in report.verification:
        case = _case(suite, f"{result.dataset}--{result.method}--{result.backend}", "verify")
        _outcome(case, "failed" if result.verdict == "different" else "ok", [result.verdict, *result.reasons], strict)
    return _document(suite)


def junit_error(text: str) -> bytes:
    """JUnit XML of a gate that could not judge."""
    suite = ElementTree.Element("testsuite", name="bench gate")
    error = ElementTree.SubElement(_case(suite, "gate", "comparable"), "error", message=_xml(text), type="error")
    error.text = _xml(text)
    return _document(suite)


def _case(suite: ElementTree.Element, classname: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=_xml(classname), name=name)


def _outcome(case: ElementTree.Element, verdict: str, reasons: Sequence[str], strict: bool) -> None:
    """What a passed, failed or undecided test holds."""
    message, text = _xml(f"{verdict}: {reasons[0]}" if reasons else verdict), _xml("\n".join(reasons))
    if verdict in BAD or (strict and verdict == "inconclusive"):
        ElementTree.SubElement(case, "failure", message=message, type=verdict).text = text
    elif verdict in ("inconclusive", "skipped"):
        ElementTree.SubElement(case, "skipped", message=message)
    elif text:
        ElementTree.SubElement(case, "system-out").text = text


def _document(suite: ElementTree.Element) -> bytes:
    counts = {"tests": len(suite)}
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        counts[name] = len(suite.findall(f"testcase/{tag}"))
    root = ElementTree.Element("testsuites", name="bench gate")
    for element in (root, suite):
        element.attrib |= {name: str(count) for name, count in counts.items()}
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
