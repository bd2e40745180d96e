"""The README.md of an exported model, in the form that the Hugging Face hub reads."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from finetune import paths
from finetune.artifacts import Ladder, markdown_table, read_json, read_text
from finetune.model.loading import LORA
from finetune.params import Export, Fetch, Generate, Train, flatten

HUB = "hf://"


@dataclass(frozen=True)
class CardConfig:
    """The sections of params.yaml that a card tells of."""

    export: Export
    fetch: Fetch
    train: Train
    generate: Generate


@dataclass(frozen=True)
class CardResults:
    """What the pipeline measured, and what the model was made from."""

    data: str  # Markdown, the sections of the data card
    train: dict[str, Any]
    fid: dict[str, Any]
    made_from: dict[str, str]  # path -> the md5 that dvc.lock has of it

    @property
    def run_md5(self) -> str:
        """The history of dvc.lock is searched by it: of all that came before the export, the evaluation came last."""
        return self.made_from[paths.FID_METRICS.as_posix()]


def read_card_results(
    data_card: Path, train_metrics: Path, fid_metrics: Path, made_from: dict[str, str]
) -> CardResults:
    """data_card: of stages/datacard.py. Raises InputError that names the file which is not as it should be."""
    _, heading, sections = read_text(data_card).partition("## ")  # what stands before is about a page of its own
    return CardResults(
        data=(heading + sections).strip().replace("## ", "### "),
        train=read_json(train_metrics, dict[str, Any]),
        fid=read_json(fid_metrics, Ladder),
        made_from=made_from,
    )


def model_card(recipe: CardConfig, evidence: CardResults, prompt: str, seed: int) -> str:
    """Markdown with YAML front matter; a function of its arguments alone, so that equal runs have equal cards.

    `prompt` and `seed` are those of the preview's first image.
    """
    parameters = _pairs({"train": recipe.train.model_dump(), "export.weights": recipe.export.weights})
    return f"""{_front_matter(recipe)}

# {recipe.export.name}

A Stable Diffusion model for images from text: {base_name(recipe.fetch)} with its {_trained_parts(recipe.train)}
fine-tuned on captioned images. {_weights_note(recipe.train)}

![Images by this model, each over its caption](preview.png)

## Use

{_usage(recipe.generate, prompt, seed)}

## Data

{evidence.data}

### Archives as fetched

{markdown_table(("dataset", "archive", "from", "checksum"), _archives(recipe.fetch))}

## Training

{markdown_table(("parameter", "value"), parameters)}

What it reported (`metrics/train.json`):

{markdown_table(("metric", "value"), _pairs(evidence.train))}

## Evaluation

Base and tuned model drew the same validation captions from the same seeds (`metrics/fid.json`). The floor has real
training images in place of drawn ones: about what a perfect model would score. Reconstructed are the validation
images through the VAE. Figures ending in _sd are standard deviations.

{_ladder(evidence.fid)}

{markdown_table(("protocol", "value"), _pairs(evidence.fid["protocol"]))}

## Where it came from

{_provenance(evidence)}

## License and limits

{license_note(recipe)}

The model draws what its training captions describe and repeats their errors and biases. {_checker_note(recipe)}
Do not take its images for photos of fact.
"""


def _checker_note(recipe: CardConfig) -> str:
    if any(name.startswith("safety_checker/") for name in recipe.fetch.base.sha256):
        return "The base model's safety checker is part of this folder: the pipeline runs it on every image."
    return "There is no safety checker:\nput one before the public."


def _provenance(evidence: CardResults) -> str:
    return f"""\
Made from these outputs of the pipeline:

{markdown_table(("output", "md5 in dvc.lock"), [[f"`{path}`", f"`{md5}`"] for path, md5 in evidence.made_from.items()])}

A run is recorded before the commit that holds it exists, so no commit is named here. In the repository that trained
this model, the last line of the following names the commit that first recorded its evaluation. That commit's `dvc.lock`
has the hashes of all that came before.

```sh
git log --oneline -S{evidence.run_md5} -- dvc.lock
```"""


def base_name(fetch: Fetch) -> str:
    """The hub's name with its pinned revision, or the folder, of which an absolute path tells the last part only."""
    if fetch.base.location.startswith(HUB):
        return f"{fetch.base.location.removeprefix(HUB)} (revision {fetch.base.revision})"
    return f"`{_local_name(fetch.base.location)}`"


def license_note(recipe: CardConfig) -> str:
    return (
        f"Weights: `{recipe.export.license}`. They derive from {base_name(recipe.fetch)}, whose license goes on "
        "applying, restrictions of use included: pass it on with every copy. The images and captions of the training "
        "data keep the licenses of their owners and are not part of this model."
    )


def _trained_parts(train: Train) -> str:
    return "UNet" if train.text_encoder_lr is None else "UNet and text encoder"


def _weights_note(train: Train) -> str:
    note = "Weights are fp16 safetensors; `manifest.json` lists the sha256 of every file."
    if train.lora_rank is None:
        return note
    return f"{note} `{LORA}` holds what was trained on its own, for the base model."


def _front_matter(recipe: CardConfig) -> str:
    fields: dict[str, Any] = {
        "license": recipe.export.license,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["stable-diffusion", "stable-diffusion-diffusers", "text-to-image", "diffusers"],
    }
    if recipe.fetch.base.location.startswith(HUB):
        fields["base_model"] = recipe.fetch.base.location.removeprefix(HUB)
    # every JSON value is a YAML value
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _usage(generate: Generate, prompt: str, seed: int) -> str:
    return f"""```python
import torch
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("path/to/this/folder")
image = pipeline(
    {prompt!r},
    num_inference_steps={generate.num_inference_steps},
    guidance_scale={generate.guidance_scale},
    generator=torch.Generator().manual_seed({seed}),
).images[0]
```

This is the first image above, up to the rounding of its weights to fp16; `prompts.json` has the others' captions
and seeds. On a GPU add `torch_dtype=torch.float16` and `.to("cuda")`."""


def _ladder(fid: dict[str, Any]) -> str:
    rungs = ("floor", "reconstructed", "base", "tuned")
    figures = sorted({key for rung in rungs for key in fid[rung]})  # not every rung has captions, or an infinity
    return markdown_table(
        ("metric", *rungs), [[key, *(_show(fid[rung].get(key, "")) for rung in rungs)] for key in figures]
    )


def _pairs(nested: dict[str, Any]) -> list[list[str]]:
    return [[key, _show(value)] for key, value in sorted(flatten(nested).items())]


def _archives(fetch: Fetch) -> list[list[str]]:
    return [
        [dataset, name, ", ".join(map(_origin, archive.locations)), archive.checksum or "drawn from its seed"]
        for dataset, archives in fetch.archives.items()
        for name, archive in archives.items()
    ]


def _origin(location: str) -> str:
    remote = location.startswith(("https://", "http://", "scenes:"))
    return location if remote else f"local file {_local_name(location)}"


def _local_name(location: str) -> str:
    """An absolute path tells others nothing but the shape of one machine's disk."""
    path = PurePath(location)
    return path.name if path.is_absolute() else location


def _show(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
