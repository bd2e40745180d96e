import pytest
import torch
from torch import Tensor

from finetune.datasets.scenes.drawing import draw
from finetune.datasets.scenes.world import make_scene
from sample.linear_encoder import CHANNELS, latent_moments, moments
from sample.train_vae import Encoder, initialize, make_vae
from sample.world_images import to_float


@pytest.fixture(scope="module")
def images() -> Tensor:
    drawn = [draw(make_scene(seed, "plain")) for seed in range(2)]
    pixels = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(512, 512, 3) for image in drawn]
    return to_float(torch.stack(pixels))


def test_moments_are_nearly_orthogonal() -> None:
    basis = torch.from_numpy(moments(16)).flatten(1)
    products = basis @ basis.T * 16**2
    assert products.diagonal() == pytest.approx([1.0] * CHANNELS, rel=0.02)
    assert float((products - products.diag().diag()).abs().max()) < 0.005


def test_a_mirror_image_has_the_mirrored_moments_up_to_signs(images: Tensor) -> None:
    straight, mirrored = latent_moments(images), latent_moments(images.flip(3)).flip(3)
    signs = torch.tensor([1.0] * 3 + [-1.0] * 3 + [1.0] * 3 + [1.0, 1.0, -1.0])[:, None, None]
    assert torch.allclose(mirrored, straight * signs, atol=1e-5)


@torch.no_grad()
def test_the_written_encoder_computes_the_moments_also_in_half_precision(images: Tensor) -> None:
    vae = make_vae()
    initialize(vae, images)
    wanted = Encoder(vae)(images)
    posterior = vae.encode(images).latent_dist
    # color slopes within blocks of two pixels do not fit into the first level's eight channels
    assert float((posterior.mean - wanted).abs().max()) < 0.1
    assert float((posterior.mean - wanted).std()) < 0.005
    assert float(posterior.std.max()) < 0.05
    assert float((vae.half().float().encode(images).latent_dist.mean - wanted).std()) < 0.005


@torch.no_grad()
def test_equal_areas_have_equal_latents() -> None:
    vae = make_vae()
    initialize(vae, torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(0)) * 2 - 1)
    flat = torch.full((1, 3, 256, 256), 0.4)
    latents = vae.encode(flat).latent_dist.mean
    assert float((latents - latents[..., :1, :1]).abs().max()) < 1e-3


@torch.no_grad()
def test_an_untrained_decoder_repeats_the_colors_of_the_blocks(images: Tensor) -> None:
    vae = make_vae()
    initialize(vae, images)
    decoded = vae.decode(vae.encode(images).latent_dist.mean).sample
    blocks = [torch.nn.functional.avg_pool2d(each, 16) for each in (decoded, images)]
    assert float((blocks[0] - blocks[1]).abs().mean()) < 0.1
