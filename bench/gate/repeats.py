"""What the gate reads: a suite's folder or a folder of process repeats, and verify.json."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.compare import NotComparable, Side, check_comparable, read_sides
from bench.config import describe
from bench.errors import UsageError
from bench.gate.model import Verification
from bench.record import SuiteRecord, read_suite
from bench.sections import VerifyConfig
from reports.table import printable

SUITE = "suite.json"
VERIFY = "verify.json"
REPEAT = re.compile(r"repeat-\d+")
LATENCY = "latency.json"
"""File of a cell with the seconds of every call."""


def one_line(text: object) -> str:
    """Foreign text (a path, an error, a flag) for any file and terminal, on one line."""
    return printable(str(text)).replace("\n", " ").replace("\t", " ")


@dataclass(frozen=True)
class Repeat:
    """One suite: the work of one process.

    Attributes:
        sides: its cells, by id.
    """

    folder: Path
    suite: SuiteRecord
    sides: dict[str, Side]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return one_line(self.folder.name)


@dataclass(frozen=True)
class Repeats:
    """One side of the gate, first repeat first."""

    folder: Path
    repeats: list[Repeat]

    @property
    def first(self) -> Repeat:
        """The repeat that quality is judged on."""
        return self.repeats[0]

    @cached_property
    def ids(self) -> list[str]:
        """Every cell that any repeat has, in their order."""
        return list(dict.fromkeys(name for repeat in self.repeats for name in repeat.sides))

    @property
    def commit(self) -> str | None:
        """Of the code that ran, with "-dirty" where files differed from it."""
        git = self.first.suite.environment.get("git") or {}
        return f"{git['commit']}{'-dirty' if git.get('dirty') else ''}" if git.get("commit") else None

    def sides(self, cell: str) -> list[Side | None]:
        """The cell in every repeat."""
        return [repeat.sides.get(cell) for repeat in self.repeats]


def read_repeats(folder: Path) -> Repeats:
    """Read a suite's folder, or a folder whose subfolders are suites of the same command.

    Raises:
        UsageError: no record, an unreadable one, or no cell in any.
    """
    folders = [folder] if (folder / SUITE).is_file() else _suite_folders(folder)
    repeats = []
    for place in folders:
        sides = {side.record.id: side for side in read_sides(place)}
        repeats.append(Repeat(place, read_suite(place), sides))
    found = Repeats(folder, repeats)
    if not found.ids:
        raise UsageError(f"{one_line(folder)} holds no cell; there is nothing to gate")
    return found


def _suite_folders(folder: Path) -> list[Path]:
    if (folder / "result.json").is_file():
        raise UsageError(f"{one_line(folder)} is a cell's folder; give the folder of its suite")
    if not folder.is_dir():
        raise UsageError(f"{one_line(folder)} is no folder; give a suite's folder or one of process repeats")
    inner = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: _natural(path.name))
    for path in inner:
        if REPEAT.fullmatch(path.name) and not (path / SUITE).is_file():
            raise UsageError(f"{one_line(path)} holds no record ({SUITE}); run this repeat again, or delete it")
    found = [path for path in inner if (path / SUITE).is_file()]
    if not found:
        raise UsageError(f"{one_line(folder)} holds neither {SUITE} nor folders of process repeats that do")
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """repeat-2 before repeat-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def check_separate(base: Repeats, new: Repeats) -> None:
    """Refuse sides of which one holds a repeat of the other.

    Raises:
        UsageError: names the folder.
    """
    theirs = {repeat.folder.resolve() for repeat in base.repeats}
    for repeat in new.repeats:
        if repeat.folder.resolve() in theirs:
            raise UsageError(
                f"{one_line(repeat.folder)} is in both BASE and NEW; a folder compared with itself proves nothing"
            )


def check_copies(*sides: Repeats) -> None:
    """Refuse repeats of which one is a copy of another: a process that is counted twice makes no figure more certain.

    Two runs never share command and start, nor the seconds of every call of a cell.

    Raises:
        UsageError: names the two folders.
    """
    known: dict[tuple[str, ...] | bytes, Repeat] = {}
    for repeat in (repeat for side in sides for repeat in side.repeats):
        for mark in _marks(repeat):
            other = known.setdefault(mark, repeat)
            if other is not repeat:
                what = f"the same {LATENCY}" if isinstance(mark, bytes) else "the same command and start"
                raise UsageError(
                    f"{one_line(repeat.folder)} is a copy of {one_line(other.folder)} ({what}); "
                    "every process repeat has to be a run of its own"
                )


def _marks(repeat: Repeat) -> Iterator[tuple[str, ...] | bytes]:
    """What no other run has: its command with its start, and the timed calls of each cell, where there are some."""
    yield repeat.suite.command, repeat.suite.started
    for name, side in repeat.sides.items():
        path = side.folder / LATENCY
        if not path.is_file():
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{one_line(path)} cannot be read: {error.strerror}") from error
        if re.search(rb"[0-9]", content):  # else nothing was timed
            yield name.encode() + content


def check_terms(base: Repeats, new: Repeats) -> None:
    """Refuse sides that were not measured on the same terms, and repeats that are not of one command.

    Raises:
        NotComparable: another machine, data, weights or options, or repeats of several commits.
    """
    for repeats in (base, new):
        for repeat in repeats.repeats[1:]:
            theirs, ours = (r.suite.environment.get("git") or {} for r in (repeats.first, repeat))
            if theirs.get("commit") != ours.get("commit"):
                raise NotComparable(
                    f"{one_line(repeat.folder)} and {one_line(repeats.first.folder)} are of different commits; "
                    "repeats of one side have to be of one"
                )
    for name in base.ids:
        known = [side for side in (*base.sides(name), *new.sides(name)) if side is not None]
        for side in known[1:]:
            check_comparable(known[0], side)


def recorded_margins(base: Path) -> VerifyConfig:
    """Margins of quality as BASE's configuration has them: NEW cannot loosen what it is judged by.

    Raises:
        UsageError: no record, or a section [verify] that this version does not know.
    """
    first = read_repeats(base).first
    try:
        return VerifyConfig.model_validate(first.suite.config.get("verify", {}))
    except ValidationError as error:
        raise UsageError(f"{one_line(first.folder / SUITE)}: {describe(error, 'verify')}") from error


def read_verification(new: Repeats, given: Path | None) -> list[Verification] | None:
    """Results of `bench verify` for NEW; None where there are none.

    Args:
        given: the file or its folder; else it is looked for in NEW's folder and in `verify` there.

    Raises:
        UsageError: not there though it was given, damaged, or without a result.
        NotComparable: of another commit than NEW.
    """
    path = _verify_file(new.folder, given)
    if path is None:
        return None
    from bench.verify import VerifyRecord  # it imports every backend's modules

    try:
        record = VerifyRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{one_line(path)} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{one_line(path)} is damaged or of another schema; run `bench verify` again") from error
    if not record.results:
        raise UsageError(f"{one_line(path)} holds no result; run `bench verify` again")
    theirs, ours = _commit(record.environment), _commit(new.first.suite.environment)
    if None not in (theirs, ours) and theirs != ours:
        raise NotComparable(
            f"{one_line(path)} is of commit {theirs}, {one_line(new.folder)} of {ours}; verify that one"
        )
    return [
        Verification.model_validate(result.model_dump(include=set(Verification.model_fields)))
        for result in record.results
    ]


def _verify_file(folder: Path, given: Path | None) -> Path | None:
    if given is not None:
        path = given / VERIFY if given.is_dir() else given
        if not path.is_file():
            raise UsageError(f"--verify {one_line(given)} holds no {VERIFY}; `bench verify -o DIR` writes one")
        return path
    return next((path for path in (folder / VERIFY, folder / "verify" / VERIFY) if path.is_file()), None)


def _commit(environment: dict[str, Any]) -> str | None:
    return (environment.get("git") or {}).get("commit")
