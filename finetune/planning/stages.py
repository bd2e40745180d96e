"""What each stage of the pipeline will take: bytes on disk, a processor's time, a GPU's operations."""

from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.params import Params
from finetune.planning.architecture import Architecture
from finetune.planning.costs import Cost, DataCosts
from finetune.planning.counts import Images, archive_bytes
from finetune.planning.memory import module_bytes
from finetune.planning.tracing import Shape, Trace, trace_autoencoder, trace_forward
from finetune.training.batches import Schedule
from finetune.training.validation import BINS

FEATURES = {
    "efficientnet-lite0.pth": 1280,
    "inception-2015-12-05.pt": 2048,
    "pt_inception-2015-12-05-6726825d.pth": 2048,
}


@dataclass(frozen=True)
class StagePlan:
    """Operations are those of networks, by the precision in which a GPU makes them."""

    name: str
    cost: Cost
    half: float = 0
    full: float = 0

    def gpu_seconds(self, half_rate: float, full_rate: float) -> float:
        """At so many operations a second in half and in full precision."""
        return self.half / half_rate + self.full / full_rate


@dataclass(frozen=True)
class Steps:
    """Of the training."""

    schedule: Schedule
    flops: int  # of one optimizer step

    @property
    def total_flops(self) -> int:
        return self.schedule.steps * self.flops


@dataclass(frozen=True)
class Units:
    """Of the base model: bytes of its networks in fp32, and operations for one image."""

    parts: dict[str, int]
    forward: int  # of text encoder and UNet
    encode: int  # the image and its mirror image
    decode: int

    def drawing(self, steps: int) -> int:
        """With guidance, which takes two forwards a step."""
        return 2 * steps * self.forward + self.decode


def units_of(architecture: Architecture, params: Params) -> Units:
    plain = architecture.denoiser(params.train.model_copy(update={"lora_rank": None, "mixed_precision": "no"}))
    vae, shape = architecture.autoencoder(), architecture.latent_shape
    return Units(
        {"text_encoder": module_bytes(plain.text_encoder), "unet": module_bytes(plain.unet), "vae": module_bytes(vae)},
        trace_forward(plain, shape, torch.float16).flops,
        *(trace_autoencoder(vae, shape, decode=decode).flops for decode in (False, True)),
    )


def downloads(params: Params, units: Units) -> dict[str, int | None]:
    """Bytes by archive; None for what is drawn here or of no known size."""
    sources = {**params.fetch.archives, "extractor": params.fetch.extractor}
    sizes = {
        f"{source}/{name}": archive_bytes(archive)
        for source, files in sources.items()
        for name, archive in files.items()
    }
    folder = Path(params.fetch.base.location)
    local = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())  # none where it is on a hub,
    return sizes | {"base": local or sum(units.parts.values())}  # whose files are in fp32


def stage_plans(
    params: Params, images: dict[str, Images], shape: Shape, units: Units, costs: DataCosts, steps: Steps
) -> list[StagePlan]:
    """In the order of the pipeline."""
    generate, each = params.generate, [*images.values()]
    largest = max(each, key=lambda dataset: dataset.validation)
    width = FEATURES[params.fid.extractor]
    drawn, features = costs.drawn(largest, generate.images), costs.features(largest, generate.images, width)
    floor = params.fid.floor_splits * generate.images
    real = costs.features(largest, sum(dataset.validation for dataset in each) + floor, width)
    drawing = generate.images * units.drawing(generate.num_inference_steps)
    swept = params.sweep.images * len(params.sweep.guidance_scales)
    fetched = sum(size or 0 for size in downloads(params, units).values())
    return [
        StagePlan("fetch", Cost(fetched + sum(costs.archives(dataset) for dataset in each))),
        *(StagePlan(f"preprocess-512 {name}", costs.preprocess(dataset)) for name, dataset in images.items()),
        StagePlan("tokenize", sum((costs.tokenize(dataset) for dataset in each), Cost())),
        StagePlan(
            "latents",
            sum((costs.latents(dataset, shape) for dataset in each), Cost()),
            full=sum(dataset.total for dataset in each) * units.encode,
        ),
        StagePlan("train-fp16", Cost(_trained_bytes(params, units)), half=_training_flops(params, units, steps)),
        StagePlan("reconstruct", drawn, full=generate.images * units.decode),
        StagePlan("generate-base", drawn, half=drawing),
        StagePlan("generate-tuned", drawn, half=drawing),
        StagePlan("features", real + features + features + features),
        StagePlan("sweep", Cost(), half=swept * units.drawing(generate.num_inference_steps)),
        StagePlan("export", Cost(sum(units.parts.values()) / 2)),
    ]


def training_steps(params: Params, images: dict[str, Images], step: Trace) -> Steps:
    train = params.train
    batch = train.batch_size * train.gradient_accumulation_steps
    return Steps(Schedule(train.seed, sum(each.train for each in images.values()), train.epochs, batch), step.flops)


def _training_flops(params: Params, units: Units, steps: Steps) -> int:
    """All steps, and at each look the held-out loss, under two captions, and the sample images."""
    train = params.train
    look = 2 * BINS * train.validation_images * units.forward
    look += train.sample_images * units.drawing(train.sample_inference_steps)
    return steps.total_flops + look * (1 + -(-steps.schedule.steps // train.validation_steps))


def _trained_bytes(params: Params, units: Units) -> int:
    """Best and last: the UNet whole, LoRA added to it, and the text encoder where it learns."""
    return 2 * (units.parts["unet"] + (units.parts["text_encoder"] if params.train.text_encoder_lr else 0))
