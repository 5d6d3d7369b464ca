"""The gradients that `bench.gpu_table` measures: networks, diffusion loops and their data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backends.eager import EagerBackend, EagerConfig
from bench.checkpoints import load_network
from methods import noise
from methods.diffusion.adm import AdmConfig, AdmUNet
from methods.diffusion.ddim import ddim_decode
from methods.diffusion.ddpm import filter_image, network_time
from methods.diffusion.diffae import DiffAe, DiffAeConfig
from methods.diffusion.schedule import Schedule

DEPTH, DECODING_STEPS = 5, 10
COMPARED = 4
"""Images whose gradients are compared with eager float32, one at a time and without TF32."""

# ACE (Jeanneret et al. 2023) on CelebA-HQ; the published Diff-AE on FFHQ-256 (Preechakul et al. 2022).
CELEBA_HQ = AdmConfig(
    image_size=256, num_channels=128, channel_mult="1,1,2,2,4,4", num_res_blocks=2, attention_resolutions="32,16,8",
    num_head_channels=64, learn_sigma=True, resblock_updown=True, use_scale_shift_norm=True, diffusion_steps=500,
    noise_schedule="linear",
)  # fmt: skip
FFHQ = DiffAeConfig(
    image_size=256, ch=128, mult=(1, 1, 2, 2, 4, 4), enc_mult=(1, 1, 2, 2, 4, 4, 4), style=512, embed=512,
    attention_resolutions=(16,),
)  # fmt: skip


def synthetic_weights(network: nn.Module, seed: int) -> nn.Module:
    """Fill every weight from a seed, scaled by its fan-in so that activations keep their size; frozen."""
    for index, (name, parameter) in enumerate(sorted(network.named_parameters())):
        values = torch.from_numpy(noise.numpy_normal(seed * 10_000 + index, tuple(parameter.shape))).float()
        if parameter.ndim > 1:
            values /= parameter[0].numel() ** 0.5
        else:
            values = 0.1 * values + ("weight" in name)
        parameter.data.copy_(values)
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Case:
    """A gradient to measure: "filter" or "decode", with its network and diffusion process."""

    loop: str
    size: int
    network: nn.Module
    schedule: Schedule

    @property
    def calls(self) -> int:
        """Forward and backward calls of the network in one gradient."""
        return len(self.schedule) if self.loop == "decode" else DEPTH

    def inputs(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        """Deterministic data; image `i` is the same in every batch."""
        ids = [f"{self.loop}/{index}" for index in range(batch)]
        config = self.network.config
        shape = (config.in_channels, config.image_size, config.image_size)
        draws = noise.normal(
            noise.sample_keys(0, ids, "gpu-table", device),
            torch.zeros(batch, dtype=torch.int64, device=device),
            DEPTH + 2,
            shape,
        )
        data = {"weight": draws[:, 0], "image": (0.5 + 0.15 * draws[:, 1]).clamp(0, 1), "noise": draws[:, 2:]}
        if self.loop == "decode":
            data["z_sem"] = 0.3 * draws[:, 2].flatten(1)[:, : config.style]
        return data

    def example(self, data: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Inputs of one network call on such data."""
        image = data["image"]
        time = network_time(self.schedule, 0, len(image), image.device)
        return (image, time, data["z_sem"]) if self.loop == "decode" else (image, time)

    def gradient(self, network: nn.Module, data: dict[str, Tensor]) -> Tensor:
        """The gradient, (B, C, H, W) with respect to the image or (B, D) with respect to z_sem."""
        if self.loop == "decode":
            point = data["z_sem"].detach().requires_grad_(True)
            out = ddim_decode(network, self.schedule, data["noise"][:, 0], point)
        else:
            point = data["image"].detach().requires_grad_(True)
            out = filter_image(network, self.schedule, point, DEPTH, data["noise"])
        return torch.autograd.grad((out * data["weight"]).sum(), point)[0]


def make_cases(sizes: list[int], small: bool) -> Iterator[Case]:
    """The two loops at each size; `small` shrinks networks and images for a test on a CPU."""
    for size in sizes:
        if small:
            adm = AdmConfig(
                image_size=size // 4, num_channels=32, channel_mult="1,1", num_res_blocks=1, num_heads=2,
                attention_resolutions="8", learn_sigma=True, resblock_updown=True,
            )  # fmt: skip
            diffae = DiffAeConfig(
                image_size=size // 4, ch=32, mult=(1, 1), enc_mult=(1, 1), style=8, embed=16, num_res_blocks=1,
                enc_num_res_blocks=1, attention_resolutions=(8,),
            )  # fmt: skip
        else:
            adm, diffae = CELEBA_HQ, FFHQ
        if size == 64 and not small:
            ddpm, dae = (load_network(f"square-{role}", role).network for role in ("ddpm", "diffae"))
        else:
            ddpm, dae = synthetic_weights(AdmUNet(adm), 1), synthetic_weights(DiffAe(diffae), 2)
        yield Case("filter", size, ddpm, ddpm.config.schedule("50"))
        yield Case("decode", size, dae, dae.config.schedule(DECODING_STEPS))


def reference_gradient(case: Case, device: torch.device) -> Tensor:
    """Eager float32 gradients of the first images, one at a time, with TF32 off: (COMPARED, ...), on the CPU."""
    convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = (convolutions.fp32_precision, products.fp32_precision)
    convolutions.fp32_precision = products.fp32_precision = "ieee"
    try:
        data = case.inputs(COMPARED, device)
        network = EagerBackend(EagerConfig(), device).prepare("denoiser", case.network, case.example(data))
        rows = [{key: value[i : i + 1] for key, value in data.items()} for i in range(COMPARED)]
        return torch.cat([case.gradient(network, row).cpu() for row in rows])
    finally:
        convolutions.fp32_precision, products.fp32_precision = before
