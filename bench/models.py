"""Stable Diffusion models with random weights: at full size, or small enough to train on a CPU."""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from finetune.params import Train
from finetune.training.batches import CaptionedLatents
from finetune.training.denoiser import Denoiser
from finetune.training.trainer import Trainer

SCALING_FACTOR = 0.18215  # SD 1.5's; the value has no effect on speed
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


@dataclass(frozen=True)
class Shape:
    unet_channels: tuple[int, ...]
    unet_layers: int
    unet_heads: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    groups: int  # of GroupNorm
    text_width: int
    text_layers: int
    text_heads: int
    vocabulary: int


SD15 = Shape((320, 640, 1280, 1280), 2, 8, (128, 256, 512, 512), 2, 32, 768, 12, 12, 49408)
# At 192x192 pixels, VAE, text encoder and attention take the same shares of the FLOPs as in SD15 at 512x512. One head,
# because CPU attention is very slow for heads narrower than SD15's 40 to 160 channels.
SMALL = Shape((48, 96, 192, 192), 1, 1, (24, 48, 64, 64), 1, 8, 64, 3, 2, 1000)
SMALL_SIDE = 192  # pixels


def make_unet(shape: Shape) -> UNet2DConditionModel:
    """Build a UNet with Stable Diffusion 1.5's block types."""
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=shape.unet_channels,
        layers_per_block=shape.unet_layers,
        cross_attention_dim=shape.text_width,
        attention_head_dim=shape.unet_heads,  # number of heads: diffusers kept a historical misnomer
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
    """Write the model without a tokenizer, in diffusers layout."""
    torch.manual_seed(0)
    make_unet(shape).save_pretrained(folder / "unet")
    make_vae(shape).save_pretrained(folder / "vae")
    make_text_encoder(shape).save_pretrained(folder / "text_encoder")
    DDPMScheduler(**NOISE).save_pretrained(folder / "scheduler")


def make_trainer(accelerator: Accelerator, shape: Shape, data: CaptionedLatents, params: Train) -> Trainer:
    torch.manual_seed(0)
    text_encoder = make_text_encoder(shape).requires_grad_(False)
    denoiser = Denoiser(make_unet(shape), text_encoder, params)
    return Trainer(accelerator, denoiser, DDPMScheduler(**NOISE), data, params, SCALING_FACTOR)


def flops(shape: Shape, side: int) -> dict[str, int]:
    """Count the operations for one image of side x side pixels by tracing the networks on the meta device."""
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
    with FlopCounterMode(display=False) as step:
        unet(latents, timestep, text).sample.sum().backward()
    with torch.no_grad(), FlopCounterMode(display=False) as encode:
        vae.encode(pixels)
    with torch.no_grad(), FlopCounterMode(display=False) as encode_text:
        text_encoder(ids)
    return {
        "unet_step": step.get_total_flops(),
        "unet_attention": step.get_flop_counts()["Global"][torch.ops.aten.bmm],
        "vae_encode": encode.get_total_flops(),
        "text": encode_text.get_total_flops(),
    }
