"""The baseline for training speed: diffusers' examples/text_to_image/train_text_to_image.py.

`train_steps` does the same work per step through the same public calls: decoding, resizing, tokenizing, VAE and text
encoder in every step, plain AdamW, an EMA update in every step, and two waits for the loss. With a copy of the example,

    python -m bench.diffusers_baseline train_text_to_image.py --option=value ...

runs the script itself and lets it take one step per line on standard input.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.models import NOISE, Shape, make_text_encoder, make_unet, make_vae


class ImageFolder(Dataset[tuple[Tensor, Tensor]]):
    """Pixels [3, side, side] in -1..1 and token ids [77] from a folder that bench.inputs.write_imagefolder wrote.

    ids: of the first images; the other files repeat these.
    """

    def __init__(self, folder: Path, ids: list[list[int]], side: int) -> None:
        lines = (folder / "metadata.jsonl").read_text().splitlines()
        self._files = [folder / json.loads(line)["file_name"] for line in lines]
        self._ids = torch.tensor(ids)
        self._transform = transforms.Compose(
            [
                transforms.Resize(side, interpolation=transforms.InterpolationMode.LANCZOS),
                transforms.CenterCrop(side),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._files[index]) as image:
            return self._transform(image.convert("RGB")), self._ids[index % len(self._ids)]


def train_steps(
    accelerator: Accelerator, shape: Shape, data: ImageFolder, batch_size: int, workers: int
) -> Iterator[float]:
    """Train a model of random weights without end and yield the loss of each step."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    unet, noise_scheduler = make_unet(shape), DDPMScheduler(**NOISE)
    vae = make_vae(shape).requires_grad_(False).to(accelerator.device, dtype)
    text_encoder = make_text_encoder(shape).requires_grad_(False).to(accelerator.device, dtype)
    ema = EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config)
    optimizer = torch.optim.AdamW(unet.train().parameters(), lr=1e-5)
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, drop_last=True)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=100_000)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    ema.to(accelerator.device)
    while True:
        for pixels, ids in loader:
            with accelerator.accumulate(unet):
                latents = vae.encode(pixels.to(dtype)).latent_dist.sample() * vae.config.scaling_factor
                noise = torch.randn_like(latents)
                last = noise_scheduler.config.num_train_timesteps
                timesteps = torch.randint(0, last, (len(latents),), device=latents.device)
                noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
                text = text_encoder(ids, return_dict=False)[0]
                prediction = unet(noisy_latents, timesteps, text, return_dict=False)[0]
                loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
                accelerator.gather(loss.repeat(batch_size)).mean().item()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            ema.step(unet.parameters())
            yield loss.detach().item()


def script_steps(
    script: Path, model: Path, images: Path, out: Path, side: int, batch_size: int, workers: int
) -> Iterator[int]:
    """Run the example with our settings in its own process and yield each step.

    A separate process keeps the two memory allocators apart.
    """
    options = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": images,
        "cache_dir": out / "cache",
        "caption_column": "text",
        "resolution": side,
        "train_batch_size": batch_size,
        "max_train_steps": 100_000,
        "learning_rate": 1e-5,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 0,
        "mixed_precision": "no",
        "seed": 0,
        "checkpointing_steps": 1_000_000,
        "dataloader_num_workers": workers,
        "output_dir": out,
    }
    flags = ["--center_crop", "--random_flip", "--use_ema", *(f"--{name}={value}" for name, value in options.items())]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.diffusers_baseline", script, *flags],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        try:
            for step in count():
                if not process.stdout.readline():
                    raise RuntimeError(f"{script} exited at step {step}")
                yield step
                process.stdin.write("\n")
        finally:
            process.kill()


def pause_after_each_log() -> None:
    """Make `Accelerator.log`, which the script calls once per step, write a line and wait for one."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the script's own prints go to standard error
    log = Accelerator.log

    def log_and_wait(self: Accelerator, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        log(self, values, step, **options)
        print(file=replies, flush=True)
        sys.stdin.readline()

    Accelerator.log = log_and_wait


if __name__ == "__main__":
    pause_after_each_log()
    sys.argv.pop(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
