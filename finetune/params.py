"""The schema of params.yaml and its only reader.

All sections are validated at once, before a stage spends any time. There are no defaults, so the file is the complete
record of a run.
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
# md5 is for files whose publisher lists nothing better
Checksum = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# everything that PyYAML raises for invalid input
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError, RecursionError)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _listed(value: Any) -> Any:
    if isinstance(value, str | list):
        return [value] if isinstance(value, str) else value
    raise ValueError("give one location, or a list of http(s):// addresses of the same file")


class Archive(Section):
    """A file to fetch. Only rendered scenes (`scenes:`) have no checksum."""

    locations: Annotated[list[Text], Field(alias="location", min_length=1), BeforeValidator(_listed)]
    checksum: Checksum | None
    bytes: Positive | None

    @model_validator(mode="after")
    def _mirrors_are_addresses(self) -> "Archive":
        others = [location for location in self.locations if not location.startswith(("http://", "https://"))]
        if len(self.locations) > 1 and others:
            raise ValueError(f"a list of locations takes http(s):// addresses only, not {others[0]!r}")
        return self

    @model_validator(mode="after")
    def _without_a_login(self) -> "Archive":
        if any("@" in urlsplit(location).netloc for location in self.locations):
            raise ValueError(
                "a location contains a login, which the model card and MLflow would show; move it to ~/.netrc"
            )
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
    """The sources of every run, and those of each dataset under its name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Archive]]

    base: Base
    extractor: dict[str, Archive]

    @property
    def archives(self) -> dict[str, dict[str, Archive]]:
        """Archives by dataset and file name."""
        return self.__pydantic_extra__

    @model_validator(mode="after")
    def _packaged(self) -> "Fetch":
        """Only the loader of EfficientNet-Lite0 reads a file inside its package."""
        for source, files in {**self.archives, "extractor": self.extractor}.items():
            for name, archive in files.items():
                if archive.locations[0].startswith("package:") and name != "efficientnet-lite0.pth":
                    raise ValueError(f"{source}.{name} cannot be a package: location; give http(s):// or a path")
        return self


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


class Qualitative(Section):
    seed: Seed
    prompts: Annotated[list[Text], Field(min_length=1)]


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
    images: Annotated[int, Field(ge=4)]  # its half-samples need two
    guidance_scales: Annotated[list[Annotated[float, Field(ge=1, le=50)]], Field(min_length=2)]


class Export(Section):
    weights: Literal["best", "last"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    license: str
    preview_images: Positive
    styles: dict[Text, Text]
    keywords: list[Annotated[str, Field(pattern=r"^[^,\s]([^,]*[^,\s])?$")]]  # commas separate keywords in a prompt


class Params(Section):
    """All of params.yaml: one field per stage that has parameters, named like its module in stages/."""

    preset: str
    datasets: Annotated[list[Name], Field(min_length=1)]
    fetch: Fetch
    preprocess: dict[str, PreprocessDataset]
    tokenize: Tokenize
    train: Train
    generate: Generate
    qualitative: Qualitative
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
                    raise ValueError(f"{section}.{name} is not a known key, and datasets does not list it")
        if len(set(self.datasets)) < len(self.datasets):
            raise ValueError("datasets lists a name twice")
        if self.fid.extractor not in self.fetch.extractor:
            raise ValueError(f"fid.extractor is {self.fid.extractor!r}, but fetch.extractor does not list it")
        if self.fid.clip and f"{self.fid.clip}/model.safetensors" not in self.fetch.extractor:
            raise ValueError(
                f"fid.clip is {self.fid.clip!r}, but fetch.extractor lists no {self.fid.clip}/model.safetensors; "
                "see docs/evaluation.md"
            )
        for key in ("precision_neighbors", "density_neighbors"):
            neighbors, half = getattr(self.fid, key), -(-self.generate.images // 2)
            if neighbors >= half:
                raise ValueError(
                    f"fid.{key} is {neighbors}, but half-samples of {self.generate.images} generate.images have {half} "
                    f"images, so {half - 1} neighbors each; lower it"
                )
        return self


def load_params(path: Path = PARAMS) -> Params:
    """Read and validate the file.

    Raises InputError that lists every wrong key with its value and what is allowed.
    """
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        presets = [] if path.parent == Path() else sorted(file.stem for file in path.parent.glob("*.yaml"))
        hint = f"choose one of {', '.join(presets)}" if presets else "run this in the repository root"
        raise InputError(f"{path}: no such file; {hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except NOT_YAML as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as errors:
        raise InputError(*(f"{path}: {_describe(dict(error))}" for error in errors.errors())) from None


def read_yaml(path: Path) -> Any:
    """Raises OSError, and the exceptions in NOT_YAML for invalid content."""
    return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)


def flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves by dotted key, as DVC names them: `train.lr` and so on."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": leaf for name, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _describe(error: dict[str, Any]) -> str:
    key = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] == "missing":
        return f"{key} is missing; copy it from presets/"
    if error["type"] == "extra_forbidden":
        return f"{key} is not a known key; see presets/ for those that are"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(error["input"], dict) else f" is {error['input']!r}"
    return f"{key}{shown}: {message[:1].lower()}{message[1:]}"


class _PlainLoader(yaml.SafeLoader):
    """YAML 1.2's floats: for PyYAML, which follows YAML 1.1, the `1e-05` that DVC writes is a string.

    Aliases are rejected, because a few lines of them can expand beyond any memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "an alias (*name); replace it with its value", mark)
        return super().compose_node(parent, index)


_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)
