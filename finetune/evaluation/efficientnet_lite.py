"""EfficientNet-Lite0 as a feature extractor (Tan and Le, 2019; Lite: no squeeze-and-excitation, ReLU6)."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import InputError

INPUT_SIZE = 224  # pixels
FEATURES = 1280
STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def load_efficientnet_lite(path: Path) -> "EfficientNetLite0":
    """Load a frozen network from a PyTorch state dict.

    Raises InputError if the file has other weights or holds anything except tensors.
    """
    network = EfficientNetLite0()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        raise InputError(f"{path}: not EfficientNet-Lite0 weights; check fetch.extractor") from None
    return network.requires_grad_(False).eval()


class EfficientNetLite0(nn.Module):
    """Maps images `[n, 3, 224, 224]` in 0..255 to pooled features `[n, 1280]`. Attribute names match the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        blocks = []
        before = 32
        for count, kernel, stride, expansion, channels in STAGES:
            for i in range(count):
                blocks.append(_Block(before, channels, kernel, 1 if i else stride, expansion))
                before = channels
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConv(before, FEATURES, 1, bias=False)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, 1000)  # the file has a classifier; features do not use it

    def forward(self, images: Tensor) -> Tensor:
        x = (images - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return x.mean(dim=(2, 3))


class _Block(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project, add the input if the shapes match."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = before * expansion
        if expansion > 1:
            self._expand_conv = _SameConv(before, width, 1, bias=False)
            self._bn0 = _norm(width)
        self._depthwise_conv = _SameConv(width, width, kernel, stride=stride, groups=width, bias=False)
        self._bn1 = _norm(width)
        self._project_conv = _SameConv(width, after, 1, bias=False)
        self._bn2 = _norm(after)
        self._expands = expansion > 1
        self._has_skip = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._has_skip else y


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: an odd pixel of padding goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max(kernel - stride if side % stride == 0 else kernel - side % stride, 0)
            for side, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # TensorFlow's epsilon
