"""What a GPU does differently, for tensors on the meta device: autocast's casts and attention in one kernel."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from finetune.data.transforms import RESOLUTION
from finetune.training.denoiser import Denoiser
from finetune.training.loss import loss_per_sample

# The part of torch.autocast("cuda")'s lists that Stable Diffusion calls; meta tensors have no autocast of their own.
HALF: set[Callable[..., Any]] = {
    F.conv2d,
    F.linear,
    F.scaled_dot_product_attention,
    torch.baddbmm,
    torch.bmm,
    torch.matmul,
    Tensor.matmul,
}
FULL: set[Callable[..., Any]] = {F.group_norm, F.layer_norm, F.softmax}


class AutocastEmulation(TorchFunctionMode):
    """`half` is autocast's type, None for no autocast. A weight is cast once and its copy kept until the end."""

    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self._half = half
        self._casts: dict[int, Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        self._casts.clear()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._half and func in HALF | FULL:
            cast: Callable[[Tensor], Tensor] = self._to_half if func in HALF else Tensor.float
            args, kwargs = tree_map_only(
                Tensor, lambda tensor: cast(tensor) if tensor.is_floating_point() else tensor, (args, kwargs)
            )
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)

    def _to_half(self, tensor: Tensor) -> Tensor:
        assert self._half
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._half)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = tensor.to(self._half)
        return self._casts[id(tensor)]


def checkpoint_under(half: torch.dtype | None) -> Callable[..., Any]:
    """Gradient checkpointing for diffusers that enters the rules anew for what it computes again, as it does autocast.

    The backward itself runs without them.
    """

    def run(module: torch.nn.Module, *inputs: Any) -> Any:
        return checkpoint(
            module.__call__, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), AutocastEmulation(half))
        )

    return run


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """By FlashAttention where PyTorch takes it on a GPU, else by its other kernel that keeps no matrix of scores."""
    assert not enable_gqa
    if attn_mask is None and query.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[
            0
        ]
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, keep, dropout_p, is_causal, scale=scale
    )[0]


Shape = tuple[int, int, int]  # of an image's latents
LENGTH = 77  # tokens of a caption


@dataclass
class Trace:
    """Additions and multiplications of matrix products and convolutions, and bytes beyond those of the networks."""

    flops: int = 0
    peak: int = 0  # bytes, at the worst moment
    kept: int = 0  # bytes, afterwards: of a training step the gradients


class LiveBytes(TorchDispatchMode):
    """The bytes of the tensors that are made inside, until the last reference to each is gone."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        """What `modules` hold already does not count."""
        super().__init__()
        self.now = self.peak = 0
        held = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in held}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._sizes:  # else a view, or changed in place
            self._sizes[address] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self.now -= self._sizes.pop(address)


def trace_training_step(denoiser: Denoiser, shape: Shape, images: int, rounds: int, half: torch.dtype | None) -> Trace:
    """Forward and backward of `images`, `rounds` times before the gradients are used."""

    def work() -> None:
        for _ in range(min(2, rounds)):  # the second finds the gradients of the first; a third needs no more
            latents = torch.empty(images, *shape, device="meta")
            with AutocastEmulation(half):
                prediction = denoiser(latents, *_conditions(images))
            loss_per_sample(prediction, latents).mean().backward()
            del latents, prediction

    trace = _traced([denoiser], work)
    trace.flops = trace.flops // min(2, rounds) * rounds
    return trace


@torch.no_grad()
def trace_forward(denoiser: Denoiser, shape: Shape, half: torch.dtype | None) -> Trace:
    """Of one image, as drawing and validation do it many times."""

    def work() -> None:
        with AutocastEmulation(half):
            denoiser(torch.empty(1, *shape, device="meta"), *_conditions(1))

    return _traced([denoiser], work)


@torch.no_grad()
def trace_drawing(denoiser: Denoiser, vae: AutoencoderKL, shape: Shape, images: int, half: torch.dtype | None) -> Trace:
    """`images` images at once in one step with guidance, which takes two forwards, and their decoding."""

    def work() -> None:
        with AutocastEmulation(half):
            denoiser(torch.empty(2 * images, *shape, device="meta"), *_conditions(2 * images))
            vae.decode(torch.empty(images, *shape, device="meta"))

    return _traced([denoiser, vae], work)


@torch.no_grad()
def trace_autoencoder(vae: AutoencoderKL, shape: Shape, decode: bool) -> Trace:
    """An image and its mirror image to moments, or one image from its latents; both in fp32, as the stages do."""

    def work() -> None:
        with AutocastEmulation(None):
            if decode:
                vae.decode(torch.empty(1, *shape, device="meta"))
            else:
                vae.encode(torch.empty(2, 3, RESOLUTION, RESOLUTION, device="meta"))

    return _traced([vae], work)


def _traced(modules: list[torch.nn.Module], work: Callable[[], None]) -> Trace:
    """Twice over: the counter of operations would keep alive what checkpointing lets go."""
    live, counter = LiveBytes(modules), FlopCounterMode(display=False)
    with live:
        work()
    with counter:
        work()
    return Trace(counter.get_total_flops(), live.peak, live.now)


def _conditions(images: int) -> tuple[Tensor, Tensor]:
    """Timesteps and token ids."""
    timesteps = torch.empty(images, dtype=torch.int64, device="meta")
    return timesteps, torch.empty(images, LENGTH, dtype=torch.int64, device="meta")
