"""Training speed over diffusers' text-to-image example, with the same model, images, batch size and threads.

    python -m bench.train_speed [--script train_text_to_image.py]

The script is examples/text_to_image/train_text_to_image.py of the installed diffusers version. It is not included here
and needs `pip install datasets tensorboard`. Without it, the baseline is the loop in bench/diffusers_baseline.py.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from bench.diffusers_baseline import ImageFolder, script_steps, train_steps
from bench.harness import interleaved, make_parser, ratio, write_result
from bench.inputs import write_imagefolder, write_training_inputs
from bench.models import SMALL, SMALL_SIDE, flops, make_trainer, make_vae, write_model
from finetune.artifacts import sha256_file
from finetune.data.latents import encode_moments
from finetune.model.determinism import map_single_threaded
from finetune.model.tokenizer import load_tokenizer
from finetune.params import load_params
from finetune.process import keep_freed_memory
from finetune.training.trainer import History, Trainer

STEPS = 10  # per candidate and round; with fewer, the baseline's prefetched batches would hide its data loading
REST = 1.0  # seconds, for the baseline's data workers to fill their prefetch queues
EPOCHS = 3  # of a cold run, which includes encoding the latents
CPU = {"mixed_precision": "no", "cpu": True}


def our_steps(trainer: Trainer) -> Iterator[float]:
    """Train to the end of the schedule, log every ten steps, and yield the seconds of each step."""
    history = History()
    for step in range(trainer.schedule.steps):
        trainer.step(step, history)
        if (step + 1) % 10 == 0:
            trainer.pop_metrics(step + 1)
        yield trainer.seconds[-1]


def prepare(images: Path, count: int) -> Iterator[Any]:
    """Do what our stages do once per image: decode, resize, and encode the image and its mirror image."""
    vae = make_vae(SMALL).eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def encode(file: Path) -> Any:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB").resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.LANCZOS))
        return encode_moments(vae, pixels, mirror=True)

    return map_single_threaded(encode, sorted(images.glob("*.jpg"))[:count], torch.device("cpu"))


def compare(folder: Path, script: Path | None, rounds: int, steps: int) -> dict[str, Any]:
    """Return the result file's content."""
    params = load_params(Path("presets/rtx3090.yaml")).train.model_copy(update={"epochs": 10_000})
    total = steps * params.batch_size
    model, images = folder / "model", folder / "images"
    tokenizer = load_tokenizer(Path("sample/base/tokenizer"))
    texts = write_imagefolder(images, total)
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True).input_ids
    data = write_training_inputs(folder / "ours", prepare(images, total), ids)
    if script:
        write_model(SMALL, model)
        tokenizer.save_pretrained(model / "tokenizer")

    def ours(**changes: Any) -> Iterator[object]:
        return our_steps(make_trainer(Accelerator(**CPU), SMALL, data, params.model_copy(update=changes)))

    def baseline(workers: int) -> Iterator[object]:
        if script:
            out = folder / f"baseline{workers}"
            return script_steps(script, model, images, out, SMALL_SIDE, params.batch_size, workers)
        folder_data = ImageFolder(images, ids, SMALL_SIDE)
        return train_steps(Accelerator(**CPU), SMALL, folder_data, params.batch_size, workers)

    def take(training: Iterator[object]) -> Callable[[], object]:
        return lambda: list(islice(training, steps))

    baselines = {f"{workers} workers": baseline(workers) for workers in (0, 2)}
    variants = {"ours": ours(), "ours, compiled": ours(compile=True)}
    candidates = {name: take(training) for name, training in (variants | baselines).items()}
    candidates["prepare"] = lambda: list(prepare(images, total))
    seconds = interleaved(candidates, rounds, rest=REST)  # compilation happens in the warm-up round
    cold = [EPOCHS * warm + once for warm, once in zip(seconds["ours"], seconds["prepare"], strict=True)]
    work = flops(SMALL, SMALL_SIDE)
    return {
        "baseline": f"train_text_to_image.py, sha256 {sha256_file(script)}"
        if script
        else "bench/diffusers_baseline.py",
        "images_per_round": total,
        "batch_size": params.batch_size,
        "threads": torch.get_num_threads(),
        "flops_over_unet_step": {
            name: round(work[name] / work["unet_step"], 4) for name in work if name != "unet_step"
        },
        "samples_per_second": {name: ratio([total] * rounds, taken) for name, taken in seconds.items()},
        "speedup_warm": {
            variant: {name: ratio(seconds[name], seconds[variant]) for name in baselines} for variant in variants
        },
        f"speedup_cold_{EPOCHS}_epochs": {
            name: ratio([EPOCHS * taken for taken in seconds[name]], cold) for name in baselines
        },
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--script", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()  # as every stage does
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), options.script, options.rounds, STEPS)
    packages = ["accelerate", "diffusers", "torch", "transformers"]
    write_result("train_speed" if options.script else "train_speed_loop", packages, result)


if __name__ == "__main__":
    main()
