"""A Stable Diffusion model of random weights: 64x64 images in milliseconds."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def write_tiny_model(folder: Path, latent_channels: int = 4, vae_channels: tuple[int, ...] = (8, 8, 16, 16)) -> None:
    """Write the model to `folder` in diffusers layout. Every level of the VAE except the first halves the image."""
    tokenizer = _write_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=64 // 2 ** (len(vae_channels) - 1),
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        sample_size=64,
        block_out_channels=vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=latent_channels,
    )
    text_encoder.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")


def _write_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with every byte and no merges but those of "star", so that all text encodes."""
    printable = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    stand_ins = [chr(256 + i) for i in range(256 - len(printable))]  # for bytes that do not print
    letters = printable + stand_ins
    merges = [("s", "t"), ("a", "r</w>"), ("st", "ar</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=77).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
