"""How records lie in MLflow: tags that find them again, and the names of their artifacts."""

import hashlib
import re

RECORD_TAG = "bench.record_id"
"""What a run is the copy of; the same record is never imported twice."""
SUITE_TAG = "bench.suite_id"
"""The record id of a cell's suite, and of a suite itself."""
IMPORT_TAG = "bench.import"
COMPLETE, INCOMPLETE, REPLACED = "complete", "incomplete", "replaced"
"""Values of `IMPORT_TAG`: all of the record is there; the import was killed or is going on; a cell whose record has
changed since (it was resumed or judged again), and is there anew."""
DIGEST_TAG = "bench.digest"
"""Changes with the files that were imported."""
IMAGES_TAG = "bench.images"
""""true" where the pictures were imported, too, or there are none; else "false"."""
CREATED_TAG = "bench.created"
"""When an import made the run: milliseconds since 1970, 15 digits."""
COMMAND_TAG = "bench.command"
KIND_TAG = "bench.kind"
""""suite", "cell" or "training"."""
CELL_TAG = "bench.cell"
"""The cell's id, which is the name of its folder."""
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"

RECORD_FOLDER = "record"
"""Artifact folder of a cell."""
SUITE_FILES = ("suite.json", "report.html")
CELL_FILES = ("result.json", "samples.parquet", "samples.jsonl", "trace.parquet", "latency.json")
INPUTS_ARCHIVE = "inputs.zip"
"""Of a suite: the originals of all its datasets."""
IMAGES_ARCHIVE = "images.zip"
"""Of a cell, in its `RECORD_FOLDER`: counterfactuals and reconstructions."""

OWN_PREFIX = "bench."
"""Of the tags above and of the user's (`track --tag`), which must not be named like them."""
TAKEN = (RECORD_TAG, SUITE_TAG, IMPORT_TAG, DIGEST_TAG, IMAGES_TAG, CREATED_TAG, COMMAND_TAG, KIND_TAG, CELL_TAG)

_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,@+=-]{0,199}")


def record_id(*parts: str) -> str:
    """A name for a record in 32 characters that every store's search takes."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_cell_name(name: str) -> bool:
    """Whether a name that came from a server may become a cell's folder, beside a suite's own files and folders."""
    own = name in (*SUITE_FILES, INPUTS_ARCHIVE) or name.startswith("inputs-")
    return _FOLDER.fullmatch(name) is not None and not own


def folder_name(name: str) -> str:
    """A suite's name as one that may become a folder."""
    kept = re.sub(r"[^A-Za-z0-9_.,@+=-]", "_", name)[:100].lstrip(".,@+=-")
    return kept or "suite"
