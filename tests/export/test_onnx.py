"""ONNX Runtime generates the same images as PyTorch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from finetune import paths
from finetune.errors import InputError
from finetune.export.onnx import main

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime of requirements.lock is not installed")
pytest.importorskip("onnxscript", reason="onnxscript of requirements.lock is not installed")


@pytest.fixture(scope="module")
def pipeline(tiny_export: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_export)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def converted(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "EXPORT", tiny_export)
        main([str(folder)])
    return folder


def run(folder: Path, part: str, **inputs: NDArray) -> NDArray:
    session = onnxruntime.InferenceSession(folder / part / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def generate(folder: Path, pipeline: StableDiffusionPipeline, prompts: list[str], latents: NDArray) -> NDArray:
    """The sampling loop of the pipeline, with ONNX Runtime. Returns images [n, 3, height, width] in -1..1."""

    def encode(texts: list[str]) -> NDArray:
        ids = pipeline.tokenizer(texts, padding="max_length", max_length=77, truncation=True).input_ids
        return run(folder, "text_encoder", input_ids=np.array(ids, dtype=np.int32))

    embeddings = np.concatenate([encode([""] * len(prompts)), encode(prompts)])
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(3)
    for timestep in scheduler.timesteps:
        both = np.concatenate([latents, latents])
        noise = run(folder, "unet", sample=both, timestep=timestep.numpy(), encoder_hidden_states=embeddings)
        unconditional, conditional = np.split(noise, 2)
        guided = torch.from_numpy(unconditional + 2 * (conditional - unconditional))
        latents = scheduler.step(guided, timestep, torch.from_numpy(latents)).prev_sample.numpy()
    return run(folder, "vae_decoder", latent_sample=latents / pipeline.vae.config.scaling_factor)


@pytest.mark.parametrize("prompts", [["a star"], ["a star", "two hearts", ""]])
@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_images_of_any_number_and_size_equal_pytorch(
    converted: Path, pipeline: StableDiffusionPipeline, prompts: list[str], size: tuple[int, int]
) -> None:
    """To less than a hundredth of a gray level."""
    noise = torch.randn(len(prompts), 4, *size, generator=torch.Generator().manual_seed(0))
    expected = pipeline(
        prompts, latents=noise.clone(), num_inference_steps=3, guidance_scale=2.0, output_type="pt",
        height=size[0] * pipeline.vae_scale_factor, width=size[1] * pipeline.vae_scale_factor,
    ).images.numpy()  # fmt: skip
    generated = (generate(converted, pipeline, prompts, noise.numpy()) / 2 + 0.5).clip(0, 1)
    assert generated.shape == expected.shape
    assert np.abs(generated - expected).max() < 0.01 / 255


def test_folder_has_the_layout_of_optimum(converted: Path) -> None:
    index = json.loads((converted / "model_index.json").read_text())
    assert index["_class_name"] == "ORTStableDiffusionPipeline"
    for part in ("text_encoder", "unet", "vae_decoder"):
        assert {file.name for file in (converted / part).iterdir()} == {"config.json", "model.onnx"}
        assert "_name_or_path" not in json.loads((converted / part / "config.json").read_text())
    for part in ("tokenizer", "scheduler"):
        assert any((converted / part).iterdir())


def test_existing_folder_is_not_overwritten(tiny_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "EXPORT", tiny_export)
    with pytest.raises(InputError, match="already exists"):
        main([str(tmp_path)])
