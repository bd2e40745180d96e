"""Train the VAE of the sample's world: `python -m sample.train_vae --steps N`.

The encoder is written down (sample/linear_encoder.py), the decoder learns to turn its latents into crisp images.
Writes the EMA weights to sample/base/vae and the curve to sample/logs/vae.json each time it stops, also by Ctrl-C
or SIGTERM. Run again with the same or a larger N, it resumes at its last checkpoint; with an N that is already reached,
it writes the weights of that checkpoint. The learning rate falls to zero over the last third of N.
"""

import argparse
import copy
import math
from pathlib import Path
from statistics import mean

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from finetune.artifacts import write_json
from finetune.datasets.scenes.canvas import SIZE
from finetune.model.determinism import generator
from finetune.process import stop_requests
from sample.linear_encoder import BLOCK, CHANNELS, COLOR_AXES, latent_moments, write_encoder
from sample.progress import Progress
from sample.world_images import FIRST_HELD_OUT, to_float, world_images

OUT = Path("sample/base/vae")
LOG = Path("sample/logs/vae.json")
SEED = 11
CROPS = ((128, 8, 0.85), (256, 2, 0.97), (512, 1, 1.0))  # pixels, images at once, cumulated probability
LEARNING_RATE = 2e-3
EMA_DECAY = 0.998
NOISE = 0.12  # standard deviation at most, of latents scaled to unit std: what the UNet is off by
SAVE_EVERY = 200


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


@torch.no_grad()
def initialize(vae: AutoencoderKL, images: Tensor) -> None:
    """The encoder for good, and a decoder that repeats the mean color of each block.

    So small a decoder, started at random, folds all colors onto one axis and stays there. Eight of its channels carry
    (r, g, b, -r, -g, -b, K, -K) from end to end: silu(x) - silu(-x) = x, and the constant K keeps the last
    normalization from dividing brightness away.
    """
    latents = latent_moments(images)
    center, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (std * std.mean()).sqrt()  # half-way to unit std: what matters more stays further above the noise
    write_encoder(vae, center, gain)
    vae.register_to_config(scaling_factor=round(1 / float((std * gain).square().mean().sqrt()), 5))
    carried, constant, decoder = 8, 3.0, vae.decoder
    signs = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(2, 3)])
    for name, module in decoder.named_modules():
        if name.endswith(".conv2"):
            module.weight.mul_(0.05)
            module.bias.zero_()
        elif name.endswith(("conv_shortcut", "upsamplers.0.conv")):
            module.weight[:carried] = 0
            module.bias[:carried] = 0
            tap = 0 if name.endswith("conv_shortcut") else 1
            module.weight[range(carried), range(carried), tap, tap] = 1
    colors = torch.from_numpy(COLOR_AXES.T).float()  # of the first three moments
    decoder.conv_in.weight[:carried] = 0
    decoder.conv_in.weight[:carried, :3, 1, 1] = signs @ colors / gain[:3]
    decoder.conv_in.bias[:carried] = signs @ colors @ center[:3] + torch.tensor([0.0] * 6 + [constant, -constant])
    decoder.conv_out.weight[:, :carried] = 0
    decoder.conv_out.weight[:, :carried, 1, 1] = signs.T * constant / 2
    decoder.conv_out.bias.zero_()
    vae.post_quant_conv.weight.copy_(torch.eye(CHANNELS)[:, :, None, None])
    vae.post_quant_conv.bias.zero_()
    got, wanted = vae.decode(vae.encode(images).latent_dist.mean).sample, images
    decoder.conv_out.weight *= float((got * wanted).sum() / got.square().sum())


class Encoder:
    """What the VAE's encoder computes, at a thousandth of its cost."""

    def __init__(self, vae: AutoencoderKL) -> None:
        shortcut = vae.encoder.down_blocks[-1].resnets[0].conv_shortcut
        self.gain = shortcut.weight[range(CHANNELS), range(CHANNELS), 0, 0].detach().clone()[:, None, None]
        self.offset = shortcut.bias[:CHANNELS].detach().clone()[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        return latent_moments(images) * self.gain + self.offset


def batch_at(images: Tensor, step: int, scale: int = 1) -> Tensor:
    """[b, 3, crop, crop] in [-1, 1], cut along the blocks: a function of the step alone."""
    rng = generator(SEED, "decoder", step)
    share = torch.rand((), generator=rng)
    crop, size = next((crop, size) for crop, size, limit in CROPS if share < limit)
    crops = []
    for _ in range(size * scale):
        index = int(torch.randint(len(images), (), generator=rng))
        # a third more towards the middle, where the figure is
        top, left = (
            int(
                (torch.rand((2,), generator=rng).mean() if step % 2 else torch.rand((), generator=rng))
                * (SIZE - crop + BLOCK)
                / BLOCK
            )
            * BLOCK
            for _ in range(2)
        )
        top, left = min(top, SIZE - crop), min(left, SIZE - crop)
        patch = images[index, top : top + crop, left : left + crop]
        crops.append(patch.flip(1) if torch.rand((), generator=rng) < 0.5 else patch)
    return to_float(torch.stack(crops))


def loss_of(vae: AutoencoderKL, encoder: Encoder, images: Tensor, step: int, bf16: bool) -> Tensor:
    rng = generator(SEED, "decoder-noise", step)
    latents = encoder(images)
    strength = NOISE / vae.config.scaling_factor * torch.rand((len(images), 1, 1, 1), generator=rng) ** 2
    noise = strength * torch.randn(latents.shape, generator=rng)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        got = vae.decode(latents + noise.to(latents.device)).sample
    error = got - images
    edges = sum(error.diff(dim=axis).abs().mean() for axis in (-1, -2))
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges


def learning_rate(step: int, steps: int) -> float:
    return LEARNING_RATE * min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (0.34 * steps)) + 0.01)


@torch.no_grad()
def evaluate(vae: AutoencoderKL, images: Tensor, path: Path) -> dict[str, float]:
    """PSNR in dB of images that were not trained on, clean and with noise on the latents; the images, to look at."""
    psnrs: dict[str, list[float]] = {"psnr_db": [], "psnr_noise_02_db": []}
    rows = []
    for number, image in enumerate(images):
        truth = to_float(image[None]).to(vae.device)
        latents = vae.encode(truth).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator(SEED, "evaluate", number)).to(vae.device)
        for name, strength in zip(psnrs, (0.0, 0.2), strict=True):
            got = vae.decode(latents + strength / vae.config.scaling_factor * noise).sample.clamp(-1, 1)
            psnrs[name].append(-10 * math.log10(float((got - truth).square().mean()) / 4))
            if number < 4:
                rows.append(((got[0].permute(1, 2, 0) + 1) * 127.5).round().byte())
    grid = torch.cat([torch.cat(rows[0::2], dim=1), torch.cat(rows[1::2], dim=1)])
    Image.fromarray(grid.cpu().numpy()).save(path)
    return {name: mean(values) for name, values in psnrs.items()}


def train(vae: AutoencoderKL, images: Tensor, held_out: Tensor, arguments: argparse.Namespace) -> Progress:
    """Until the last step or a signal; the checkpoint holds what the progress does."""
    encoder = Encoder(vae)
    vae.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        vae.decoder.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    progress = Progress(vae.decoder, optimizer, EMA_DECAY, arguments.work / "vae.safetensors")
    smooth = copy.deepcopy(vae).eval().requires_grad_(False)
    losses: list[float] = []
    with stop_requests() as stop:
        while progress.step < arguments.steps and not stop.requested:
            batch = batch_at(images, progress.step, arguments.scale).to(vae.device)
            loss = loss_of(vae, encoder, batch, progress.step, arguments.bf16)
            loss.backward()
            losses.append(loss.item())
            progress.update(learning_rate(progress.step, arguments.steps))
            last = progress.step == arguments.steps or stop.requested
            if progress.step % SAVE_EVERY == 0 or last:
                scores = {}
                if progress.step % arguments.evaluate_every == 0 or progress.step == arguments.steps:
                    smooth.decoder.load_state_dict(progress.ema)
                    scores = evaluate(smooth, held_out, arguments.work / f"vae_{progress.step:06d}.png")
                progress.note(loss=mean(losses), **scores)
                losses.clear()
                progress.save()
        export(smooth, progress)
    return progress


def export(vae: AutoencoderKL, progress: Progress) -> None:
    vae.decoder.load_state_dict(progress.ema)
    vae.half().save_pretrained(OUT)
    write_json(LOG, {"scaling_factor": vae.config.scaling_factor, "steps": progress.step, "curve": progress.curve})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--work", type=Path, default=Path(".dvc/tmp/sample"), help="folder of checkpoints and images")
    parser.add_argument("--evaluate-every", type=int, default=1000)
    parser.add_argument("--scale", type=int, default=1, help="times as many crops a step, for a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="for a GPU, or a CPU with AMX")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images = world_images(arguments.work / "images.npy", {"plain": range(480), "new": range(416)})
    held_out_seeds = range(FIRST_HELD_OUT, FIRST_HELD_OUT + 6)
    held_out = world_images(
        arguments.work / "held_out.npy", {"unseen": held_out_seeds, "new": held_out_seeds, "plain": held_out_seeds}
    )
    vae = make_vae()
    initialize(vae, to_float(images[::20]))
    train(vae.to(arguments.device, memory_format=torch.channels_last), images, held_out, arguments)


if __name__ == "__main__":
    main()
