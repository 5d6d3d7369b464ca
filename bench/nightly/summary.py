"""A night as Markdown: for the job's page, and for the issue that is opened when it is red."""

import os
from pathlib import Path

from bench.nightly.record import NightRecord
from bench.nightly.steps import StepRecord, tail

PAGE_BYTES = 900_000
"""GitHub takes 1 MiB from one step."""
SIGNS = {"ok": "ok", "failed": "**failed**", "warning": "warning", "skipped": "skipped"}


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also in a table's cell."""
    plain = " ".join(text.split())
    for character in "\\`*_[]|~#":
        plain = plain.replace(character, f"\\{character}")
    # "@" would notify people, "<" begin HTML.
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@&#8203;")


def _code(lines: list[str]) -> list[str]:
    """A code block that its content cannot end."""
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return [f"{fence}text", *lines, fence]


def verdict_line(night: NightRecord) -> str:
    """The night in one sentence."""
    red = night.red()
    why = f": {', '.join(escaped(step.name) for step in red)}" if red else ""
    accepted = " (accepted as the new base)" if night.settings.accept and night.verdict == "green" else ""
    return f"Night {escaped(night.id)} is **{night.verdict}**{why}{accepted}"


def markdown(night: NightRecord, out: Path) -> str:
    """The whole summary: verdict, notes, steps, what failed, and what each gate wrote."""
    lines = [f"## {verdict_line(night)}", "", *_facts(night), ""]
    lines += [f"- {escaped(note)}" for note in night.notes] + [""]
    lines += ["| step | result | seconds | |", "| --- | --- | ---: | --- |"]
    lines += [_row(step) for step in night.steps] + [""]
    for step in night.red():
        lines += [f"### {escaped(step.name)}", "", "Command and end of its log:", ""]
        lines += [*_code([step.command, "", *tail(out / step.log)] if step.log else [step.command]), ""]
    for preset in night.presets():
        for written in (out / f"gate-{preset}.md", out / f"alone-{preset}.md"):
            if written.is_file():
                lines += [f"## {escaped(preset)}", "", written.read_text(encoding="utf-8").strip(), ""]
    return "\n".join(lines)


def _facts(night: NightRecord) -> list[str]:
    commit = escaped(night.commit or "no commit") + (" with uncommitted changes" if night.changes else "")
    lines = [f"{escaped(night.machine.name)}, commit {commit}, {', '.join(map(escaped, night.settings.backends))}"]
    if night.against:
        lines.append(f"measured in turns with, and gated against, {escaped(night.against)}")
    return ["  \n".join(lines)]


def _row(step: StepRecord) -> str:
    return f"| {escaped(step.name)} | {SIGNS[step.status]} | {step.seconds:.0f} | {escaped(step.note)} |"


def append_to_job_page(text: str) -> None:
    """Append to $GITHUB_STEP_SUMMARY, where a workflow set it; too long a text is cut, and says so."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    data = text.encode("utf-8", "replace")
    if len(data) > PAGE_BYTES:
        data = data[:PAGE_BYTES].decode("utf-8", "ignore").encode() + b"\n\n(cut; the whole is summary.md of the night)"
    with open(path, "ab") as file:
        file.write(data + b"\n")
