"""The accuracy gate: an A/A run passes, planted faults do not."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from backends import BACKENDS
from bench.accuracy import NetworkAccuracy, find_faults, measure_network, sample_cosines
from bench.calls import Call, _Kept, record_calls
from bench.cli import app
from bench.config import build_config
from bench.errors import RunError, UsageError
from bench.images import file_name, write_png
from bench.outcomes import compare_cells, judge_outcomes
from bench.progress import Display
from bench.sections import VerifyConfig
from bench.verify import Verified, VerifyRecord, candidates, verify
from methods.base import Batch
from methods.noise import numpy_normal
from tests.conftest import toy_samples
from tests.faulty_backends import FAULTY

SHORT = ["ac-re.max_steps=2", "diffae-re.max_steps=2", "diffae-re.inversion_steps=4", "diffae-re.decoding_steps=3"]
REPEATS = 14
MARGINS = VerifyConfig()
COUNT = 320
"""Images of a made-up cell: enough to prove a success rate."""


@pytest.fixture(scope="module")
def planted() -> Iterator[None]:
    """The faulty backends, and eager under another name, in the table."""
    with pytest.MonkeyPatch.context() as patch:
        for name, path in FAULTY.items():
            patch.setitem(BACKENDS, name, path)
        patch.setitem(BACKENDS, "again", "backends.eager:EagerBackend")
        yield


def run_verify(folder: Path, backends: list[str], **flags: Any) -> VerifyRecord:
    config = build_config("smoke", SHORT, {"limit": 2, "batch_size": 2, **flags})
    return verify(config, {}, backends, folder, REPEATS, True, Display(io.StringIO()))


@pytest.fixture(scope="module")
def verified(planted: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verified]:
    """One verification under AC-RE of eager under another name and of every fault, by backend."""
    faults = ["rounded", "black", "swapped", "cached", "racing", "overflowing", "refusing"]
    record = run_verify(tmp_path_factory.mktemp("verify"), ["again", *faults], method=["ac-re"])
    return {result.backend: result for result in record.results}


def test_an_a_a_run_is_bit_identical(verified: dict[str, Verified]) -> None:
    result = verified["again"]
    assert result.verdict == "bit-identical"
    assert [measured.network for measured in result.networks] == ["denoiser", "regressor"]
    for measured in result.networks:
        assert measured.faults == []
        assert measured.gradient_calls >= 1
        assert (measured.forward_relative, measured.gradient_relative, measured.repeat_relative) == (0, 0, 0)
        assert measured.repeats == REPEATS
    assert result.end_to_end.identical == result.end_to_end.images == 2


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("rounded", "denoiser: forward error"),
        ("black", "regressor: the output hardly depends on the input"),
        ("swapped", "denoiser: gradient cosine"),
        ("cached", "denoiser: the output hardly depends on the input"),
        ("racing", "denoiser: repeated calls differ"),
        ("overflowing", "denoiser: NaN or infinite values"),
        ("refusing", "denoiser cannot be built"),
    ],
)
def test_planted_faults_are_different(backend: str, words: str, verified: dict[str, Verified]) -> None:
    result = verified[backend]
    assert result.verdict == "different"
    assert words in "\n".join(result.reasons)


def test_every_network_of_diffae_re_is_measured_where_it_is_used(planted: None, tmp_path: Path) -> None:
    record = run_verify(tmp_path, ["again"], method=["diffae-re"], limit=1, batch_size=1)
    assert record.results[0].verdict == "bit-identical"
    measured = {found.network: found for found in record.results[0].networks}
    assert measured.keys() == {"encoder", "denoiser", "regressor"}
    assert measured["encoder"].gradient_calls == 0
    assert measured["denoiser"].calls == 4 + 3
    assert measured["denoiser"].gradient_calls == 3
    assert json.loads((tmp_path / "verify.json").read_text())["results"][0]["verdict"] == "bit-identical"
    for side in ("reference", "candidate"):
        assert (tmp_path / side / "suite.json").is_file()


def cli(folder: Path, *arguments: str) -> Any:
    common = [part for text in SHORT for part in ("-s", text)]
    options = ["--method", "ac-re", "--limit", "1", "--batch-size", "1", "--repeats", "2", "-o", str(folder)]
    return CliRunner().invoke(app, ["verify", *common, *options, *arguments])


def test_exit_codes_and_json(planted: None, tmp_path: Path) -> None:
    passed = cli(tmp_path, "--backend", "again", "--json")
    assert passed.exit_code == 0, passed.output
    document = json.loads(passed.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "verify.json").read_text())
    assert document["config"]["verify"]["success_margin"] == 0.01
    assert cli(tmp_path, "--backend", "rounded").exit_code == 1
    lax = ["forward_limit=9", "gradient_limit=9", "cosine_limit=0.01", "prediction_tolerance=0"]
    loosened = [part for text in lax for part in ("-s", f"verify.{text}")]
    undecided = cli(tmp_path, "--backend", "rounded", *loosened)
    assert undecided.exit_code == 0
    assert "inconclusive" in undecided.stdout
    assert "about 299 images would decide" in undecided.stdout
    assert cli(tmp_path, "--backend", "rounded", *loosened, "--strict").exit_code == 1


def test_what_cannot_be_verified_is_refused(planted: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not claim to compute"):
        run_verify(tmp_path, ["null"])
    names = candidates()
    assert "again" in names
    assert "null" not in names
    assert "eager" not in names
    with pytest.raises(UsageError, match="verify.success_margin"):
        build_config("smoke", ["verify.success_margin=2"], {})
    with pytest.raises(UsageError, match="verify.margin"):
        build_config("smoke", ["verify.margin=0.1"], {})


def test_recorded_calls_are_those_of_the_search(make_method: Any) -> None:
    method = make_method("ac-re", 2)
    samples = toy_samples(2)
    batch = Batch(tuple(s.id for s in samples), torch.stack([s.image for s in samples]), torch.full((2,), 0.5))
    before = method.denoiser
    calls = record_calls(method, batch)
    assert method.denoiser is before
    searched = [int(call.inputs[1][0]) for call in calls["denoiser"] if call.wanted]
    refined = [int(call.inputs[1][0]) for call in calls["denoiser"] if not call.wanted]
    assert searched == refined == [int(method.schedule.timesteps[step]) for step in reversed(range(5))]
    assert [call.wanted for call in calls["regressor"]] == [(0,)]


def test_sixteen_bit_networks_have_limits_of_their_own() -> None:
    measured = NetworkAccuracy(
        network="denoiser", dtype="torch.bfloat16", calls=4, gradient_calls=4, forward_absolute=0.02,
        forward_relative=0.006, gradient_absolute=0.1, gradient_relative=0.04, cosine_worst=0.995, cosine_mean=0.9995,
        cosine_call_worst=0.7, cosine_call_mean=0.99, finite=True, repeats=2, repeat_relative=0.0, input_response=1.0,
    )  # fmt: skip
    assert find_faults(measured, MARGINS) == []
    assert len(find_faults(measured.model_copy(update={"dtype": "torch.float32"}), MARGINS)) == 4
    for key, value, word in (
        ("cosine_mean", 0.9985, "mean over samples"),
        ("cosine_worst", 0.985, "worst sample"),
        ("forward_relative", 0.04, "forward error"),
        ("gradient_relative", float("inf"), "gradient error"),
        ("input_response", float("nan"), "hardly depends"),
    ):
        faults = find_faults(measured.model_copy(update={key: value}), MARGINS)
        assert len(faults) == 1
        assert word in faults[0]


class _Leaning(nn.Module):
    """The square; with `lean`, the gradient of weak inputs points the other way."""

    def __init__(self, lean: bool) -> None:
        super().__init__()
        self.lean = lean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x * torch.where(x.abs() < 0.01, -1.0 if self.lean else 1.0, 1.0)


def test_a_weak_call_weighs_little_in_a_samples_gradient() -> None:
    strong, weak = (Call((torch.full((2, 8), value),), (0,)) for value in (1.0, 0.005))
    lax = VerifyConfig(forward_limit=1, gradient_limit=9, cosine_limit=0.999)
    measured = measure_network("n", _Leaning(False), _Leaning(True), [strong, weak], "", lax, 2)
    assert measured.cosine_call_worst == pytest.approx(-1)
    assert 0.999 < measured.cosine_worst < 1
    assert measure_network("n", _Leaning(False), _Leaning(True), [weak], "", lax, 2).cosine_worst == pytest.approx(-1)


def test_kept_calls_are_spread_over_a_long_phase() -> None:
    kept = _Kept()
    for index in range(250):
        kept.offer(Call((torch.tensor([index]),), ()))
    times = [int(call.inputs[0]) for call in kept.spread()]
    assert len(times) == 6
    assert times[0] == 0
    assert times[-1] >= 200
    assert max(np.diff(times)) <= 70


def test_cosines_are_per_sample() -> None:
    theirs = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    ours = torch.tensor([[2.0, 0.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0], [torch.nan, 0.0]])
    assert sample_cosines(ours, theirs) == pytest.approx([1.0, -1.0, 1.0, 0.0, 0.0])


def write_cell(folder: Path, images: np.ndarray, prediction: np.ndarray, oracle_error: np.ndarray) -> Path:
    """A finished cell of samples with target 0.5 and tolerance 0.05; images that are there are kept."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    ids = [f"s{index}" for index in range(len(images))]
    for name, pixels in zip(ids, images, strict=True):
        if not (folder / "images" / file_name(name)).is_file():
            write_png(folder / "images" / file_name(name), pixels)
    frame = pd.DataFrame(
        {
            "id": ids,
            "image": [file_name(name) for name in ids],
            "prediction": prediction,
            "oracle_target_mae": oracle_error,
            "valid": (np.abs(prediction - 0.5) <= 0.05).astype(float),
            "steps": 5,
            "failure": pd.Series([None] * len(ids), dtype=object),
        }
    )
    frame.to_parquet(folder / "samples.parquet", index=False)
    return folder


@pytest.fixture
def outcome() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Small images with predictions of which nine in ten are valid, and oracle errors."""
    images = (np.arange(COUNT * 4 * 4 * 3).reshape(COUNT, 4, 4, 3) % 251).astype(np.uint8)
    prediction = 0.5 + 0.03 * numpy_normal(11, (COUNT,))
    return images, prediction, 0.05 + 0.02 * np.abs(numpy_normal(12, (COUNT,)))


def verdict_of(folder: Path, reference: tuple[np.ndarray, ...], candidate: tuple[np.ndarray, ...]) -> tuple[str, str]:
    theirs, ours = write_cell(folder / "a", *reference), write_cell(folder / "b", *candidate)
    verdict, reasons = judge_outcomes(compare_cells(theirs, ours, MARGINS, 0), MARGINS)
    return verdict, "; ".join(reasons)


def test_end_to_end_verdicts(outcome: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    images, prediction, error = outcome
    other = images ^ 1
    valid = np.flatnonzero(np.abs(prediction - 0.5) <= 0.04)
    nearly, moved = prediction + 1e-5 * np.sign(0.5 - prediction), prediction.copy()
    moved[valid] += 0.005
    worse = prediction.copy()
    worse[valid[:40]] = 0.9
    assert verdict_of(tmp_path, outcome, (other, nearly, error))[0] == "numerically equal"
    assert verdict_of(tmp_path, outcome, (other, moved, error * 1.001))[0] == "equivalent"
    verdict, reasons = verdict_of(tmp_path, outcome, (other, worse, error))
    assert verdict == "different"
    assert "success rate: different" in reasons
    verdict, reasons = verdict_of(tmp_path, outcome, (other, moved, error * 1.2))
    assert verdict == "different"
    assert "oracle target error: different" in reasons
    few = tuple(array[:20] for array in outcome)
    verdict, reasons = verdict_of(tmp_path, few, (other[:20], moved[:20], error[:20]))
    assert verdict == "inconclusive"
    assert "about 299 images would decide" in reasons


def test_changed_successes_are_counted_each_way(
    outcome: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, prediction, error = (array[:12] for array in outcome)
    prediction = np.full(12, 0.5)
    prediction[:3], prediction[3] = 0.5501, 0.5499
    flipped = prediction.copy()
    flipped[:2], flipped[3] = 0.5499, 0.5501  # two gained and one lost by less than the tolerance of predictions
    reference = write_cell(tmp_path / "a", images, prediction, error)
    found = compare_cells(reference, write_cell(tmp_path / "b", images ^ 3, flipped, error), MARGINS, 0)
    assert (found.gained, found.lost) == (2, 1)
    assert (found.identical, found.pixel_largest, found.pixels_different) == (0, 3, 1.0)
    assert found.prediction_largest == pytest.approx(2e-4)
    assert judge_outcomes(found, MARGINS)[0] == "inconclusive"


def test_one_black_image_among_many_is_different(
    outcome: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    images, prediction, error = outcome
    blackened = images.copy()
    blackened[17] = 0
    verdict, reasons = verdict_of(tmp_path, outcome, (blackened, prediction, error))
    assert verdict == "different"
    assert "1 saved images are of one single colour" in reasons


def test_cells_that_cannot_be_paired_are_named(
    outcome: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    few, fewer = (tuple(array[:n] for array in outcome) for n in (3, 2))
    theirs, ours = write_cell(tmp_path / "a", *few), write_cell(tmp_path / "b", *fewer)
    with pytest.raises(RunError, match="different samples"):
        compare_cells(theirs, ours, MARGINS, 0)
    (theirs / "images" / file_name("s1")).unlink()
    again = write_cell(tmp_path / "c", *few)
    with pytest.raises(RunError, match="run the cell again"):
        compare_cells(theirs, again, MARGINS, 0)
