from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import InputError
from finetune.evaluation.efficientnet_lite import load_efficientnet_lite


def test_features_equal_the_reference_implementation(efficientnet_weights: Path) -> None:
    """The expected values come from the package efficientnet-lite-pytorch 0.1.0 with the same weights."""
    ramp = torch.linspace(0, 255, 224).expand(224, 224)
    features = load_efficientnet_lite(efficientnet_weights)(torch.stack([ramp, ramp.T, 255 - ramp])[None])[0]
    assert features.shape == (1280,)
    assert features[:8].tolist() == pytest.approx([0, 0, 0.6274743, 0, 0, 0, 0, 0.1356657], abs=1e-5)
    assert features.mean().item() == pytest.approx(0.0970386, abs=1e-5)
    assert features.std().item() == pytest.approx(0.3930689, abs=1e-5)
    assert features.argmax() == 113


def test_network_is_frozen(efficientnet_weights: Path) -> None:
    network = load_efficientnet_lite(efficientnet_weights)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("content", [b"", b"not a PyTorch file", torch.nn.Linear(2, 2).state_dict()])
def test_file_with_other_content_is_named(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "efficientnet-lite0.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(InputError, match=r"efficientnet-lite0\.pth: not EfficientNet-Lite0 weights"):
        load_efficientnet_lite(file)
