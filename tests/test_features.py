from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import get_folder_features
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from torch import Tensor, nn

from finetune.efficientnet_lite import EfficientNetLite0
from finetune.errors import InputError
from finetune.features import Extractor, extract, load_extractor

INCEPTION = "inception-2015-12-05.pt"


class StandIn(nn.Module):
    """As much of the Inception file as clean-fid uses: a member `layers` that ends in 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2048, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("extractor") / INCEPTION
    torch.jit.script(StandIn()).save(path)
    return path


def pictures(count: int, side: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def mean_color(side: int) -> Extractor:
    return Extractor("fd_test", "kid_test", side, lambda images: images.mean(dim=(2, 3)))


def test_features_are_float32_rows_in_the_order_of_the_images() -> None:
    plain = [np.full((64, 64, 3), color, np.uint8) for color in ((1, 2, 3), (40, 50, 60), (255, 0, 255))]
    features = extract(mean_color(32), plain, batch_size=2)
    assert features.dtype == np.float32
    assert features == pytest.approx(np.array([(1, 2, 3), (40, 50, 60), (255, 0, 255)]), abs=1e-4)


def test_no_more_than_a_batch_is_taken_from_the_images() -> None:
    taken = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal taken
        for picture in pictures(5):
            taken += 1
            yield picture

    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append((len(images), taken))
        return images.mean(dim=(2, 3))

    extract(Extractor("fd_test", "kid_test", 8, network), counted(), batch_size=2)
    assert seen == [(2, 2), (2, 4), (1, 5)]


def test_features_that_are_not_finite_are_an_error() -> None:
    broken = Extractor("fd_test", "kid_test", 8, lambda images: images.mean(dim=(2, 3)) / 0)
    with pytest.raises(InputError, match="not finite"):
        extract(broken, pictures(2), batch_size=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit, which the Inception file needs
def test_inception_features_equal_clean_fid_s_own_bit_for_bit(inception: Path, tmp_path: Path) -> None:
    images = pictures(5, side=96)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    theirs = get_folder_features(
        str(tmp_path),
        model=InceptionV3W(str(inception.parent), download=False),
        num_workers=0,
        batch_size=2,
        device=torch.device("cpu"),
        verbose=False,
    )
    assert np.array_equal(extract(load_extractor(inception), images, batch_size=2), theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_inception_may_call_its_distance_fid(inception: Path, tmp_path: Path) -> None:
    torch.save(EfficientNetLite0().state_dict(), tmp_path / "efficientnet-lite0.pth")
    assert load_extractor(inception).frechet_key == "fid"
    assert load_extractor(tmp_path / "efficientnet-lite0.pth").frechet_key == "fd_effnetlite0"


@pytest.mark.parametrize("name", [INCEPTION, "efficientnet-lite0.pth"])
def test_a_missing_file_is_an_error_with_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run `dvc repro fetch-extractor`"):
        load_extractor(tmp_path / name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_that_is_not_inception_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / INCEPTION).write_bytes(b"cut short")
    with pytest.raises(InputError, match=f"{INCEPTION}: not clean-fid's Inception"):
        load_extractor(tmp_path / INCEPTION)


def test_an_unknown_extractor_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "resnet.pth").touch()
    with pytest.raises(InputError, match=r"fid\.extractor is 'resnet\.pth'; known are efficientnet-lite0\.pth"):
        load_extractor(tmp_path / "resnet.pth")
