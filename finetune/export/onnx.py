"""Convert models/export for ONNX Runtime, which needs no PyTorch: `python -m finetune.export.onnx FOLDER`.

Writes fp32 graphs for any number and size of images, in the layout of optimum's ORTStableDiffusionPipeline. The safety
checker is not converted, because optimum does not support one.
"""

import argparse
import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune import paths
from finetune.artifacts import atomic_directory, write_json
from finetune.errors import InputError
from finetune.export.manifest import check_manifest
from finetune.model.loading import load_text_encoder, load_unet, load_vae
from finetune.stage import run_stage

ANY = torch.export.Dim.DYNAMIC
ANY_IMAGE_SIZE = {0: ANY, 2: ANY, 3: ANY}  # of [images, channels, height, width]


class FirstOutput(nn.Module):
    """Wraps a method of a model and returns its first output: a graph can return tensors only."""

    def __init__(self, model: nn.Module, method: str = "forward") -> None:
        super().__init__()
        self.model = model.eval()
        self.method = method

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.model, self.method)(*inputs, return_dict=False)[0]


def onnx_export(source: Path, target: Path) -> None:
    """Convert the diffusers model in `source`. Raises InputError if `target` exists."""
    if target.exists():
        raise InputError(f"{target}: already exists; choose a different name")
    unet = load_unet(source / "unet")
    channels, side, width = unet.config.in_channels, unet.config.sample_size, unet.config.cross_attention_dim
    # batches of two, because the exporter makes a dimension of one constant
    latents = torch.zeros(2, channels, side, side)
    with atomic_directory(target) as folder:
        text_encoder = load_text_encoder(source / "text_encoder")
        tokens = text_encoder.config.max_position_embeddings
        ids = {"input_ids": (torch.zeros(2, tokens, dtype=torch.int32), {0: ANY})}
        _write(FirstOutput(text_encoder), ids, "last_hidden_state", folder / "text_encoder")
        denoised = {
            "sample": (latents, ANY_IMAGE_SIZE),
            "timestep": (torch.tensor(0), {}),
            "encoder_hidden_states": (torch.zeros(2, tokens, width), {0: ANY}),
        }
        _write(FirstOutput(unet), denoised, "out_sample", folder / "unet")
        decoder = FirstOutput(load_vae(source / "vae"), "decode")
        _write(decoder, {"latent_sample": (latents, ANY_IMAGE_SIZE)}, "sample", folder / "vae_decoder")
        for part, config in (("text_encoder",) * 2, ("unet",) * 2, ("vae_decoder", "vae")):
            shutil.copyfile(source / config / "config.json", folder / part / "config.json")
        for part in ("tokenizer", "scheduler"):
            shutil.copytree(source / part, folder / part, copy_function=shutil.copyfile)
        write_json(folder / "model_index.json", _model_index(source))


def _write(model: nn.Module, inputs: dict[str, tuple[Tensor, dict[int, Any]]], output: str, folder: Path) -> None:
    """Write a graph to `folder`. inputs: name -> example and its dynamic dimensions."""
    folder.mkdir()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own code
        torch.onnx.export(
            model,
            tuple(example for example, _ in inputs.values()),
            folder / "model.onnx",
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=(tuple(free for _, free in inputs.values()),),  # for the one variadic argument
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _model_index(source: Path) -> dict[str, Any]:
    index = json.loads((source / "model_index.json").read_text())
    return index | {
        "_class_name": "ORTStableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="FOLDER")
    output: Path = parser.parse_args(arguments).output
    check_manifest(paths.EXPORT, hint="run `dvc checkout --force` or `dvc repro`")
    for chatty in ("onnx_ir", "onnxscript"):  # they log a line per simplified node
        logging.getLogger(chatty).setLevel(logging.WARNING)
    onnx_export(paths.EXPORT, output)
    print(output)


if __name__ == "__main__":
    run_stage(main)
