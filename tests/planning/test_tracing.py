"""Traced operations and bytes, compared with hand-computed cases and published totals."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from finetune.params import Params, load_params
from finetune.planning.architecture import Architecture, load_architecture
from finetune.planning.tracing import (
    AutocastEmulation,
    LiveBytes,
    checkpoint_with_autocast,
    trace_forward,
    trace_training_step,
    trace_vae,
)

ROOT = Path(__file__).parents[2]
SHAPE = (4, 64, 64)


@pytest.fixture(scope="module")
def reference() -> Params:
    return load_params(ROOT / "presets" / "rtx3090.yaml")


@pytest.fixture(scope="module")
def sd15(reference: Params) -> Architecture:
    return load_architecture(reference.fetch.base)


def test_convolution_flops() -> None:
    images, weights = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(16, 3, 3, 3, device="meta")
    with FlopCounterMode(display=False) as counter, AutocastEmulation(torch.float16):
        F.conv2d(images, weights, padding=1)
    assert counter.get_total_flops() == 2 * (16 * 3 * 3 * 3) * (2 * 8 * 8)


def test_attention_flops_are_two_matrix_products_per_head() -> None:
    tokens = torch.empty(1, 2, 16, 8, device="meta")  # heads, positions, width
    with FlopCounterMode(display=False) as counter, AutocastEmulation(torch.float16):
        F.scaled_dot_product_attention(tokens, tokens, tokens)
    assert counter.get_total_flops() == 2 * (2 * 2 * 16 * 16 * 8)


def test_sd15_has_the_published_number_of_parameters(sd15: Architecture, reference: Params) -> None:
    denoiser = sd15.make_denoiser(reference.train)
    networks = (denoiser.unet, denoiser.text_encoder, sd15.make_vae())
    counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    assert counts == [859_520_964, 123_060_480, 83_653_863]


def test_forward_flops_are_the_published_ones_plus_attention(sd15: Architecture, reference: Params) -> None:
    """The published 338.8 GMACs (Ma et al., 2023, DeepCache) count convolutions and linear layers only."""
    denoiser = sd15.make_denoiser(reference.train)
    latents = torch.empty(1, *SHAPE, device="meta")
    text = torch.empty(1, 77, 768, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, AutocastEmulation(torch.float16):
        denoiser.unet(latents, torch.empty(1, device="meta"), text)
    by_operator = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(flops for name, flops in by_operator.items() if "attention" in name)
    assert counter.get_total_flops() - attention == pytest.approx(2 * 338.83e9, rel=1e-3)
    assert counter.get_total_flops() == pytest.approx(0.8033e12, rel=1e-3)


def test_step_flops_are_three_forwards_plus_recomputed_attention_scores(sd15: Architecture, reference: Params) -> None:
    denoiser = sd15.make_denoiser(reference.train)
    forward = trace_forward(denoiser, SHAPE, torch.float16).flops
    step = trace_training_step(denoiser, SHAPE, 2, 1, torch.float16).flops / 2
    assert 3.0 < step / forward < 3.1


def test_vae_flops_are_of_two_encoded_views_or_one_decoded_image(sd15: Architecture) -> None:
    vae = sd15.make_vae()
    assert trace_vae(vae, SHAPE, decode=False).flops == pytest.approx(1.1167e12, rel=1e-3)
    assert trace_vae(vae, SHAPE, decode=True).flops == pytest.approx(2.5145e12, rel=1e-3)


def test_bytes_count_until_the_last_reference_is_gone() -> None:
    with LiveBytes([]) as live:
        first = torch.empty(256, device="meta")
        view = first[:10]
        second = first * 2
        assert live.now == 2 * 1024
        del first, second
        assert (live.now, live.peak) == (1024, 2048)
        del view
        assert live.now == 0


def test_parameters_of_a_network_do_not_count() -> None:
    layer = torch.nn.Linear(8, 8, device="meta")
    with LiveBytes([layer]) as live:
        layer(torch.empty(4, 8, device="meta", requires_grad=False).detach())
    assert live.peak < 8 * 8 * 4 + 3 * 4 * 8 * 4


IMAGES = torch.empty(2, 8, 4, 4, device="meta")


def test_autocast_runs_convolutions_in_fp16_and_norms_in_fp32() -> None:
    with AutocastEmulation(torch.float16):
        convolved = F.conv2d(IMAGES, torch.empty(8, 8, 3, 3, device="meta"))
        assert convolved.dtype == torch.float16
        assert F.group_norm(convolved, 4).dtype == torch.float32


def test_without_autocast_everything_is_fp32() -> None:
    with AutocastEmulation(None):
        assert F.conv2d(IMAGES, torch.empty(8, 8, 3, 3, device="meta")).dtype == torch.float32


def test_weights_are_cast_once_and_activations_each_time() -> None:
    weight, tokens = torch.empty(8, 8, device="meta", requires_grad=True), torch.empty(2, 8, device="meta")
    saved: list[Tensor] = []
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    )
    tokens.requires_grad_()
    activations = tokens * 1
    with keep, AutocastEmulation(torch.float16):
        F.linear(activations, weight)
        F.linear(activations, weight)
    storages = {tensor.untyped_storage()._cdata for tensor in saved if tensor.dtype == torch.float16}
    assert len(storages) == 3  # one for the weight, two for the activations


def test_checkpointing_recomputes_under_autocast() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.GroupNorm(4, 8)).to("meta")
    with AutocastEmulation(torch.float16):
        result = checkpoint_with_autocast(torch.float16)(layer, IMAGES)
    result.sum().backward()  # raises if the recomputed tensors have different dtypes
    assert all(weight.grad is not None for weight in layer.parameters())
