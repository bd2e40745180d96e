"""What diffusers' examples/text_to_image/train_text_to_image.py does in a step, by the same public calls.

Written for these benchmarks and not the example itself, which `bench.train_speed` runs where it is given: decoding,
resizing, tokenizing, VAE and text encoder in every step, AdamW as it comes, an average of the weights in every step,
two waits for the loss.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from transformers import CLIPTextModel


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pixels [3, side, side] in -1..1 of a folder of bench.inputs.write_pictures, and token ids [77].

    ids: of the pictures that come first; the others repeat them.
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
    accelerator: Accelerator,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    noise_scheduler: DDPMScheduler,
    data: Pictures,
    batch_size: int,
    workers: int,
) -> Iterator[float]:
    """Train without end; the loss after each step."""
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    vae.requires_grad_(False).to(accelerator.device, half)
    text_encoder.requires_grad_(False).to(accelerator.device, half)
    ema = EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config)
    optimizer = torch.optim.AdamW(unet.train().parameters(), lr=1e-5)
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, drop_last=True)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=100_000)
    unet, optimizer, loader, schedule = accelerator.prepare(unet, optimizer, loader, schedule)
    ema.to(accelerator.device)
    while True:
        for pixels, ids in loader:
            with accelerator.accumulate(unet):
                latents = vae.encode(pixels.to(half)).latent_dist.sample() * vae.config.scaling_factor
                noise = torch.randn_like(latents)
                count = noise_scheduler.config.num_train_timesteps
                timesteps = torch.randint(0, count, (len(latents),), device=latents.device)
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
