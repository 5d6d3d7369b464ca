"""Reading the text files of published data sets: every fault is named with its file and line."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from bench.errors import UsageError


def find(name: str, folders: Sequence[Path], origin: str) -> Path:
    """The first of several places that holds a file.

    Args:
        name: the file's official name.
        folders: where people keep it, in the order in which it is looked for.
        origin: where it is published, for people.

    Raises:
        UsageError: in none of them; names the file, the first place and where it is published.
    """
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{folders[0] / name} is missing; {name} comes with {origin}")


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The words of every line that holds any, with line numbers from 1.

    Raises:
        UsageError: unreadable, or not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error})") from error
    return [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def read_csv(path: Path, columns: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, as text, with the line each ends on.

    Args:
        columns: that have to be there; others are read as well.

    Raises:
        UsageError: unreadable, no such column, or a row of another length than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error})") from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise UsageError(f"{path}, line 1: no column {missing[0]!r}; the columns are {', '.join(header) or 'none'}")
    if len(set(header)) < len(header):
        raise UsageError(f"{path}, line 1: a column is there twice")
    for number, row in rows:
        if len(row) != len(header):
            raise UsageError(f"{path}, line {number}: {len(row)} values, but line 1 names {len(header)} columns")
    return [(number, dict(zip(header, row, strict=True))) for number, row in rows]


def number(text: str, low: float, high: float, where: str) -> float:
    """A finite number in [low, high].

    Args:
        where: file, line and column, for people.

    Raises:
        UsageError: anything else.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{where}: {text!r} is not a number") from error
    if not low <= value <= high:  # false for NaN as well
        raise UsageError(f"{where}: {text} is outside [{low:g}, {high:g}]")
    return value


def image_name(text: str, pattern: str, where: str) -> str:
    """A file name that a path may be built from: relative, inside its folder and of the published form.

    Args:
        pattern: regular expression of the whole name.

    Raises:
        UsageError: anything else.
    """
    if not re.fullmatch(pattern, text) or ".." in PurePosixPath(text).parts:
        raise UsageError(f"{where}: {text!r} is not a file name of this data set")
    return text


def once(name: str, seen: dict[str, str], where: str) -> None:
    """Remember a name, and where it was.

    Raises:
        UsageError: it was there before.
    """
    if name in seen:
        raise UsageError(f"{where}: {name} is there already, in {seen[name]}")
    seen[name] = where
