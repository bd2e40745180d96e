"""Attention layers of a UNet: their queries, keys and probabilities, and the batch rows that see the prompt."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor


def attention_layers(unet: torch.nn.Module, cross: bool) -> list[Attention]:
    """Return the cross-attention or the self-attention layers of a UNet or a part of it."""
    return [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention == cross]


@contextmanager
def hook_queries_and_keys(
    layers: list[Attention], callback: Callable[[Attention, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `callback(layer, query, key)` on each forward pass of a layer; tensors are `[rows, tokens, channels]`."""

    def hooks_of(layer: Attention) -> Iterator[Any]:
        queries: list[Tensor] = []
        yield layer.to_q.register_forward_hook(lambda _module, _arguments, query: queries.append(query))
        yield layer.to_k.register_forward_hook(lambda _module, _arguments, key: callback(layer, queries.pop(), key))

    with ExitStack() as hooks:
        for hook in (hook for layer in layers for hook in hooks_of(layer)):
            hooks.callback(hook.remove)
        yield


def prompt_rows(pipeline: StableDiffusionPipeline, projected: Tensor) -> Tensor:
    """Return the rows that see the prompt: the second half if classifier-free guidance doubles the batch."""
    return projected.chunk(2)[1] if pipeline.do_classifier_free_guidance else projected


def one_head(layer: Attention, head: int, projected: Tensor) -> Tensor:
    """Return one head's channels of a projection, fp32: `[rows, tokens, channels]` -> `[rows, tokens, head_dim]`."""
    return projected.chunk(layer.heads, dim=-1)[head].float()


def probabilities(layer: Attention, head: int, query: Tensor, key: Tensor) -> Tensor:
    """Compute the attention probabilities of one head, fp32 `[rows, pixels, tokens]`; each pixel's sum is 1.

    Attention processors do not expose them. Computing one head at a time saves memory.
    """
    with torch.autocast(query.device.type, enabled=False):  # autocast would multiply in fp16
        scores = one_head(layer, head, query) @ one_head(layer, head, key).transpose(1, 2)
        return torch.softmax(scores * layer.scale, dim=-1)
