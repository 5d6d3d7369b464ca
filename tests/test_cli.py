"""The command line as a user meets it. Runs are real, on the shipped networks, with few steps."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.suite import locked

ROOT = Path(__file__).parent.parent
FEW = ["-s", "ac-re.max_steps=3", "-s", "diffae-re.max_steps=2", "-s", "diffae-re.inversion_steps=10"]
ENVIRONMENT = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}


def bench(*arguments: str, folder: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=timeout, check=False
    )


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one error line of a command that ended with `code`."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "Error: "))]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_help_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        assert bench("--help", folder=tmp_path).returncode == 0
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5
    probe = (
        "import sys; sys.argv = ['bench', '--help']\n"
        "try:\n import bench.__main__\nexcept SystemExit:\n pass\n"
        "assert 'torch' not in sys.modules"
    )
    assert (
        subprocess.run([sys.executable, "-c", probe], capture_output=True, env=ENVIRONMENT, check=False).returncode == 0
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--backend", "compiel"], "did you mean 'compile'?"),
        (
            ["run", "--device", "cpu", "--backend", "compile", "-s", "compile.precision=float16"],
            "compile.precision=float16 is not usable",
        ),
        (
            ["run", "--device", "cpu", "--backend", "onnx", "-s", "onnx.precision=float16"],
            "onnx.precision=float16 is not usable",
        ),
        (
            ["run", "--device", "cpu", "--backend", "onnx", "-s", "onnx.provider=cuda"],
            "onnx.provider=cuda does not run on device cpu",
        ),
        (["run", "--device", "cpu", "--backend", "tensorrt"], "tensorrt"),
        (["run", "--method", "acre"], "did you mean 'ac-re'?"),
        (["run", "--dataset", "squares"], "did you mean 'square'?"),
        (["run", "--bakend", "eager"], "--backend"),
        (["run", "-s", "ac-re.stepsize=1"], "did you mean 'ac-re.step_size'?"),
        (["validate", "--dataset", "elpv", "-s", "elpv.typ=poly"], "did you mean 'elpv.type'?"),
        (["run", "-s", "metrcs.x=1"], "did you mean 'metrics'?"),
        (["run", "-s", "nonsense"], "section.key=value"),
        (["run", "-c", "papre"], "did you mean 'paper'?"),
        (["run", "--limit", "-1"], "limit"),
        (["run", "--batch-size", "0"], "batch_size"),
        (["run", "--device", "tpu"], "device"),
        (["run", "-s", "square.target=1.5"], "square.target=1.5 is outside [0, 1]"),
        (["run", "-s", "ac-re.depth=x"], "ac-re.depth"),
        (["run", "-s", "weights.regressor=nowhere.safetensors"], "nowhere.safetensors"),
        (["run", "-s", "weights.oracle=square-regressor"], "the oracle is the regressor itself"),
        (["run", "-s", "weights.ddpm=square-regressor"], "'adm' is needed"),
        (["run", "--dataset", "folder"], "folder.path"),
        (["run", "--dataset", "folder", "-s", "folder.path=empty"], "holds no images"),
        (["run", "-o", "file"], "--output file"),
        (["show", "empty"], "no record"),
        (["ls", "backend"], "did you mean 'backends'?"),
        (["train", "square/ddmp"], "did you mean 'square/ddpm'?"),
        (["ui"], "no MLflow store"),
        (["ui", "--uri", "http://127.0.0.1:9"], "has a page of its own"),
        (["track", "empty"], "no record"),
        (["run", "-s", "tracking.uri=http://me:secret@host"], "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert words in sentence(bench(*arguments, folder=tmp_path), 2)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One small finished suite of both methods."""
    folder = tmp_path_factory.mktemp("cli")
    arguments = ["run", *FEW, "--limit", "3", "--batch-size", "2", "-o", "runs/one", "-s", "tracking.wait_s=200"]
    done = bench(*arguments, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_a_complete_record(suite: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = suite
    record = json.loads(done.stdout.splitlines()[-1])
    assert record == json.loads((folder / "runs/one/suite.json").read_text())
    assert record["status"] == "ok"
    assert [cell["method"] for cell in record["cells"]] == ["ac-re", "diffae-re"]
    for cell in record["cells"]:
        summary = cell["summary"]
        for key in (
            "quality/square_mae",
            "quality/background_mae",
            "validity/oracle_target_mae",
            "throughput/seconds_per_image",
        ):
            assert summary[key]["n"] == 3
            assert summary[key]["low"] <= summary[key]["value"] <= summary[key]["high"]
        assert summary["realism/fid"]["value"] is not None or "inception" in cell["notes"]["realism/fid"]
        assert cell["timings"]["build_s"] > 0
        assert cell["timings"]["step_s"] > 0
        frame = pd.read_parquet(folder / "runs/one" / cell["id"] / "samples.parquet")
        assert len(frame) == 3
        assert (frame["steps"] > 0).all()
        for name in frame["image"]:
            assert Image.open(folder / "runs/one" / cell["id"] / "images" / name).size == (64, 64)
    assert "Square MAE" in done.stdout
    assert "report.html" in done.stdout


def test_validity_is_judged_on_the_saved_image(suite: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    import torch

    from bench.checkpoints import load_network

    folder, _ = suite
    regressor = load_network("square-regressor", "regressor").network
    cell = folder / "runs/one/square--ac-re--eager--s0"
    for _, row in pd.read_parquet(cell / "samples.parquet").iterrows():
        pixels = np.asarray(Image.open(cell / "images" / row["image"]), dtype=np.float32) / 255
        assert float(regressor(torch.from_numpy(pixels).permute(2, 0, 1)[None])) == pytest.approx(
            row["prediction"], abs=1e-6
        )
        assert row["valid"] == (abs(row["prediction"] - row["target"]) <= 0.05)


def test_a_finished_suite_is_not_run_again(suite: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = suite
    before = (folder / "runs/one/square--ac-re--eager--s0/result.json").read_bytes()
    again = bench("run", *FEW, "--limit", "3", "--batch-size", "2", "-o", "runs/one", folder=folder)
    assert again.returncode == 0
    assert "already complete" in again.stderr
    assert (folder / "runs/one/square--ac-re--eager--s0/result.json").read_bytes() == before


def test_resuming_with_another_configuration_is_refused(suite: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = suite
    done = bench("run", *FEW, "--limit", "3", "-o", "runs/one", "-s", "ac-re.depth=4", folder=folder)
    text = sentence(done, 2)
    assert "options" in text
    assert "--fresh" in text


def test_the_page_is_one_file_without_outside_references(suite: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = suite
    done = bench("report", "runs/one", "--grid", "grid.png", "--results", "results.json", folder=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "runs/one/report.html").read_text()
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"<(?:link|img|iframe)\b|\bsrc=", page.split("<script")[0])
    assert Image.open(folder / "grid.png").width > 200
    results = json.loads((folder / "results.json").read_text())
    for method in ("ac-re", "diffae-re"):
        assert results[method]["n"] == 3
        low, high = results[method]["square_mae_interval"]
        assert low <= results[method]["square_mae"] <= high
        assert "bench run" in results[method]["command"]


def test_mlflow_holds_a_copy_and_importing_again_adds_nothing(
    suite: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from mlflow import MlflowClient

    folder, _ = suite
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("counterfactual-bench").experiment_id
    runs = client.search_runs([experiment])
    kinds = sorted(run.data.tags["bench.kind"] for run in runs)
    assert kinds == ["cell", "cell", "suite"]
    cell = next(run for run in runs if run.data.tags.get("method") == "ac-re")
    record = json.loads((folder / "runs/one/square--ac-re--eager--s0/result.json").read_text())
    assert cell.data.metrics["quality/square_mae"] == record["summary"]["quality/square_mae"]["value"]
    assert cell.data.params["ac-re.depth"] == "5"
    first = len(json.loads((folder / "runs/one" / record["id"] / "latency.json").read_text())["step_s"])
    assert len(client.get_metric_history(cell.info.run_id, "series/step_s")) == first
    printed = suite[1].stdout
    assert printed.index("Square MAE") < printed.index("MLflow  sqlite:///")
    done = bench("track", "runs/one", folder=folder)
    assert "0 new cells" in done.stdout
    assert len(client.search_runs([experiment])) == 3


def test_show_prints_the_recorded_table(suite: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = suite
    shown = bench("show", "runs/one", folder=folder)
    assert "Background MAE" in shown.stdout
    assert shown.stdout.splitlines()[2] in done.stdout


def outcomes(cell: Path) -> dict[str, tuple[str, int, float]]:
    frame = pd.read_parquet(cell / "samples.parquet")
    return {row["id"]: (row["sha256"], row["steps"], row["prediction"]) for _, row in frame.iterrows()}


@pytest.mark.parametrize("method", ["ac-re", "diffae-re"])
def test_a_killed_run_continues_to_the_same_counterfactuals(method: str, tmp_path: Path) -> None:
    arguments = ["run", *FEW, "--method", method, "--limit", "6", "--batch-size", "2", "-s", "tracking.enabled=false"]
    assert bench(*arguments, "-o", "runs/whole", folder=tmp_path).returncode == 0
    command = [sys.executable, "-m", "bench", *arguments, "-o", "runs/killed"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    cell = tmp_path / "runs/killed" / f"square--{method}--eager--s0"
    journal = cell / "samples.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < deadline, "no sample was finished in time"
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done_before = journal.read_bytes().count(b"\n")
    resumed = bench(*arguments, "-o", "runs/killed", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert done_before < 6
    assert outcomes(cell) == outcomes(tmp_path / "runs/whole" / cell.name)
    assert json.loads((cell / "result.json").read_text())["sessions"] == 2


def test_an_altered_image_is_made_again(tmp_path: Path) -> None:
    arguments = ["run", *FEW, "--method", "ac-re", "--limit", "2", "-s", "tracking.enabled=false", "-o", "runs/x"]
    assert bench(*arguments, folder=tmp_path).returncode == 0
    cell = tmp_path / "runs/x/square--ac-re--eager--s0"
    before = outcomes(cell)
    (cell / "result.json").write_text(
        (cell / "result.json").read_text().replace('"status": "ok"', '"status": "interrupted"')
    )
    next((cell / "images").iterdir()).write_bytes(b"")
    assert bench(*arguments, folder=tmp_path).returncode == 0
    assert outcomes(cell) == before


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    with locked(tmp_path / "busy"):
        text = sentence(bench("run", *FEW, "--limit", "1", "-o", "busy", folder=tmp_path), 2)
    assert "in use by process" in text


def test_own_images_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    name = '"><img src=x onerror=alert(1)>.png'
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(folder / name)
    options = ["--dataset", "folder", "-s", "folder.path=mine", "-s", "folder.target=0.6", "--method", "ac-re"]
    done = bench("run", *options, *FEW, "-s", "tracking.enabled=false", "-o", "runs/mine", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "runs/mine/report.html").read_text()
    assert "<img src=x" not in page
    assert "onerror=alert(1)\\u003e" in page
    frame = pd.read_parquet(tmp_path / "runs/mine/folder--ac-re--eager--s0/samples.parquet")
    assert "square_mae" not in frame
    assert frame["id"].tolist() == [name]
    (folder / "cut.png").write_bytes((folder / name).read_bytes()[:60])
    assert "cut.png" in sentence(bench("run", *options, *FEW, "-o", "runs/cut", folder=tmp_path), 2)


def test_dry_run_and_validate_run_nothing(tmp_path: Path) -> None:
    for arguments, counted in (
        (["run", "--dry-run", "--limit", "4"], "4 images, 8 slots"),
        (["validate", "--limit", "1", "--batch-size", "1"], "1 image, 1 slot"),
    ):
        done = bench(*arguments, *FEW, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"square--ac-re--eager--s0: {counted}, device" in done.stdout
        assert '"max_steps":3' in done.stdout
    assert not (tmp_path / "runs").exists()


def test_fresh_starts_over_and_deletes_nothing_else(tmp_path: Path) -> None:
    down = "tracking.uri=http://127.0.0.1:9"  # a tracking server that is down is told, and nothing else
    arguments = ["run", *FEW, "--method", "ac-re", "--limit", "1", "-s", down, "-o", "runs/x"]
    first = bench(*arguments, folder=tmp_path)
    assert first.returncode == 0
    assert "MLflow  not written: http://127.0.0.1:9 does not answer within 1 s; import it later" in first.stdout
    fresh = bench(*arguments, "--fresh", folder=tmp_path)
    assert fresh.returncode == 0
    assert "already complete" not in fresh.stderr
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("years")
    text = sentence(bench(*arguments[:-1], "precious", "--fresh", folder=tmp_path), 2)
    assert "will not delete" in text
    assert (tmp_path / "precious/thesis.tex").read_text() == "years"
