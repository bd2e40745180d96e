"""The objective, against its closed forms."""

import pytest
import torch
from diffusers import DDPMScheduler

from finetune.diffusion import loss_per_sample, target_of


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])


def test_epsilon_asks_for_the_noise() -> None:
    latents, noise, timesteps = tensors()
    assert torch.equal(target_of(DDPMScheduler(), latents, noise, timesteps), noise)


def test_v_is_alpha_noise_minus_sigma_latents() -> None:
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    latents, noise, timesteps = tensors()
    alpha = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - scheduler.alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(target_of(scheduler, latents, noise, timesteps), alpha * noise - sigma * latents)


def test_another_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        target_of(DDPMScheduler(prediction_type="sample"), *tensors())


def test_the_loss_is_a_mean_per_sample_in_fp32() -> None:
    loss = loss_per_sample(torch.full((2, 4, 8, 8), 3.0, dtype=torch.float16), torch.ones(2, 4, 8, 8))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [4.0, 4.0]
