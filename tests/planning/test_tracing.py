"""Operations and bytes of networks that have no weights, against cases computed by hand and published totals."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from finetune.params import Params, load_params
from finetune.planning.architecture import Architecture, architecture_of
from finetune.planning.tracing import (
    AutocastEmulation,
    LiveBytes,
    checkpoint_under,
    trace_autoencoder,
    trace_forward,
    trace_training_step,
)

ROOT = Path(__file__).parents[2]
SHAPE = (4, 64, 64)


@pytest.fixture(scope="module")
def reference() -> Params:
    return load_params(ROOT / "presets" / "rtx3090.yaml")


@pytest.fixture(scope="module")
def sd15(reference: Params) -> Architecture:
    return architecture_of(reference.fetch.base)


def test_a_convolution_takes_two_operations_per_weight_and_place() -> None:
    images, weights = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(16, 3, 3, 3, device="meta")
    with FlopCounterMode(display=False) as counter, AutocastEmulation(torch.float16):
        F.conv2d(images, weights, padding=1)
    assert counter.get_total_flops() == 2 * (16 * 3 * 3 * 3) * (2 * 8 * 8)


def test_attention_takes_two_matrix_products_per_head() -> None:
    tokens = torch.empty(1, 2, 16, 8, device="meta")  # heads, positions, width
    with FlopCounterMode(display=False) as counter, AutocastEmulation(torch.float16):
        F.scaled_dot_product_attention(tokens, tokens, tokens)
    assert counter.get_total_flops() == 2 * (2 * 2 * 16 * 16 * 8)


def test_the_known_architecture_has_the_published_number_of_weights(sd15: Architecture, reference: Params) -> None:
    denoiser = sd15.denoiser(reference.train)
    networks = (denoiser.unet, denoiser.text_encoder, sd15.autoencoder())
    counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    assert counts == [859_520_964, 123_060_480, 83_653_863]


def test_a_forward_takes_the_published_operations_and_those_of_attention(sd15: Architecture, reference: Params) -> None:
    """338.8 GMACs (Ma et al., 2023, DeepCache) are convolutions and linear layers alone."""
    denoiser = sd15.denoiser(reference.train)
    latents = torch.empty(1, *SHAPE, device="meta")
    text = torch.empty(1, 77, 768, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, AutocastEmulation(torch.float16):
        denoiser.unet(latents, torch.empty(1, device="meta"), text)
    by_operator = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(flops for name, flops in by_operator.items() if "attention" in name)
    assert counter.get_total_flops() - attention == pytest.approx(2 * 338.83e9, rel=1e-3)
    assert counter.get_total_flops() == pytest.approx(0.8033e12, rel=1e-3)


def test_a_step_takes_three_forwards_and_the_scores_that_attention_computes_again(
    sd15: Architecture, reference: Params
) -> None:
    denoiser = sd15.denoiser(reference.train)
    forward = trace_forward(denoiser, SHAPE, torch.float16).flops
    step = trace_training_step(denoiser, SHAPE, 2, 1, torch.float16).flops / 2
    assert 3.0 < step / forward < 3.1


def test_the_autoencoder_encodes_two_views_and_decodes_one(sd15: Architecture) -> None:
    vae = sd15.autoencoder()
    assert trace_autoencoder(vae, SHAPE, decode=False).flops == pytest.approx(2 * 1.1167e12, rel=1e-3)
    assert trace_autoencoder(vae, SHAPE, decode=True).flops == pytest.approx(2.5145e12, rel=1e-3)


def test_bytes_live_until_the_last_reference_is_gone() -> None:
    with LiveBytes([]) as live:
        first = torch.empty(256, device="meta")
        view = first[:10]
        second = first * 2
        assert live.now == 2 * 1024
        del first, second
        assert (live.now, live.peak) == (1024, 2048)
        del view
        assert live.now == 0


def test_what_a_network_holds_already_does_not_count() -> None:
    layer = torch.nn.Linear(8, 8, device="meta")
    with LiveBytes([layer]) as live:
        layer(torch.empty(4, 8, device="meta", requires_grad=False).detach())
    assert live.peak < 8 * 8 * 4 + 3 * 4 * 8 * 4


IMAGES = torch.empty(2, 8, 4, 4, device="meta")


def test_convolutions_are_half_and_norms_whole() -> None:
    with AutocastEmulation(torch.float16):
        convolved = F.conv2d(IMAGES, torch.empty(8, 8, 3, 3, device="meta"))
        assert convolved.dtype == torch.float16
        assert F.group_norm(convolved, 4).dtype == torch.float32


def test_without_a_half_type_everything_is_whole() -> None:
    with AutocastEmulation(None):
        assert F.conv2d(IMAGES, torch.empty(8, 8, 3, 3, device="meta")).dtype == torch.float32


def test_a_weight_is_cast_once_and_other_tensors_each_time() -> None:
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
    assert len(storages) == 3  # one of the weight, two of the activations


def test_rules_hold_where_checkpointing_computes_again() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3), torch.nn.GroupNorm(4, 8)).to("meta")
    with AutocastEmulation(torch.float16):
        result = checkpoint_under(torch.float16)(layer, IMAGES)
    result.sum().backward()  # raises where the second time saves other types than the first
    assert all(weight.grad is not None for weight in layer.parameters())
