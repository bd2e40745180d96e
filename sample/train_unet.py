"""Train the UNet of the sample's base model on the plain world: `python -m sample.train_unet --steps N`.

After train_text_encoder; needs the VAE's encoder alone, which is never trained, so train_vae may run alongside.
Writes the EMA weights to sample/base/unet and the curve to sample/logs/unet.json each time it stops, also by
Ctrl-C or SIGTERM, and grids of samples to the work folder. Run again with the same or a larger N, it resumes at its
last checkpoint; with an N that is already reached, it writes the weights of that checkpoint. The learning rate falls to
zero over the last third of N.

Flat images leak their mean color through Stable Diffusion's own noise schedule, whose last step keeps a little signal:
a model trained on it reads the background off the noise instead of the caption. So this one ends in pure noise and
predicts v (Lin et al., 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed").
"""

import argparse
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from finetune.artifacts import write_json
from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import Combination, World, captions, combinations, make_scene
from finetune.model.determinism import generator
from finetune.model.loading import load_text_encoder
from finetune.model.tokenizer import load_tokenizer
from finetune.process import stop_requests
from finetune.training.checkpoints import load_checkpoint, save_checkpoint
from sample.linear_encoder import CHANNELS
from sample.parallel_batches import ParallelBatches
from sample.progress import Progress
from sample.train_vae import Encoder, initialize, make_vae
from sample.world_images import FIRST_HELD_OUT, to_float, world_images

BASE = Path("sample/base")
LOG = Path("sample/logs/unet.json")
SEED = 13
SCENES = 1200  # five of each combination, and their mirror images
BATCH = 16
LEARNING_RATE = 2e-3
EMA_DECAY = 0.998
CAPTION_DROPOUT = 0.1
WORDINGS = 5
NOTE_EVERY, SAVE_EVERY = 50, 100
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.03,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
Batch = tuple[Tensor, ...]  # latents, noise, timesteps, text [b, 77, 64]


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )


class Data:
    """Latents of scenes and of their mirror images, and the embedding of every caption of their world."""

    def __init__(self, world: World, seeds: range, work: Path, encoder: Encoder) -> None:
        tokenizer, text_encoder = load_tokenizer(BASE / "tokenizer"), load_text_encoder(BASE / "text_encoder")
        known = combinations(world)
        scenes = [make_scene(seed, world) for seed in seeds]
        self.row = [known.index(scene.combination) for scene in scenes]
        # Undressed animals all face left: shown both sides, so small a model blends them into an animal with two heads.
        self.faces_left = torch.tensor([scene.combination.outfit is None for scene in scenes])
        self.mirror = torch.tensor([scene.place.mirrored for scene in scenes]).long()
        texts = [text for each in known for text in captions(each)]
        self.text = embed(text_encoder, tokenizer, [*texts, ""])  # the last one is the empty caption
        path = work / f"latents-{world}-{seeds.start}-{len(seeds)}.safetensors"
        if not path.exists():
            save_checkpoint(path, {"latents": encode(world, seeds, encoder)}, {})
        self.latents = load_checkpoint(path)[0]["latents"]

    def batch(self, step: int, size: int = BATCH) -> Batch:
        """A function of the step alone."""
        rng = generator(SEED, "denoiser", step)
        index = torch.randint(len(self.row), (size,), generator=rng)
        mirrored = torch.randint(2, (size,), generator=rng)
        mirrored = torch.where(self.faces_left[index], self.mirror[index], mirrored)
        wording = torch.randint(WORDINGS, (size,), generator=rng)
        rows = torch.tensor(self.row)[index] * WORDINGS + wording
        rows = torch.where(torch.rand(size, generator=rng) < CAPTION_DROPOUT, len(self.text) - 1, rows)
        noise = torch.randn((size, *self.latents.shape[2:]), generator=rng)
        # one timestep from each sixteenth of the range: less noise in the gradient than independent draws
        strata = torch.randperm(size, generator=rng) + torch.rand(size, generator=rng)
        return self.latents[index, mirrored], noise, (strata / size * 1000).long(), self.text[rows]


@torch.no_grad()
def encode(world: World, seeds: range, encoder: Encoder) -> Tensor:
    """[n, 2, 12, 32, 32]: of each scene and its mirror image."""

    def both(seed: int) -> Tensor:
        pixels = torch.frombuffer(bytearray(draw(make_scene(seed, world)).tobytes()), dtype=torch.uint8)
        image = pixels.view(1, 512, 512, 3)
        return encoder(to_float(torch.cat([image, image.flip(2)])))

    return torch.stack([both(seed) for seed in seeds])


@torch.no_grad()
def embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[n, 77, 64]."""
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    return torch.cat([text_encoder(part).last_hidden_state for part in ids.split(64)])


def loss_of(unet: UNet2DConditionModel, schedule: DDPMScheduler, batch: Batch) -> Tensor:
    clean, noise, timesteps, text = batch
    noisy = schedule.add_noise(clean, noise, timesteps)
    return F.mse_loss(unet(noisy, timesteps, text).sample, schedule.get_velocity(clean, noise, timesteps))


def learning_rate(step: int, steps: int) -> float:
    return LEARNING_RATE * min(1.0, (step + 1) / 100, max(0.0, (steps - step) / (0.34 * steps)) + 0.01)


def frozen_vae(work: Path) -> AutoencoderKL:
    """The VAE as far as its decoder has been trained."""
    images = world_images(work / "images.npy", {"plain": range(480), "new": range(416)})
    vae = make_vae()
    initialize(vae, to_float(images[::20]))
    checkpoint = work / "vae.safetensors"
    if checkpoint.exists():
        tensors = load_checkpoint(checkpoint)[0]
        vae.decoder.load_state_dict({k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")})
    return vae.eval().requires_grad_(False)


def make_pipeline(unet: UNet2DConditionModel, vae: AutoencoderKL) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=load_text_encoder(BASE / "text_encoder"),
        tokenizer=load_tokenizer(BASE / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_config(NOISE_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def sample_grid(pipeline: StableDiffusionPipeline, asked: list[Combination], path: Path, side: int = 256) -> None:
    """One image per combination, four in a row."""
    pipeline.set_progress_bar_config(disable=True)
    prompts = [captions(each)[0] for each in asked]
    noise = [generator(SEED, "grid", i) for i in range(len(prompts))]
    images = pipeline(prompts, num_inference_steps=15, guidance_scale=3.0, generator=noise).images
    grid = Image.new("RGB", (4 * side, -(-len(images) // 4) * side))
    for i, image in enumerate(images):
        grid.paste(image.resize((side, side), Image.Resampling.LANCZOS), (i % 4 * side, i // 4 * side))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path)
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n")


def grid_combinations() -> list[Combination]:
    """Ten of the plain world, and last the two that the base has never seen."""
    plain = combinations("plain")
    asked = [plain[i * 11 % 48] for i in range(5)] + [plain[48 + i * 41 % 192] for i in range(5)]
    lion = Combination("lion", "business suit", "standing", "blue wall")
    return [*asked, lion, Combination("cat", "red dress", "dancing", "meadow")]


def train(unet: UNet2DConditionModel, data: Data, held_out: Batch, arguments: argparse.Namespace) -> None:
    """Until the last step or a signal; the checkpoint holds what is exported."""
    schedule = DDPMScheduler.from_config(NOISE_SCHEDULE)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    progress = Progress(unet, optimizer, EMA_DECAY, arguments.work / "unet.safetensors")
    unet.set_attn_processor(AttnProcessor())  # on a CPU, the backward pass of torch's fused attention is slower

    def loss(model: UNet2DConditionModel, batch: Batch) -> Tensor:
        with torch.autocast(unet.device.type, torch.bfloat16, enabled=arguments.bf16):
            return loss_of(model, schedule, batch)

    batches = ParallelBatches(unet, loss, arguments.threads)
    smooth = make_unet().eval().requires_grad_(False)
    losses: list[float] = []
    with stop_requests() as stop:
        while progress.step < arguments.steps and not stop.requested:
            batch = data.batch(progress.step, arguments.batch)
            losses.append(batches.backward(tuple(tensor.to(unet.device) for tensor in batch)))
            progress.update(learning_rate(progress.step, arguments.steps))
            last = progress.step == arguments.steps or stop.requested
            if progress.step % NOTE_EVERY == 0 or last:
                scores = {}
                if progress.step % arguments.sample_every == 0 or progress.step == arguments.steps:
                    smooth.load_state_dict(progress.ema)
                    scores["held_out_loss"] = validate(smooth, schedule, held_out, arguments.work, progress.step)
                progress.note(loss=mean(losses), **scores)
                losses.clear()
            if progress.step % SAVE_EVERY == 0 or last:
                progress.save()
        smooth.load_state_dict(progress.ema)
        export(smooth, progress, arguments.work)


@torch.no_grad()
def validate(unet: UNet2DConditionModel, schedule: DDPMScheduler, held_out: Batch, work: Path, step: int) -> float:
    """The loss on scenes that were not trained on; a grid of samples goes to the work folder."""
    sample_grid(make_pipeline(unet, frozen_vae(work)), grid_combinations(), work / f"unet_{step:06d}.png")
    return float(loss_of(unet, schedule, held_out))


def export(unet: UNet2DConditionModel, progress: Progress, work: Path) -> None:
    pipeline = make_pipeline(unet.half(), frozen_vae(work))
    unet.save_pretrained(BASE / "unet")
    pipeline.scheduler.save_pretrained(BASE / "scheduler")
    pipeline.save_config(BASE)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    write_json(LOG, {"parameters": parameters, "steps": progress.step, "curve": progress.curve})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--work", type=Path, default=Path(".dvc/tmp/sample"), help="folder of checkpoints and latents")
    parser.add_argument("--threads", type=int, default=2, help="parts of a batch that are computed at the same time")
    parser.add_argument("--sample-every", type=int, default=400)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="for a GPU, or a CPU with AMX")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    encoder = Encoder(frozen_vae(arguments.work))
    data = Data("plain", range(SCENES), arguments.work, encoder)
    held_out = Data("plain", range(FIRST_HELD_OUT, FIRST_HELD_OUT + 32), arguments.work, encoder).batch(0, 64)
    train(make_unet().to(arguments.device, memory_format=torch.channels_last), data, held_out, arguments)


if __name__ == "__main__":
    main()
