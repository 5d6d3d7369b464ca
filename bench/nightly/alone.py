"""The gate of records that there is nothing to compare with: `python -m bench.nightly.alone DIR`.

Exit code 0: every cell is there and whole in every repeat; 1: not so; 2: no records; 3: the repeats of DIR differ in
machine, data, weights, options or commit.
"""

import argparse
import sys
from pathlib import Path

from bench.cli_options import ending
from bench.compare import NotComparable
from bench.gate import gate_alone
from bench.gate.repeats import one_line
from bench.images import write_bytes
from reports import gate_report


@ending
def main(arguments: list[str] | None = None) -> int:
    """Judge a folder of process repeats by itself; returns the exit code."""
    parser = argparse.ArgumentParser("python -m bench.nightly.alone", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="a folder of process repeats (repeat-1, ...)")
    parser.add_argument("--verify", type=Path, default=None, help="folder with the verify.json of its backends")
    for option in ("--markdown", "--junit", "--output"):
        short = ["-o"] if option == "--output" else []
        parser.add_argument(option, *short, type=Path, required=True, metavar="FILE")
    given = parser.parse_args(arguments)
    try:
        report = gate_alone(given.folder, given.verify)
    except NotComparable as error:
        text = one_line(error)
        write_bytes(given.markdown, f"**Gate could not judge**: {gate_report.code(text)}\n".encode())
        write_bytes(given.junit, gate_report.junit_error(text))
        raise
    for line in [*gate_report.reason_lines(report), gate_report.headline(report)]:
        print(line)
    write_bytes(given.markdown, gate_report.markdown(report).encode("utf-8", "replace"))
    write_bytes(given.junit, gate_report.junit(report))
    write_bytes(given.output, report.model_dump_json(indent=2).encode() + b"\n")
    return 0 if report.passed() else 1


if __name__ == "__main__":
    sys.exit(main())
