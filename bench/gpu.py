"""What a GPU makes of a Stable Diffusion 1.5 sized training: each option alone and together, beside diffusers' way.

    python -m bench.gpu [--tiny]

Random weights, random latents, presets/rtx3090.yaml's batch, half precision, at most 24 GiB of GPU memory. Samples/s,
their share of the machine's measured matrix-multiply ceiling, and peak memory. --tiny proves on a CPU that all of it
runs; its figures mean nothing and are not kept.
"""

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler

from bench.diffusers_loop import Pictures, train_steps
from bench.harness import ratio, write_result
from bench.inputs import write_pictures, write_training_inputs
from bench.models import NOISE, SCALING_FACTOR, SD15, SMALL, Shape, flops, make_text_encoder, make_unet, make_vae
from bench.train_speed import our_steps
from finetune.model.determinism import set_determinism
from finetune.params import Train, load_params
from finetune.progress import peak_memory
from finetune.training.batches import CaptionedLatents
from finetune.training.denoiser import Denoiser
from finetune.training.trainer import Trainer

PRESET = Path("presets/rtx3090.yaml")
CAP = 24 * 2**30  # bytes of GPU memory
IMAGES = 48
WARM, ROUNDS, STEPS = 10, 5, 20  # steps that do not count, then rounds of so many steps
PLAIN: dict[str, Any] = {
    "optimizer": "adamw",
    "channels_last": False,
    "compile": False,
    "ema_interval": 1,
    "gradient_checkpointing": False,
    "deterministic": False,
}
ALONE: dict[str, dict[str, Any]] = {
    "plain": {},
    "fused AdamW": {"optimizer": "adamw-fused"},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "average every 10 steps": {"ema_interval": 10},
    "checkpointing": {"gradient_checkpointing": True},
    "deterministic": {"deterministic": True},
}
TOGETHER = {"optimizer": "adamw-fused", "channels_last": True, "compile": True, "ema_interval": 10}
OPTIONS = ALONE | {"fused, channels_last, compile, average every 10": TOGETHER}


def ceiling(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Multiplications and additions per second of the fastest of five square matrix products."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(6):  # the first one does not count: it is never the fastest
        start = _now(device)
        for _ in range(10):
            a @ b
        fastest = min(fastest, (_now(device) - start) / 10)
    return 2 * side**3 / fastest


def measure(
    steps: Callable[[], Iterator[Any]], device: torch.device, batch_size: int, plan: tuple[int, int, int]
) -> dict[str, Any]:
    """Samples/s and peak memory of a training that `steps` begins; that it does not fit is a result too."""
    warm, rounds, length = plan
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    try:
        training = steps()
        list(islice(training, warm))
        for _ in range(rounds):
            start = _now(device)
            list(islice(training, length))
            seconds.append(_now(device) - start)
    except torch.cuda.OutOfMemoryError:
        return {"samples_per_second": None, "why": "out of memory"}
    return {
        "samples_per_second": ratio([length * batch_size] * rounds, seconds),
        "peak_memory_gib": round(peak_memory(device), 2),
    }


def compare(
    folder: Path, shape: Shape, side: int, options: dict[str, dict[str, Any]], plan: tuple[int, int, int]
) -> dict[str, Any]:
    """The result, as it is written."""
    preset = load_params(PRESET).train.model_copy(update={"epochs": 10_000})
    on_gpu = torch.cuda.is_available()
    half = {"mixed_precision": preset.mixed_precision if on_gpu else "no", "cpu": not on_gpu}
    device = Accelerator(**half).device
    if on_gpu:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
    rng = np.random.default_rng(0)
    moments = (abs(rng.normal(size=(2, 8, side // 8, side // 8))).astype(np.float16) for _ in range(IMAGES))
    ids = rng.integers(shape.vocabulary, size=(IMAGES, 77)).tolist()
    data = write_training_inputs(folder / "ours", moments, ids)
    write_pictures(folder / "pictures", IMAGES)

    def ours(changes: dict[str, Any]) -> Iterator[float]:
        params = preset.model_copy(update=PLAIN | changes)
        set_determinism(params.deterministic)
        return our_steps(make_trainer(Accelerator(**half), shape, data, params))

    def theirs() -> Iterator[float]:
        parts = make_unet(shape), make_vae(shape), make_text_encoder(shape)
        set_determinism(deterministic=False)
        pictures = Pictures(folder / "pictures", ids, side)
        return train_steps(Accelerator(**half), *parts, DDPMScheduler(**NOISE), pictures, preset.batch_size, workers=4)

    contestants: dict[str, Callable[[], Iterator[Any]]] = {
        name: partial(ours, changes) for name, changes in options.items()
    }
    contestants["preset rtx3090"] = partial(ours, {name: getattr(preset, name) for name in PLAIN})
    contestants["diffusers' way, 4 workers"] = theirs
    top = ceiling(device, torch.float16 if on_gpu else torch.float32, 8192 if on_gpu else 512)
    work = flops(shape, side)
    results = {}
    for name, steps in contestants.items():
        results[name] = measure(steps, device, preset.batch_size, plan)
        if speed := results[name]["samples_per_second"]:
            results[name]["share_of_ceiling"] = round(speed["median"] * (work["unet_step"] + work["text"]) / top, 3)
        print(json.dumps({name: results[name]}), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        torch.compiler.reset()
    return {
        "batch_size": preset.batch_size,
        "side": side,
        "precision": half["mixed_precision"],
        "memory_cap_gib": CAP / 2**30 if on_gpu else None,
        "ceiling_tflop_per_second": round(top / 1e12, 2),
        "gflop_per_image": {part: round(count / 1e9, 2) for part, count in work.items()},
        "results": results,
    }


def make_trainer(accelerator: Accelerator, shape: Shape, data: CaptionedLatents, params: Train) -> Trainer:
    torch.manual_seed(0)
    text_encoder = make_text_encoder(shape).requires_grad_(False)
    denoiser = Denoiser(make_unet(shape), text_encoder, params)
    return Trainer(accelerator, denoiser, DDPMScheduler(**NOISE), data, params, SCALING_FACTOR)


def _now(device: torch.device) -> float:
    """Seconds, once the GPU has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        parser.exit(1, "error: no GPU; `python -m bench.gpu --tiny` shows on a CPU that all of it runs\n")
    with tempfile.TemporaryDirectory() as folder:
        if tiny:
            print(json.dumps(compare(Path(folder), SMALL, 64, OPTIONS, (1, 1, 1)), indent=2))
        else:
            result = compare(Path(folder), SD15, 512, OPTIONS, (WARM, ROUNDS, STEPS))
            write_result("gpu", ["accelerate", "diffusers", "torch"], result)


if __name__ == "__main__":
    main()
