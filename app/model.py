"""The exported model, checked and ready to draw; the base model, where it lies beside it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from pydantic import BaseModel, Field

from app.preview import Preview
from app.request import GUIDANCE, SCHEDULERS, STEPS
from app.sampling import enough_memory
from finetune.artifacts import read_json, sha256_file
from finetune.errors import InputError
from finetune.export.manifest import MANIFEST, check_manifest
from finetune.model.determinism import default_device
from finetune.model.loading import load_pipeline

disable_progress_bar()  # of loading


class Example(BaseModel):
    prompt: str
    seed: int


class Serving(BaseModel):
    """What an export says for its page."""

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
    """The pipeline with what its export recommends."""

    folder: Path
    digest: str  # sha256 of the manifest, hence of every file
    pipeline: StableDiffusionPipeline
    preview: Preview
    serving: dict[str, Any]  # prompts.json, as Serving has it
    base_folder: Path

    @property
    def name(self) -> str:
        return self.serving["name"]

    @property
    def prompts(self) -> list[str]:
        return [example["prompt"] for example in self.serving["examples"]]

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings that the metrics were measured with, as far as a request names them and may have them."""
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        return {
            "negative_prompt": "",
            "seed": 0,
            "steps": min(self.serving["num_inference_steps"], STEPS[1]),
            "guidance": min(self.serving["guidance_scale"], GUIDANCE[1]),
            "scheduler": SCHEDULERS[0],
            "width": side,
            "height": side,
        }

    @property
    def has_base(self) -> bool:
        return self.base_folder.is_dir()

    @cached_property
    def base(self) -> StableDiffusionPipeline:
        """Loaded when it is first compared with: it takes as much memory again. Raises InputError with the remedy."""
        with enough_memory("the base model beside the tuned one: draw with the tuned one alone"):
            # in one step: moved first, the weights would take twice their room on a GPU for a moment
            half = [] if self.pipeline.dtype == torch.float32 else [self.pipeline.dtype]
            pipeline = load_pipeline(self.base_folder).to(self.pipeline.device, *half)
        # whoever put a checker before one model wants it before both
        pipeline.register_modules(
            safety_checker=self.pipeline.safety_checker, feature_extractor=self.pipeline.feature_extractor
        )
        return pipeline


def load_model(folder: Path, base: Path, safety: bool = True) -> Model:
    """Check every file's hash, then load: fp16 on a GPU, fp32 on a CPU. Raises InputError with the remedy.

    `safety`: whether to load the safety checker, if the export holds one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no model here; run `dvc pull export` or `dvc repro`")
    check_manifest(folder, hint="run `dvc checkout --force` or `dvc repro`")
    device = default_device()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    without = {} if safety else {"safety_checker": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, **without
    ).to(device)
    return Model(
        folder=folder,
        digest=sha256_file(folder / MANIFEST),
        pipeline=pipeline,
        preview=Preview(pipeline.vae),
        serving=read_json(folder / "prompts.json", Serving),
        base_folder=base,
    )
