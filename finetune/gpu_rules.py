"""What a GPU does differently, for tensors on the meta device: autocast's casts and attention in one kernel."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

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
    """`half` is autocast's type, None for no autocast. A weight is cast once and its copy kept until the end, as
    autocast does; `keep_casts` is off for a backward, where gradient checkpointing enters autocast again and again.
    """

    def __init__(self, half: torch.dtype | None, keep_casts: bool = True) -> None:
        super().__init__()
        self._half, self._keep_casts = half, keep_casts
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
        if not (self._keep_casts and tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self._half)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = tensor.to(self._half)
        return self._casts[id(tensor)]


def backward(loss: Tensor, half: torch.dtype | None) -> None:
    """`loss.backward()` under the rules, for what gradient checkpointing computes again.

    A call inside them would set them aside, so a hook enters them once the call has begun.
    """
    with ExitStack() as stack:

        def enter(_gradient: Tensor) -> None:
            stack.enter_context(GpuRules(half, keep_casts=False))

        loss.register_hook(enter)
        loss.backward()


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
