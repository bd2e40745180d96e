"""The training objective, computed in fp32 regardless of the network's precision."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler
from torch import Tensor

from finetune.data.latents import sample_latents
from finetune.training.batches import Batch


@dataclass(frozen=True)
class DenoisingLoss:
    """The loss of a model on a batch, for training and validation. Only the model runs under autocast."""

    noise_scheduler: DDPMScheduler
    scaling_factor: float  # of the VAE's latents
    accelerator: Accelerator

    @property
    def num_timesteps(self) -> int:
        return self.noise_scheduler.config.num_train_timesteps

    def __call__(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Return the unweighted mean squared error of each sample: float32 [n]."""
        latents = sample_latents(batch.moments, batch.posterior_noise, self.scaling_factor)
        noisy_latents = self.noise_scheduler.add_noise(latents, batch.noise, batch.timesteps)
        with self.accelerator.autocast():
            prediction = model(noisy_latents, batch.timesteps, batch.token_ids)
        target = prediction_target(self.noise_scheduler, latents, batch.noise, batch.timesteps)
        return loss_per_sample(prediction, target)


def prediction_target(noise_scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the network's target: the noise (Ho et al., 2020) or the velocity v (Salimans & Ho, 2022)."""
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return noise_scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(f"prediction_type {prediction_type!r} is neither epsilon nor v_prediction")


def loss_per_sample(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error over all but the batch dimension: float32 [n]."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


def loss_weights(noise_scheduler: DDPMScheduler, timesteps: Tensor, min_snr_gamma: float | None) -> Tensor:
    """Return the Min-SNR-gamma weight of each timestep (Hang et al., 2023, arXiv:2303.09556): float32 [n].

    The weight is min(SNR, gamma) / SNR for epsilon prediction and min(SNR, gamma) / (SNR + 1) for v prediction. Without
    a gamma, all weights are 1.
    """
    if min_snr_gamma is None:
        return torch.ones(timesteps.shape, device=timesteps.device)
    signal = noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = signal / (1 - signal)
    if noise_scheduler.config.prediction_type == "v_prediction":
        return snr.clamp(max=min_snr_gamma) / (snr + 1)
    return (min_snr_gamma / snr).clamp(max=1)  # equals min(SNR, gamma) / SNR, but is 1 instead of 0/0 at SNR = 0
