"""Trace networks on the meta device: floating-point operations and peak memory as on a GPU."""

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

# torch.autocast ignores meta tensors. These are the functions on its CUDA lists that Stable Diffusion calls.
LOW_PRECISION: set[Callable[..., Any]] = {
    F.conv2d,
    F.linear,
    F.scaled_dot_product_attention,
    torch.baddbmm,
    torch.bmm,
    torch.matmul,
    Tensor.matmul,
}
FP32: set[Callable[..., Any]] = {F.group_norm, F.layer_norm, F.softmax}


class AutocastEmulation(TorchFunctionMode):
    """Cast meta tensors as torch.autocast("cuda") would, and replace attention by a GPU's fused kernel.

    dtype: fp16 or bf16; None for no autocast. Like autocast, it casts each weight once and caches the copy.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self._dtype = dtype
        self._casts: dict[int, Tensor] = {}

    def __exit__(self, *error: Any) -> None:
        self._casts.clear()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._dtype and func in LOW_PRECISION | FP32:
            cast: Callable[[Tensor], Tensor] = self._lower if func in LOW_PRECISION else Tensor.float
            args, kwargs = tree_map_only(
                Tensor, lambda tensor: cast(tensor) if tensor.is_floating_point() else tensor, (args, kwargs)
            )
        return _attention(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)

    def _lower(self, tensor: Tensor) -> Tensor:
        assert self._dtype
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._dtype)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = tensor.to(self._dtype)
        return self._casts[id(tensor)]


def checkpoint_with_autocast(dtype: torch.dtype | None) -> Callable[..., Any]:
    """Return a gradient checkpointing function for diffusers that recomputes under AutocastEmulation."""

    def run(module: torch.nn.Module, *inputs: Any) -> Any:
        return checkpoint(
            module.__call__, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), AutocastEmulation(dtype))
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
    """Use FlashAttention where PyTorch would on a GPU, else memory-efficient attention. Neither stores the scores."""
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


Shape = tuple[int, int, int]  # [channels, height, width] of one image's latents
LENGTH = 77  # tokens per caption


@dataclass
class Trace:
    """Operations of matrix products, convolutions and attention, and bytes on top of the networks' weights."""

    flops: int = 0
    peak: int = 0  # bytes
    kept: int = 0  # bytes at the end; for a training step, the gradients


class LiveBytes(TorchDispatchMode):
    """Track the bytes of all tensors created inside, each until its last reference is gone."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        """modules: networks whose parameters and buffers do not count."""
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
        if address not in self._sizes:  # otherwise a view or an in-place operation
            self._sizes[address] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, address)

    def _remove(self, address: int) -> None:
        self.now -= self._sizes.pop(address)


def trace_training_step(denoiser: Denoiser, shape: Shape, images: int, rounds: int, dtype: torch.dtype | None) -> Trace:
    """Trace one optimizer step: `rounds` forward and backward passes of `images` images each."""

    def work() -> None:
        for _ in range(min(2, rounds)):  # every round after the first starts with gradients in memory
            latents = torch.empty(images, *shape, device="meta")
            with AutocastEmulation(dtype):
                prediction = denoiser(latents, *_conditions(images))
            loss_per_sample(prediction, latents).mean().backward()
            del latents, prediction

    trace = _traced([denoiser], work)
    trace.flops = trace.flops // min(2, rounds) * rounds
    return trace


@torch.no_grad()
def trace_forward(denoiser: Denoiser, shape: Shape, dtype: torch.dtype | None) -> Trace:
    """Trace one forward pass of one image, the unit of sampling and validation."""

    def work() -> None:
        with AutocastEmulation(dtype):
            denoiser(torch.empty(1, *shape, device="meta"), *_conditions(1))

    return _traced([denoiser], work)


@torch.no_grad()
def trace_sampling(
    denoiser: Denoiser, vae: AutoencoderKL, shape: Shape, images: int, dtype: torch.dtype | None
) -> Trace:
    """Trace one sampling step of a batch, which classifier-free guidance doubles, and the decoding."""

    def work() -> None:
        with AutocastEmulation(dtype):
            denoiser(torch.empty(2 * images, *shape, device="meta"), *_conditions(2 * images))
            vae.decode(torch.empty(images, *shape, device="meta"))

    return _traced([denoiser, vae], work)


@torch.no_grad()
def trace_vae(vae: AutoencoderKL, shape: Shape, decode: bool) -> Trace:
    """Trace the decoding or encoding of one image, in fp32 as in the stages."""

    def work() -> None:
        with AutocastEmulation(None):
            if decode:
                vae.decode(torch.empty(1, *shape, device="meta"))
            else:
                vae.encode(torch.empty(1, 3, RESOLUTION, RESOLUTION, device="meta"))

    return _traced([vae], work)


def _traced(modules: list[torch.nn.Module], work: Callable[[], None]) -> Trace:
    """Run `work` twice, because the FLOP counter keeps tensors alive that checkpointing frees."""
    live, counter = LiveBytes(modules), FlopCounterMode(display=False)
    with live:
        work()
    with counter:
        work()
    return Trace(counter.get_total_flops(), live.peak, live.now)


def _conditions(images: int) -> tuple[Tensor, Tensor]:
    """Return timesteps [images] and token ids [images, 77]."""
    timesteps = torch.empty(images, dtype=torch.int64, device="meta")
    return timesteps, torch.empty(images, LENGTH, dtype=torch.int64, device="meta")
