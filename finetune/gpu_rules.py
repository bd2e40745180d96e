"""What a GPU does differently, for tensors on the meta device: autocast's casts and attention in one kernel."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

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


class GpuRules(TorchFunctionMode):
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
            module.__call__, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), GpuRules(half))
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
