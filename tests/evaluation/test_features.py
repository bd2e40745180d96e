import os
import pickle
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


class StandIn(nn.Module):
    """As much of the Inception file as clean-fid uses: a member `layers` that ends in 2048 features."""

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
    torch.jit.script(StandIn()).save(path)
    return published(path, monkeypatch)


def random_inception(path: Path) -> Path:
    """The state dict that is published, of random weights; torchvision's network has parameters of the same names."""
    weights = Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    for tensor in weights.values():
        if tensor.dim() == 4:
            nn.init.kaiming_normal_(tensor)
    torch.save(weights, path)
    return path


def published(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if the file were the one that its name says."""
    monkeypatch.setitem(PUBLISHED, path.name, sha256_file(path))
    return path


class Malicious:
    """What a pickle may do, and `weights_only` forbids."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def pictures(count: int, side: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def mean_color(side: int) -> Extractor:
    return Extractor("fd_test", "kid_test", side, lambda images: images.mean(dim=(2, 3)))


def test_features_are_float32_rows_in_the_order_of_the_images() -> None:
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
def test_no_feature_depends_on_the_number_of_threads(inception: Path) -> None:
    extractor, images = load_extractor(inception), pictures(5, side=96)
    alone = extract(extractor, images, batch_size=2)
    torch.set_num_threads(3)
    assert np.array_equal(extract(extractor, images, batch_size=2), alone)


@pytest.mark.usefixtures("one_thread")
def test_no_more_than_a_batch_for_each_thread_is_taken_from_the_images() -> None:
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
@pytest.mark.usefixtures("one_thread")  # clean-fid's own bits depend on their number
def test_inception_features_equal_clean_fid_s_own_bit_for_bit(inception: Path, tmp_path: Path) -> None:
    images = pictures(5, side=96)
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
def test_only_inception_may_call_its_distance_fid(inception: Path, tmp_path: Path) -> None:
    torch.save(EfficientNetLite0().state_dict(), tmp_path / "efficientnet-lite0.pth")
    assert load_extractor(inception).frechet_key == "fid"
    assert load_extractor(tmp_path / "efficientnet-lite0.pth").frechet_key == "fd_effnetlite0"


@pytest.mark.parametrize("name", [TORCHSCRIPT, STATE_DICT, "efficientnet-lite0.pth"])
def test_a_missing_file_is_an_error_with_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; run `dvc repro fetch-extractor`"):
        load_extractor(tmp_path / name)


@pytest.mark.parametrize("name", [TORCHSCRIPT, STATE_DICT])
def test_a_file_that_is_not_the_published_inception_is_refused_by_its_hash(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"cut short")
    with pytest.raises(InputError, match=f"{name}: not the published Inception, by its sha256; check fetch.extractor"):
        load_extractor(tmp_path / name)


def test_nothing_in_a_state_dict_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / STATE_DICT).write_bytes(pickle.dumps({"fc.weight": Malicious()}))
    with pytest.raises(InputError, match="not the weights of Inception"):
        load_extractor(published(tmp_path / STATE_DICT, monkeypatch))
    assert not (tmp_path / "ran").exists()


def test_the_state_dict_s_network_is_torch_fidelity_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights in two implementations: every pooling, padding and scaling of the FID's own Inception."""
    torch.manual_seed(0)
    theirs = FeatureExtractorInceptionV3("stand-in", ["2048"], random_inception(tmp_path / STATE_DICT))
    extractor = load_extractor(published(tmp_path / STATE_DICT, monkeypatch))
    images = pictures(2, side=299)
    ours = extract(extractor, images, batch_size=2)
    assert extractor.frechet_key == "fid"
    assert ours.shape == (2, 2048)
    (expected,) = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    assert ours == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5 * float(expected.max()))
    assert ours.std(axis=0).mean() > 1e-3 * ours.mean()  # the two images have features of their own


def test_the_state_dict_tells_its_first_layers_64_features_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that other libraries call a FID of 64 features; the 2,048 beside them are the very same."""
    torch.manual_seed(0)
    theirs = FeatureExtractorInceptionV3("stand-in", ["64"], random_inception(tmp_path / STATE_DICT))
    path, images = published(tmp_path / STATE_DICT, monkeypatch), pictures(2, side=299)
    extractor = load_extractor(path, few=True)
    both = extract(extractor, images, batch_size=2)
    assert extractor.few == 64
    assert np.array_equal(both[:, :-64], extract(load_extractor(path), images, batch_size=2))
    (expected,) = theirs(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    assert both[:, -64:] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5 * float(expected.max()))


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
def test_nothing_is_rounded_to_tf32_whatever_was_set_before() -> None:
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append([setting.allow_tf32 for setting in TF32])
        return images.mean(dim=(2, 3))

    extract(Extractor("fd_test", "kid_test", 8, network), pictures(1), batch_size=1)
    assert seen == [[False, False]]
    assert [setting.allow_tf32 for setting in TF32] == [True, True]


def test_pictures_of_known_moments_are_at_a_known_distance() -> None:
    """Gray images of 0, 100, 200 and of 50, 100, 150: one mean, covariances of 100^2 and 50^2 in all nine places."""
    wide, narrow = ([np.full((32, 32, 3), gray, np.uint8) for gray in g] for g in ((0, 100, 200), (50, 100, 150)))
    a, b = (extract(mean_color(8), each, batch_size=2) for each in (wide, narrow))
    assert np.cov(a, rowvar=False) == pytest.approx(np.full((3, 3), 100.0**2))
    assert frechet_distance(a, b) == pytest.approx(3 * (100 - 50) ** 2)
