"""An encoder that needs no training: it describes every 16x16 block by its colors, their slopes and its curvature.

The twelve latent channels are the block's moments under Legendre polynomials: mean, slope across and slope down of
red, green and blue, and three second moments of the brightness. They are linear, turn into themselves (up to a sign)
when the image is mirrored, are equal where areas are equal, and say within which fraction of a pixel an edge lies.
`write_encoder` sets the weights of an `AutoencoderKL` so that its encoder computes exactly this: residual branches are
zero, the convolutions with stride 2 join four blocks into one, and since silu(x) - silu(-x) = x, the last activation
passes pairs of opposite numbers through unchanged.
"""

from itertools import product

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = 12
BLOCK = 16  # pixels
CONSTANT = 30.0  # large next to the latents: the last normalization divides by this and hardly by anything else
LOG_VARIANCE = -7.0  # of the posterior: constant, standard deviation 0.03

Basis = NDArray[np.float64]

# (degree across, degree down, color axes): how many of the color axes below
LEVELS: dict[int, tuple[tuple[int, int, int], ...]] = {
    2: ((0, 0, 3), (1, 0, 2), (0, 1, 2), (1, 1, 1)),
    4: ((0, 0, 3), (1, 0, 3), (0, 1, 3), (2, 0, 2), (0, 2, 2), (1, 1, 2)),
    8: ((0, 0, 3), (1, 0, 3), (0, 1, 3), (2, 0, 3), (0, 2, 3), (1, 1, 3)),
    16: ((0, 0, 3), (1, 0, 3), (0, 1, 3), (2, 0, 1), (0, 2, 1), (1, 1, 1)),
}
# brightness, blue against yellow, red against green; rows are unit vectors
COLOR_AXES = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])


def moments(side: int) -> Basis:
    """[channels, 3, side, side]: what each channel of a level weighs the pixels of its block with."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    polynomials = [np.ones(side), np.sqrt(3.0) * at, np.sqrt(5.0) * (3 * at**2 - 1) / 2]
    rows = [
        np.einsum("c,y,x->cyx", axis, polynomials[down], polynomials[across]) / side**2
        for across, down, axes in LEVELS[side]
        for axis in COLOR_AXES[:axes]
    ]
    return np.stack(rows)


def latent_moments(images: Tensor) -> Tensor:
    """[n, 12, h / 16, w / 16], neither centered nor scaled, of images [n, 3, h, w] in [-1, 1]."""
    kernel = torch.from_numpy(moments(BLOCK)).to(images)
    return torch.nn.functional.conv2d(images, kernel, stride=BLOCK)


def joining(child: Basis, parent: Basis) -> Basis:
    """[parents, children, 2, 2]: the parent block's moments from those of its four quarters, in least squares."""
    count, side = len(child), child.shape[-1]
    spread = np.zeros((count, 2, 2, 3, 2 * side, 2 * side))
    for row, column in product(range(2), range(2)):
        spread[:, row, column, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = child
    solution = np.linalg.lstsq(spread.reshape(count * 4, -1).T, parent.reshape(len(parent), -1).T, rcond=None)[0]
    return np.asarray(solution.T.reshape(len(parent), count, 2, 2), np.float64)


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, center: Tensor, gain: Tensor) -> None:
    """Make the encoder compute `(latent_moments - center) * gain`, both `[12]`, with a constant variance."""
    encoder = vae.encoder
    for name, module in encoder.named_modules():
        if name.endswith(("conv2", "conv_shortcut", "downsamplers.0.conv", "conv_in", "conv_out")):
            module.weight.zero_()
            module.bias.zero_()
    encoder.conv_in.weight[range(3), range(3), 1, 1] = 1
    basis = np.eye(3)[:, :, None, None]
    for index, block in enumerate(encoder.down_blocks):
        shortcut = block.resnets[0].conv_shortcut
        if index == len(encoder.down_blocks) - 1:
            _write_pairs(shortcut, center, gain)
            break
        if shortcut is not None:
            shortcut.weight[range(len(basis)), range(len(basis)), 0, 0] = 1
        parent = moments(2 ** (index + 1))
        weights = torch.from_numpy(joining(basis, parent)).float()
        block.downsamplers[0].conv.weight[: len(parent), : len(basis), :2, :2] = weights
        basis = parent
    _write_output(vae)


def _write_pairs(shortcut: torch.nn.Conv2d, center: Tensor, gain: Tensor) -> None:
    """Latents, their opposites, and constants of both signs in all other channels."""
    assert shortcut.bias is not None
    for sign, first in ((1, 0), (-1, CHANNELS)):
        rows = range(first, first + CHANNELS)
        shortcut.weight[rows, range(CHANNELS), 0, 0] = sign * gain
        shortcut.bias[first : first + CHANNELS] = -sign * gain * center
    shortcut.bias[2 * CHANNELS :: 2] = CONSTANT
    shortcut.bias[2 * CHANNELS + 1 :: 2] = -CONSTANT


def _write_output(vae: AutoencoderKL) -> None:
    encoder = vae.encoder
    constants = encoder.conv_out.in_channels - 2 * CHANNELS
    scale = CONSTANT * (constants / encoder.conv_out.in_channels) ** 0.5  # what the normalization divides by
    encoder.conv_norm_out.weight.fill_(1)
    encoder.conv_norm_out.bias.zero_()
    for channel in range(CHANNELS):
        encoder.conv_out.weight[channel, channel, 1, 1] = scale
        encoder.conv_out.weight[channel, channel + CHANNELS, 1, 1] = -scale
    encoder.conv_out.bias[CHANNELS:] = LOG_VARIANCE
    vae.quant_conv.weight.copy_(torch.eye(2 * CHANNELS)[:, :, None, None])
    vae.quant_conv.bias.zero_()
