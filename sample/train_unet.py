"""Train the sample's tiny UNet on plain scenes: `python -m sample.train_unet`, after train_vae and train_text.

Writes sample/base/{unet,scheduler} and model_index.json, sample/logs/unet.json and a image every 500 steps.
Run it again after an interruption: it resumes from its last checkpoint. To start over, or after another VAE
or text encoder, remove .dvc/tmp/sample first.

Flat images leak their mean colour through Stable Diffusion's own noise schedule, whose last step keeps a
little signal: a model trained on it reads the background off the noise instead of the caption. So this one ends
in pure noise and predicts v (Lin et al., 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed").
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from finetune.artifacts import write_json
from finetune.datasets.scenes import captions, draw, make_scene
from finetune.model.determinism import generator
from finetune.model.loading import load_text_encoder, load_vae
from finetune.model.tokenizer import load_tokenizer
from finetune.training.checkpoints import load_checkpoint, save_checkpoint
from sample.progress import Progress

BASE = Path("sample/base")
LOG = Path("sample/logs/unet.json")
WORK = Path(".dvc/tmp/sample")
SEED = 3
SCENES = 1200
HELD_OUT = range(1_000_000, 1_000_032)
STEPS = 3200
BATCH = 16  # in two halves, a thread each: faster than two threads on one batch
LEARNING_RATE = 1e-3
EMA_DECAY = 0.998
CAPTION_DROPOUT = 0.1
# where the noise hides an object's outline, so that the caption must tell it: every other batch is drawn there
SHAPE_TIMESTEPS = (400, 950)
NOTE_EVERY = 50
SAVE_EVERY = 250
LOOK_EVERY = 500
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


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(16, 32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )


@torch.no_grad()
def encode_scenes(seeds: range, path: Path) -> Tensor:
    """Scaled posterior means `[n, 4, 64, 64]` of plain scenes, kept in a file."""
    if path.exists():
        return load_checkpoint(path)[0]["latents"]
    vae = load_vae(BASE / "vae")

    def encode(seed: int) -> Tensor:
        pixels = torch.frombuffer(bytearray(draw(make_scene(seed, "plain")).tobytes()), dtype=torch.uint8)
        images = pixels.view(1, 512, 512, 3).permute(0, 3, 1, 2) / 127.5 - 1  # channels last in memory
        return vae.encode(images).latent_dist.mean * vae.config.scaling_factor

    vae.to(memory_format=torch.channels_last)
    with ThreadPoolExecutor(2) as pool:
        latents = torch.cat(list(pool.map(encode, seeds)))
    save_checkpoint(path, {"latents": latents}, {})
    return latents


@torch.no_grad()
def embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[n, 77, 64]."""
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    return text_encoder(ids).last_hidden_state


def batch_at(step: int, latents: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clean latents, noise, timesteps, text `[b, 77, 64]` of a step; `embeddings` ends in the empty caption."""
    rng = generator(SEED, "unet", step)
    index = torch.randint(len(latents), (BATCH,), generator=rng)
    wording = torch.randint(5, (BATCH,), generator=rng)
    row = torch.where(torch.rand(BATCH, generator=rng) < CAPTION_DROPOUT, len(embeddings) - 1, index * 5 + wording)
    noise = torch.randn((BATCH, *latents.shape[1:]), generator=rng)
    low, high = SHAPE_TIMESTEPS if step % 2 else (0, 1000)
    # one timestep from each sixteenth of the range: less noise in the gradient than independent draws
    strata = torch.randperm(BATCH, generator=rng) + torch.rand(BATCH, generator=rng)
    timesteps = (low + strata / BATCH * (high - low)).long()
    return latents[index], noise, timesteps, embeddings[row]


def loss_of(unet: UNet2DConditionModel, schedule: DDPMScheduler, batch: tuple[Tensor, ...]) -> Tensor:
    clean, noise, timesteps, text = batch
    noisy = schedule.add_noise(clean, noise, timesteps)
    return F.mse_loss(unet(noisy, timesteps, text).sample, schedule.get_velocity(clean, noise, timesteps))


def learning_rate(step: int) -> float:
    """Warm-up, plateau, linear decay over the second half."""
    return LEARNING_RATE * min(1.0, (step + 1) / 100, (STEPS - step) / (0.5 * STEPS) + 0.01)


@torch.no_grad()
def look(pipeline: StableDiffusionPipeline, path: Path) -> None:
    """Twelve images of held-out captions, 4 in a row, 192 px each."""
    scenes = [make_scene(seed, "plain") for seed in HELD_OUT[:12]]
    prompts = [captions(scene)[i % 5] for i, scene in enumerate(scenes)]
    pipeline.set_progress_bar_config(disable=True)
    images = [
        pipeline(p, num_inference_steps=15, guidance_scale=4.0, generator=generator(0, p)).images[0].resize((192, 192))
        for p in prompts
    ]
    sheet = Image.new("RGB", (4 * 192, 3 * 192))
    for i, image in enumerate(images):
        sheet.paste(image, (i % 4 * 192, i // 4 * 192))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    path.with_suffix(".txt").write_text("\n".join(prompts) + "\n")


def make_pipeline(unet: UNet2DConditionModel, tokenizer: CLIPTokenizer, text: CLIPTextModel) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=load_vae(BASE / "vae"),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler.from_config(NOISE_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_data(tokenizer: CLIPTokenizer, text: CLIPTextModel) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Latents `[n, 4, 64, 64]`, caption embeddings (5 per scene and the empty one), and the held-out batch."""
    latents = encode_scenes(range(SCENES), WORK / "latents.safetensors")
    held_out = encode_scenes(HELD_OUT, WORK / "held_out.safetensors")
    texts = [caption for seed in range(SCENES) for caption in captions(make_scene(seed, "plain"))]
    embeddings = [embed(text, tokenizer, texts[i : i + 500]) for i in range(0, len(texts), 500)]
    held_out_texts = [captions(make_scene(seed, "plain"))[0] for seed in HELD_OUT]
    noise = torch.randn(held_out.shape, generator=generator(SEED, "held-out"))
    timesteps = torch.arange(len(held_out)) * 1000 // len(held_out)
    batch = (held_out, noise, timesteps, embed(text, tokenizer, held_out_texts))
    return latents, torch.cat([*embeddings, embed(text, tokenizer, [""])]), batch


def shared_twin(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A second network on the same weights, with gradients of its own."""
    clone_for_ema = copy.deepcopy(unet)
    for mine, its in zip(unet.parameters(), clone_for_ema.parameters(), strict=True):
        its.data = mine.data
    return clone_for_ema


class HalvedBatches:
    """Gradients of a batch whose halves go through two networks on the same weights, a thread each."""

    def __init__(self, unet: UNet2DConditionModel, schedule: DDPMScheduler) -> None:
        self.unet, self.clone_for_ema, self.schedule = unet, shared_twin(unet), schedule
        self.pool = ThreadPoolExecutor(1)

    def backward(self, batch: tuple[Tensor, ...]) -> float:
        """Leave the gradients in the first network; the mean loss."""
        other = self.pool.submit(self._half, self.clone_for_ema, batch, slice(BATCH // 2, None))
        loss = self._half(self.unet, batch, slice(0, BATCH // 2)) + other.result()
        for mine, its in zip(self.unet.parameters(), self.clone_for_ema.parameters(), strict=True):
            mine.grad.add_(its.grad)
            its.grad = None
        return loss

    def _half(self, model: UNet2DConditionModel, batch: tuple[Tensor, ...], part: slice) -> float:
        loss = loss_of(model, self.schedule, tuple(tensor[part] for tensor in batch)) / 2
        loss.backward()
        return loss.item()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer, text_encoder = load_tokenizer(BASE / "tokenizer"), load_text_encoder(BASE / "text_encoder")
    latents, embeddings, held_out = make_data(tokenizer, text_encoder)
    schedule = DDPMScheduler.from_config(NOISE_SCHEDULE)
    unet = make_unet()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    progress = Progress(unet, optimizer, EMA_DECAY, WORK / "unet.safetensors")
    halves = HalvedBatches(unet, schedule)
    smooth = copy.deepcopy(unet).eval().requires_grad_(False)
    pipeline = make_pipeline(smooth, tokenizer, text_encoder)

    losses: list[float] = []
    while progress.step < STEPS:
        losses.append(halves.backward(batch_at(progress.step, latents, embeddings)))
        progress.update(learning_rate(progress.step))
        if progress.step % LOOK_EVERY == 0 or progress.step == STEPS:
            smooth.load_state_dict(progress.ema)
            with torch.no_grad():
                progress.note(loss=mean(losses), held_out_loss=float(loss_of(smooth, schedule, held_out)))
            look(pipeline, LOG.with_name(f"unet_{progress.step:05d}.png"))
            losses.clear()
        elif progress.step % NOTE_EVERY == 0:
            progress.note(loss=mean(losses))
            losses.clear()
        if progress.step % SAVE_EVERY == 0 or progress.step == STEPS:
            progress.save()
    smooth.load_state_dict(progress.ema)
    smooth.half().save_pretrained(BASE / "unet")
    pipeline.scheduler.save_pretrained(BASE / "scheduler")
    pipeline.save_config(BASE)
    write_json(LOG, {"parameters": sum(p.numel() for p in unet.parameters()), "curve": progress.curve})


if __name__ == "__main__":
    main()
