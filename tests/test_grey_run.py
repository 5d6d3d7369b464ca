"""A whole run on grey images: verified, judged again, compared, and shown on the page and in the figures."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backends import BACKENDS
from bench.config import build_config
from bench.images import read_saved
from bench.progress import Display
from bench.record import read_suite
from bench.rejudge import rejudge
from bench.verify import VerifyRecord, verify
from reports.figures import NOT_VALID, picture_grid, read_pair, signed_difference
from reports.pages.blocks import Gallery
from reports.pages.report import write_report
from reports.pages.sections import gallery
from reports.pairs import pairs
from reports.records import read_cells, read_table
from reports.sweep import strips, sweep_figure
from reports.thumbnails import Encoding, Files, colours, encode
from tests.conftest import SIZE
from tests.grey_images import grey_fixture, photographs_fixture, weights_fixture  # noqa: F401 (fixtures)

CELL = "folder--ac-re--eager--s0"
AGAIN = "folder--ac-re--again--s0"
SHORT = ["ac-re.max_steps=2", "ac-re.depth=2", "metrics.noise_draws=1", "metrics.filter_depth=2"]
FLAGS = {"method": ["ac-re"], "limit": 2, "batch_size": 2, "device": "cpu", "targets": (0.2, 0.8)}


@pytest.fixture(scope="module")
def verified(
    weights: dict[str, str], photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[VerifyRecord, Path]:
    """AC-RE on a folder of grey images, with eager and with eager under another name: the record, and its folder."""
    folder = tmp_path_factory.mktemp("verify")
    networks = [f"weights.{role}={weights[role]}" for role in ("regressor", "oracle", "ddpm")]
    images = [f"folder.path={photographs}", f"folder.size={SIZE}", "folder.channels=1", "reconstructions=true"]
    config = build_config(None, [*SHORT, *networks, *images], FLAGS | {"dataset": ["folder"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "again", "backends.eager:EagerBackend")
        return verify(config, {}, ["again"], folder, 2, True, Display(io.StringIO())), folder


def samples_of(folder: Path) -> list[Files]:
    """Where the pictures of the reference's counterfactuals are."""
    cell = folder / "reference" / CELL
    return [
        Files(
            folder / "reference" / "inputs-folder" / row.input,
            cell / "images" / row.image,
            cell / "reconstructions" / row.reconstruction,
        )
        for row in read_table(cell / "samples.parquet").itertuples()
    ]


def decoded(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_two_backends_are_verified(verified: tuple[VerifyRecord, Path]) -> None:
    (result,) = verified[0].results
    assert result.verdict == "bit-identical"
    assert [(network.network, network.faults) for network in result.networks] == [("denoiser", []), ("regressor", [])]
    assert result.end_to_end.compared == result.end_to_end.identical == 4


def test_every_saved_picture_is_grey(verified: tuple[VerifyRecord, Path]) -> None:
    for files in samples_of(verified[1]):
        for path in (files.original, files.counterfactual, files.reconstruction):
            assert Image.open(path).mode == "L"
            assert read_saved(path).shape == (SIZE, SIZE, 1)


def test_judged_again_it_has_the_same_figures(verified: tuple[VerifyRecord, Path]) -> None:
    folder = verified[1] / "candidate"
    before = read_suite(folder).cells[0].summary
    rejudge(folder, None, Display(io.StringIO()))
    after = read_suite(folder).cells[0].summary
    assert before.keys() == after.keys() and before["sparsity/change_l1"].value > 0
    for key, estimate in before.items():
        assert after[key].value == pytest.approx(estimate.value, abs=1e-6), key


def test_the_page_pairs_the_backends_and_shows_every_picture(verified: tuple[VerifyRecord, Path]) -> None:
    suites = [verified[1] / "reference", verified[1] / "candidate"]
    cells = read_cells(suites)
    (pair,) = pairs(cells)
    assert (pair.candidate.record.id, pair.verdict) == (AGAIN, "bit-identical")
    (block,) = [block for block in gallery.build(cells).blocks if isinstance(block, Gallery)]
    assert len(block.items) == 8
    assert all(None not in item["pictures"] and "problems" not in item for item in block.items)
    page = write_report(suites, verified[1] / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") >= len(block.pictures) >= 8


def test_thumbnails_are_grey_and_the_difference_is_red_where_it_got_brighter(
    verified: tuple[VerifyRecord, Path],
) -> None:
    samples = samples_of(verified[1])
    for files, found in zip(samples, encode(samples, Encoding(64, 100, exact=64)), strict=True):
        assert found.problems == ()
        original, changed = read_saved(files.original), read_saved(files.counterfactual)
        for picture, pixels in ((found.original, original), (found.counterfactual, changed)):
            assert np.array_equal(decoded(picture), np.repeat(pixels, 3, axis=-1))
        gap = (changed.astype(np.float32) - original)[..., 0] / 255
        assert np.array_equal(decoded(found.difference), colours(gap))
        brighter, darker = decoded(found.difference)[gap > 0.05], decoded(found.difference)[gap < -0.05]
        assert len(brighter) and len(darker)
        assert (brighter[:, 0] > brighter[:, 2]).all() and (darker[:, 0] < darker[:, 2]).all()


def test_grid_and_sweep_draw_grey_pictures(verified: tuple[VerifyRecord, Path]) -> None:
    folder = verified[1] / "reference"
    frame = read_table(folder / CELL / "samples.parquet")
    places = folder / "inputs-folder", folder / CELL / "images"
    figure = picture_grid({"AC-RE": (frame, *places)}, 4)
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    original, changed = read_pair(frame.sort_values("id").iloc[0], *places)
    assert np.array_equal(shown[0], original) and np.array_equal(shown[4], changed)
    assert (original == original[..., :1]).all() and original.std() > 0
    titles = [figure.axes[4 + column].get_title() for column in range(4)]
    assert all(title.startswith("r ") for title in titles)
    by_title = {axis.get_title(): axis.title.get_color() for axis in figure.axes[4:8]}
    expected = {f"r {row['prediction']:.2f}": "black" if row["valid"] > 0 else NOT_VALID for _, row in frame.iterrows()}
    assert by_title == {title: expected[title] for title in by_title}
    found = strips([folder], 2)
    assert [list(strip.counterfactuals) for strip in found] == [[0.2, 0.8]] * 2
    first = sweep_figure(found, "reconstruction").axes
    base, pixels = found[0].reconstruction.pixels, found[0].counterfactuals[0.2].pixels
    drawn = np.asarray(first[4 + 2].images[0].get_array())
    np.testing.assert_allclose(drawn, signed_difference(base, pixels))
