"""The studies: codes and decoders, the list of variants, and the figure of error against network evaluations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench import inversion_study, variants
from bench.errors import UsageError
from bench.inversion_study import Networks, combinations, gauss_newton_step, measure, study, summarise
from bench.networks import RegressorConfig, SmallRegressor
from bench.record import read_suite
from bench.registry import resolve
from bench.variant_list import FAMILIES, VARIANTS, Variant, read_variants
from bench.variants import config_of
from methods import METHODS
from methods.diffae_re import DiffAeReConfig
from methods.diffusion.ddim import ddim_decode, ddim_invert
from methods.diffusion.diffae import DiffAe
from methods.diffusion.solvers import DECODERS, ENCODERS, quadratic_schedule, solver_decode, solver_encode
from reports.ablation import ablation_figure
from reports.front import pareto_front, spread_labels
from tests.conftest import CPU, randomise, toy_samples

FLAGS = {"backend": ["eager"], "limit": 2}


# Solvers


def codes(network: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Two toy images with z_sem and x_T."""
    image = torch.stack([sample.image for sample in toy_samples(2)])
    z_sem = network.encode(image * 2 - 1)
    return image, z_sem, ddim_invert(network, network.config.schedule(20), image, z_sem)


@torch.no_grad()
def test_the_adapter_has_the_models_schedule(networks: dict[str, nn.Module]) -> None:
    network = networks["diffae"]
    _, z_sem, x_T = codes(network)
    for steps in (4, 10):
        ours = ddim_decode(network, network.config.schedule(steps), x_T, z_sem)
        theirs = solver_decode(network, network.config, x_T, z_sem, "ddim", steps)
        assert (ours - theirs).abs().max() < 1e-4


class Known(nn.Module):
    """eps of data that is one known image: every solver must find it."""

    def __init__(self, network: DiffAe, image: Tensor) -> None:
        super().__init__()
        self.config, self.x_0 = network.config, image * 2 - 1
        self.signal = torch.from_numpy(network.config.schedule(1000).alphas_cumprod).float()

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor) -> Tensor:
        signal = self.signal[t].view(-1, 1, 1, 1)
        return (x - signal.sqrt() * self.x_0) / (1 - signal).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("solver", sorted(DECODERS))
def test_solvers_find_an_image_that_the_network_knows(networks: dict[str, nn.Module], solver: str) -> None:
    image, z_sem, x_T = codes(networks["diffae"])
    known = Known(networks["diffae"], image)
    for steps in (5, 10):
        assert (solver_decode(known, known.config, x_T, z_sem, solver, steps) - image).abs().max() < 2e-3


@torch.no_grad()
@pytest.mark.parametrize("solver", sorted(ENCODERS))
def test_the_inverse_lands_on_the_last_noise_level(networks: dict[str, nn.Module], solver: str) -> None:
    """For known data x_t = sqrt(a) x_0 + sqrt(1 - a) eps with one eps throughout: that of the start."""
    image, z_sem, _ = codes(networks["diffae"])
    known = Known(networks["diffae"], image)
    start = torch.full((2,), 0)
    eps = known(image * 2 - 1, start, z_sem)
    signal = known.signal[-1]
    expected = signal.sqrt() * known.x_0 + (1 - signal).sqrt() * eps
    assert (solver_encode(known, known.config, image, z_sem, solver, 20) - expected).abs().max() < 0.02


def test_gradients_pass_through_the_solvers(networks: dict[str, nn.Module]) -> None:
    network = networks["diffae"]
    with torch.no_grad():
        _, z_sem, x_T = codes(network)
    for solver in DECODERS:
        z = z_sem.clone().requires_grad_(True)
        gradient = torch.autograd.grad(solver_decode(network, network.config, x_T, z, solver, 5).sum(), z)[0]
        assert gradient.abs().max() > 0, solver


def test_solvers_refuse_what_they_cannot_do(networks: dict[str, nn.Module]) -> None:
    network = networks["diffae"]
    _, z_sem, x_T = codes(network)
    with pytest.raises(ValueError, match="'euler' is unknown; use one of ddim"):
        solver_decode(network, network.config, x_T, z_sem, "euler", 5)
    assert quadratic_schedule(network.config, 5).timesteps.tolist() == [0, 62, 250, 562, 999]
    with pytest.raises(ValueError, match="ask for fewer"):
        quadratic_schedule(network.config, 100)


# Codes and decoders


def test_a_gauss_newton_step_solves_a_linear_problem() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.0, 0.1], [0.0, 0.0]])
    step = gauss_newton_step(torch.zeros(3), gradient, torch.tensor([2.0, 1.0, 1.0]))
    assert torch.allclose(step[0], torch.tensor([0.24, 0.32]))
    assert float((gradient[0] * step[0]).sum()) == pytest.approx(2)
    assert torch.allclose(step[1], torch.tensor([0.0, 1.0])), "ten units long without the cap"
    assert not step[2].any()


def test_figures_of_codes_and_decoders(networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect decoder reconstructs without error; fewer combinations here, the shipped networks elsewhere."""
    oracle = randomise(SmallRegressor(RegressorConfig(widths=(8, 16))), 5)
    judges = Networks(networks["diffae"], networks["regressor"], oracle)
    image, z_sem, x_T = codes(networks["diffae"])
    image = (image * 255).round() / 255
    masks = np.zeros((2, 16, 16), dtype=bool)
    masks[:, 4:8, 4:8] = True
    target = networks["regressor"](image).detach() + 0.05
    perfect = inversion_study.Coder("perfect", 0, lambda network, code, z: image + 0 * z.sum())
    figures = measure(judges, perfect, image, target, masks, z_sem, x_T)
    assert figures["l1"].max() == 0
    assert figures["psnr"].min() == np.inf
    assert figures["step_length"].max() == 0, "an image that does not follow z_sem gives no step"
    assert figures["edit_prediction_error"] == pytest.approx([0.05, 0.05], abs=1e-5)

    chosen = [pair for pair in combinations() if pair[1].evaluations == 5][4:6]
    monkeypatch.setattr(inversion_study, "combinations", lambda: chosen)
    images = (image.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    task = inversion_study.Task(("a", "b"), images, target.numpy(), None, masks, "toy", "toy")
    rows = summarise(study(judges, task, 1, lambda text: None))
    assert [(row["encoder"], row["encode_evaluations"], row["n"]) for row in rows] == [
        ("fixed point 5x2 of DDIM", 10, 2),
        ("fixed point 5x3 of DDIM", 15, 2),
    ]
    for row in rows:
        assert np.isfinite([estimate["value"] for estimate in row["figures"].values()]).all()
        assert row["figures"]["step_length"]["value"] > 0


# Variants


@pytest.mark.parametrize("path", [VARIANTS, VARIANTS.with_name("ablation.toml")], ids=lambda path: path.stem)
def test_every_variant_has_options_that_its_method_takes(path: Path, networks: dict[str, nn.Module]) -> None:
    listed = read_variants(path)
    chosen = [
        (variant.method, resolve(METHODS, variant.method, "method").options(**variant.options)) for variant in listed
    ]
    assert all(chosen.count(each) == 1 for each in chosen), "two variants are the same"
    for variant in listed:
        config_of(variant, FLAGS, [])
        cls = resolve(METHODS, variant.method, "method")
        method = cls(cls.options(**variant.options), 0, CPU)
        method.check(networks)
        assert variant.family in FAMILIES.values()
        assert bool(variant.options) == (variant.group == "variant"), variant.name
        if variant.group == "variant":
            assert cls.options(**variant.options) != cls.options(), f"{variant.name} is the default"


def test_the_ablation_crosses_what_the_paper_crosses() -> None:
    listed = [DiffAeReConfig(**variant.options) for variant in read_variants(VARIANTS.with_name("ablation.toml"))]
    weighted = {(o.distance, o.distance_space, o.distance_weight) for o in listed if o.distance != "none"}
    weights = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    assert weighted == {(norm, space, w) for norm in ("l1", "l2") for space in ("latent", "pixel") for w in weights}
    assert sum(options.distance == "none" for options in listed) == 1
    rates = {name: {o.lr for o in listed if o.optimiser == name} for name in ("adam", "momentum", "sgd")}
    assert all(len(found) == 3 for found in rates.values())


def ablation_row(value: float, **options: Any) -> dict[str, Any]:
    settings = DiffAeReConfig(**options).model_dump()
    figures = {"success": {"value": value, "low": value - 0.1, "high": value + 0.1}, "steps": {"value": None}}
    return {"method": "diffae-re", "options": options, "settings": settings, "n": 4, "figures": figures}


def test_curves_of_an_ablation() -> None:
    rows = [
        ablation_row(0.5),
        ablation_row(0.4, distance="none"),
        ablation_row(0.9, distance_weight=1e-2),
        ablation_row(0.3, distance="l2", distance_space="pixel"),
        ablation_row(0.8, optimiser="sgd", lr=0.2),
        ablation_row(0.7, lr=0.02),
        ablation_row(0.1, lr=0.1, distance="none"),  # differs in both: on neither side
    ]
    figure = ablation_figure(rows)
    assert len(figure.axes) == 2, "a figure that nothing has is left out"
    lines = [
        {container.get_label(): container.lines[0].get_xydata().tolist() for container in axis.containers}
        for axis in figure.axes
    ]
    assert lines[0] == {"l1, latent": [[1e-5, 0.5], [1e-2, 0.9]], "l2, pixel": [[1e-5, 0.3]]}
    assert lines[1] == {"adam": [[0.002, 0.5], [0.02, 0.7]], "sgd": [[0.2, 0.8]]}
    assert [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_label() == "no distance"] == [0.4]
    with pytest.raises(UsageError, match="no variant of diffae-re"):
        ablation_figure([ablation_row(0.5) | {"method": "ac-re"}])


def test_a_wrong_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text('[[variant]]\nname = "a"\nmethod = "ac-re"\n' * 2)
    with pytest.raises(UsageError, match="two variants are called 'a'"):
        read_variants(path)
    path.write_text('[[variant]]\nname = "a"\nmethod = "ac-re"\nlable = "x"\n')
    with pytest.raises(UsageError, match="unknown configuration key 'variant.lable'"):
        read_variants(path)
    with pytest.raises(UsageError, match=r"variant 'b'.*ac-re\.step_sise"):
        config_of(Variant(name="b", method="ac-re", options={"step_sise": 1}), FLAGS, [])


def test_variants_are_run_once_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, results, runs = tmp_path / "v.png", tmp_path / "v.json", tmp_path / "runs"
    curves = tmp_path / "c.png"
    command = ["-o", str(runs), "--limit", "2", "--backend", "eager", "--only", "ac-re", "--only", "diffae-re"]
    command += [
        "--list",
        str(VARIANTS),
        "-s",
        "ac-re.max_steps=1",
        "-s",
        "diffae-re.max_steps=1",
        "-s",
        "diffae-re.inversion_steps=4",
    ]
    assert variants.main([*command, "--figure", str(figure), "--curves", str(curves), "--results", str(results)]) == 0
    content = json.loads(results.read_text())
    assert [row["name"] for row in content["variants"]] == ["ac-re", "diffae-re"]
    assert content["variants"][1]["settings"]["max_steps"] == 1
    assert np.asarray(Image.open(curves)).shape[1] > 1200
    for row in content["variants"]:
        assert row["n"] == content["n"] == 2
        assert row["figures"]["evaluations"]["value"] == (
            row["figures"]["forward"]["value"] + row["figures"]["backward"]["value"]
        )
        assert row["command"].startswith(f"python -m bench run --method {row['name']} --backend eager --limit 2 -s ")
        assert row["command"] == read_suite(runs / row["name"]).command
    pixels = np.asarray(Image.open(figure).convert("RGB"))
    assert pixels.shape[1] > 1200
    assert pixels.min() < 100 < pixels.mean(), "light background"

    before = (runs / "ac-re" / "square--ac-re--eager--s0" / "result.json").read_bytes()
    capsys.readouterr()
    assert variants.main([*command, "--only", "ac-re"]) == 0
    assert capsys.readouterr().err.count("already complete") == 2
    assert (runs / "ac-re" / "square--ac-re--eager--s0" / "result.json").read_bytes() == before
    assert variants.main(["-o", str(tmp_path / "none"), "--no-run"]) == 2
    assert variants.main([*command, "--only", "ac-er"]) == 2
    assert "did you mean" in capsys.readouterr().err


# The front


def test_pareto_front() -> None:
    assert pareto_front([(3, 1), (1, 3), (2, 2), (3, 3), (2, 3)]) == [1, 2, 0]
    assert pareto_front([(1, 1), (1, 1), (1, 2)]) == [0, 1]
    assert pareto_front([(5, 0.2)]) == [0]
    assert pareto_front([]) == []


def test_labels_keep_their_order_and_distance() -> None:
    heights = [0.5, 0.51, 0.1, 0.99, 1.0]
    placed = spread_labels(heights, 0.1)
    assert np.argsort(placed, kind="stable").tolist() == np.argsort(heights, kind="stable").tolist()
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-9
    assert placed.max() <= 1
    assert placed[2] == 0.1
    assert np.ptp(spread_labels([0.5] * 30, 0.1)) <= 1 + 1e-9
