"""The glasses experiment: a painter whose effect is known, regions, resuming, and a real pipeline of random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench.datasets.base import Task
from bench.errors import UsageError
from bench.glasses import PROMPTS, left_out, main, paint_all, predict_all, summarise, table
from bench.images import file_name, read_image
from bench.inpainting import DiffusersPainter, fixed_region, load_painter, mask_number, mask_region, parse_box
from bench.preparing.celebahq import ATTRIBUTES
from methods import noise
from reports.spurious import contrast_figure

SIZE = 32
REGION = fixed_region(SIZE)


class DarkGlasses:
    """Fills the whole image with grey, and draws a dark bar where the prompt asks for glasses."""

    description: dict[str, Any] = {"pipeline": "DarkGlasses"}

    def __init__(self, refuses: str = "") -> None:
        self.calls: list[tuple[str, str]] = []
        self.refuses = refuses

    def paint(self, pixels: np.ndarray, region: np.ndarray, prompt: str, name: str) -> np.ndarray | None:
        self.calls.append((name, prompt))
        painted = np.full_like(pixels, 128)
        if "eyeglasses" in prompt:
            painted[SIZE // 2 - 2 : SIZE // 2] = 10
        return None if name == self.refuses and "eyeglasses" in prompt else painted


class Darkness(nn.Module):
    """Predicts a larger value for a darker eye region."""

    def forward(self, image: Tensor) -> Tensor:
        return 1 - image[..., torch.from_numpy(REGION)].mean(dim=(1, 2))


class Corner(nn.Module):
    """Predicts from the upper left corner, which is outside the region."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :, :4, :4].mean(dim=(1, 2, 3))


class SeesGlasses(nn.Module):
    """40 logits; glasses are seen where the eye region has dark pixels."""

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.zeros(len(image), 40)
        dark = (image[..., torch.from_numpy(REGION)] < 0.1).flatten(1).any(dim=1)
        logits[:, ATTRIBUTES.index("Eyeglasses")] = torch.where(dark, 4.0, -4.0)
        return logits


NETWORKS = {"regressor": Darkness(), "oracle": Corner(), "attributes": SeesGlasses()}


def faces(count: int = 12) -> Task:
    """Images of noise around grey."""
    values = noise.numpy_normal(77, (count, SIZE, SIZE, 3)) * 20 + 140
    images = values.clip(60, 255).astype(np.uint8)
    ids = tuple(f"face/{index:05d}.jpg" for index in range(count))
    return Task(ids, images, np.full(count, 0.8, np.float32), None, None, "age / 100", "digest")


def experiment(output: Path, painter: DarkGlasses, task: Task, **options: Any) -> pd.DataFrame:
    frame = paint_all(task, painter, lambda name, size: fixed_region(size), PROMPTS, output, {"painter": 1}, **options)
    predict_all(frame, NETWORKS, PROMPTS, output)
    return frame


def test_what_glasses_do_is_told_from_what_inpainting_does(tmp_path: Path) -> None:
    task = faces()
    frame = experiment(tmp_path, DarkGlasses(), task)
    summary = summarise(frame, "age / 100", 0)
    regressor = summary["regressor"]
    rows = REGION.any(axis=1).sum()
    effect = regressor["glasses - control"]
    assert effect.value == pytest.approx((128 - 10) / 255 * 2 / rows, rel=1e-5)
    assert effect.low > 0 and effect.n == 12
    assert regressor["control - original"].value > 0, "grey is darker than these originals"
    assert regressor["glasses - original"].value == pytest.approx(effect.value + regressor["control - original"].value)
    assert regressor["rises with glasses"].value == 1.0
    for contrast in ("glasses - control", "control - original"):
        assert summary["oracle"][contrast].value == 0, "what is outside the region stays as it is"
    assert summary["oracle"]["rises with glasses"].value == 0
    assert summary["attributes"]["glasses"].value > 0.9 > 0.1 > summary["attributes"]["control"].value
    assert table(summary, "age / 100").row_count == 7
    figure = contrast_figure(summary, "age / 100", 12)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(regressor)[:3]


def test_only_the_region_is_painted(tmp_path: Path) -> None:
    task = faces(2)
    experiment(tmp_path, DarkGlasses(), task)
    for name, original in zip(task.ids, task.images, strict=True):
        painted = read_image(tmp_path / "control" / file_name(name))
        assert (painted[REGION] == 128).all() and (painted[~REGION] == original[~REGION]).all()


def test_images_that_are_left_out_are_counted(tmp_path: Path) -> None:
    task = faces()
    task.images[3, SIZE // 2] = 5
    painter = DarkGlasses(refuses=task.ids[7])

    def region(name: str, size: int) -> np.ndarray | None:
        return None if name == task.ids[1] else fixed_region(size)

    frame = paint_all(task, painter, region, PROMPTS, tmp_path, {}, lambda pixels: bool((pixels < 20).any()))
    predict_all(frame, NETWORKS, PROMPTS, tmp_path)
    assert left_out(frame) == {
        "eye region unknown": 1, "wears glasses already": 1, "glasses refused by the safety checker": 1,
    }  # fmt: skip
    effect = summarise(frame, "age / 100", 0)["regressor"]["glasses - control"]
    assert effect.n == 9 and effect.value > 0
    assert frame["glasses/regressor"].isna().sum() == 3
    with pytest.raises(UsageError, match="no image could be painted \\(1 eye region unknown"):
        summarise(frame[frame["left_out"].notna()], "age / 100", 0)


def test_an_experiment_goes_on_where_it_stopped(tmp_path: Path) -> None:
    task = faces(4)
    first = DarkGlasses()
    expected = experiment(tmp_path, first, task)
    assert len(first.calls) == 8
    (tmp_path / "glasses" / file_name(task.ids[2])).unlink()
    second = DarkGlasses()
    again = experiment(tmp_path, second, task)
    assert second.calls == [(task.ids[2], PROMPTS["glasses"])]
    pd.testing.assert_frame_equal(again, expected)
    with pytest.raises(UsageError, match="other settings"):
        paint_all(task, second, lambda name, size: fixed_region(size), PROMPTS, tmp_path, {"painter": 2})


def test_a_damaged_image_is_told(tmp_path: Path) -> None:
    task = faces(2)
    frame = experiment(tmp_path, DarkGlasses(), task)
    (tmp_path / "glasses" / file_name(task.ids[0])).write_bytes(b"not an image")
    with pytest.raises(UsageError, match="delete it"):
        predict_all(frame, NETWORKS, PROMPTS, tmp_path)


# Regions


def test_a_fixed_region_is_its_shares() -> None:
    region = fixed_region(100, parse_box("0.2,0.1,0.4,0.9"))
    assert region.sum() == 20 * 80 and region[20, 10] and region[39, 89] and not region[40, 10]


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "0.5,0.1,0.4,0.9", "0,0,1,1.5", "0.1,0.5,0.4,0.5"])
def test_a_box_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--region"):
        parse_box(text)


def write_mask(folder: Path, number: int, part: str, top: int, left: int) -> None:
    """A 16x32 blob in a 512x512 mask of CelebAMask-HQ's layout."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[top : top + 16, left : left + 32] = 255
    place = folder / str(number // 2000)
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place / f"{number:05d}_{part}.png")


def test_a_region_follows_the_eyes(tmp_path: Path) -> None:
    write_mask(tmp_path, 4321, "l_eye", 240, 160)
    write_mask(tmp_path, 4321, "r_eye", 248, 320)
    region = mask_region(tmp_path, "test/4321.jpg", 256)
    rows, columns = np.nonzero(region.any(axis=1))[0], np.nonzero(region.any(axis=0))[0]
    # The eyes cover 96 of 256 columns, 80 to 175; glasses reach 0.3 of that beyond them.
    assert (columns[0], columns[-1]) == (80 - 29, 175 + 29)
    assert (rows[0], rows[-1]) == (120 - 29, 131 + 29)
    assert region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_an_image_without_both_eyes_has_no_region(tmp_path: Path) -> None:
    write_mask(tmp_path, 7, "l_eye", 240, 160)
    assert mask_region(tmp_path, "7", 64) is None
    with pytest.raises(UsageError, match="no folder 1"):
        mask_region(tmp_path, "2500.png", 64)
    (tmp_path / "0" / "00007_r_eye.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="00007_r_eye"):
        mask_region(tmp_path, "7", 64)
    assert mask_number("celebahq/00042.png") == 42
    with pytest.raises(UsageError, match="no CelebA-HQ number"):
        mask_number("face.png")


# Pipelines


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["--pipeline", str(tmp_path), "--dataset", "square", "--limit", "2", "-o", str(output)]) == 2
    assert "model_index.json" in capsys.readouterr().err
    assert main(["--pipeline", str(tmp_path), "--region", "1,2", "--dataset", "square", "-o", str(output)]) == 2
    assert "--region" in capsys.readouterr().err
    assert not output.exists()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion inpainting pipeline of random weights, two levels deep, on disk."""
    transformers = pytest.importorskip("transformers")
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel

    letters = "abcdefghijklmnopqrstuvwxyz,"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    end = len(tokens) - 1
    with noise.seeded_initialisation(0):
        text = transformers.CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=77, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        parts = {
            "text_encoder": transformers.CLIPTextModel(text),
            "unet": UNet2DConditionModel(
                sample_size=32, in_channels=9, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
                cross_attention_dim=32, attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            ),
            "vae": AutoencoderKL(
                block_out_channels=(32, 64), latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
            ),
        }  # fmt: skip
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    made = StableDiffusionInpaintPipeline(
        **parts, tokenizer=tokenizer, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(str(folder), safe_serialization=True)
    return folder


def test_a_diffusers_pipeline_paints(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pipeline", str(pipeline), "--dataset", "square", "--limit", "2", "--size", "64", "--steps", "2"]
    figure = tmp_path / "made" / "f.png"
    assert main([*words, "-o", str(tmp_path / "a"), "--figure", str(figure)]) == 0
    assert main([*words, "-o", str(tmp_path / "b")]) == 0
    found = [json.loads((tmp_path / name / "results.json").read_text()) for name in "ab"]
    assert found[0]["samples"] == found[1]["samples"], "noise depends on the seed and the image's name alone"
    assert found[0]["painter"]["pipeline"] == "StableDiffusionInpaintPipeline" and found[0]["images"] == 2
    sample = found[0]["samples"][0]
    assert sample["control/regressor"] != sample["original/regressor"]
    original, control = (read_image(tmp_path / "a" / name / sample["file"]) for name in ("original", "control"))
    region = fixed_region(64)
    assert (original[~region] == control[~region]).all() and (original[region] != control[region]).any()
    assert "glasses - control" in capsys.readouterr().out and figure.is_file()


def test_noise_belongs_to_the_image(pipeline: Path) -> None:
    painter = load_painter(pipeline, size=64, steps=1)
    pixels, region = faces(1).images[0], fixed_region(SIZE)
    before = torch.get_rng_state()
    a, b, other = (painter.paint(pixels, region, "a face", name) for name in ("a", "a", "b"))
    assert (a == b).all() and (a != other).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flagged_image_is_refused() -> None:
    class Flagging:
        """Answers as a pipeline with a safety checker does."""

        scheduler = None

        def __call__(self, **inputs: Any) -> SimpleNamespace:
            size = (inputs["width"], inputs["height"])
            return SimpleNamespace(images=[Image.new("RGB", size)], nsfw_content_detected=[self.flag])

    task, pipeline = faces(1), Flagging()
    painter = DiffusersPainter(pipeline, Path("p"), 64, 1, 7.5, 0, "0")
    for pipeline.flag, refused in ((True, True), (False, False)):
        assert (painter.paint(task.images[0], fixed_region(SIZE), "a face", "a") is None) is refused


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"),
        lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "model.bin"),
        lambda folder: (folder / "model_index.json").write_text('{"_class_name": "Nothing"}'),
        lambda folder: (folder / "model_index.json").write_text("not JSON"),
    ],
)
def test_a_broken_pipeline_is_one_sentence(pipeline: Path, tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pipeline, folder)
    spoil(folder)
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_painter(folder)
