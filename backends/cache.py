"""The user's cache folder: built kernels, exported graphs and engines.

Entries are content-addressed folders; an entry is complete when its `entry.json` exists, which is written
last and holds the sha256 of every other file. Nothing outside this folder is ever loaded as code.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import BackendError

VARIABLE = "COUNTERFACTUAL_BENCH_CACHE"
_MANIFEST = "entry.json"


def cache_root() -> Path:
    """$COUNTERFACTUAL_BENCH_CACHE, or ~/.cache/counterfactual-bench."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "counterfactual-bench"


def content_key(facts: dict[str, Any]) -> str:
    """Name of an entry: a hash of everything its content depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Entry:
    """A complete cache entry.

    Attributes:
        folder: its files.
        facts: what it was built from.
        hit: it was there already.
    """

    folder: Path
    facts: dict[str, Any]
    hit: bool


def cached(kind: str, facts: dict[str, Any], build: Callable[[Path], None]) -> Entry:
    """The entry for `facts`, built when it is not there.

    Args:
        kind: folder below the cache root, such as "kernels" or "onnx".
        facts: JSON data that names everything the content depends on.
        build: writes the entry's files into the folder it is given.

    Raises:
        BackendError: the folder cannot be written, or an entry's file is missing, truncated or altered.
    """
    folder = cache_root() / kind / content_key(facts)
    if (folder / _MANIFEST).is_file():
        _verify(folder)
        return Entry(folder, facts, hit=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    except OSError as error:
        raise BackendError(
            f"cannot write the cache folder {folder.parent}: {error.strerror}; set {VARIABLE} to a writable folder"
        ) from error
    try:
        build(temporary)
        hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / _MANIFEST).write_text(json.dumps({"facts": facts, "sha256": hashes}, indent=1, default=str))
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / _MANIFEST).is_file():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Entry(folder, facts, hit=False)


def _verify(folder: Path) -> None:
    try:
        hashes = json.loads((folder / _MANIFEST).read_text())["sha256"]
    except (json.JSONDecodeError, KeyError) as error:
        raise BackendError(f"{folder / _MANIFEST} is damaged; delete {folder} and run again") from error
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != expected:
            raise BackendError(f"{path} is missing, truncated or altered; delete {folder} and run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
