"""The training loop on a short real recipe: it learns, and a killed run continues exactly."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from bench.checkpoints import SHIPPED, load_network
from bench.datasets import square
from bench.kinds import build_network
from bench.listing import RECIPES as NAMES
from bench.training import loop
from bench.training.command import held_out_figures
from bench.training.loop import Trainer, TrainingError, learning_rate
from bench.training.recipes import RECIPES, Recipe
from methods.noise import TrainingNoise


@pytest.fixture(autouse=True)
def little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the 630 grid images instead of generating 16,000."""
    little = SimpleNamespace(load=lambda split: square.load("grid"), data_digest=lambda split: "digest")
    monkeypatch.setattr(loop, "square", little)


def short(name: str, **changes: object) -> Recipe:
    defaults: dict[str, object] = {"steps": 6, "batch_size": 4, "warmup": 2}
    return dataclasses.replace(RECIPES[name], **(defaults | changes))


def test_the_listed_recipes_are_those_that_exist() -> None:
    assert set(NAMES) == set(RECIPES)


def test_regressor_and_oracle_differ_in_seed_and_data_order() -> None:
    regressor, oracle = RECIPES["square/regressor"], RECIPES["square/oracle"]
    assert regressor.steps == oracle.steps
    orders = [TrainingNoise(recipe.seed, 0).indices(32, 16_000).tolist() for recipe in (regressor, oracle)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_killed_training_continues_exactly(name: str, tmp_path: Path) -> None:
    whole = Trainer(short(name), tmp_path / "whole")
    whole.run(lambda step, loss: None)
    Trainer(short(name), tmp_path / "cut").run(lambda step, loss: None, until=3)
    resumed = Trainer(short(name), tmp_path / "cut")
    assert resumed.step == 3
    resumed.run(lambda step, loss: None)
    for key, value in whole.average.items():
        assert torch.equal(value, resumed.average[key]), key


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(short("square/regressor"), tmp_path).run(lambda step, loss: None, until=1)
    with pytest.raises(TrainingError, match="another recipe"):
        Trainer(short("square/regressor", lr=1.0), tmp_path)
    assert Trainer(short("square/regressor", lr=1.0), tmp_path, fresh=True).step == 0


def test_a_diverging_loss_stops_with_a_sentence(tmp_path: Path) -> None:
    recipe = short("square/regressor", loss=lambda network, images, attribute, noise: network(images) * float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        Trainer(recipe, tmp_path).run(lambda step, loss: None)


def test_exported_weights_load_and_are_the_average(tmp_path: Path) -> None:
    trainer = Trainer(short("square/regressor"), tmp_path / "t")
    trainer.run(lambda step, loss: None)
    card = trainer.export(tmp_path / "w", {"clean_mae": 0.1})
    weights = card.with_suffix(".safetensors")
    assert load_file(weights)["head.weight"].dtype == torch.float16
    loaded = load_network(str(weights), "regressor").network
    image = torch.full((1, 3, 64, 64), 0.4)
    torch.testing.assert_close(loaded(image), trainer.averaged()(image))
    facts = json.loads(card.read_text())
    assert facts["training"]["steps"] == 6
    assert facts["figures"] == {"clean_mae": 0.1}


def test_the_regressor_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = short("square/regressor", steps=60, batch_size=16, warmup=10)
    recipe = dataclasses.replace(recipe, loss=lambda net, x, y, noise: (net(x) - y).square())
    Trainer(recipe, tmp_path).run(lambda step, loss: losses.append(loss))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = short("square/ddpm", steps=1000, warmup=100, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.02


@pytest.mark.parametrize("role", ["regressor", "oracle", "ddpm", "diffae"])
def test_cards_of_shipped_weights_tell_the_truth(role: str) -> None:
    card = json.loads((SHIPPED / f"square-{role}.json").read_text())
    recipe = RECIPES[card["recipe"]]
    assert card["config"] == json.loads(json.dumps(dict(recipe.config)))
    assert card["training"]["steps"] == recipe.steps
    assert card["training"]["seed"] == recipe.seed
    assert len(card["curve"]) == recipe.steps // 50
    assert card["curve"][-1][1] < card["curve"][0][1]
    network = load_network(f"square-{role}", role).network
    if card["kind"] == "regressor":
        measured = held_out_figures("regressor", network)
        assert measured["clean_mae"] == pytest.approx(card["figures"]["clean_mae"], abs=1e-3)
        assert measured["clean_mae"] < 0.03


def test_networks_start_from_their_seed() -> None:
    config = RECIPES["square/regressor"].config
    from methods.noise import seeded_initialisation

    states = []
    for seed in (0, 0, 1):
        with seeded_initialisation(seed):
            states.append(build_network("regressor", config).state_dict()["head.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
