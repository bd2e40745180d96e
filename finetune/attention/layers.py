"""The attention layers of a UNet, their probabilities, and the rows of a batch that the prompt guides."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor


def attention_layers(unet: torch.nn.Module, cross: bool) -> list[Attention]:
    """Of a UNet or a part of it: those between image and text, or those within the image."""
    return [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention == cross]


@contextmanager
def queries_and_keys(layers: list[Attention], hear: Callable[[Attention, Tensor, Tensor], None]) -> Iterator[None]:
    """Within this, `hear` gets a layer's queries and keys, `[rows, tokens, channels]`, whenever the layer is used."""

    def listen(layer: Attention) -> Iterator[Any]:
        queries: list[Tensor] = []
        yield layer.to_q.register_forward_hook(lambda _module, _arguments, query: queries.append(query))
        yield layer.to_k.register_forward_hook(lambda _module, _arguments, key: hear(layer, queries.pop(), key))

    with ExitStack() as hooks:
        for hook in (hook for layer in layers for hook in listen(layer)):
            hooks.callback(hook.remove)
        yield


def prompt_rows(pipeline: StableDiffusionPipeline, projected: Tensor) -> Tensor:
    """The rows that see the prompt: the second half, where classifier-free guidance doubles the batch."""
    return projected.chunk(2)[1] if pipeline.do_classifier_free_guidance else projected


def one_head(layer: Attention, head: int, projected: Tensor) -> Tensor:
    """A head's part of a projection, fp32: `[rows, tokens, channels of a head]` of `[rows, tokens, channels]`."""
    return projected.chunk(layer.heads, dim=-1)[head].float()


def probabilities(layer: Attention, head: int, query: Tensor, key: Tensor) -> Tensor:
    """How one head spreads each pixel's attention, fp32 `[rows, pixels, tokens]` that sums to one over the tokens.

    Attention processors keep this to themselves, if they compute it at all. One head at a time is little memory.
    """
    with torch.autocast(query.device.type, enabled=False):  # autocast would multiply in fp16
        scores = one_head(layer, head, query) @ one_head(layer, head, key).transpose(1, 2)
        return torch.softmax(scores * layer.scale, dim=-1)
