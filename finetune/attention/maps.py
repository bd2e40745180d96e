"""Where in the image each word of the prompt has its say: cross-attention, recorded while a pipeline draws.

The mean over steps, heads and those layers of the UNet's decoder whose maps are nearest to 16x16, as in
Prompt-to-Prompt (Hertz et al., 2022): in the encoder words have not found their things yet. The recording listens
to the projections of queries and keys and leaves the pipeline's own computation alone: no pixel changes.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor

from finetune.attention.layers import attention_layers, probabilities, prompt_rows, queries_and_keys
from finetune.attention.words import Word, find_words, prompt_words
from finetune.errors import InputError

Side = tuple[int, int]  # height and width
PIXELS = 16 * 16  # of the maps in which words find their things


@dataclass
class AttentionRecord:
    """The attention of one drawing, summed up as it passes: its size does not grow with the steps."""

    words: list[Word]
    picture_side: Side = (0, 0)  # pixels
    sums: dict[Side, Tensor] = field(default_factory=dict)  # fp32 [images, height * width, tokens]
    counts: Counter[Side] = field(default_factory=Counter)  # of what was summed up, by the layers' sides

    def share(self, positions: list[int], image: int = 0) -> NDArray[np.float32]:
        """The fraction of each pixel's attention that goes to these tokens, `float32 [height, width]` of the image.

        It is 1 everywhere for all tokens together. Raises InputError if nothing was drawn while recording.
        """
        if not self.counts:
            raise InputError("no attention was recorded; draw with the pipeline inside `with record_attention(...)`")
        side = min(self.counts, key=lambda side: abs(math.log(side[0] * side[1] / PIXELS)))
        share = self.sums[side][image][:, positions].sum(dim=1) / self.counts[side]
        enlarged = torch.nn.functional.interpolate(share.view(1, 1, *side), self.picture_side, mode="bilinear")
        return enlarged[0, 0].cpu().numpy()

    def raw_map(self, word: Word | str, image: int = 0) -> NDArray[np.float32]:
        """The word's share of each pixel's attention; a string stands for all its occurrences.

        Raises InputError for a word that the prompt lacks or that the model does not see.
        """
        chosen = find_words(self.words, word) if isinstance(word, str) else find_words([word], word.text)
        return self.share([position for one in chosen for position in one.positions], image)

    def heat_map(self, word: Word | str) -> NDArray[np.float32]:
        """The raw map stretched to 0..1, to look at; all 0 where the word is attended to alike everywhere."""
        raw = self.raw_map(word)
        spread = np.ptp(raw)
        return (raw - raw.min()) / spread if spread else np.zeros_like(raw)


@contextmanager
def record_attention(
    pipeline: StableDiffusionPipeline, prompt: str, steps: tuple[float, float] = (0.0, 1.0)
) -> Iterator[AttentionRecord]:
    """Record one call of the pipeline with this prompt, of its steps those between two shares of their number.

    Several images of the prompt may be drawn in the call. After a whole call another begins the record anew.
    """
    record = AttentionRecord(prompt_words(pipeline.tokenizer, prompt))
    recorder = _Recorder(pipeline, record, steps)
    with ExitStack() as hooks:
        hooks.callback(pipeline.unet.register_forward_pre_hook(recorder.begin_step).remove)
        hooks.callback(pipeline.unet.register_forward_hook(recorder.end_step).remove)
        hooks.enter_context(queries_and_keys(attention_layers(pipeline.unet.up_blocks, cross=True), recorder.add))
        yield record


class _Recorder:
    def __init__(self, pipeline: StableDiffusionPipeline, record: AttentionRecord, steps: tuple[float, float]) -> None:
        self.pipeline, self.record, self.steps = pipeline, record, steps
        self.step = self.total = 0  # of the call
        self.listening = False  # whether this is the pipeline's own use of the UNet, and a step to be recorded
        self.latent_side: Side = (0, 0)

    def begin_step(self, _unet: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if self.step == self.total:
            self.step, self.total = 0, self.pipeline.num_timesteps
            self.record.sums.clear()
            self.record.counts.clear()
        height, width = arguments[0].shape[-2:]
        scale = self.pipeline.vae_scale_factor
        self.latent_side = (height, width)
        self.record.picture_side = (height * scale, width * scale)
        first, last = (round(share * self.total) for share in self.steps)
        self.listening = first <= self.step < last

    def end_step(self, *_: object) -> None:
        self.step += 1
        self.listening = False

    def add(self, layer: Attention, query: Tensor, key: Tensor) -> None:
        if not self.listening:
            return
        query, key = prompt_rows(self.pipeline, query), prompt_rows(self.pipeline, key)
        side = layer_side(self.latent_side, query.shape[1])
        mean = sum(probabilities(layer, head, query, key) for head in range(layer.heads)) / layer.heads
        self.record.sums[side] = self.record.sums.get(side, 0) + mean
        self.record.counts[side] += 1


def layer_side(latent: Side, pixels: int) -> Side:
    """The height and width of a layer of so many pixels: the UNet halves the latents' sides, rounding up."""
    height, width = latent
    while height * width > pixels:
        height, width = -(-height // 2), -(-width // 2)
    return height, width
