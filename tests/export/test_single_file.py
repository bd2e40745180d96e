"""The exported model in one file, in the layout of the original Stable Diffusion."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file

from finetune import paths
from finetune.errors import InputError
from finetune.export.single_file import kohya_lora, main, text_name, unet_name, vae_name
from finetune.model.loading import LORA, load_pipeline
from finetune.planning.architecture import KNOWN, Architecture
from finetune.training.denoiser import add_lora, save_lora

(SD15,) = KNOWN.values()
PARTS = {part: json.loads((SD15 / f"{part}.json").read_text()) for part in ("text_encoder", "unet", "vae")}


def generate(pipeline: StableDiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline("a red star", generator=generator, num_inference_steps=2, output_type="np").images


def test_diffusers_generates_the_same_image_from_the_file(
    tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "EXPORT", tiny_export)
    main([str(tmp_path / "model.safetensors")])
    assert capsys.readouterr().out == f"{tmp_path / 'model.safetensors'}\n"
    read = StableDiffusionPipeline.from_single_file(
        tmp_path / "model.safetensors", config=str(tiny_export), local_files_only=True, safety_checker=None
    )
    assert np.array_equal(generate(read), generate(StableDiffusionPipeline.from_pretrained(tiny_export)))


@pytest.mark.parametrize(
    ("part", "key", "name"),
    [
        ("unet", "conv_in.weight", "input_blocks.0.0.weight"),
        ("unet", "down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
        (
            "unet",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
        ),
        ("unet", "mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
        ("unet", "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("unet", "up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("unet", "up_blocks.3.resnets.2.conv_shortcut.weight", "output_blocks.11.0.skip_connection.weight"),
        ("vae", "decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid.attn_1.proj_out.bias"),
        ("vae", "decoder.mid_block.attentions.0.query.weight", "decoder.mid.attn_1.q.weight"),
        ("vae", "decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up.3.upsample.conv.weight"),
        ("vae", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "encoder.down.1.block.0.nin_shortcut.weight"),
        ("text_encoder", "final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ("text_encoder", "text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
    ],
)
def test_weights_get_the_names_of_stable_diffusion_1_5(part: str, key: str, name: str) -> None:
    prefix = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "cond_stage_model.transformer.",
    }[part]
    rename = {"unet": unet_name, "vae": vae_name, "text_encoder": text_name}[part]
    assert rename(key, PARTS[part]) == prefix + name


def test_diffusers_converts_every_name_back() -> None:
    architecture = Architecture(**PARTS)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(PARTS["unet"]).state_dict()
    vae = architecture.make_vae().state_dict()
    ldm = {unet_name(key, PARTS["unet"]): tensor for key, tensor in unet.items()}
    assert convert_ldm_unet_checkpoint(ldm, PARTS["unet"]).keys() == unet.keys()
    ldm = {vae_name(key, PARTS["vae"]): tensor for key, tensor in vae.items()}
    assert convert_ldm_vae_checkpoint(ldm, PARTS["vae"]).keys() == vae.keys()


def test_weight_of_a_different_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"add_embedding.linear_1.bias: Stable Diffusion 1 has no such weight"):
        unet_name("add_embedding.linear_1.bias", PARTS["unet"])


def test_lora_in_kohyas_layout_generates_the_same_image(tiny_base: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(tiny_base)
    plain = generate(pipeline)
    add_lora(pipeline.unet, rank=2, seed=0)
    with torch.no_grad():
        for name, weight in pipeline.unet.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(len(name)))
    save_lora(pipeline.unet, tmp_path)
    ours, theirs = load_pipeline(tiny_base), load_pipeline(tiny_base)
    ours.load_lora_weights(tmp_path, weight_name=LORA, local_files_only=True)
    theirs.load_lora_weights(kohya_lora(load_file(tmp_path / LORA)))
    assert np.array_equal(generate(ours), generate(theirs))
    assert not np.array_equal(generate(ours), plain)
