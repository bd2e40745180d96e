"""The training objective: pure tensor functions, in fp32 whatever the network computes in."""

import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor


def target_of(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
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
