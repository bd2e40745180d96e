"""Whether the word for a thing looks at that thing: cross-attention against the outlines of objects."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from finetune.attention.layers import attention_layers, probabilities, queries_and_keys

SIDE = 16  # of the maps in which words find their things (Hertz et al., 2022)


@torch.no_grad()
def word_map(
    unet: UNet2DConditionModel, noisy_latents: Tensor, timestep: int, text: Tensor, positions: Sequence[int]
) -> NDArray[np.float32]:
    """How much each place attends to the tokens at `positions`: `[h, w]` like `noisy_latents [1, 4, h, w]`.

    The mean over heads and over those of the decoder's cross-attentions whose maps are nearest to 16x16, in one
    forward pass. text: the encoder's `[1, 77, d]`.
    """
    maps: list[Tensor] = []

    def record(layer: Attention, query: Tensor, key: Tensor) -> None:
        heads = [probabilities(layer, head, query, key)[0, :, list(positions)] for head in range(layer.heads)]
        seen = torch.stack(heads).mean(dim=(0, 2))
        maps.append(seen.view(1, 1, round(len(seen) ** 0.5), -1))

    with queries_and_keys(attention_layers(unet.up_blocks, cross=True), record):
        unet(noisy_latents, timestep, text)
    nearest = min((seen.shape[2] for seen in maps), key=lambda side: abs(side - SIDE))
    chosen = torch.cat([seen for seen in maps if seen.shape[2] == nearest], dim=1).mean(dim=1, keepdim=True)
    return F.interpolate(chosen, size=noisy_latents.shape[2:], mode="bilinear")[0, 0].cpu().numpy()


def area_under_curve(scores: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """How likely a place of the mask has a higher score than one outside of it; ties count half. 0.5 is chance.

    The area under the receiver operating characteristic, by Mann and Whitney's ranks. Needs a mask that holds some
    places and not all.
    """
    _, position, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[position.ravel()]
    inside = int(mask.sum())
    return float((ranks[mask.ravel()].sum() - inside * (inside + 1) / 2) / (inside * (mask.size - inside)))


def points_at(scores: NDArray[np.floating], mask: NDArray[np.bool_]) -> bool:
    """Whether the highest score lies in the mask: the pointing game (Zhang et al., 2018)."""
    return bool(mask.ravel()[scores.argmax()])


def positions_of(word: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Where the tokens of `word` first stand in `tokens`, one after the other; empty where they do not."""
    for start in range(len(tokens) - len(word) + 1):
        if list(tokens[start : start + len(word)]) == list(word):
            return list(range(start, start + len(word)))
    return []
