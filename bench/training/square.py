"""The recipes of the Square benchmark."""

from dataclasses import replace

from bench.training import figures
from bench.training.losses import ddpm_loss, diffae_loss, regression_loss
from bench.training.recipe import Recipe
from methods.diffusion.adm import AdmConfig
from methods.diffusion.diffae import DiffAeConfig

_DDPM = AdmConfig(
    image_size=64,
    num_channels=64,
    channel_mult="1,2",
    num_res_blocks=1,
    num_heads=4,
    attention_resolutions="8",
    resblock_updown=True,
    learn_sigma=True,
    timestep_respacing="50",
    patch_size=4,
)
_DIFFAE = DiffAeConfig(
    image_size=64,
    ch=64,
    mult=(1, 2),
    enc_mult=(1, 2, 2),
    style=512,
    embed=256,
    num_res_blocks=1,
    enc_num_res_blocks=1,
    attention_resolutions=(8,),
    patch_size=4,
    prediction="v",
    z_unit=0.15,
)
_REGRESSOR = Recipe(
    name="square/regressor",
    kind="regressor",
    config={"widths": [32, 64, 128]},
    loss=regression_loss,
    figures=figures.regressor_figures,
    steps=2_000,
    seed=0,
    batch_size=32,
    lr=1e-3,
)

RECIPES = (
    Recipe(
        "square/ddpm",
        "adm",
        _DDPM.model_dump(exclude_unset=True),
        ddpm_loss,
        figures.ddpm_figures,
        steps=8_000,
        seed=0,
    ),
    Recipe(
        "square/diffae",
        "diffae",
        _DIFFAE.model_dump(mode="json", exclude_unset=True),
        diffae_loss,
        figures.diffae_figures,
        steps=12_000,
        seed=0,
    ),
    _REGRESSOR,
    # Nothing but the seed differs, which changes initial weights, data order and noise.
    replace(_REGRESSOR, name="square/oracle", seed=1),
    # The background alone tells the red here, and is found first: more steps would add nothing.
    replace(
        _REGRESSOR,
        name="square/regressor-correlated",
        figures=figures.correlated_figures,
        data="square/train-correlated",
        steps=1_000,
    ),
)
