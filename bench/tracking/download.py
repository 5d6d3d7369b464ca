"""Rebuilding suites' folders from MLflow: pages, trends and gates read them like any other record."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.record import SuiteRecord, read_suite, write_json
from bench.sections import TrackingConfig
from bench.tracking import layout
from bench.tracking.address import redacted
from bench.tracking.archive import BadArchive, unpack
from bench.tracking.connection import existing_experiment, search_all, told
from bench.tracking.server import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    Run = Any  # mlflow.entities.Run, which type checkers see as untyped

THREADS = 4


def download_suites(
    config: TrackingConfig,
    runs: Path,
    into: Path,
    images: bool = True,
    samples: bool = True,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> list[Path]:
    """Rebuild the folders of every suite of an experiment from any store, the earliest first.

    A cell that was deleted in MLflow is left out of its suite, and so is one whose import did not come to its end.

    Args:
        runs: folder of the default store, where `config` names none.
        into: parent of the folders that are made; those that exist are not touched.
        images: with the pictures, where they were imported.
        samples: with the files of the cells; without them there is `suite.json` alone, which has every figure of a
            summary, and `images` means nothing.
        tell: gets one sentence for everything that is left out.

    Returns:
        Folders in `into`, named after their suites; where several have one name, with their run's id behind it.

    Raises:
        UsageError: no such store, experiment, or no suite in it.
        TrackingError: the store cannot be read, or what a run holds is no record.
    """
    client, uri, experiment = existing_experiment(runs, config)
    with told(uri):
        parents = search_all(client, experiment, f"tags.`{layout.KIND_TAG}` = 'suite'")
        cells = search_all(client, experiment, f"tags.`{layout.KIND_TAG}` = 'cell'") if samples else []
    complete = _complete(parents, tell)
    if not complete:
        raise UsageError(
            f"experiment {config.experiment!r} in MLflow at {redacted(uri)} holds no suite; "
            "import one with `python -m bench track DIR`"
        )
    children: dict[str, list[Run]] = {}
    for cell in _complete(cells, tell):
        children.setdefault(cell.data.tags.get(layout.PARENT_TAG, ""), []).append(cell)
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=into) as scratch:
        fetch = _Fetch(client, uri, Path(scratch), images, samples)
        with ThreadPoolExecutor(THREADS) as threads:
            found = list(threads.map(lambda run: fetch.suite(run, children.get(run.info.run_id, [])), complete))
        return _named(found, into)


def _complete(runs: Iterable["Run"], tell: Callable[[str], None]) -> list["Run"]:
    """Those whose import came to its end and whose record has not been replaced, by the time they began."""
    kept = []
    for run in runs:
        state = run.data.tags.get(layout.IMPORT_TAG)
        if state == layout.COMPLETE:
            kept.append(run)
        elif state != layout.REPLACED:
            tell(
                f"left out: run {run.info.run_id} ({run.info.run_name}) in MLflow is not whole; "
                "import its folder again with `python -m bench track DIR`"
            )
    return sorted(kept, key=lambda run: (run.info.start_time, run.info.run_id))


def _named(found: Sequence[tuple[Path, SuiteRecord, str]], into: Path) -> list[Path]:
    """Move finished folders to their names."""
    names = [layout.folder_name(suite.id) for _, suite, _ in found]
    folders = []
    for (made, _, run_id), name in zip(found, names, strict=True):
        taken = names.count(name) > 1 or (into / name).exists()
        folder = into / (f"{name}--{run_id[:8]}" if taken else name)
        if folder.exists():
            raise UsageError(f"{folder} exists already; download into an empty folder")
        made.rename(folder)
        folders.append(folder)
    return folders


class _Fetch:
    """Fetches suites of one store into folders of `scratch` that are named after their runs."""

    def __init__(self, client: "MlflowClient", uri: str, scratch: Path, images: bool, samples: bool) -> None:
        self.client, self.uri, self.scratch, self.images, self.samples = client, uri, scratch, images, samples

    def suite(self, run: "Run", cells: list["Run"]) -> tuple[Path, SuiteRecord, str]:
        """A suite's folder, its record and the id of its run.

        Raises:
            TrackingError: artifacts are missing, damaged or no record.
        """
        folder = self.scratch / run.info.run_id
        folder.mkdir()
        return folder, self._suite(run, cells, folder), run.info.run_id

    def _suite(self, run: "Run", cells: list["Run"], folder: Path) -> SuiteRecord:
        self._file(run, "suite.json", folder)
        try:
            suite = read_suite(folder)
        except UsageError as error:
            raise self._bad(run, str(error)) from error
        if not self.samples:
            return suite
        if self.images and layout.INPUTS_ARCHIVE in self._listed(run):
            self._archive(run, layout.INPUTS_ARCHIVE, folder)
        there = {cell.data.tags.get(layout.CELL_TAG, ""): cell for cell in cells}
        suite.cells = [record for record in suite.cells if record.id in there]
        for name, cell in there.items():
            self._cell(cell, name, folder)
        write_json(folder / "suite.json", suite)
        return suite

    def _cell(self, run: "Run", name: str, folder: Path) -> None:
        target = folder / name
        if not layout.is_cell_name(name) or target.exists():
            raise self._bad(run, f"{name!r} is not the name of a cell, or is there twice")
        target.mkdir()
        there = self._listed(run, layout.RECORD_FOLDER)
        for file in layout.CELL_FILES:
            if file in there or file == "result.json":
                self._file(run, f"{layout.RECORD_FOLDER}/{file}", target)
        try:
            identity = json.loads((target / "result.json").read_bytes()).get("id")
        except (ValueError, AttributeError) as error:
            raise self._bad(run, "result.json is damaged") from error
        if identity != name:
            raise self._bad(run, f"result.json is of {identity!r}, not of {name}")
        if self.images and layout.IMAGES_ARCHIVE in there:
            self._archive(run, f"{layout.RECORD_FOLDER}/{layout.IMAGES_ARCHIVE}", target)

    def _file(self, run: "Run", path: str, target: Path) -> None:
        """Bring an artifact to `target` under its own name."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as place:
            try:
                with told(self.uri):
                    made = Path(self.client.download_artifacts(run.info.run_id, path, place))
            except TrackingError as error:
                raise self._bad(run, f"{path} cannot be fetched: {error}") from error
            if made.is_symlink() or not made.is_file():
                raise self._bad(run, f"{path} is no file")
            shutil.move(made, target / Path(path).name)

    def _archive(self, run: "Run", path: str, target: Path) -> None:
        """Bring an archive's pictures under `target`."""
        self._file(run, path, target)
        archive = target / Path(path).name
        try:
            unpack(archive, target)
        except BadArchive as error:
            raise self._bad(run, str(error)) from error
        archive.unlink()

    def _listed(self, run: "Run", folder: str | None = None) -> set[str]:
        """Names of the artifacts in a folder."""
        with told(self.uri):
            return {Path(item.path).name for item in self.client.list_artifacts(run.info.run_id, folder)}

    def _bad(self, run: "Run", text: str) -> TrackingError:
        return TrackingError(
            f"run {run.info.run_id} ({run.info.run_name}) in MLflow at {redacted(self.uri)} holds no whole record: "
            f"{text}; delete that run, or import its folder again with `python -m bench track DIR`"
        )
