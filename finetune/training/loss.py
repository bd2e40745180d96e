"""The training objective: pure tensor functions, in fp32 whatever the network computes in."""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor


def prediction_target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the network is asked for at `timesteps`: the noise (Ho et al., 2020) or v (Salimans & Ho, 2022)."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return noise_scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(f"prediction_type {prediction_type!r} is neither epsilon nor v_prediction")


def loss_per_sample(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over everything but the batch: float32 [n]."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


def loss_weights(noise_scheduler: DDPMScheduler, timesteps: Tensor, min_snr_gamma: float | None) -> Tensor:
    """Min-SNR-gamma (Hang et al., 2023, arXiv:2303.09556): each timestep's weight for what the network predicts.

    Its x0 weight min(SNR, gamma), over SNR where the noise is predicted and over SNR + 1 where v is. float32 [n], ones
    without a gamma.
    """
    if min_snr_gamma is None:
        return torch.ones(timesteps.shape, device=timesteps.device)
    signal = noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = signal / (1 - signal)
    if noise_scheduler.config.prediction_type == "v_prediction":
        return snr.clamp(max=min_snr_gamma) / (snr + 1)
    return (min_snr_gamma / snr).clamp(max=1)  # min(SNR, gamma) / SNR, and 1 rather than 0/0 where there is no signal
