"""Convert models/export to one file: `python -m finetune.export.single_file MODEL.safetensors`.

Writes the layout of the original Stable Diffusion (CompVis' latent-diffusion), which diffusers can read but not write.
A LoRA becomes a second file, in the layout of kohya's trainer.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune import paths
from finetune.artifacts import atomic_write
from finetune.errors import InputError
from finetune.export.manifest import check_manifest
from finetune.model.loading import LORA, WEIGHTS
from finetune.stage import run_stage

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
# query, key, value and proj_attn are the names that diffusers used when Stable Diffusion 1.5 was published
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "query": "q",
    "to_k": "k",
    "key": "k",
    "to_v": "v",
    "value": "v",
    "to_out.0": "proj_out",
    "proj_attn": "proj_out",
}


def single_file(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a diffusers model, under the names of the original Stable Diffusion 1.

    Raises InputError if the original has no such weight.
    """
    renames: dict[str, Callable[[str, dict[str, Any]], str]] = {
        "unet": unet_name,
        "vae": vae_name,
        "text_encoder": text_name,
    }
    tensors: dict[str, Tensor] = {}
    for part, rename in renames.items():
        config = json.loads((folder / part / "config.json").read_text())
        for key, tensor in load_file(folder / part / WEIGHTS[part]).items():
            name = rename(key, config)
            # the VAE's attention uses 1x1 convolutions in the original, linear layers in diffusers
            is_convolution = ".mid.attn_1." in name and tensor.ndim == 2
            tensors[name] = tensor[..., None, None] if is_convolution else tensor
    return tensors


def unet_name(key: str, config: dict[str, Any]) -> str:
    """Rename a UNet weight. The original numbers blocks consecutively; a downsampling counts as a block."""
    per_block = config["layers_per_block"] + 1
    module, leaf = key.rsplit(".", 1)
    if module in UNET_ENDS:
        name = UNET_ENDS[module]
    elif found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", module):
        kind, i, rest = found.groups()
        name = f"middle_block.{2 * int(i) + (kind == 'attentions')}.{_inner(kind, rest)}"
    elif found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module):
        side, block, kind, i, rest = found.groups()
        down = side == "down"
        number = int(block) * per_block + int(i) + down
        name = f"{'input' if down else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    elif found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", module):
        name = f"input_blocks.{(int(found[1]) + 1) * per_block}.0.op"
    elif found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", module):
        block = int(found[1])
        place = 1 + ("CrossAttn" in config["up_block_types"][block])
        name = f"output_blocks.{(block + 1) * per_block - 1}.{place}.conv"
    else:
        raise _unknown("unet", key)
    return f"model.diffusion_model.{name}.{leaf}"


def _inner(kind: str, rest: str) -> str:
    return _known(RESNET, rest, "unet") if kind == "resnets" else rest


def _known(names: dict[str, str], key: str, part: str) -> str:
    if key not in names:
        raise _unknown(part, key)
    return names[key]


def _unknown(part: str, key: str) -> InputError:
    return InputError(f"{part}: {key}: Stable Diffusion 1 has no such weight; use the diffusers folder instead")


def vae_name(key: str, config: dict[str, Any]) -> str:
    """Rename a VAE weight. The original numbers the decoder's blocks from the image side."""
    last = len(config["block_out_channels"]) - 1
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if found := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name):
        part, module, leaf = found.groups()
        name = f"{part}.mid.attn_1.{_known(VAE_ATTENTION, module, 'vae')}.{leaf}"
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    return f"first_stage_model.{name}"


def text_name(key: str, _config: dict[str, Any]) -> str:
    """Rename a text encoder weight. transformers dropped the prefix `text_model.` in version 5.6."""
    return f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"


def kohya_lora(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a diffusers LoRA to the layout of kohya's trainer, which also stores the rank of each pair of matrices."""
    # diffusers writes its own names but converts from peft's only
    peft = {key.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): lora[key] for key in lora}
    return {name: tensor.contiguous() for name, tensor in convert_state_dict_to_kohya(peft).items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="MODEL.safetensors")
    output: Path = parser.parse_args(arguments).output
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: choose a name that ends in .safetensors")
    check_manifest(paths.EXPORT, hint="run `dvc checkout --force` or `dvc repro`")
    _save(single_file(paths.EXPORT), output)
    if (paths.EXPORT / LORA).is_file():
        _save(kohya_lora(load_file(paths.EXPORT / LORA)), output.with_name(f"{output.stem}-lora.safetensors"))


def _save(tensors: dict[str, Tensor], output: Path) -> None:
    with atomic_write(output) as partial:
        save_file(tensors, partial, {"format": "pt"})
    output.chmod(0o644)
    print(output)


if __name__ == "__main__":
    run_stage(main)
