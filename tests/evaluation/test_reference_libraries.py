"""Metrics equal those of clean-fid, torch-fidelity and torchmetrics."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import compute_fid
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from finetune.data.shards import read_images, read_index
from finetune.evaluation.features import INCEPTION_SIZE, Extractor, extract
from finetune.evaluation.frechet import frechet_distance
from finetune.evaluation.mmd import kid
from finetune.evaluation.prdc import precision, recall
from tests.builders.image_sets import shapes, write_generated_rows

Images = list[NDArray[np.uint8]]


class SmallConvolution(nn.Module):
    """An extractor that needs no download: 24 features of 299x299 images in 0..255."""

    num_features = 24  # torchmetrics reads it

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 24, 9, stride=7)
        self.features: list[NDArray[np.float32]] = []

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.convolution(images.float() / 128 - 1)).mean(dim=(2, 3))
        self.features.append(features.numpy())
        return features


def photos(seed: int, count: int) -> Images:
    """Noisy images of different heights, so that resizing matters."""
    rng = np.random.default_rng(seed)
    grain = [rng.integers(-40, 40, (64, 64, 3)) for _ in range(count)]
    noisy = [np.clip(image + g, 0, 255).astype(np.uint8) for image, g in zip(shapes(seed, count), grain, strict=True)]
    return [image[: 40 + i % 24] for i, image in enumerate(noisy)]


def as_files(folder: Path, images: Images) -> Path:
    folder.mkdir()
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def as_shard(folder: Path, images: Images) -> Path:
    rows = [{"id": f"{i:03d}", "dataset": "coco", "prompt": "", "seed": 0} for i in range(len(images))]
    write_generated_rows(folder, rows, images)
    return folder


def streamed(folder: Path, network: nn.Module, batch_size: int) -> NDArray[np.float32]:
    extractor = Extractor("fd_small", "kid_small", INCEPTION_SIZE, network)
    return extract(extractor, (pixels for _, pixels in read_images(folder, read_index(folder))), batch_size)


def test_features_and_distance_equal_clean_fid(tmp_path: Path) -> None:
    """Features are bit-identical at a different batch size. clean-fid's distance has the rounding of float32 means."""
    network = SmallConvolution()
    sets = {"real": photos(1, 60), "generated": photos(2, 45)}
    folders = [str(as_files(tmp_path / f"{name}-files", images)) for name, images in sets.items()]
    theirs = compute_fid(
        *folders,
        custom_feat_extractor=network,
        num_workers=0,
        batch_size=32,
        device=torch.device("cpu"),
        verbose=False,
        use_dataparallel=False,
    )
    features = np.concatenate(network.features)
    shards = [as_shard(tmp_path / name, images) for name, images in sets.items()]
    real, generated = (streamed(folder, network, batch_size=7) for folder in shards)
    assert np.array_equal(np.concatenate([real, generated]), features)
    assert frechet_distance(real, generated) == pytest.approx(theirs, rel=1e-6)


def correlated(seed: int, n: int, d: int = 32) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + rng.normal(size=d)).astype(np.float32)


REAL, GENERATED = correlated(1, 300), correlated(2, 300)
SIZES = [(300, 300), (90, 300), (40, 60)]
each_size = pytest.mark.parametrize(("n", "m"), SIZES)


@each_size
def test_frechet_distance_equals_torch_fidelity(n: int, m: int) -> None:
    a, b = (fid_features_to_statistics(torch.from_numpy(x)) for x in (REAL[:n], GENERATED[:m]))
    (theirs,) = fid_statistics_to_metric(a, b, verbose=False).values()
    assert frechet_distance(REAL[:n], GENERATED[:m]) == pytest.approx(theirs, rel=1e-5)


def test_kid_equals_torch_fidelity() -> None:
    """With one subset that contains everything, like our estimate."""
    features = (torch.from_numpy(x.astype(np.float64)) for x in (GENERATED, REAL))
    theirs = kid_features_to_metric(*features, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert kid(GENERATED, REAL) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_equal_torch_fidelity(k: int) -> None:
    generated = REAL[:120] + GENERATED[:120] / 3  # some close to real ones
    tensors = (torch.from_numpy(x) for x in (generated, REAL[120:]))
    theirs = prc_features_to_metric(*tensors, prc_neighborhood=k, verbose=False)
    assert 0 < theirs["precision"] < 1
    assert 0 < theirs["recall"] < 1
    assert precision(REAL[120:], generated, k) == pytest.approx(theirs["precision"])
    assert recall(REAL[120:], generated, k) == pytest.approx(theirs["recall"])


def test_frechet_distance_and_kid_equal_torchmetrics() -> None:
    """With images of the network's input size, so that no resizing differs."""
    network = SmallConvolution()
    sets = [np.random.default_rng(i).integers(0, 200 + 50 * i, (30, 299, 299, 3), np.uint8) for i in range(2)]
    metrics = [
        FrechetInceptionDistance(feature=network),
        KernelInceptionDistance(feature=network, subsets=1, subset_size=30),
    ]
    for images, real in zip(sets, (True, False), strict=True):
        for metric in metrics:
            metric.update(torch.from_numpy(images).permute(0, 3, 1, 2), real=real)
    extractor = Extractor("fd_small", "kid_small", INCEPTION_SIZE, network)
    features = [extract(extractor, iter(images), batch_size=8) for images in sets]
    assert frechet_distance(*features) == pytest.approx(float(metrics[0].compute()), rel=1e-5)
    mean, _deviation = metrics[1].compute()
    assert kid(*features) == pytest.approx(float(mean), rel=1e-4, abs=1e-6)


def test_features_and_distance_do_not_need_scipy() -> None:
    """clean-fid's own distance fails with scipy 1.18; only the tests call it."""
    program = (
        "import finetune, sys\n"
        "import torch, torchvision\n"
        "sys.modules['scipy'] = sys.modules['scipy.linalg'] = None\n"
        "import numpy as np\n"
        "from finetune.evaluation.features import Extractor, extract\n"
        "from finetune.evaluation.frechet import frechet_distance\n"
        "network = Extractor('fd_test', 'kid_test', 8, lambda images: images.mean(dim=(2, 3)))\n"
        "images = np.random.default_rng(0).integers(0, 256, (2, 9, 16, 16, 3), np.uint8)\n"
        "print(frechet_distance(*(extract(network, each, 4) for each in images)) > 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
