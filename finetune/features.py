"""Images to the features that Frechet distance and KID compare; the only module that knows clean-fid."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import make_resizer
from numpy.typing import NDArray
from torch import Tensor

from finetune import efficientnet_lite
from finetune.errors import InputError


@dataclass(frozen=True)
class Extractor:
    """A network and what it takes in; no two extractors share a metric's key, since their scales differ."""

    frechet_key: str
    kid_key: str
    input_size: int  # pixels
    network: Callable[[Tensor], Tensor]  # float32 [n, 3, input_size, input_size] in 0..255 -> [n, features]


def load_extractor(path: Path) -> Extractor:
    """By file name: `efficientnet-lite0.pth`, or `inception-2015-12-05.pt`, the only one whose distance is a FID."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro fetch-extractor`")
    if path.name == "efficientnet-lite0.pth":
        network = efficientnet_lite.load_efficientnet_lite(path)
        return Extractor("fd_effnetlite0", "kid_effnetlite0", efficientnet_lite.INPUT_SIZE, network.to(_device()))
    if path.name == "inception-2015-12-05.pt":
        try:
            network = InceptionV3W(str(path.parent), download=False).eval()
        except RuntimeError:
            raise InputError(f"{path}: not clean-fid's Inception; check fetch.extractor") from None
        return Extractor("fid", "kid", 299, network.to(_device()))
    raise InputError(
        f"params.yaml: fid.extractor is {path.name!r}; known are efficientnet-lite0.pth and inception-2015-12-05.pt"
    )


def extract(extractor: Extractor, images: Iterable[NDArray[np.uint8]], batch_size: int) -> NDArray[np.float32]:
    """Features `[n, d]` of RGB images `uint8 [height, width, 3]`, resized as clean-fid does (Parmar et al., 2022).

    That is PIL's antialiased bicubic filter on floats, without rounding back to bytes. Only one batch of images is
    in memory. Raises InputError for features that are not finite.
    """
    side = extractor.input_size
    resize = make_resizer("PIL", False, "bicubic", (side, side))
    remaining = iter(images)
    batches = []
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        while batch := [resize(image) for image in islice(remaining, batch_size)]:
            inputs = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous()
            batches.append(extractor.network(inputs.to(_device())).cpu().numpy())
    features = np.concatenate(batches)
    if not np.isfinite(features).all():
        raise InputError("the extractor's features are not finite; fetch models/extractor again")
    return features


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
