"""A record's pictures in one file for each run, since a request for every picture would take hours.

The archive is not compressed: PNG files do not shrink further, and one that claims to hold more than it weighs can
be refused by its size alone. It comes back from a server that others write to, so nothing in it is trusted.
"""

import re
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from bench.errors import BenchError

IMAGE_LIMIT = 64 * 2**20
"""Bytes of one picture: more than an uncompressed one of 4096 x 4096."""
COUNT_LIMIT = 2_000_000
_NAME = re.compile(r"(images|reconstructions|inputs-[A-Za-z0-9_-]{1,64})/[0-9a-f]{16}\.png")
_DAMAGE = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error),
    OSError,  # a place outside the file
)
_DATE = (1980, 1, 1, 0, 0, 0)


class BadArchive(BenchError):
    """An archive of pictures that is damaged, or is not what `pack` writes."""


def pack(folder: Path, names: Iterable[str], path: Path) -> int:
    """Write the PNG files of some of a folder's subfolders into an archive; the same files give the same bytes.

    Args:
        names: of subfolders; one that is missing is left out.

    Returns:
        How many files are in it; with none, no archive is written.
    """
    files = [file for name in names for file in sorted((folder / name).glob("*.png"))]
    if not files:
        return 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(f"{file.parent.name}/{file.name}", _DATE)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, file.read_bytes())
    return len(files)


def unpack(path: Path, folder: Path) -> int:
    """Write an archive's pictures under a folder, after every entry was found to be one that `pack` writes.

    Returns:
        How many files there are.

    Raises:
        BadArchive: damaged, or with entries that are no plain PNG files of known names, too large, or too many.
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise BadArchive(f"{path.name} is damaged ({error})") from error
        entries = archive.infolist()
        _check(entries, path)
        for entry in entries:
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_content(archive, entry, path))
    return len(entries)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    try:
        return archive.read(entry)
    except _DAMAGE as error:
        raise BadArchive(f"{path.name}: {entry.filename!r} is damaged ({error})") from error


def _check(entries: list[zipfile.ZipInfo], path: Path) -> None:
    """Raise BadArchive for the first entry that is not what `pack` writes."""
    if len(entries) > COUNT_LIMIT:
        raise BadArchive(f"{path.name} holds {len(entries)} entries, more than {COUNT_LIMIT}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise BadArchive(f"{path.name} holds a name twice")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG) and not entry.flag_bits & 1
        if not plain or entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise BadArchive(f"{path.name}: {entry.filename!r} is not a plain stored file")
        if _NAME.fullmatch(entry.filename) is None:
            raise BadArchive(f"{path.name}: {entry.filename!r} is not the name of a record's picture")
        if entry.file_size > IMAGE_LIMIT:
            raise BadArchive(f"{path.name}: {entry.filename!r} has {entry.file_size} bytes, more than {IMAGE_LIMIT}")
    # Stored entries cannot weigh more than the file, unless several of them share the same bytes.
    total, weight = sum(entry.file_size for entry in entries), path.stat().st_size
    if total > weight:
        raise BadArchive(f"{path.name} claims {total} bytes of pictures in a file of {weight}")
