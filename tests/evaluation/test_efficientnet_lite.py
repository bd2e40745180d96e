from pathlib import Path

import pytest
import torch

from finetune.errors import InputError
from finetune.evaluation.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite


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


@pytest.mark.parametrize("content", [b"", b"not a PyTorch file"])
def test_invalid_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "efficientnet-lite0.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"efficientnet-lite0\.pth: not EfficientNet-Lite0 weights"):
        load_efficientnet_lite(tmp_path / "efficientnet-lite0.pth")


def test_weights_of_a_different_network_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match="not EfficientNet-Lite0 weights"):
        load_efficientnet_lite(tmp_path / "other.pth")


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save(EfficientNetLite0(), tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="not EfficientNet-Lite0 weights"):
        load_efficientnet_lite(tmp_path / "pickled.pth")
