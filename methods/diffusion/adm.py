"""The guided-diffusion / ADM UNet, expressed with diffusers' UNet2DModel.

Source: Dhariwal and Nichol, "Diffusion models beat GANs" (2021), and the code published with it, whose
checkpoint keys and option names are read here.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from methods.diffusion.schedule import Schedule

_DEFAULT_CHANNEL_MULT = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}


class AdmConfig(BaseModel):
    """Options of `create_model_and_diffusion`, under their published names and with their defaults.

    Options that only concern training (dropout, use_kl, use_checkpoint, use_fp16) are accepted and unused.
    Two are this project's. `patch_size`: the UNet works on p x p patches folded into channels, which is the
    efficient shape on a CPU; 1 is the published network. `in_channels`: 3 (published) for colour, 1 for grey.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = 64
    num_channels: int = 128
    num_res_blocks: int = 2
    num_heads: int = 4
    num_heads_upsample: int = -1
    num_head_channels: int = -1
    attention_resolutions: str = "16,8"
    channel_mult: str = ""
    class_cond: bool = False
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = False
    diffusion_steps: int = 1000
    noise_schedule: str = "linear"
    timestep_respacing: str = ""
    rescale_timesteps: bool = False
    predict_xstart: bool = False
    rescale_learned_sigmas: bool = False
    dropout: float = 0.0
    use_kl: bool = False
    use_checkpoint: bool = False
    use_fp16: bool = False
    patch_size: int = 1
    in_channels: Literal[1, 3] = 3

    @property
    def multipliers(self) -> list[float]:
        """Channel multiplier of each resolution, finest first."""
        spec = self.channel_mult or _DEFAULT_CHANNEL_MULT.get(self.image_size, "")
        if not spec:
            raise ValueError(f"channel_mult is empty and image_size {self.image_size} has no published default")
        return [float(part) for part in spec.split(",")]

    @property
    def attention_levels(self) -> set[int]:
        """Levels (0 = finest) that attend."""
        grid = self.image_size // self.patch_size
        factors = {grid // int(part) for part in self.attention_resolutions.split(",") if part}
        return {level for level in range(len(self.multipliers)) if 2**level in factors}

    def heads(self, channels: int, upward: bool) -> int:
        """Attention heads at a block with `channels` channels."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.num_heads_upsample if upward and self.num_heads_upsample != -1 else self.num_heads

    def schedule(self, respacing: str | None = None) -> Schedule:
        """The diffusion process; `respacing` overrides `timestep_respacing`."""
        spec = self.timestep_respacing if respacing is None else respacing
        return Schedule.create(self.diffusion_steps, self.noise_schedule, spec, self.rescale_timesteps)


class AdmUNet(nn.Module):
    """net(x, t) -> (B, 2 C, H, W): predicted noise and learned-range variance (C channels without learn_sigma).

    C is `in_channels`, x is float (B, C, H, W) in [-1, 1] at timestep t, int64 or float (B,), in original timesteps.
    """

    def __init__(self, config: AdmConfig) -> None:
        super().__init__()
        if config.class_cond or config.predict_xstart:
            key = "class_cond" if config.class_cond else "predict_xstart"
            raise ValueError(f"{key}=True is not supported: AC-RE uses unconditional noise predictors")
        self.config = config
        self.unet = _unet2d(config)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        patch = self.config.patch_size
        if patch == 1:
            return self.unet(x, t, return_dict=False)[0]
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(x, patch), t, return_dict=False)[0], patch)


def _unet2d(config: AdmConfig) -> UNet2DModel:
    """The UNet2DModel with ADM's blocks, heads and time embedding."""
    channels = [int(m * config.num_channels) for m in config.multipliers]
    levels = range(len(channels))
    plain_down, plain_up = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if config.resblock_updown else ("DownBlock2D", "UpBlock2D")
    )
    resample = "resnet" if config.resblock_updown else "conv"
    area = config.patch_size**2
    unet = UNet2DModel(
        sample_size=config.image_size // config.patch_size,
        in_channels=config.in_channels * area,
        out_channels=(2 if config.learn_sigma else 1) * config.in_channels * area,
        time_embedding_dim=4 * config.num_channels,
        down_block_types=tuple("AttnDownBlock2D" if i in config.attention_levels else plain_down for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in config.attention_levels else plain_up for i in reversed(levels)),
        block_out_channels=tuple(channels),
        layers_per_block=config.num_res_blocks,
        downsample_type=resample,
        upsample_type=resample,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if config.use_scale_shift_norm else "default",
        attention_head_dim=None,
        dropout=config.dropout,
    )
    # ADM embeds time with num_channels features, diffusers with the first level's width.
    if channels[0] != config.num_channels:
        unet.time_proj = Timesteps(config.num_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        unet.time_embedding = TimestepEmbedding(config.num_channels, 4 * config.num_channels)
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            module.heads = config.heads(module.to_q.in_features, upward=name.startswith("up_blocks"))
            module.scale = (module.to_q.in_features // module.heads) ** -0.5
    return unet


_RESNET_KEYS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def published_blocks(config: AdmConfig) -> Iterator[tuple[str, str, str]]:
    """(published prefix, diffusers prefix, kind) of every block; kind: plain, resnet, attention or resample.

    A `resample` is a ResBlock where `resblock_updown` is set, otherwise one convolution.
    """
    last = len(config.multipliers) - 1
    for name in ("0", "2"):
        yield f"time_embed.{name}", f"time_embedding.linear_{1 if name == '0' else 2}", "plain"
    yield "input_blocks.0.0", "conv_in", "plain"
    index = 1
    for level in range(last + 1):
        for layer in range(config.num_res_blocks):
            yield f"input_blocks.{index}.0", f"down_blocks.{level}.resnets.{layer}", "resnet"
            if level in config.attention_levels:
                yield f"input_blocks.{index}.1", f"down_blocks.{level}.attentions.{layer}", "attention"
            index += 1
        if level < last:
            kind = "resnet" if config.resblock_updown else "downsample"
            yield f"input_blocks.{index}.0", f"down_blocks.{level}.downsamplers.0", kind
            index += 1
    yield "middle_block.0", "mid_block.resnets.0", "resnet"
    yield "middle_block.1", "mid_block.attentions.0", "attention"
    yield "middle_block.2", "mid_block.resnets.1", "resnet"
    for up, level in enumerate(range(last, -1, -1)):
        for layer in range(config.num_res_blocks + 1):
            index = up * (config.num_res_blocks + 1) + layer
            yield f"output_blocks.{index}.0", f"up_blocks.{up}.resnets.{layer}", "resnet"
            attends = level in config.attention_levels
            if attends:
                yield f"output_blocks.{index}.1", f"up_blocks.{up}.attentions.{layer}", "attention"
            if level > 0 and layer == config.num_res_blocks:
                kind = "resnet" if config.resblock_updown else "upsample"
                yield f"output_blocks.{index}.{2 if attends else 1}", f"up_blocks.{up}.upsamplers.0", kind
    yield "out.0", "conv_norm_out", "plain"
    yield "out.2", "conv_out", "plain"


def _convert_attention(tensor: Tensor, name: str, heads: int, new_order: bool) -> dict[str, Tensor]:
    """Split ADM's fused qkv. The legacy order packs (head, q/k/v, channel); the new one (q/k/v, head, channel)."""
    if name.startswith("norm"):
        return {name.replace("norm", "group_norm", 1): tensor}
    if tensor.ndim == 3:
        tensor = tensor.squeeze(-1)
    if name.startswith("proj_out"):
        return {name.replace("proj_out", "to_out.0", 1): tensor}
    kind = name.removeprefix("qkv.")
    width = tensor.shape[0] // 3
    if new_order:
        parts = tensor.unflatten(0, (3, width)).unbind(0)
    else:
        parts = [part.flatten(0, 1) for part in tensor.unflatten(0, (heads, 3, width // heads)).unbind(1)]
    return {f"to_{letter}.{kind}": part.clone() for letter, part in zip("qkv", parts, strict=True)}


def convert_adm_state(state: Mapping[str, Tensor], config: AdmConfig) -> dict[str, Tensor]:
    """Published ADM keys to the keys of `AdmUNet`.

    Keys that belong to no block of this configuration are kept unchanged, so that loading names them.
    """
    simple = {"downsample": {"op": "conv"}, "upsample": {"conv": "conv"}}
    blocks = {published: (ours, kind) for published, ours, kind in published_blocks(config)}
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        prefix = next((p for p in (key.rsplit(".", n)[0] for n in range(1, 4)) if p in blocks), None)
        if prefix is None:
            converted[key] = tensor
            continue
        ours, kind = blocks[prefix]
        rest = key[len(prefix) + 1 :]
        if kind == "attention":
            channels = tensor.shape[0] // 3 if rest.startswith("qkv") else tensor.shape[0]
            heads = config.heads(channels, upward=ours.startswith("up_blocks"))
            parts = _convert_attention(tensor, rest, heads, config.use_new_attention_order)
            converted |= {f"unet.{ours}.{name}": part for name, part in parts.items()}
            continue
        if kind != "plain":
            table = _RESNET_KEYS if kind == "resnet" else simple[kind]
            layer, _, leaf = rest.rpartition(".")
            rest = f"{table[layer]}.{leaf}" if layer in table else rest
        converted[f"unet.{ours}.{rest}"] = tensor
    return converted
