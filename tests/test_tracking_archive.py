"""Archives of pictures come back from a server that others write to: only what `pack` writes is unpacked."""

import shutil
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.tracking.archive import BadArchive, pack, unpack

PNG = "0123456789abcdef.png"


def archive(path: Path, *entries: tuple[str, bytes], **attributes: Any) -> Path:
    """An archive with these files, whose entries have these attributes of ZipInfo."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(entry, key, value)
            file.writestr(entry, content)
    return path


@pytest.mark.parametrize(
    "name",
    ["../x.png", "/etc/passwd", "images/../../x.png", f"images/sub/{PNG}", "images/x.png", f"other/{PNG}", "images/",
     f"inputs-../{PNG}", f"images\\{PNG}", f"images/{PNG}\n"],
)  # fmt: skip
def test_archives_with_other_names_are_refused(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", (f"images/{PNG}", b"fine"), (name, b"evil"))
    with pytest.raises(BadArchive, match="is not"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_archives_with_other_things_than_files_are_refused(kind: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", (f"images/{PNG}", b"/etc/passwd"), external_attr=kind << 16)
    with pytest.raises(BadArchive, match="not a plain stored file"):
        unpack(path, tmp_path / "out")


def test_archives_that_grow_are_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"images/{PNG}", bytes(10**6))
    with pytest.raises(BadArchive, match="not a plain stored file"):
        unpack(bomb, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(f"images/{PNG}", b"1")
        file.writestr(f"images/{PNG}", b"2")
    with pytest.raises(BadArchive, match="twice"):
        unpack(tmp_path / "twice.zip", tmp_path / "out")


def test_archives_whose_entries_share_bytes_are_refused(tmp_path: Path) -> None:
    """Many entries of the directory point at one file in the archive."""
    names = [f"images/{number:016x}.png" for number in range(50)]
    data = bytearray(archive(tmp_path / "a.zip", *((name, b"x" * (10_000 if not n else 0)) for n, name in
                                                     enumerate(names))).read_bytes())  # fmt: skip
    first = data.index(b"PK\x01\x02")
    sizes, checksum = data[first + 20 : first + 28], data[first + 16 : first + 20]
    place = first
    while (place := data.find(b"PK\x01\x02", place)) >= 0:
        data[place + 16 : place + 20], data[place + 20 : place + 28] = checksum, sizes
        data[place + 42 : place + 46] = struct.pack("<I", 0)
        place += 4
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(BadArchive, match="claims"):
        unpack(tmp_path / "b.zip", tmp_path / "out")


def test_damaged_archives_are_refused_or_whole(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    content = bytes(range(256))
    (tmp_path / "images" / PNG).write_bytes(content)
    assert pack(tmp_path, ["images", "missing"], tmp_path / "a.zip") == 1
    good = (tmp_path / "a.zip").read_bytes()
    for place in range(0, len(good), 3):
        for damaged in (good[:place], good[:place] + bytes([good[place] ^ 0x5A]) + good[place + 1 :]):
            (tmp_path / "b.zip").write_bytes(damaged)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            try:
                unpack(tmp_path / "b.zip", tmp_path / "out")
            except BadArchive:
                continue
            for found in (tmp_path / "out").rglob("*.png"):
                assert found.read_bytes() == content
    pack(tmp_path, ["images"], tmp_path / "c.zip")
    assert (tmp_path / "c.zip").read_bytes() == good
