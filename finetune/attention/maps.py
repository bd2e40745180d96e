"""Cross-attention maps: which pixels attend to each word of the prompt.

A map is the mean over steps, heads and those layers of the UNet's decoder whose maps are closest to 16x16, as in
Prompt-to-Prompt (Hertz et al., 2022); in the encoder, words are not localized yet. Recording hooks the query and key
projections and leaves the pipeline's own computation alone, so the generated images do not change.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.attention.layers import attention_layers, hook_queries_and_keys, probabilities, prompt_rows
from finetune.attention.words import Word, find_words, prompt_words
from finetune.errors import InputError

Size = tuple[int, int]  # height and width
Map = NDArray[np.float32]  # [height, width]
PIXELS = 16 * 16  # size of the maps in which words are localized best
GLOW = (255, 96, 32)  # RGB of the overlay
DIM = 0.35  # brightness that remains where the heat is 0
OPACITY = 0.6  # of the overlay where the heat is 1


@dataclass
class AttentionSums:
    """Running sums of cross-attention, one per layer size. Memory does not grow with the number of steps."""

    image_size: Size = (0, 0)  # of the maps that `share` returns, pixels
    sums: dict[Size, Tensor] = field(default_factory=dict)  # fp32 [images, height * width, tokens]
    counts: Counter[Size] = field(default_factory=Counter)  # summands

    def add(self, layer: Attention, query: Tensor, key: Tensor, latent_size: Size) -> None:
        """Add a layer's mean over heads. query, key: `[images, pixels or tokens, channels]`."""
        size = layer_size(latent_size, query.shape[1])
        mean = sum(probabilities(layer, head, query, key) for head in range(layer.heads)) / layer.heads
        self.sums[size] = self.sums.get(size, 0) + mean
        self.counts[size] += 1

    def share(self, positions: Sequence[int], image: int = 0) -> Map:
        """Return the share of each pixel's attention that goes to these tokens, `float32 [height, width]`, 0..1.

        Over all tokens it sums to 1. Raises InputError if nothing has been recorded.
        """
        if not self.counts:
            raise InputError("no attention was recorded; run the pipeline inside `with record_attention(...)`")
        size = min(self.counts, key=lambda size: abs(math.log(size[0] * size[1] / PIXELS)))
        share = self.sums[size][image][:, list(positions)].sum(dim=1) / self.counts[size]
        enlarged = torch.nn.functional.interpolate(share.view(1, 1, *size), self.image_size, mode="bilinear")
        return enlarged[0, 0].cpu().numpy()


@dataclass
class AttentionRecord(AttentionSums):
    """The attention of one pipeline call to the words of its prompt."""

    words: list[Word] = field(default_factory=list)

    def raw_map(self, word: Word | str, image: int = 0) -> Map:
        """Return the share of each pixel's attention that goes to a word. A string means all its occurrences.

        Raises InputError if the prompt lacks the word or it lies beyond the model's last token.
        """
        matches = find_words(self.words, word) if isinstance(word, str) else find_words([word], word.text)
        return self.share([position for match in matches for position in match.positions], image)

    def heat_map(self, word: Word | str) -> Map:
        """Return the raw map, normalized to 0..1 for display."""
        return normalize(self.raw_map(word))


def normalize(values: Map) -> Map:
    """Scale linearly to 0..1. A constant map becomes 0."""
    spread = np.ptp(values)
    return (values - values.min()) / spread if spread else np.zeros_like(values)


def overlay(image: Image.Image, heat: Map) -> Image.Image:
    """Paint a heat map over an image: dim and gray where `heat` is 0, glowing where it is 1.

    heat: `[height, width]` in 0..1; it is resized to the image if the sizes differ.
    """
    mask = Image.fromarray((heat * 255).round().astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    rgb = image.convert("RGB")
    glowing = Image.composite(Image.new("RGB", image.size, GLOW), rgb, mask.point(lambda value: OPACITY * value))
    dim = rgb.convert("L").point(lambda value: DIM * value).convert("RGB")
    return Image.composite(glowing, dim, mask)


@torch.no_grad()
def word_map(
    unet: UNet2DConditionModel, noisy_latents: Tensor, timestep: int, text: Tensor, positions: Sequence[int]
) -> Map:
    """Return the share of attention to the tokens at `positions` in one forward pass, `[h, w]`.

    noisy_latents: `[1, c, h, w]`. text: output of the text encoder, `[1, 77, d]`.
    """
    height, width = noisy_latents.shape[2:]
    attention = AttentionSums((height, width))

    def add(layer: Attention, query: Tensor, key: Tensor) -> None:
        attention.add(layer, query, key, (height, width))

    with hook_queries_and_keys(attention_layers(unet.up_blocks, cross=True), add):
        unet(noisy_latents, timestep, text)
    return attention.share(positions)


@contextmanager
def record_attention(
    pipeline: StableDiffusionPipeline, prompt: str, steps: tuple[float, float] = (0.0, 1.0)
) -> Iterator[AttentionRecord]:
    """Record the attention of one pipeline call with this prompt. A second call starts a new record.

    steps: the part of the sampling steps to record, as fractions. The call may generate several images.
    """
    record = AttentionRecord(words=prompt_words(pipeline.tokenizer, prompt))
    recorder = _Recorder(pipeline, record, steps)
    with ExitStack() as hooks:
        hooks.callback(pipeline.unet.register_forward_pre_hook(recorder.begin_step).remove)
        hooks.callback(pipeline.unet.register_forward_hook(recorder.end_step).remove)
        hooks.enter_context(hook_queries_and_keys(attention_layers(pipeline.unet.up_blocks, cross=True), recorder.add))
        yield record


class _Recorder:
    def __init__(self, pipeline: StableDiffusionPipeline, record: AttentionRecord, steps: tuple[float, float]) -> None:
        self.pipeline, self.record, self.steps = pipeline, record, steps
        self.step = self.total = 0  # of the current call
        self.recording = False  # False while `edit_attention` replays the original image, and outside of `steps`
        self.latent_size: Size = (0, 0)

    def begin_step(self, _unet: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if self.step == self.total:
            self.step, self.total = 0, self.pipeline.num_timesteps
            self.record.sums.clear()
            self.record.counts.clear()
        height, width = arguments[0].shape[-2:]
        scale = self.pipeline.vae_scale_factor
        self.latent_size = (height, width)
        self.record.image_size = (height * scale, width * scale)
        first, last = (round(fraction * self.total) for fraction in self.steps)
        self.recording = first <= self.step < last

    def end_step(self, *_: object) -> None:
        self.step += 1
        self.recording = False

    def add(self, layer: Attention, query: Tensor, key: Tensor) -> None:
        if self.recording:
            query, key = prompt_rows(self.pipeline, query), prompt_rows(self.pipeline, key)
            self.record.add(layer, query, key, self.latent_size)


def layer_size(latent_size: Size, pixels: int) -> Size:
    """Return the height and width of a layer with this many pixels. The UNet halves the latents' sides, rounding up."""
    height, width = latent_size
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    return height, width
