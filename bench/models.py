"""Stable Diffusion models of random weights: the real one's shape, or one that a CPU trains with its shares of work."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

SCALING_FACTOR = 0.18215  # of SD15's latents; any other would do here
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


@dataclass(frozen=True)
class Shape:
    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_heads: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    groups: int  # of the normalizations
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: int


SD15 = Shape((320, 640, 1280, 1280), 2, 8, (128, 256, 512, 512), 2, 32, 768, 12, 12, 49408)
# at 192 x 192 pixels the autoencoder, the text encoder and attention have the shares of the work that they have in SD15
# at 512 x 512; one head, since the real ones are 40 to 160 wide and a CPU's attention is very slow for narrow ones
SMALL = Shape((48, 96, 192, 192), 1, 1, (24, 48, 64, 64), 1, 8, 64, 3, 2, 1000)
SMALL_SIDE = 192  # pixels


def make_unet(shape: Shape) -> UNet2DConditionModel:
    """With Stable Diffusion 1.5's blocks: attention to the text in all but the last."""
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=shape.unet_channels,
        layers_per_block=shape.unet_layers,
        cross_attention_dim=shape.text_width,
        attention_head_dim=shape.unet_heads,  # how many, in diffusers' naming of old
        norm_num_groups=shape.groups,
    )


def make_vae(shape: Shape) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=512,
        block_out_channels=shape.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(shape.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(shape.vae_channels),
        layers_per_block=shape.vae_layers,
        norm_num_groups=shape.groups,
        latent_channels=4,
    )


def make_text_encoder(shape: Shape) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.text_width,
            intermediate_size=4 * shape.text_width,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=shape.text_heads,
            bos_token_id=shape.vocabulary - 2,
            eos_token_id=shape.vocabulary - 1,
        )
    )


def write_model(shape: Shape, folder: Path) -> None:
    """All but the tokenizer, in diffusers layout."""
    torch.manual_seed(0)
    make_unet(shape).save_pretrained(folder / "unet")
    make_vae(shape).save_pretrained(folder / "vae")
    make_text_encoder(shape).save_pretrained(folder / "text_encoder")
    DDPMScheduler(**NOISE).save_pretrained(folder / "scheduler")


def flops(shape: Shape, side: int) -> dict[str, int]:
    """Of one image of side x side pixels: counted by tracing the networks without weights."""
    latent = side // 8
    with torch.device("meta"):
        unet, vae, text_encoder = make_unet(shape), make_vae(shape), make_text_encoder(shape)
        text = torch.zeros(1, 77, shape.text_width)
        latents, pixels, ids = (
            torch.zeros(1, 4, latent, latent),
            torch.zeros(1, 3, side, side),
            torch.zeros(1, 77).long(),
        )
        timestep = torch.zeros(1).long()
    counted = {}
    with FlopCounterMode(display=False) as counter:
        unet(latents, timestep, text).sample.sum().backward()
    counted["unet_step"] = counter.get_total_flops()
    counted["unet_attention"] = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.encode(pixels)
    counted["vae_encode"] = counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        text_encoder(ids)
    counted["text"] = counter.get_total_flops()
    return counted
