"""The recipes of ELPV: data, losses and figures on hand-made arrays, a few steps of each, what is shipped."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.checkpoints import SHIPPED, load_network
from bench.datasets.elpv_files import manifest
from bench.errors import UsageError
from bench.training import elpv_figures
from bench.training.data import ElpvData, TrainingData, open_data
from bench.training.elpv_figures import attacked, linear_predictions, quality
from bench.training.loop import Trainer
from bench.training.losses import adversarial_images, noisy_images
from bench.training.recipe import Recipe
from bench.training.recipes import RECIPES
from methods.noise import TrainingNoise
from metrics.regression import spearman

CPU = torch.device("cpu")
PREDICTORS = ("elpv/regressor", "elpv/oracle", "elpv/type")
ELPV = (*PREDICTORS, "elpv/ddpm", "elpv/diffae")


class LittleCells(TrainingData):
    """Grey cells of 64x64 pixels; defective ones, every other, have a dark half."""

    name, digest, unit = "little-cells", "cells", "defect probability"

    def __len__(self) -> int:
        return 32

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images = (150 + 2 * index.view(-1, 1, 1, 1)).expand(-1, 1, 64, 64).clone()
        images[index % 2 == 1, :, :, :32] = 40
        return images.to(torch.uint8), (index % 2).float()


class Bright(LittleCells):
    """Images whose attribute is their brightness."""

    def __init__(self, count: int) -> None:
        self.attribute = torch.linspace(0, 1, count)
        self.images = (self.attribute.view(-1, 1, 1, 1) * 255).to(torch.uint8).expand(-1, 1, 64, 64)


class Level(nn.Module):
    """Predicts the mean brightness."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1).mean(1)


def short(name: str, **changes: object) -> Recipe:
    defaults: dict[str, object] = {"steps": 2, "batch_size": 4, "warmup": 2}
    return dataclasses.replace(RECIPES[name], **(defaults | changes))


@pytest.fixture(scope="module")
def valid() -> ElpvData:
    data = open_data("elpv/valid-64", CPU, None)
    assert isinstance(data, ElpvData)
    return data


def test_the_data_are_the_manifests_rows(valid: ElpvData) -> None:
    rows = manifest()
    rows = rows[rows["split"] == "valid"]
    assert (len(valid), valid.name, valid.unit) == (len(rows), "elpv/valid-64", "defect probability")
    assert (valid.images.dtype, valid.images.shape[1:]) == (torch.uint8, (1, 64, 64))
    index = torch.tensor([5, 0, 5])
    pixels, probability = valid.batch(index)
    assert torch.equal(pixels, valid.images[index])
    np.testing.assert_allclose(probability.numpy(), rows["probability"].to_numpy()[[5, 0, 5]], atol=1e-6)


def test_the_other_attribute_is_the_type_on_the_same_images(valid: ElpvData) -> None:
    data = open_data("elpv/valid-64-type", CPU, None)
    assert data.digest == valid.digest
    rows = manifest()
    types = rows[rows["split"] == "valid"]["type"]
    assert data.batch(torch.arange(len(data)))[1].tolist() == [float(name == "poly") for name in types]


def test_a_folder_without_the_photographs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cell0"):
        open_data("elpv/valid-64", CPU, tmp_path)


@pytest.mark.parametrize("name", ["", "all", "Valid", "valid-96", "valid-64-mono", "valid-type", "valid-64-type-x"])
def test_a_split_that_there_is_not_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"^elpv/{name}: not a split of ELPV; SPLIT, SPLIT-SIZE or SPLIT-SIZE-type"):
        open_data(f"elpv/{name}", CPU, None)


@pytest.mark.parametrize("name", ELPV)
def test_every_recipe_trains_on_grey_images(name: str, tmp_path: Path) -> None:
    trainer = Trainer(short(name, batch_size=2), LittleCells(), tmp_path)
    before = {key: value.clone() for key, value in trainer.network.named_parameters()}
    trainer.run(lambda step, loss: None, until=1)
    changed = {key for key, value in trainer.network.named_parameters() if not torch.equal(value, before[key])}
    assert changed  # a last layer of zeros gives the others no gradient in the first step


@pytest.mark.parametrize("name", PREDICTORS)
def test_the_nets_that_predict_learn(name: str, tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = short(name, steps=30, batch_size=8, config={"widths": [8, 16], "in_channels": 1}, lr=4e-3)
    Trainer(recipe, LittleCells(), tmp_path).run(lambda step, loss: losses.append(loss))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_nothing_but_the_training_split_is_trained_on() -> None:
    assert {RECIPES[name].data for name in ELPV} == {"elpv/train-64", "elpv/train-64-type"}
    assert RECIPES["elpv/type"].data == "elpv/train-64-type"


def test_the_oracle_is_independent_of_the_regressor() -> None:
    regressor, oracle = RECIPES["elpv/regressor"], RECIPES["elpv/oracle"]
    assert regressor.seed != oracle.seed
    assert regressor.config != oracle.config


def test_every_image_draws_its_own_strength_of_noise() -> None:
    images = torch.full((200, 1, 32, 32), 0.5)
    change = noisy_images(images, TrainingNoise(0, 0), 0.1) - images
    strength = change.flatten(1).std(1)
    assert 0.08 < strength.max() < 0.11 and strength.min() < 0.01
    assert abs(float(strength.mean()) - 0.05) < 0.01
    assert abs(float(change.mean())) < 0.001


def test_the_harder_images_are_harder_and_near() -> None:
    images, value = torch.full((64, 1, 8, 8), 0.5), torch.linspace(0, 0.4, 64)
    hard = adversarial_images(Level(), images, value, TrainingNoise(0, 0), sigma=0.0, epsilon=0.02)
    step = hard - images
    assert not hard.requires_grad
    assert (step >= 0).all() and step.max() <= 0.02  # up is away from every value here
    assert step.flatten(1).std(1).max() < 1e-6  # one size an image
    assert step[:, 0, 0, 0].unique().numel() > 60
    assert torch.equal(adversarial_images(Level(), images, value, TrainingNoise(0, 0), sigma=0.0, epsilon=0.0), images)


def test_an_attack_goes_to_the_other_side_within_its_ball() -> None:
    images = torch.stack([torch.full((1, 8, 8), level) for level in (0.2, 0.8, 0.01, 0.995)])
    moved = attacked(Level(), images, 4 / 255)
    change = Level()(moved) - Level()(images)
    torch.testing.assert_close(change, torch.tensor([4.0, -4.0, 4.0, -4.0]) / 255)
    assert moved.min() >= 0 and moved.max() <= 1
    dark = torch.full((1, 1, 8, 8), 0.0)
    assert torch.equal(attacked(lambda image: 1 - image.flatten(1).mean(1), dark, 0.1), dark + 0.1)


def test_figures_by_hand() -> None:
    true = np.array([0, 0, 1 / 3, 1, 0, 1])
    predicted = np.array([0.1, 0.4, 0.2, 0.9, 0.5, 0.5])
    poly = np.array([False, False, False, False, True, True])
    found = quality(predicted, true, poly)
    assert found["mae"] == pytest.approx((0.1 + 0.4 + 2 / 15 + 0.1 + 0.5 + 0.5) / 6)
    assert found["mae_mono"] == pytest.approx((0.1 + 0.4 + 2 / 15 + 0.1) / 4)
    assert found["mae_poly"] == pytest.approx(0.5)
    assert found["auc_mono"] == pytest.approx(0.75)
    assert found["auc_poly"] == pytest.approx(0.5)
    assert found["auc"] == pytest.approx((1 + 3 + 2.5) / 9)
    assert np.isnan(found["spearman_poly"])
    assert set(found) == {f"{name}{end}" for name in ("mae", "spearman", "auc") for end in ("", "_mono", "_poly")}


def test_the_linear_baseline_reads_brightness() -> None:
    train, valid, test = Bright(64), Bright(16), Bright(32)
    predicted = linear_predictions(train, valid, test)
    assert np.abs(predicted - test.attribute.numpy()).mean() < 0.02
    assert spearman(predicted, test.attribute.numpy()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["regressor", "oracle", "type"])
def test_cards_of_the_shipped_nets_tell_the_truth(name: str, valid: ElpvData) -> None:
    card = json.loads((SHIPPED / f"elpv-{name}.json").read_text())
    recipe, training = RECIPES[card["recipe"]], card["training"]
    assert card["config"] == json.loads(json.dumps(dict(recipe.config)))
    for key in ("steps", "seed", "batch_size", "flip", "vertical_flip", "quarter_turns", "weight_decay"):
        assert training[key] == getattr(recipe, key), key
    assert training["loss"] == recipe.loss.__name__
    assert card["data"]["split"] == recipe.data
    assert (SHIPPED / f"elpv-{name}.safetensors").stat().st_size < 1 << 20
    network = load_network(f"elpv-{name}", name).network
    predicted = elpv_figures.predictions(network, valid)
    figures = card["figures"]
    if name == "type":
        poly = open_data("elpv/valid-64-type", CPU, None).batch(torch.arange(len(valid)))[1].numpy() > 0.5
        assert ((predicted > 0.5) == poly).mean() > figures["majority_accuracy"] + 0.2
        return
    assert np.abs(predicted - valid.attribute.numpy()).mean() == pytest.approx(figures["test_mae"], abs=0.05)
    assert figures["test_mae"] < figures["linear_mae"] - 0.03 < figures["constant_mae"]
    assert figures["test_auc"] > figures["linear_auc"] + 0.03
    assert (np.abs(predicted) < 0.05).any() and (np.abs(predicted - 1) < 0.05).any()  # both ends are reached
