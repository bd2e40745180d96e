"""Frechet distance, alone and with feature extraction, compared with clean-fid in value and CPU time.

`python -m bench.frechet` takes about four minutes. clean-fid takes the matrix square root of the product of the
covariances (scipy's sqrtm). Ours takes the eigenvalues of a symmetric matrix.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import torch
from cleanfid.fid import compute_fid
from cleanfid.fid import frechet_distance as cleanfid_distance
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import Inception3

from bench.harness import interleaved, ratio, write_result
from finetune.evaluation.features import Extractor, extract
from finetune.evaluation.frechet import frechet_distance

FEATURES = 2048
FULL_RANK = 2200  # images per side for the distance alone
IMAGES = 32  # per folder
SIDE = 512  # pixels
BATCH = 16
REPEATS = 2


def cleanfid_frechet(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    moments = [m for x in (a, b) for m in (x.mean(axis=0, dtype=np.float64), np.cov(x, rowvar=False))]
    return float(cleanfid_distance(*moments))


def compare_distance() -> dict[str, object]:
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, FEATURES + 1) ** -0.5  # like features of photos: a few strong directions
    a, b = ((rng.normal(size=(FULL_RANK, FEATURES)) * spectrum + 0.01 * i).astype(np.float32) for i in range(2))
    result = compare(lambda: frechet_distance(a, b), lambda: cleanfid_frechet(a, b))
    return result | {"images": FULL_RANK, "features": FEATURES}


def compare_folders(root: Path) -> dict[str, object]:
    """Use Inception's architecture with random weights: the published ones are not in this repository."""
    torch.manual_seed(0)
    network = Inception3(aux_logits=False, init_weights=False).eval().requires_grad_(False)
    network.fc = torch.nn.Identity()
    extractor = Extractor("fd_bench", "kid_bench", 299, lambda images: network(images / 128 - 1))
    folders = [write_images(root / str(seed), seed) for seed in range(2)]

    def ours() -> float:
        return frechet_distance(*(extract(extractor, map(read, sorted(f.iterdir())), BATCH) for f in folders))

    def theirs() -> float:
        return float(
            compute_fid(
                *map(str, folders),
                custom_feat_extractor=extractor.network,
                num_workers=0,
                batch_size=BATCH,
                device=torch.device("cpu"),
                verbose=False,
                use_dataparallel=False,
            )
        )

    return compare(ours, theirs) | {"images": IMAGES, "features": FEATURES}


def write_images(folder: Path, seed: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png", compress_level=1)
    return folder


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def compare(ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, object]:
    values: dict[str, float] = {}
    candidates = {
        "ours": lambda: values.update(ours=ours()),
        "cleanfid": lambda: values.update(cleanfid=theirs()),
    }
    seconds = interleaved(candidates, REPEATS, process_time)
    return {
        "relative_difference": float(f"{abs(values['ours'] / values['cleanfid'] - 1):.2g}"),
        "seconds": {name: [round(each, 2) for each in times] for name, times in seconds.items()},
        "speedup": ratio(seconds["cleanfid"], seconds["ours"]),
    }


def main() -> None:
    distance = compare_distance()
    with tempfile.TemporaryDirectory() as root:
        folders = compare_folders(Path(root))
    result = {
        "clock": "process",
        "distance": distance,
        "features_and_distance": folders,
        "threads": torch.get_num_threads(),
    }
    write_result("frechet", ["clean-fid", "numpy", "scipy", "torch"], result)


if __name__ == "__main__":
    main()
