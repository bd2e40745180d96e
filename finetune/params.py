"""The schema of params.yaml and its only reader.

Every section is checked at once, before a stage spends any time; there are no defaults, so the file is the
whole record of a run.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from finetune.errors import InputError
from finetune.paths import PARAMS

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# md5 is for files whose publisher gives nothing better
Checksum = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# all that is raised
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _listed(value: Any) -> Any:
    if isinstance(value, str | list):
        return [value] if isinstance(value, str) else value
    raise ValueError("give one location, or a list of http(s):// addresses of the same file")


class Archive(Section):
    """A file to fetch. Only what is drawn here (`scenes:`) has nothing to be verified against."""

    locations: Annotated[list[Text], Field(alias="location", min_length=1), BeforeValidator(_listed)]
    checksum: Checksum | None
    bytes: Positive | None

    @model_validator(mode="after")
    def _mirrors_are_addresses(self) -> "Archive":
        others = [location for location in self.locations if not location.startswith(("http://", "https://"))]
        if len(self.locations) > 1 and others:
            raise ValueError(f"a list of locations is for http(s):// addresses, which {others[0]!r} is not")
        return self

    @model_validator(mode="after")
    def _without_a_login(self) -> "Archive":
        if any("@" in urlsplit(location).netloc for location in self.locations):
            raise ValueError("a location holds a login, which model card and MLflow would show; put it into ~/.netrc")
        return self

    @model_validator(mode="after")
    def _verifiable(self) -> "Archive":
        if self.checksum is None and not self.locations[0].startswith("scenes:"):
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
    location: Text
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
    """What a dataset is fetched from is under its name, beside what every run needs."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Archive]]

    base: Base
    extractor: dict[str, Archive]

    @property
    def archives(self) -> dict[str, dict[str, Archive]]:
        """By dataset."""
        return self.__pydantic_extra__


class PreprocessDataset(Section):
    format: Literal["coco", "flickr8k", "imagefolder"]
    crop: Literal["center", "squash"]
    min_side: Positive
    jpeg_quality: Annotated[int, Field(ge=50, le=100)]
    shards: Positive
    max_dropped: Fraction


class Tokenize(Section):
    max_captions: Positive
    min_words: Positive
    near_duplicate_bits: Annotated[int, Field(ge=0, le=64)] | None
    max_dropped: Fraction


class Train(Section):
    seed: Seed
    epochs: Positive
    batch_size: Positive
    gradient_accumulation_steps: Positive
    lora_rank: Positive | None
    lr: LearningRate
    text_encoder_lr: LearningRate | None
    lr_warmup_steps: Count
    optimizer: Literal["adamw", "adamw-fused", "adamw-8bit"]
    adam_weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_grad_norm: PositiveFloat
    mixed_precision: Literal["no", "fp16", "bf16"]
    deterministic: bool
    cpu_threads: Positive
    gradient_checkpointing: bool
    channels_last: bool
    compile: bool
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    ema_interval: Positive
    min_snr_gamma: PositiveFloat | None
    noise_offset: Annotated[float, Field(ge=0, le=1)]
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
    extractor: Literal["efficientnet-lite0.pth", "inception-2015-12-05.pt", "pt_inception-2015-12-05-6726825d.pth"]
    clip: Name | None
    batch_size: Positive
    floor_splits: Annotated[int, Field(ge=2)]
    std_resamples: Annotated[int, Field(ge=2)]
    precision_neighbors: Positive
    density_neighbors: Positive
    seed: Seed


class Grounding(Section):
    images: Positive
    timestep: Annotated[int, Field(ge=0, lt=1000)]
    seed: Seed


class Sweep(Section):
    images: Annotated[int, Field(ge=4)]  # its halves need two
    guidance_scales: Annotated[list[Annotated[float, Field(ge=1, le=50)]], Field(min_length=2)]


class Export(Section):
    weights: Literal["best", "last"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    license: str
    preview_images: Positive
    styles: dict[Text, Text]
    keywords: list[Annotated[str, Field(pattern=r"^[^,\s]([^,]*[^,\s])?$")]]  # a comma parts them in a prompt


class Params(Section):
    """All of params.yaml; a field per stage that has any, named like its module in stages/."""

    preset: str
    datasets: Annotated[list[Name], Field(min_length=1)]
    fetch: Fetch
    preprocess: dict[str, PreprocessDataset]
    tokenize: Tokenize
    train: Train
    generate: Generate
    fid: Fid
    grounding: Grounding
    sweep: Sweep
    export: Export

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for section, names in (("fetch", self.fetch.archives), ("preprocess", self.preprocess)):
            for name in self.datasets:
                if name not in names:
                    raise ValueError(f"datasets lists {name}, but there is no {section}.{name}; see docs/own-data.md")
            for name in names:
                if name not in self.datasets:
                    raise ValueError(f"{section}.{name} is not a known key, nor a name that datasets lists")
        if len(set(self.datasets)) < len(self.datasets):
            raise ValueError("datasets lists a name twice")
        if self.fid.extractor not in self.fetch.extractor:
            raise ValueError(f"fid.extractor is {self.fid.extractor!r}, which fetch.extractor does not list")
        if self.fid.clip and f"{self.fid.clip}/model.safetensors" not in self.fetch.extractor:
            raise ValueError(
                f"fid.clip is {self.fid.clip!r}, but fetch.extractor lists no {self.fid.clip}/model.safetensors; "
                "see docs/evaluation.md"
            )
        for key in ("precision_neighbors", "density_neighbors"):
            neighbors, half = getattr(self.fid, key), -(-self.generate.images // 2)
            if neighbors >= half:
                raise ValueError(
                    f"fid.{key} is {neighbors}, but the random halves of {self.generate.images} generate.images have "
                    f"{half} images and so {half - 1} neighbors each; lower it"
                )
        return self


def load_params(path: Path = PARAMS) -> Params:
    """Read and check the whole file.

    Raises InputError that names every wrong key with its value and what is allowed.
    """
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        presets = [] if path.parent == Path() else sorted(file.stem for file in path.parent.glob("*.yaml"))
        remedy = f"take one of {', '.join(presets)}" if presets else "run in the repository root"
        raise InputError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except NOT_YAML as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as errors:
        faults = [_describe(dict(fault)) for fault in errors.errors()]
        raise InputError(*(f"{path}: {fault}" for fault in faults)) from None


def read_yaml(path: Path) -> Any:
    """Raises OSError and what NOT_YAML lists."""
    return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)


def flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Nested keys as DVC names them on its command line, `train.lr` and so on."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _describe(fault: dict[str, Any]) -> str:
    key = ".".join(map(str, fault["loc"])) or "the file"
    if fault["type"] == "missing":
        return f"{key} is missing; copy it from presets/"
    if fault["type"] == "extra_forbidden":
        return f"{key} is not a known key; see presets/ for those that are"
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], dict) else f" is {fault['input']!r}"
    return f"{key}{shown}: {message[:1].lower()}{message[1:]}"


class _PlainLoader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where the `1e-05` that DVC writes is a string; YAML 1.2 makes it a number.

    Aliases are refused: a few lines of them stand for more than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "an alias (*name); write out what it stands for", mark)
        return super().compose_node(parent, index)


_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)
