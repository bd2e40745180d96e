"""Disk space, CPU time and GPU operations of each pipeline stage."""

from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.params import Params
from finetune.planning.architecture import Architecture
from finetune.planning.costs import Cost, DataCosts
from finetune.planning.counts import ImageCounts, archive_bytes
from finetune.planning.memory import module_bytes
from finetune.planning.tracing import Shape, Trace, trace_forward, trace_vae
from finetune.training.batches import Schedule
from finetune.training.validation import BINS

FEATURES = {
    "efficientnet-lite0.pth": 1280,
    "inception-2015-12-05.pt": 2048,
    "pt_inception-2015-12-05-6726825d.pth": 2048,
}


@dataclass(frozen=True)
class StagePlan:
    """Cost of a stage. Its networks' floating-point operations are split by precision."""

    name: str
    cost: Cost
    half_flops: float = 0
    fp32_flops: float = 0

    def gpu_seconds(self, half_rate: float, fp32_rate: float) -> float:
        """Return the GPU time at these rates, in operations per second."""
        return self.half_flops / half_rate + self.fp32_flops / fp32_rate


@dataclass(frozen=True)
class TrainingSteps:
    schedule: Schedule
    flops: int  # per optimizer step

    @property
    def total_flops(self) -> int:
        return self.schedule.steps * self.flops


@dataclass(frozen=True)
class ModelCosts:
    """Size of the base model's networks, and floating-point operations for one image."""

    bytes: dict[str, int]  # in fp32, by network
    forward: int  # text encoder and UNet
    encode: int
    decode: int

    def sampling(self, steps: int) -> int:
        """Return the operations for one image; classifier-free guidance takes two forward passes per step."""
        return 2 * steps * self.forward + self.decode


def measure_model(architecture: Architecture, params: Params) -> ModelCosts:
    plain = architecture.make_denoiser(params.train.model_copy(update={"lora_rank": None, "mixed_precision": "no"}))
    vae, shape = architecture.make_vae(), architecture.latent_shape
    return ModelCosts(
        {"text_encoder": module_bytes(plain.text_encoder), "unet": module_bytes(plain.unet), "vae": module_bytes(vae)},
        trace_forward(plain, shape, torch.float16).flops,
        *(trace_vae(vae, shape, decode=decode).flops for decode in (False, True)),
    )


def downloads(params: Params, model: ModelCosts) -> dict[str, int | None]:
    """Return the bytes of each archive; None if it is generated locally or its size is unknown."""
    sources = {**params.fetch.archives, "extractor": params.fetch.extractor}
    sizes = {
        f"{source}/{name}": archive_bytes(archive)
        for source, files in sources.items()
        for name, archive in files.items()
    }
    folder = Path(params.fetch.base.location)
    # A model on the Hub has no local files. Its weights there are in fp32.
    local = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return sizes | {"base": local or sum(model.bytes.values())}


def stage_plans(
    params: Params,
    images: dict[str, ImageCounts],
    shape: Shape,
    model: ModelCosts,
    costs: DataCosts,
    steps: TrainingSteps,
) -> list[StagePlan]:
    """Return the stages in pipeline order. images: by dataset. shape: of one image's latents."""
    generate, counts = params.generate, [*images.values()]
    largest = max(counts, key=lambda dataset: dataset.validation)
    width = FEATURES[params.fid.extractor]
    generated = costs.generated(largest, generate.images)
    features = costs.features(largest, generate.images, width)
    floor = params.fid.floor_splits * generate.images
    real = costs.features(largest, sum(dataset.validation for dataset in counts) + floor, width)
    sampling = generate.images * model.sampling(generate.num_inference_steps)
    sweep_images = params.sweep.images * len(params.sweep.guidance_scales)
    fetched = sum(size or 0 for size in downloads(params, model).values())
    return [
        StagePlan("fetch", Cost(fetched + sum(costs.archives(dataset) for dataset in counts))),
        *(StagePlan(f"preprocess-512 {name}", costs.preprocess(dataset)) for name, dataset in images.items()),
        StagePlan("tokenize", sum((costs.tokenize(dataset) for dataset in counts), Cost())),
        StagePlan(
            "latents",
            sum((costs.latents(dataset, shape) for dataset in counts), Cost()),
            fp32_flops=sum(dataset.encoded for dataset in counts) * model.encode,
        ),
        StagePlan("train-fp16", Cost(_trained_bytes(params, model)), half_flops=_training_flops(params, model, steps)),
        StagePlan("reconstruct", generated, fp32_flops=generate.images * model.decode),
        StagePlan("generate-base", generated, half_flops=sampling),
        StagePlan("generate-tuned", generated, half_flops=sampling),
        StagePlan("features", real + features + features + features),
        StagePlan("sweep", Cost(), half_flops=sweep_images * model.sampling(generate.num_inference_steps)),
        StagePlan("export", Cost(sum(model.bytes.values()) / 2)),
    ]


def training_steps(params: Params, images: dict[str, ImageCounts], step: Trace) -> TrainingSteps:
    train = params.train
    batch = train.batch_size * train.gradient_accumulation_steps
    total = sum(dataset.train for dataset in images.values())
    return TrainingSteps(Schedule(train.seed, total, train.epochs, batch), step.flops)


def _training_flops(params: Params, model: ModelCosts, steps: TrainingSteps) -> int:
    """Count all steps and all validations: the loss under two captions per image, and the sample images."""
    train = params.train
    validation = 2 * BINS * train.validation_images * model.forward
    validation += train.sample_images * model.sampling(train.sample_inference_steps)
    return steps.total_flops + validation * (1 + -(-steps.schedule.steps // train.validation_steps))


def _trained_bytes(params: Params, model: ModelCosts) -> int:
    """Best and last, in fp16: each the full UNet, with LoRA merged, and the text encoder if it is trained."""
    return model.bytes["unet"] + (model.bytes["text_encoder"] if params.train.text_encoder_lr else 0)
