"""The exported model, checked and ready to draw."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from finetune.errors import InputError
from finetune.manifest import check_manifest

MAX_SEED = 2**31 - 1
MAX_STEPS = 1000  # the noise schedule's length
GUIDANCE = (1.0, 50.0)


@dataclass(frozen=True)
class Request:
    """What a visitor asks for. Raises InputError with one line for the page if it cannot be drawn."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if not (self.prompt and self.prompt.strip()):
            raise InputError("The prompt is empty: say what the picture should show.")
        for name, value, low, high in (
            ("Seed", self.seed, 0, MAX_SEED),
            ("Steps", self.steps, 1, MAX_STEPS),
            ("Guidance", self.guidance, *GUIDANCE),
        ):
            if value is None or not low <= value <= high:
                shown = "empty" if value is None else f"{value:g}"
                raise InputError(f"{name} is {shown}: it must lie between {low:,g} and {high:,g}.")


@dataclass(frozen=True)
class Model:
    """The pipeline with what its export recommends: settings and prompts it has been seen to draw."""

    name: str
    pipeline: StableDiffusionPipeline
    steps: int
    guidance: float
    prompts: list[str]

    def draw(self, request: Request) -> Image.Image:
        """The same request gives the same picture on the same kind of device."""
        return self.pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=torch.Generator("cpu").manual_seed(request.seed),
        ).images[0]


def load_model(folder: Path) -> Model:
    """Check every file's hash, then load: fp16 on a GPU, fp32 on a CPU. Raises InputError with the remedy."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no model here; run `dvc pull export` or `dvc repro`")
    check_manifest(folder, remedy="run `dvc checkout --force` or `dvc repro`")
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    serving = json.loads((folder / "prompts.json").read_text())
    return Model(
        name=serving["name"],
        pipeline=pipeline.to(device),
        steps=serving["num_inference_steps"],
        guidance=serving["guidance_scale"],
        prompts=[example["prompt"] for example in serving["examples"]],
    )
