"""The training loop on a short real recipe: it learns, and a killed run continues exactly."""

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.checkpoints import SHIPPED, load_kind, load_network
from bench.datasets import square
from bench.errors import UsageError
from bench.kinds import build_network
from bench.listing import RECIPES as NAMES
from bench.preparing.command import prepare
from bench.preparing.prepared import open_prepared
from bench.state_files import read_state
from bench.training.age import age_figures
from bench.training.command import train_and_export
from bench.training.data import SquareData, TrainingData, open_data
from bench.training.figures import regressor_figures, square_effects
from bench.training.loop import Initial, Trainer, TrainingError, augmented, learning_rate
from bench.training.recipes import RECIPES, Recipe
from methods.noise import TrainingNoise, seeded_initialisation
from tests.celebahq_weights import write_network
from tests.mini_celebahq import write_imdb_clean

CPU = torch.device("cpu")


class LittleData(SquareData):
    """The 630 grid images instead of 16,000 generated ones."""

    def __init__(self) -> None:
        super().__init__("grid", CPU)


@pytest.fixture(scope="module")
def little() -> LittleData:
    return LittleData()


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


@pytest.mark.parametrize("name", ["square/ddpm", "square/diffae", "square/regressor"])
def test_a_killed_training_continues_exactly(name: str, little: LittleData, tmp_path: Path) -> None:
    whole = Trainer(short(name), little, tmp_path / "whole")
    whole.run(lambda step, loss: None)
    Trainer(short(name), little, tmp_path / "cut").run(lambda step, loss: None, until=3)
    resumed = Trainer(short(name), little, tmp_path / "cut")
    assert resumed.step == 3
    resumed.run(lambda step, loss: None)
    for key, value in whole.average.items():
        assert torch.equal(value, resumed.average[key]), key


def test_a_checkpoint_of_another_recipe_is_refused(little: LittleData, tmp_path: Path) -> None:
    Trainer(short("square/regressor"), little, tmp_path).run(lambda step, loss: None, until=1)
    with pytest.raises(TrainingError, match="another recipe"):
        Trainer(short("square/regressor", lr=1.0), little, tmp_path)
    assert Trainer(short("square/regressor", lr=1.0), little, tmp_path, fresh=True).step == 0


def test_a_checkpoint_of_other_data_is_refused(little: LittleData, tmp_path: Path) -> None:
    Trainer(short("square/regressor"), little, tmp_path).run(lambda step, loss: None, until=1)
    other = LittleData()
    other.digest = "of something else"
    with pytest.raises(TrainingError, match="other data"):
        Trainer(short("square/regressor"), other, tmp_path)


def test_a_diverging_loss_stops_with_a_sentence(little: LittleData, tmp_path: Path) -> None:
    recipe = short("square/regressor", loss=lambda network, images, attribute, noise: network(images) * float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        Trainer(recipe, little, tmp_path).run(lambda step, loss: None)


def test_exported_weights_load_and_are_the_average(little: LittleData, tmp_path: Path) -> None:
    trainer = Trainer(short("square/regressor"), little, tmp_path / "t")
    trainer.run(lambda step, loss: None)
    card = trainer.export(tmp_path / "w", {"clean_mae": 0.1})
    weights = card.with_suffix(".safetensors")
    assert load_file(weights)["head.weight"].dtype == torch.float16
    loaded = load_network(str(weights), "regressor").network
    image = torch.full((1, 3, 64, 64), 0.4)
    torch.testing.assert_close(loaded(image), trainer.result()(image))
    facts = json.loads(card.read_text())
    assert facts["training"]["steps"] == 6
    assert (facts["training"]["ema"], facts["training"]["clip_norm"]) == (0.999, 1.0)
    assert facts["figures"] == {"clean_mae": 0.1}
    assert facts["data"] == {"split": "grid", "count": 630, "sha256": little.digest}


def test_the_regressor_learns(little: LittleData, tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = short("square/regressor", steps=60, batch_size=16, warmup=10)
    recipe = dataclasses.replace(recipe, loss=lambda net, x, y, noise: (net(x) - y).square())
    Trainer(recipe, little, tmp_path).run(lambda step, loss: losses.append(loss))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = short("square/ddpm", steps=1000, warmup=100, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.02
    flat = dataclasses.replace(recipe, schedule="constant")
    assert [learning_rate(flat, step) for step in (0, 100, 999)] == [pytest.approx(0.01), 1.0, 1.0]


def _numbered(count: int, channels: int) -> Tensor:
    """Square images (count, channels, 6, 6), no two pixels of which are equal."""
    return torch.arange(count * channels * 36.0).view(count, channels, 6, 6)


_MOVES = {
    "flip": {0: lambda image: image.flip(-1)},
    "vertical_flip": {0: lambda image: image.flip(-2)},
    "quarter_turns": {k: lambda image, k=k: torch.rot90(image, k, (1, 2)) for k in (1, 2, 3)},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("move", _MOVES)
def test_images_are_moved_one_by_one(move: str, channels: int) -> None:
    images = _numbered(400, channels)
    found = augmented(images, short("square/regressor", **{move: True}), TrainingNoise(0, 0))
    choices = 4 if move == "quarter_turns" else 2
    drawn = (TrainingNoise(0, 0).uniform(400) * choices).long().tolist()
    for choice in range(choices):
        assert 400 / choices * 0.8 < drawn.count(choice) < 400 / choices * 1.2
    for before, after, choice in zip(images, found, drawn, strict=True):
        assert torch.equal(after, _MOVES[move].get(choice, torch.clone)(before))


def test_mirrored_and_turned_images_are_all_eight_of_the_square_equally_often() -> None:
    image = _numbered(1, 1)[0]
    eight = [torch.rot90(side, k, (1, 2)) for side in (image, image.flip(-1)) for k in range(4)]
    recipe = short("square/regressor", flip=True, quarter_turns=True)
    found = augmented(image.expand(1600, -1, -1, -1), recipe, TrainingNoise(3, 0))
    counts = [sum(torch.equal(after, one) for after in found) for one in eight]
    assert sum(counts) == 1600
    assert min(counts) > 150 and max(counts) < 250


def test_a_recipe_without_moves_leaves_images_and_noise_alone() -> None:
    images, noise = _numbered(8, 1), TrainingNoise(0, 0)
    assert torch.equal(augmented(images, short("square/regressor"), noise), images)
    assert torch.equal(noise.uniform(4), TrainingNoise(0, 0).uniform(4))


@pytest.mark.parametrize("name", ["celebahq/regressor", "celebahq/oracle"])
def test_the_age_networks_are_trained_as_published(name: str) -> None:
    recipe = RECIPES[name]
    assert (recipe.optimiser, recipe.lr, recipe.weight_decay) == (torch.optim.AdamW, 1e-4, 0.01)
    assert (recipe.steps, recipe.batch_size, recipe.flip) == (120_000, 32, True)
    assert recipe.ema is None and recipe.clip_norm is None
    assert {learning_rate(recipe, step) for step in (0, 1, 60_000, 119_999)} == {1e-4}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("square/")])
def test_square_checkpoints_from_before_a_field_was_added_go_on(name: str) -> None:
    facts = RECIPES[name].facts()
    assert not {"flip", "optimiser", "schedule"} & facts.keys()
    changed = dataclasses.replace(RECIPES[name], flip=True, schedule="constant", optimiser=torch.optim.SGD)
    assert changed.facts() == facts | {"flip": True, "schedule": "constant", "optimiser": "SGD"}


def test_a_recipe_without_extras_is_plain_adamw_on_mirrored_images(little: LittleData, tmp_path: Path) -> None:
    options = {"flip": True, "schedule": "constant", "ema": None, "clip_norm": None, "warmup": 0, "weight_decay": 0.01}

    def error(network: nn.Module, images: Tensor, attribute: Tensor, _: TrainingNoise) -> Tensor:
        return 100 * (network(images) - attribute).square()  # clipping to 1 would show

    recipe = short("square/regressor", steps=4, lr=1e-2, loss=error, half_precision=False, **options)
    with seeded_initialisation(recipe.seed):
        network = build_network(recipe.kind, recipe.config).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(4):
        draw = TrainingNoise(recipe.seed, step)
        pixels, attribute = little.batch(draw.indices(4, len(little)))
        turned = draw.uniform(4) < 0.5
        images = torch.stack([x.flip(2) if t else x for x, t in zip(pixels.float() / 255, turned, strict=True)])
        optimiser.zero_grad()
        error(network, images, attribute, draw).mean().backward()
        optimiser.step()
    Trainer(recipe, little, tmp_path).run(lambda step, loss: None, until=2)
    trainer = Trainer(recipe, little, tmp_path)  # goes on without an average
    trainer.run(lambda step, loss: None)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(trainer.result().state_dict()[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("damage", [b"", b".", b"\x80\x02.", b"\x80\x02J\x01.", b"\x80\x02}}s."])
def test_damaged_torch_files_are_told_in_a_sentence(damage: bytes, little: LittleData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage)
    with pytest.raises(TrainingError, match="is damaged; delete it or use --fresh"):
        Trainer(short("square/regressor"), little, tmp_path)
    with pytest.raises(UsageError, match=r"weights: .*checkpoint.pt is damaged or not a torch file of plain tensors"):
        read_state(path, damage, "weights")


def test_the_correlated_background_follows_the_red() -> None:
    latents = square.correlated_latents(2000, seed=1)
    plain = square.training_latents(2000, seed=1)
    np.testing.assert_array_equal(latents[:, [0, 2, 3]], plain[:, [0, 2, 3]])
    assert np.corrcoef(latents[:, 0], latents[:, 1])[0, 1] > 0.99
    assert abs(np.corrcoef(plain[:, 0], plain[:, 1])[0, 1]) < 0.1
    assert latents[:, 1].min() >= 0
    assert latents[:, 1].max() <= 255
    assert 4 < (latents[:, 1] - latents[:, 0])[(latents[:, 0] > 20) & (latents[:, 0] < 235)].std() < 6


class _Level(nn.Module):
    """Reads one colour and nothing else: the median green is the background's, only the square and it have red."""

    def __init__(self, background: bool) -> None:
        super().__init__()
        self.background = background

    def forward(self, image: Tensor) -> Tensor:
        if self.background:
            return image[:, 1].flatten(1).median(dim=1).values
        return image[:, :1].flatten(1).mean(dim=1) * (64 * 64 / 64)


def test_effects_are_shares_of_the_change_of_colour() -> None:
    following = square_effects(_Level(background=True), count=40)
    assert following["background_effect"] == pytest.approx(1, abs=0.05)
    assert following["red_effect"] == pytest.approx(0, abs=0.01)
    # The red mean over the whole image, scaled to the square's 64 of 4096 pixels.
    assert square_effects(_Level(background=False), count=40)["red_effect"] == pytest.approx(1, abs=0.05)


def test_the_shipped_regressors_rely_on_what_their_names_say() -> None:
    plain, correlated = (
        square_effects(load_network(name, "regressor").network, count=60)
        for name in ("square-regressor", "square-regressor-correlated")
    )
    assert plain["red_effect"] > 0.9
    assert abs(plain["background_effect"]) < 0.1
    assert correlated["background_effect"] > 0.9
    assert abs(correlated["red_effect"]) < 0.1


@pytest.mark.parametrize("role", ["regressor", "oracle", "ddpm", "diffae", "regressor-correlated"])
def test_cards_of_shipped_weights_tell_the_truth(role: str) -> None:
    card = json.loads((SHIPPED / f"square-{role}.json").read_text())
    recipe = RECIPES[card["recipe"]]
    assert card["config"] == json.loads(json.dumps(dict(recipe.config)))
    assert card["training"]["steps"] == recipe.steps
    assert card["training"]["seed"] == recipe.seed
    assert len(card["curve"]) == recipe.steps // 50
    assert card["curve"][-1][1] < card["curve"][0][1]
    network = load_network(f"square-{role}", role.partition("-")[0]).network
    if card["recipe"] in ("square/regressor", "square/oracle"):
        measured = regressor_figures(network)
        assert measured["clean_mae"] == pytest.approx(card["figures"]["clean_mae"], abs=1e-3)
        assert measured["clean_mae"] < 0.03


def test_networks_start_from_their_seed() -> None:
    config = RECIPES["square/regressor"].config
    states = []
    for seed in (0, 0, 1):
        with seeded_initialisation(seed):
            states.append(build_network("regressor", config).state_dict()["head.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class LittleFaces(TrainingData):
    """Plain images of 32x32 pixels, brighter for older."""

    name, digest, unit = "little-faces", "faces", "age / 100"

    def __len__(self) -> int:
        return 8

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        age = (index + 1) / 10
        return (age * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32), age.float()


@pytest.fixture(scope="module")
def decision_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STEEX's decision network with random weights."""
    folder = tmp_path_factory.mktemp("decision")
    return write_network(folder / "decision.safetensors", "steex-decision-densenet", {}, 3)


@pytest.fixture(scope="module")
def decision(decision_file: Path) -> Initial:
    loaded = load_kind(decision_file, "steex-decision-densenet", "--from")
    return Initial(loaded.network, loaded.sha256)


def test_the_age_regressor_trains_its_head_alone(decision: Initial, tmp_path: Path) -> None:
    trainer = Trainer(short("celebahq/regressor", batch_size=2), LittleFaces(), tmp_path / "t", initial=decision)
    head = trainer.network.head.weight.clone()
    trainer.run(lambda step, loss: None, until=2)
    given = decision.network.trunk.state_dict()
    for key, value in trainer.network.trunk.state_dict().items():
        assert torch.equal(value, given[key]), key  # batch statistics among them
    assert not torch.equal(trainer.network.head.weight, head)
    card = json.loads(trainer.export(tmp_path / "w", {}).read_text())
    assert card["training"]["initial_sha256"] == decision.sha256
    other = Initial(decision.network, "of another network")
    with pytest.raises(TrainingError, match="another start"):
        Trainer(short("celebahq/regressor", batch_size=2), LittleFaces(), tmp_path / "t", initial=other)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared imdb-wiki-clean of a few 32x32 images."""
    folder = tmp_path_factory.mktemp("imdb")
    root = write_imdb_clean(folder / "published", count=12)
    prepare("imdb-wiki-clean", root, folder / "prepared", 32, "all")
    return folder / "prepared"


def test_prepared_images_are_read_when_they_are_wanted(faces: Path, tmp_path: Path) -> None:
    data = open_data("imdb-wiki-clean/train", CPU, faces)
    table = open_prepared(faces, "imdb-wiki-clean")
    rows = table.split("train")
    index = torch.tensor([3, 0, 3])
    pixels, age = data.batch(index)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 3, 32, 32))
    for image, value, row in zip(pixels, age, index.tolist(), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), table.image(rows.iloc[row]))
        assert float(value) == pytest.approx(rows["attribute"][row])
    assert (len(data), data.name, data.digest) == (len(rows), "imdb-wiki-clean/train", table.digest)
    changed = shutil.copytree(faces, tmp_path / "changed")
    (changed / rows["file"][0]).write_bytes(b"")
    with pytest.raises(UsageError, match="was changed since it was prepared"):
        open_data("imdb-wiki-clean/train", CPU, changed).batch(index)


def test_validation_error_is_in_years(faces: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(0.5))

        def forward(self, image: Tensor) -> Tensor:
            return self.value.expand(len(image))

    valid = open_prepared(faces, "imdb-wiki-clean").split("valid")
    assert 0 < len(valid) < 12
    expected = (valid["attribute"] * 100 - 50).abs().mean()
    assert age_figures(Constant(), faces) == {"validation_mae_years": pytest.approx(expected)}


def test_the_command_trains_on_prepared_faces_and_goes_on(faces: Path, decision_file: Path, tmp_path: Path) -> None:
    given = decision_file
    options = {"initial": given, "data": faces}
    for steps in (1, 2):
        path = train_and_export("celebahq/regressor", tmp_path, "cpu", steps, False, tmp_path / "runs", **options)
    card = json.loads(path.read_text())
    assert card["figures"]["validation_mae_years"] > 0
    assert card["training"]["steps"] == 2
    assert card["training"]["initial_sha256"] == hashlib.sha256(given.read_bytes()).hexdigest()
    assert card["data"]["split"] == "imdb-wiki-clean/train"
    trained = load_network(str(tmp_path / "celebahq-regressor.safetensors"), "regressor").network
    trunk = load_kind(given, "steex-decision-densenet", "--from").network.trunk.conv0.weight
    assert torch.equal(trained.trunk.conv0.weight, trunk)


def test_the_age_oracle_trains_the_whole_network(decision: Initial, tmp_path: Path) -> None:
    trainer = Trainer(short("celebahq/oracle", batch_size=2), LittleFaces(), tmp_path, initial=decision)
    first = "trunk.conv0.weight"
    given = decision.network.state_dict()[first]
    assert torch.equal(trainer.network.state_dict()[first], given)
    trainer.run(lambda step, loss: None, until=1)
    assert not torch.equal(trainer.network.state_dict()[first], given)
    assert RECIPES["celebahq/oracle"].seed != RECIPES["celebahq/regressor"].seed


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("celebahq/regressor", {}, "give it with --from"),
        ("square/regressor", {"initial": Path("x.safetensors")}, "starts from random weights"),
        ("square/regressor", {"data": Path("faces")}, "generates its own data"),
        (
            "elpv/regressor",
            {"data": Path("/nowhere")},
            "^--data /nowhere: not a folder; give the one that holds images/",
        ),
        ("celebahq/regressor", {"initial": SHIPPED / "square-regressor.safetensors"}, "'steex-decision-densenet' is"),
        ("celebahq/regresor", {}, "did you mean 'celebahq/regressor'"),
    ],
)
def test_options_that_do_not_belong_to_the_recipe(
    name: str, given: dict[str, Path], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        train_and_export(name, tmp_path / "w", "cpu", 1, False, tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_photographs_that_are_not_there_are_asked_for_by_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"cell\d+.png: cannot be read .* give a whole copy of its folder data/$"):
        train_and_export("elpv/type", tmp_path / "w", "cpu", 1, False, tmp_path, data=tmp_path)
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)  # as Python itself marks a module that is not there
    with pytest.raises(UsageError, match=r"install it with .* give a copy of its folder data/ with --data DIR$"):
        train_and_export("elpv/type", tmp_path / "w", "cpu", 1, False, tmp_path)
    assert not list(tmp_path.iterdir())


def test_prepared_data_is_asked_for_by_name(decision_file: Path, tmp_path: Path) -> None:
    for data, words in ((None, "bench prepare imdb-wiki-clean"), (tmp_path / "no", "no/manifest.json is missing")):
        with pytest.raises(UsageError, match=words):
            train_and_export(
                "celebahq/oracle", tmp_path / "w", "cpu", 1, False, tmp_path, initial=decision_file, data=data
            )
    assert not list(tmp_path.iterdir())
