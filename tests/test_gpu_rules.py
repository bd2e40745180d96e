"""On the meta device, networks compute in the types that they would on a GPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.gpu_rules import GpuRules, checkpoint_under

IMAGES = torch.empty(2, 8, 4, 4, device="meta")


def test_convolutions_are_half_and_norms_whole() -> None:
    with GpuRules(torch.float16):
        convolved = F.conv2d(IMAGES, torch.empty(8, 8, 3, 3, device="meta"))
        assert convolved.dtype == torch.float16
        assert F.group_norm(convolved, 4).dtype == torch.float32


def test_without_a_half_type_everything_is_whole() -> None:
    with GpuRules(None):
        assert F.conv2d(IMAGES, torch.empty(8, 8, 3, 3, device="meta")).dtype == torch.float32


def test_a_weight_is_cast_once_and_other_tensors_each_time() -> None:
    weight, tokens = torch.empty(8, 8, device="meta", requires_grad=True), torch.empty(2, 8, device="meta")
    saved: list[Tensor] = []
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    )
    tokens.requires_grad_()
    activations = tokens * 1
    with keep, GpuRules(torch.float16):
        F.linear(activations, weight)
        F.linear(activations, weight)
    storages = {tensor.untyped_storage()._cdata for tensor in saved if tensor.dtype == torch.float16}
    assert len(storages) == 3  # one of the weight, two of the activations


def test_rules_hold_where_checkpointing_computes_again() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.GroupNorm(4, 8)).to("meta")
    with GpuRules(torch.float16):
        result = checkpoint_under(torch.float16)(layer, IMAGES)
    result.sum().backward()  # raises where the second time saves other types than the first
    assert all(weight.grad is not None for weight in layer.parameters())
