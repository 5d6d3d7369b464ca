"""The credit that ELPV's licence asks for: on pages, figures and the cards of weights, in the words of one place."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from bench.checkpoints import SHIPPED, load_network
from bench.cli import app
from bench.datasets import CREDITS, DATASETS, SOURCES
from bench.record import SuiteRecord, now, write_json
from bench.training.data import TrainingData
from bench.training.loop import Trainer
from bench.training.recipes import RECIPES
from reports.credits import foot_of
from reports.elpv_gallery import ATTRIBUTION
from reports.pages.sections.gallery import build
from reports.records import read_cells
from reports.results import write_grid
from reports.sweep import strips, sweep_figure
from tests.tiny_cell import run_cell, tiny_cell

CREDIT = CREDITS["elpv"].text()
DPI = 130


def joined(lines: str) -> str:
    """A text without its line breaks."""
    return " ".join(lines.split())


def test_the_words_name_source_licence_and_changes_and_stand_in_one_place() -> None:
    for part in ("Buerhop-Lutz", "Deitsch", "github.com/zae-bayern/elpv-dataset", "/licenses/by-nc-sa/4.0", "changed"):
        assert part in CREDIT
    assert CREDIT.count("CC BY-NC-SA 4.0") == 2, "of the photographs, and of what is made of them"
    assert set(CREDITS) <= set(DATASETS)
    assert SOURCES["elpv"].endswith(CREDITS["elpv"].licence)
    assert joined(ATTRIBUTION) == CREDIT, "of the gallery"


# Figures and pages


@pytest.mark.parametrize("width", [2.45, 3.65, 7.8, 10.5])
def test_the_foot_of_a_figure_has_room_for_its_lines(width: float) -> None:
    foot = foot_of(["square", "elpv", "elpv"], width)
    assert joined(" ".join(foot.lines)).count("ELPV data set") == 1
    figure = Figure(figsize=(width, foot.height), dpi=DPI)
    foot.write(figure)
    box = figure.texts[0].get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert min(box.x0, box.y0) > 0
    assert box.x1 < width * DPI and box.y1 < foot.height * DPI


def test_other_data_sets_need_no_foot() -> None:
    foot = foot_of(["square", "folder", "toy"], 5)
    figure = Figure()
    foot.write(figure)
    assert (foot.lines, foot.height, figure.texts) == ([], 0, [])


@pytest.fixture(scope="module")
def suites(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same small record twice, as one of ELPV's photographs and as one of Square's images."""
    found = {}
    for dataset in ("elpv", "square"):
        folder = tmp_path_factory.mktemp(dataset)
        cell = tiny_cell(networks, "ac-re", slots=2, count=2, targets=(0.48, 0.52), metrics={"noise_draws": 0})
        cell.options["ac-re"] = cell.options["ac-re"].model_copy(update={"max_steps": 1})
        record, _ = run_cell(dataclasses.replace(cell, dataset=dataset), folder)
        (folder / "inputs").rename(folder / f"inputs-{dataset}")
        facts = {"cpu": "", "device": "cpu", "packages": {}, "git": {"commit": ""}}
        suite = SuiteRecord(
            id="x", command="", config_set={}, config={}, environment=facts, cells=[record], started=now()
        )
        write_json(folder / "suite.json", suite)
        found[dataset] = folder
    return found


def test_a_sweep_has_the_credit_beneath_its_pictures(suites: dict[str, Path]) -> None:
    plain, credited = (sweep_figure(strips([suites[name]], 2), "input") for name in ("square", "elpv"))
    text = credited.texts[-1]
    assert joined(text.get_text()) == CREDIT
    foot = foot_of(["elpv"], credited.get_figwidth())
    assert credited.get_figheight() == pytest.approx(plain.get_figheight() + foot.height)
    top = text.get_window_extent(FigureCanvasAgg(credited).get_renderer()).y1
    assert all(axis.get_window_extent().y0 > top for axis in credited.axes)
    for before, after in zip(plain.axes, credited.axes, strict=True):
        sizes = [axis.get_window_extent().size / (1, axis.figure.dpi) for axis in (before, after)]
        np.testing.assert_allclose(sizes[1], sizes[0], rtol=1e-6, err_msg="pictures as large as without a credit")
    assert not any("ELPV" in text.get_text() for text in plain.texts)


def test_a_grid_has_the_credit_beneath_its_pictures(suites: dict[str, Path], tmp_path: Path) -> None:
    sizes, feet = {}, {}
    for name, folder in suites.items():
        path = write_grid([folder], tmp_path / f"{name}.png")
        with Image.open(path) as image:
            sizes[name] = image.size
            feet[name] = np.asarray(image.convert("L"))[-round(110 * foot_of(["elpv"], image.width / 110).height) :]
    added = sizes["elpv"][1] - sizes["square"][1]
    assert sizes["elpv"][0] == sizes["square"][0]
    assert added == pytest.approx(110 * foot_of(["elpv"], sizes["elpv"][0] / 110).height, abs=1)
    assert feet["elpv"].min() < 150 and feet["elpv"][:3].min() > 250, "letters, and no picture among them"


def test_a_page_has_the_credit_beside_its_pictures(suites: dict[str, Path], tmp_path: Path) -> None:
    for names, count in ((["elpv"], 1), (["square"], 0), (["square", "elpv"], 1)):
        section = build(read_cells([suites[name] for name in names]))
        texts = [getattr(block, "text", "") for block in section.blocks]
        assert texts.count(CREDIT) == count, names
        page = tmp_path / f"{'-'.join(names)}.html"
        done = CliRunner().invoke(app, ["report", *(str(suites[name]) for name in names), "-o", str(page)])
        assert done.exit_code == 0, done.output
        assert page.read_text().count("Photographs: ELPV") == count, names


# Cards of weights


class Little(TrainingData):
    """Eight grey images under the name of a split."""

    digest, unit = "little", "1"

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 8

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(index), 1, 16, 16), 100, dtype=torch.uint8), (index % 2).float()


@pytest.mark.parametrize(("split", "licence"), [("elpv/train-64", CREDITS["elpv"].licence), ("train", None)])
def test_an_exported_card_names_the_licence_of_its_data(split: str, licence: str | None, tmp_path: Path) -> None:
    changes: dict[str, object] = {"config": {"widths": [8], "in_channels": 1}, "steps": 1, "batch_size": 2}
    trainer = Trainer(dataclasses.replace(RECIPES["elpv/type"], **changes), Little(split), tmp_path)
    card = json.loads(trainer.export(tmp_path, {}).read_text())
    assert card["data"]["split"] == split and card.get("data_licence") == licence


def test_shipped_cards_name_the_licence_of_their_data() -> None:
    cards = {path.stem: json.loads(path.read_text()) for path in SHIPPED.glob("*.json")}
    assert {name for name, card in cards.items() if "data_licence" in card} == {
        f"elpv-{role}" for role in ("regressor", "oracle", "type", "ddpm", "diffae")
    }
    assert {card["data_licence"] for name, card in cards.items() if re.match("elpv-", name)} == {"CC BY-NC-SA 4.0"}


def test_the_licence_in_a_card_does_not_make_it_another_network(tmp_path: Path) -> None:
    """Fingerprints are of the sha256 that loading gives."""
    shipped = SHIPPED / "elpv-type.safetensors"
    card = json.loads(shipped.with_suffix(".json").read_text())
    del card["data_licence"]
    (tmp_path / "old.safetensors").write_bytes(shipped.read_bytes())
    (tmp_path / "old.json").write_text(json.dumps(card))
    assert load_network(str(tmp_path / "old.safetensors"), "type").sha256 == load_network("elpv-type", "type").sha256
