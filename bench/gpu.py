"""Training speed and memory of Stable Diffusion 1.5 on a GPU: each option alone, all together, and diffusers' loop.

    python -m bench.gpu [--tiny]

Measures samples/s, their share of the GPU's measured matrix-multiply rate, and peak memory, with random weights and
latents, the batch size and precision of presets/rtx3090.yaml, and at most 24 GiB of GPU memory. --tiny only checks on a
CPU that everything runs; its result is not saved.
"""

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

from bench.diffusers_baseline import ImageFolder, train_steps
from bench.harness import make_parser, ratio, write_result
from bench.inputs import write_imagefolder, write_training_inputs
from bench.models import SD15, SMALL, Shape, flops, make_trainer
from bench.train_speed import our_steps
from finetune.model.determinism import set_determinism
from finetune.params import load_params
from finetune.progress import peak_memory

PRESET = Path("presets/rtx3090.yaml")
CAP = 24 * 2**30  # bytes of GPU memory
IMAGES = 48
WARM_UP, ROUNDS, STEPS = 10, 5, 20  # warm-up steps, then rounds of STEPS steps
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
    "EMA every 10 steps": {"ema_interval": 10},
    "checkpointing": {"gradient_checkpointing": True},
    "deterministic": {"deterministic": True},
}
TOGETHER = {"optimizer": "adamw-fused", "channels_last": True, "compile": True, "ema_interval": 10}
OPTIONS = ALONE | {"fused, channels_last, compile, EMA every 10": TOGETHER}


def ceiling(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Return the operations per second of the fastest of five rounds of square matrix products."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(6):  # the first is a warm-up, and never the fastest
        start = _now(device)
        for _ in range(10):
            a @ b
        fastest = min(fastest, (_now(device) - start) / 10)
    return 2 * side**3 / fastest


def measure(
    steps: Callable[[], Iterator[Any]], device: torch.device, batch_size: int, plan: tuple[int, int, int]
) -> dict[str, Any]:
    """Return samples/s and peak memory, or the reason if it runs out of memory.

    steps: starts a training run and returns its steps. plan: warm-up steps, rounds, steps per round.
    """
    warm_up, rounds, length = plan
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    try:
        training = steps()
        list(islice(training, warm_up))
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
    """Return the result file's content. side: pixels. plan: see `measure`."""
    preset = load_params(PRESET).train.model_copy(update={"epochs": 10_000})
    on_gpu = torch.cuda.is_available()
    settings = {"mixed_precision": preset.mixed_precision if on_gpu else "no", "cpu": not on_gpu}
    device = Accelerator(**settings).device
    if on_gpu:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
    rng = np.random.default_rng(0)
    moments = (abs(rng.normal(size=(2, 8, side // 8, side // 8))).astype(np.float16) for _ in range(IMAGES))
    ids = rng.integers(shape.vocabulary, size=(IMAGES, 77)).tolist()
    data = write_training_inputs(folder / "ours", moments, ids)
    write_imagefolder(folder / "images", IMAGES)

    def ours(changes: dict[str, Any]) -> Iterator[float]:
        params = preset.model_copy(update=PLAIN | changes)
        set_determinism(params.deterministic)
        return our_steps(make_trainer(Accelerator(**settings), shape, data, params))

    def baseline() -> Iterator[float]:
        set_determinism(deterministic=False)
        images = ImageFolder(folder / "images", ids, side)
        return train_steps(Accelerator(**settings), shape, images, preset.batch_size, workers=4)

    candidates: dict[str, Callable[[], Iterator[Any]]] = {
        name: partial(ours, changes) for name, changes in options.items()
    }
    candidates["preset rtx3090"] = partial(ours, {name: getattr(preset, name) for name in PLAIN})
    candidates["diffusers' loop, 4 workers"] = baseline
    peak = ceiling(device, torch.float16 if on_gpu else torch.float32, 8192 if on_gpu else 512)
    work = flops(shape, side)
    results = {}
    for name, steps in candidates.items():
        results[name] = measure(steps, device, preset.batch_size, plan)
        if speed := results[name]["samples_per_second"]:
            results[name]["share_of_ceiling"] = round(speed["median"] * (work["unet_step"] + work["text"]) / peak, 3)
        print(json.dumps({name: results[name]}), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        torch.compiler.reset()
    return {
        "batch_size": preset.batch_size,
        "side": side,
        "precision": settings["mixed_precision"],
        "memory_cap_gib": CAP / 2**30 if on_gpu else None,
        "ceiling_tflop_per_second": round(peak / 1e12, 2),
        "gflop_per_image": {part: round(count / 1e9, 2) for part, count in work.items()},
        "results": results,
    }


def _now(device: torch.device) -> float:
    """Return seconds, after waiting for the GPU to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--tiny", action="store_true")
    tiny = parser.parse_args().tiny
    if not tiny and not torch.cuda.is_available():
        parser.exit(1, "error: no GPU; `python -m bench.gpu --tiny` checks on a CPU that everything runs\n")
    with tempfile.TemporaryDirectory() as folder:
        if tiny:
            print(json.dumps(compare(Path(folder), SMALL, 64, OPTIONS, (1, 1, 1)), indent=2))
        else:
            result = compare(Path(folder), SD15, 512, OPTIONS, (WARM_UP, ROUNDS, STEPS))
            write_result("gpu", ["accelerate", "diffusers", "torch"], result)


if __name__ == "__main__":
    main()
