"""Train the sample's tiny VAE on scenes of both styles: `python -m sample.train_vae`.

Writes sample/base/vae (fp16 safetensors) and sample/logs/vae.json. Run it again after an interruption: it
resumes from its last checkpoint. Crops grow from 64 to 512 pixels. So small a net, started at random, folds all
colours onto one grey axis and stays there; `start_as_block_means` starts it where colour is already kept.
The committed weights saw objects up to a tenth larger, with narrower stripes, a dark outline and less regular places
than `finetune.datasets.scenes` draws now; the log's held-out figures, by `python -m sample.train_vae --measure`,
are of the scenes as they are.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from finetune.artifacts import write_json
from finetune.datasets.scenes import SIZE, Style, draw, make_scene
from finetune.model.determinism import generator
from finetune.model.loading import load_vae
from sample.progress import Progress

OUT = Path("sample/base/vae")
LOG = Path("sample/logs/vae.json")
CHECKPOINT = Path(".dvc/tmp/sample/vae.safetensors")
SEED = 1
SCENES: dict[Style, int] = {"plain": 300, "striped": 700}  # stripes are what is hard
PHASES = ((700, 64, 16), (1500, 128, 8), (500, 256, 2), (150, 512, 1))  # steps, crop in pixels, batch
STEPS = sum(steps for steps, _, _ in PHASES)
LEARNING_RATE = 2e-3
EMA_DECAY = 0.995
KL_WEIGHT = 1e-6
LOG_VARIANCE = -6.0
HELD_OUT = range(1_000_000, 1_000_024)


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


@torch.no_grad()
def start_as_block_means(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the weights so that the latents are 8x8 block means of the colours and decoding repeats them.

    Eight channels carry (r, g, b, -r, -g, -b, K, -K) through the net: residual branches start at zero, shortcuts
    and resampling convolutions pass the eight on, and since silu(x) - silu(-x) = x, the pairs survive the last
    activation exactly. The constant K keeps the last normalisation from dividing brightness away.
    """
    carried, constant = 8, 3.0
    signs = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(2, 3)])  # [8, 3]
    biases = torch.tensor([0.0] * 6 + [constant, -constant])
    for name, module in vae.named_modules():
        if name.endswith(".conv2"):
            module.weight.mul_(0.05)
            module.bias.zero_()
        elif name.endswith(("conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")):
            module.weight[:carried] = 0
            module.bias[:carried] = 0
            taps = {"conv_shortcut": [(0, 0)], "upsamplers.0.conv": [(1, 1)]}.get(
                next((end for end in ("conv_shortcut", "upsamplers.0.conv") if name.endswith(end)), ""),
                [(0, 0), (0, 1), (1, 0), (1, 1)],
            )
            for row, column in taps:
                module.weight[range(carried), range(carried), row, column] = 1 / len(taps)
    for conv, channels in ((vae.encoder.conv_in, 3), (vae.decoder.conv_in, 3)):
        conv.weight[:carried] = 0
        conv.weight[:carried, :channels, 1, 1] = signs
        conv.bias[:carried] = biases
    for conv in (vae.encoder.conv_out, vae.decoder.conv_out):
        conv.weight[:3] = 0
        conv.weight[:3, :carried, 1, 1] = signs.T * constant / 2
        conv.bias.zero_()
    vae.encoder.conv_out.weight[4:] = 0
    vae.encoder.conv_out.bias[4:] = -5.0  # log variance: almost no noise
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(conv.out_channels)[:, :, None, None])
        conv.bias.zero_()
    # both halves now differ from the identity by the gain of their last normalisation: measure it and undo it
    means = F.avg_pool2d(images, 8)
    vae.encoder.conv_out.weight[:3] *= _gain(vae.encode(images).latent_dist.mean[:, :3], means)
    latents = vae.encode(images).latent_dist.mean
    vae.decoder.conv_out.weight *= _gain(F.avg_pool2d(vae.decode(latents).sample, 8), means)


def _gain(got: Tensor, wanted: Tensor) -> float:
    return float((got * wanted).sum() / got.square().sum())


def pixels_of(style: Style, seeds: range) -> Tensor:
    """[n, 3, 512, 512] uint8."""
    images = (draw(make_scene(seed, style)) for seed in seeds)
    return torch.stack(
        [torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3) for p in images]
    ).permute(0, 3, 1, 2)


def batch_at(pixels: Tensor, step: int) -> Tensor:
    """[b, 3, crop, crop] in [-1, 1]: a function of the step alone."""
    ends = itertools.accumulate(steps for steps, _, _ in PHASES)
    _, crop, size = next(phase for phase, end in zip(PHASES, ends, strict=True) if step < end)
    rng = generator(SEED, "vae", step)
    crops = []
    for _ in range(size):
        index = int(torch.randint(len(pixels), (), generator=rng))
        # 40 px towards the outside: corners are as likely as middles
        top, left = (
            int(torch.randint(-40, SIZE - crop + 41, (), generator=rng).clamp(0, SIZE - crop)) for _ in range(2)
        )
        order = torch.randperm(3, generator=rng) if torch.rand((), generator=rng) < 0.3 else torch.arange(3)
        patch = pixels[index, order, top : top + crop, left : left + crop]
        crops.append(patch.flip(-1) if torch.rand((), generator=rng) < 0.5 else patch)
    return torch.stack(crops).float() / 127.5 - 1


def loss_of(vae: AutoencoderKL, images: Tensor, step: int) -> Tensor:
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator(SEED, "vae-noise", step))
    reconstruction = vae.decode(posterior.mean + posterior.std * noise).sample
    blocks = F.avg_pool2d(reconstruction, 16) - F.avg_pool2d(images, 16)
    error = reconstruction - images
    return error.abs().mean() + 4 * error.square().mean() + blocks.abs().mean() + KL_WEIGHT * posterior.kl().mean()


def learning_rate(step: int) -> float:
    """Warm-up and half a cosine."""
    return LEARNING_RATE * min(1.0, step / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / STEPS)) / 2)


@torch.no_grad()
def evaluate(vae: AutoencoderKL) -> dict[str, float]:
    """Held-out PSNR in dB and the mean colour error of 16x16 blocks in grey levels, by style."""
    report = {}
    for style in ("plain", "striped"):
        psnrs, colour_errors = [], []
        for image in pixels_of(style, HELD_OUT):
            truth = image[None] / 127.5 - 1
            got = vae.decode(vae.encode(truth).latent_dist.mean).sample.clamp(-1, 1)
            psnrs.append(10 * math.log10(4 / float((got - truth).square().mean())))
            colour_errors.append(float((F.avg_pool2d(got, 16) - F.avg_pool2d(truth, 16)).abs().mean()) * 127.5)
        report[f"psnr_{style}_db"] = round(sum(psnrs) / len(psnrs), 2)
        report[f"colour_error_{style}_levels"] = round(sum(colour_errors) / len(colour_errors), 2)
    return report


@torch.no_grad()
def balance_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Center the latent channels and move their standard deviations half-way together, in the two 1x1 convolutions.

    A channel with a small standard deviation would drown in the diffusion's noise; reconstructions do not change.
    """
    latents = torch.cat([vae.encode(image[None] / 127.5 - 1).latent_dist.mean for image in pixels])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = 1 / (std * std.mean()).sqrt()
    vae.quant_conv.weight[:4] *= gain[:, None, None, None]
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) * gain
    # a channel that the decoder hardly uses is all noise under the KL term: the means carry everything, so a small
    # a constant standard deviation replaces the learned one
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = LOG_VARIANCE
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * mean).sum(1)
    vae.post_quant_conv.weight /= gain[None, :, None, None]


@torch.no_grad()
def measure_scaling_factor(vae: AutoencoderKL, pixels: Tensor) -> float:
    """1 / standard deviation of the latents, as Rombach et al. (2022), appendix G, define it."""
    latents = torch.cat([vae.encode(image[None] / 127.5 - 1).latent_dist.mean for image in pixels])
    return round(1 / float(latents.std()), 5)


def main() -> None:
    torch.manual_seed(SEED)
    pixels = torch.cat([pixels_of(style, range(scenes)) for style, scenes in SCENES.items()])
    vae = make_vae().to(memory_format=torch.channels_last)
    start_as_block_means(vae, pixels[::100] / 127.5 - 1)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=1e-4, fused=True)
    progress = Progress(vae, optimizer, EMA_DECAY, CHECKPOINT)
    while progress.step < STEPS:
        images = batch_at(pixels, progress.step).contiguous(memory_format=torch.channels_last)
        loss = loss_of(vae, images, progress.step)
        loss.backward()
        progress.update(learning_rate(progress.step))
        if progress.step % 100 == 0 or progress.step == STEPS:
            progress.note(loss=loss.item())
            progress.save()
    vae.load_state_dict(progress.ema)
    vae.eval()
    balance_latents(vae, pixels[::10])
    vae.register_to_config(scaling_factor=measure_scaling_factor(vae, pixels[::10]))
    vae.half().save_pretrained(OUT)
    write_json(LOG, {"scaling_factor": vae.config.scaling_factor, "curve": progress.curve})
    measure()


def measure() -> None:
    """Evaluate what stands in sample/base on the scenes as they are drawn today, into the log."""
    log = json.loads(LOG.read_text()) | {"held_out": evaluate(load_vae(OUT))}
    write_json(LOG, log)
    print(log["held_out"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="train nothing; evaluate sample/base/vae again")
    if parser.parse_args().measure:
        measure()
    else:
        main()
