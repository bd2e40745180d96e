"""The schema of params.yaml and its only reader.

Every section is checked at once, before a stage spends any time; there are no defaults, so the file is the
whole record of a run.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from finetune.errors import InputError
from finetune.paths import PARAMS

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# md5 is for files whose publisher gives nothing better
Checksum = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Archive(Section):
    """A file to fetch. Only what is drawn here (`scenes:`) has nothing to be verified against."""

    location: Annotated[str, Field(min_length=1)]
    checksum: Checksum | None
    bytes: Positive | None

    @model_validator(mode="after")
    def _verifiable(self) -> "Archive":
        if self.checksum is None and not self.location.startswith("scenes:"):
            raise ValueError(
                "checksum may be null only for a scenes: location; give sha256: and the 64 digits of `sha256sum FILE`"
            )
        return self


WEIGHTS = {
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
}


class Base(Section):
    location: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    sha256: dict[str, Sha256]

    @model_validator(mode="after")
    def _pinned(self) -> "Base":
        if self.location.startswith("hf://") and self.revision is None:
            raise ValueError("revision may be null only for a local folder; give the hub commit's 40 digits")
        missing = WEIGHTS - self.sha256.keys()
        if missing:
            raise ValueError(f"sha256 lacks {', '.join(sorted(missing))}; give the 64 digits of `sha256sum FILE`")
        return self


class Fetch(Section):
    coco: dict[str, Archive]
    flickr8k: dict[str, Archive]
    base: Base
    extractor: dict[str, Archive]


class PreprocessDataset(Section):
    crop: Literal["center", "squash"]
    min_side: Positive
    jpeg_quality: Annotated[int, Field(ge=50, le=100)]
    shard_images: Positive
    max_dropped: Fraction


class Preprocess(Section):
    coco: PreprocessDataset
    flickr8k: PreprocessDataset


class Tokenize(Section):
    max_captions: Positive
    min_words: Positive


class Latents(Section):
    batch_size: Positive


class Train(Section):
    seed: Seed
    epochs: Positive
    batch_size: Positive
    gradient_accumulation_steps: Positive
    lr: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    lr_warmup_steps: Count
    adam_weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_grad_norm: PositiveFloat
    mixed_precision: Literal["no", "fp16", "bf16"]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    caption_dropout: Fraction
    flip_probability: Fraction
    checkpoint_steps: Positive
    validation_steps: Positive
    validation_images: Positive
    sample_images: Positive
    sample_inference_steps: Annotated[int, Field(ge=1, le=1000)]
    sample_guidance_scale: Annotated[float, Field(ge=1, le=50)]


class Generate(Section):
    seed: Seed
    images: Positive
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=1, le=50)]
    batch_size: Positive


class Fid(Section):
    extractor: str
    batch_size: Positive
    floor_splits: Annotated[int, Field(ge=2)]
    sd_draws: Annotated[int, Field(ge=2)]
    precision_neighbors: Positive
    density_neighbors: Positive
    seed: Seed


class Export(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    license: str
    preview_images: Positive


class Params(Section):
    """All of params.yaml; a field per stage, named like its module in stages/."""

    preset: str
    fetch: Fetch
    preprocess: Preprocess
    tokenize: Tokenize
    latents: Latents
    train: Train
    generate: Generate
    fid: Fid
    export: Export

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.fid.extractor not in self.fetch.extractor:
            raise ValueError(f"fid.extractor is {self.fid.extractor!r}, which fetch.extractor does not list")
        for key in ("precision_neighbors", "density_neighbors"):
            neighbors, half = getattr(self.fid, key), -(-self.generate.images // 2)
            if neighbors >= half:
                raise ValueError(
                    f"fid.{key} is {neighbors}, but the random halves of {self.generate.images} generate.images have "
                    f"{half} pictures and so {half - 1} neighbors each; lower it"
                )
        return self


def load_params(path: Path = PARAMS) -> Params:
    """Read and check the whole file.

    Raises InputError that names every wrong key with its value and what is allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Yaml12FloatLoader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run in the repository root") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as errors:
        faults = [_describe(dict(fault)) for fault in errors.errors()]
        raise InputError(f"{path}: " + f"\n{path}: ".join(faults)) from None


def _describe(fault: dict[str, Any]) -> str:
    key = ".".join(map(str, fault["loc"])) or "the file"
    if fault["type"] == "missing":
        return f"{key} is missing; copy it from presets/"
    if fault["type"] == "extra_forbidden":
        return f"{key} is not a known key; see presets/ for those that are"
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], dict) else f" is {fault['input']!r}"
    return f"{key}{shown}: {message[:1].lower()}{message[1:]}"


class _Yaml12FloatLoader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where the `1e-05` that DVC writes is a string; YAML 1.2 makes it a number."""


_Yaml12FloatLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)
