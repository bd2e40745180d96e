"""The training objective against its closed forms."""

import pytest
import torch
from diffusers import DDPMScheduler

from finetune.training.loss import loss_per_sample, loss_weights, prediction_target

KINDS = ("epsilon", "v_prediction")


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])


def test_epsilon_target_is_the_noise() -> None:
    latents, noise, timesteps = tensors()
    assert torch.equal(prediction_target(DDPMScheduler(), latents, noise, timesteps), noise)


def test_v_target_is_alpha_noise_minus_sigma_latents() -> None:
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    latents, noise, timesteps = tensors()
    alpha = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - scheduler.alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(prediction_target(scheduler, latents, noise, timesteps), alpha * noise - sigma * latents)


def test_other_prediction_types_are_rejected() -> None:
    with pytest.raises(ValueError, match="sample"):
        prediction_target(DDPMScheduler(prediction_type="sample"), *tensors())


def test_loss_is_a_mean_per_sample_in_fp32() -> None:
    loss = loss_per_sample(torch.full((2, 4, 8, 8), 3.0, dtype=torch.float16), torch.ones(2, 4, 8, 8))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [4.0, 4.0]


@pytest.mark.parametrize("prediction_type", KINDS)
def test_all_weights_are_one_without_a_gamma(prediction_type: str) -> None:
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    assert loss_weights(scheduler, torch.arange(1000), None).tolist() == [1.0] * 1000


def test_min_snr_weights_are_equivalent_for_epsilon_and_v() -> None:
    """A squared error of x0 is SNR times as large in epsilon and SNR + 1 times as large in v."""
    timesteps = torch.arange(1000)
    weights = {kind: loss_weights(DDPMScheduler(prediction_type=kind), timesteps, 5.0) for kind in KINDS}
    alphas = DDPMScheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    torch.testing.assert_close(weights["epsilon"] * snr, snr.clamp(max=5.0))
    torch.testing.assert_close(weights["v_prediction"] * (snr + 1), snr.clamp(max=5.0))


def test_min_snr_weight_of_pure_noise_is_one() -> None:
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] < 1e-7
    scheduler.alphas_cumprod[-1] = 0.0
    assert loss_weights(scheduler, torch.tensor([999]), 5.0).tolist() == [1.0]
