"""Load the exported model, and the base model for comparison."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from pydantic import BaseModel, Field

from app.preview import Preview
from app.request import GUIDANCE_SCALE, SCHEDULERS, STEPS
from app.sampling import catch_out_of_memory
from finetune.artifacts import read_json, sha256_file
from finetune.errors import InputError
from finetune.export.manifest import MANIFEST, check_manifest
from finetune.model.determinism import default_device
from finetune.model.loading import load_pipeline
from finetune.model.tokenizer import unknown_words

disable_progress_bar()

MAX_NAMED = 8  # unknown words of a prompt


class Example(BaseModel):
    """A prompt with the images of both models, generated at export: paths below the export's folder."""

    prompt: str
    seed: int
    base: str
    tuned: str


class Serving(BaseModel):
    """Schema of the export's prompts.json."""

    name: str
    num_inference_steps: Annotated[int, Field(ge=1)]
    guidance_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    examples: Annotated[list[Example], Field(min_length=1)]
    styles: dict[str, str]
    keywords: list[str]
    headline: str
    dvc_md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


@dataclass(frozen=True)
class Model:
    """The exported pipeline and its recommended settings."""

    folder: Path
    digest: str  # SHA-256 of the manifest, which lists the SHA-256 of every other file
    pipeline: StableDiffusionPipeline
    preview: Preview
    serving: dict[str, Any]  # prompts.json, validated by Serving
    base_folder: Path

    @property
    def name(self) -> str:
        return self.serving["name"]

    @property
    def prompts(self) -> list[str]:
        return [example["prompt"] for example in self.serving["examples"]]

    @property
    def defaults(self) -> dict[str, Any]:
        """The evaluation's sampling settings, clamped to the valid ranges: every field of Request except the prompt."""
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return {
            "negative_prompt": "",
            "seed": 0,
            "num_inference_steps": min(self.serving["num_inference_steps"], STEPS[1]),
            "guidance_scale": min(self.serving["guidance_scale"], GUIDANCE_SCALE[1]),
            "scheduler": SCHEDULERS[0],
            "width": side,
            "height": side,
        }

    def vocabulary_note(self, prompt: str) -> str:
        """Name the words of a prompt that a model with a small vocabulary does not know; empty if there are none."""
        words = unknown_words(self.pipeline.tokenizer, prompt)
        more = f" and {len(words) - MAX_NAMED} more" if len(words) > MAX_NAMED else ""
        return f"not in this model's vocabulary: {', '.join(words[:MAX_NAMED])}{more}" if words else ""

    @property
    def has_base(self) -> bool:
        return self.base_folder.is_dir()

    @cached_property
    def base(self) -> StableDiffusionPipeline:
        """The base model, loaded on first use because it doubles the memory. Raises InputError if out of memory."""
        with catch_out_of_memory("both the base and the fine-tuned model; use the fine-tuned one alone"):
            # Move and cast in one call: moving fp32 weights first would briefly need twice the GPU memory.
            cast = [] if self.pipeline.dtype == torch.float32 else [self.pipeline.dtype]
            pipeline = load_pipeline(self.base_folder).to(self.pipeline.device, *cast)
        # The safety checker setting applies to both models.
        pipeline.register_modules(
            safety_checker=self.pipeline.safety_checker, feature_extractor=self.pipeline.feature_extractor
        )
        return pipeline


def load_model(folder: Path, base: Path, safety: bool = True) -> Model:
    """Verify every file's hash, then load the export in fp16 on a GPU or fp32 on a CPU.

    `safety` loads the safety checker if the export has one. Raises InputError if a file is missing or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no model here; run `dvc pull export` or `dvc repro`")
    check_manifest(folder, hint="run `dvc checkout --force` or `dvc repro`")
    device = default_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    overrides = {} if safety else {"safety_checker": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, **overrides
    ).to(device)
    return Model(
        folder=folder,
        digest=sha256_file(folder / MANIFEST),
        pipeline=pipeline,
        preview=Preview(pipeline.vae),
        serving=read_json(folder / "prompts.json", Serving),
        base_folder=base,
    )
