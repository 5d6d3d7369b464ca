"""The Diffusion Autoencoder: a BeatGANs UNet conditioned on time and z_sem, with its semantic encoder.

Source: Preechakul et al., "Diffusion autoencoders" (2022). Module names are those of the published
checkpoints, so their keys load without conversion.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from methods.diffusion.schedule import Schedule, beta_schedule


class DiffAeConfig(BaseModel):
    """Shape of a Diffusion Autoencoder; `ch`, `mult`, `enc_mult`, `style` and `embed` are the published ones.

    This project's own fields: `patch_size` folds p x p patches into channels (the efficient shape on a
    CPU; 1 is published), and `prediction` tells what the UNet emits: "eps" (published) or "v" (Salimans
    and Ho 2022), which keeps x_0 exact at high noise; the module returns eps either way. `z_unit` is the
    length of z_sem: codes are multiplied by it when they leave the encoder and divided by it when they
    come back, so it changes no image, only how far a search step of a given size goes (1 is published).
    `in_channels` is 3 (published) for colour, 1 for grey images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = 64
    ch: int = 64
    mult: tuple[int, ...] = (1, 2, 4, 8)
    enc_mult: tuple[int, ...] = (1, 2, 4, 8, 8)
    style: int = 512
    embed: int = 512
    num_res_blocks: int = 2
    enc_num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    dropout: float = 0.0
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    patch_size: int = 1
    prediction: str = "eps"
    z_unit: float = 1.0
    in_channels: Literal[1, 3] = 3

    def schedule(self, steps: int) -> Schedule:
        """The DDIM process of `steps` steps with an integer stride."""
        return Schedule.create(self.diffusion_steps, self.noise_schedule, f"ddim{steps}")


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features, cosines first: (B,) to float32 (B, width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels), channels)


def _expand(features: Tensor) -> Tensor:
    return features[:, :, None, None]


class ResBlock(nn.Module):
    """BeatGANs residual block; time scales and shifts, z_sem scales again. Unconditioned in the encoder."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embed: int | None,
        style: int | None,
        dropout: float = 0.0,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        if embed is not None and style is not None:
            self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed, 2 * out_channels))
            self.cond_emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(style, out_channels))
            conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
            self.out_layers = nn.Sequential(_norm(out_channels), nn.SiLU(), nn.Dropout(dropout), conv)
        else:
            self.out_layers = None
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, emb: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        h = self.in_layers[2](self._resampled(self.in_layers[1](self.in_layers[0](x))))
        if self.out_layers is not None:
            scale, shift = _expand(self.emb_layers(emb)).chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = h * (1 + _expand(self.cond_emb_layers(cond)))
            h = self.out_layers[1:](h)
        return self.skip_connection(self._resampled(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over positions, qkv packed head by head as in the published code."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, emb: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        packed = self.qkv(self.norm(flat)).reshape(batch, self.num_heads, 3, channels // self.num_heads, height * width)
        query, key, value = (part.transpose(-1, -2) for part in packed.unbind(2))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        return x + self.proj_out(attended.reshape(batch, channels, height * width)).reshape(x.shape)


class Stage(nn.Sequential):
    """Blocks in sequence that share the conditions; plain convolutions ignore them."""

    def forward(self, x: Tensor, emb: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb, cond)
        return x


def _down_path(
    config: DiffAeConfig, mult: tuple[int, ...], res_blocks: int, embed: int | None, style: int | None
) -> tuple[nn.ModuleList, list[list[int]], int]:
    """Input blocks, the channels of their outputs by level, and the last width."""
    width = mult[0] * config.ch
    resolution = config.image_size // config.patch_size
    blocks = nn.ModuleList([Stage(nn.Conv2d(config.in_channels * config.patch_size**2, width, 3, padding=1))])
    skips: list[list[int]] = [[] for _ in mult]
    skips[0].append(width)
    for level, factor in enumerate(mult):
        for _ in range(res_blocks):
            layers: list[nn.Module] = [ResBlock(width, factor * config.ch, embed, style, config.dropout)]
            width = factor * config.ch
            if resolution in config.attention_resolutions:
                layers.append(AttentionBlock(width, config.num_heads))
            blocks.append(Stage(*layers))
            skips[level].append(width)
        if level != len(mult) - 1:
            resolution //= 2
            blocks.append(Stage(ResBlock(width, width, embed, style, config.dropout, "down")))
            skips[level + 1].append(width)
    return blocks, skips, width


def _middle(config: DiffAeConfig, width: int, embed: int | None, style: int | None) -> Stage:
    return Stage(
        ResBlock(width, width, embed, style, config.dropout),
        AttentionBlock(width, config.num_heads),
        ResBlock(width, width, embed, style, config.dropout),
    )


class SemanticEncoder(nn.Module):
    """x (B, C, H, W) in [-1, 1] to z_sem (B, style)."""

    def __init__(self, config: DiffAeConfig) -> None:
        super().__init__()
        self.input_blocks, _, width = _down_path(config, config.enc_mult, config.enc_num_res_blocks, None, None)
        self.middle_block = _middle(config, width, None, None)
        head = nn.Conv2d(width, config.style, 1)
        self.out = nn.Sequential(_norm(width), nn.SiLU(), nn.AdaptiveAvgPool2d((1, 1)), head, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        for block in self.input_blocks:
            x = block(x)
        return self.out(self.middle_block(x))


class _TimeEmbedding(nn.Module):
    """Named as in the published checkpoints: time_embed.time_embed.{0,2}."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(width, embed), nn.SiLU(), nn.Linear(embed, embed))

    def forward(self, features: Tensor) -> Tensor:
        return self.time_embed(features)


class DiffAe(nn.Module):
    """net(x, t, z_sem) -> eps, with `encode(image) -> z_sem`.

    x: float (B, C, H, W), the noised image in [-1, 1] units; t: int64 (B,), original timesteps;
    z_sem: (B, style). Returns eps of the shape of x.
    """

    def __init__(self, config: DiffAeConfig) -> None:
        super().__init__()
        self.config = config
        embed, style = config.embed, config.style
        self.time_embed = _TimeEmbedding(config.ch, embed)
        self.encoder = SemanticEncoder(config)
        self.input_blocks, skips, width = _down_path(config, config.mult, config.num_res_blocks, embed, style)
        self.middle_block = _middle(config, width, embed, style)
        self.output_blocks = self._up_path(skips, width)
        head = nn.Conv2d(config.mult[0] * config.ch, config.in_channels * config.patch_size**2, 3, padding=1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.out = nn.Sequential(_norm(config.mult[0] * config.ch), nn.SiLU(), head)
        if config.prediction == "v":
            signal = torch.from_numpy((1 - beta_schedule(config.noise_schedule, config.diffusion_steps)).cumprod())
            self.register_buffer("signal_rate", signal.sqrt().float(), persistent=False)
            self.register_buffer("noise_rate", (1 - signal).sqrt().float(), persistent=False)
        elif config.prediction != "eps":
            raise ValueError(f"prediction {config.prediction!r} is unknown; use 'eps' or 'v'")

    def _up_path(self, skips: list[list[int]], width: int) -> nn.ModuleList:
        config = self.config
        resolution = config.image_size // config.patch_size // 2 ** (len(config.mult) - 1)
        blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(config.mult))):
            for index in range(config.num_res_blocks + 1):
                lateral = skips[level].pop()
                layers: list[nn.Module] = [
                    ResBlock(width + lateral, factor * config.ch, config.embed, config.style, config.dropout)
                ]
                width = factor * config.ch
                if resolution in config.attention_resolutions:
                    layers.append(AttentionBlock(width, config.num_heads))
                if level and index == config.num_res_blocks:
                    resolution *= 2
                    layers.append(ResBlock(width, width, config.embed, config.style, config.dropout, "up"))
                blocks.append(Stage(*layers))
        return blocks

    def encode(self, x: Tensor) -> Tensor:
        """z_sem (B, style) of x (B, C, H, W) in [-1, 1]."""
        return self.encoder(self._folded(x)) * self.config.z_unit

    def _folded(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, self.config.patch_size) if self.config.patch_size > 1 else x

    def predict(self, x: Tensor, t: Tensor, z_sem: Tensor) -> Tensor:
        """What the UNet was trained for: eps or v, (B, C, H, W)."""
        emb = self.time_embed(timestep_embedding(t, self.config.ch).to(x.dtype))
        condition = z_sem / self.config.z_unit
        h = self._folded(x)
        laterals = []
        for block in self.input_blocks:
            h = block(h, emb, condition)
            laterals.append(h)
        h = self.middle_block(h, emb, condition)
        for block in self.output_blocks:
            h = block(torch.cat([h, laterals.pop()], dim=1), emb, condition)
        out = self.out(h)
        return F.pixel_shuffle(out, self.config.patch_size) if self.config.patch_size > 1 else out

    def forward(self, x: Tensor, t: Tensor, z_sem: Tensor) -> Tensor:
        out = self.predict(x, t, z_sem)
        if self.config.prediction == "eps":
            return out
        # v = sqrt(a) eps - sqrt(1 - a) x_0, hence eps = sqrt(a) v + sqrt(1 - a) x.
        return self.signal_rate[t].view(-1, 1, 1, 1) * out + self.noise_rate[t].view(-1, 1, 1, 1) * x
