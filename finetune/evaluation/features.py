"""Feature extraction for FID and KID. This is the only module that imports clean-fid."""

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from cleanfid import inception_pytorch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import make_resizer
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import Inception3

from finetune.artifacts import sha256_file
from finetune.errors import InputError
from finetune.evaluation import efficientnet_lite
from finetune.model.determinism import default_device, full_precision, map_single_threaded
from finetune.packaged import resolve

EFFICIENTNET = "efficientnet-lite0.pth"
TORCHSCRIPT = "inception-2015-12-05.pt"  # clean-fid's
STATE_DICT = "pt_inception-2015-12-05-6726825d.pth"  # pytorch-fid's and torch-fidelity's file of the same weights
PUBLISHED = {  # sha256; a distance is a FID only with these weights
    TORCHSCRIPT: "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    STATE_DICT: "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
}
INCEPTION_SIZE = 299  # pixels
EARLY_LAYERS = 4  # of Inception, through its first pooling
NUM_EARLY_FEATURES = 64  # output channels of those layers


@dataclass(frozen=True)
class Extractor:
    """A network and its input size. Each extractor has metric keys of its own, because the scales differ."""

    frechet_key: str
    kid_key: str
    input_size: int  # pixels
    network: Callable[[Tensor], Tensor]  # float32 [n, 3, input_size, input_size] in 0..255 -> [n, features]
    num_early: int = 0  # the last features that come from Inception's early layers; they are a separate metric


@lru_cache(maxsize=1)
def load_extractor(path: Path, early: bool = False) -> Extractor:
    """Load EfficientNet-Lite0 or Inception (two published files), chosen by file name, once per process.

    path: the weights; for EfficientNet-Lite0, `<path>.json` may refer to a file of an installed package instead.
    early: append the mean of each of the 64 channels of Inception's early layers to the features. TorchScript does
    not expose them, so this has an effect on Inception's state dict only.

    Raises InputError for any other file, or if Inception's hash is not the published one. There is no fallback: it
    would report a different quantity under the same key.
    """
    file = resolve(path)
    if not file.is_file():
        raise InputError(f"{path}: no such file; run `dvc repro fetch-extractor`")
    if path.name == EFFICIENTNET:
        network = efficientnet_lite.load_efficientnet_lite(file)
        return Extractor(
            "fd_effnetlite0", "kid_effnetlite0", efficientnet_lite.INPUT_SIZE, network.to(default_device())
        )
    if sha256_file(path) != PUBLISHED.get(path.name):
        raise InputError(f"{path}: not the published Inception, by its sha256; check fetch.extractor")
    early = early and path.name == STATE_DICT
    inception = InceptionV3W(str(path.parent), download=False) if path.name == TORCHSCRIPT else _Inception(path, early)
    inception.requires_grad_(False).eval().to(default_device())
    return Extractor("fid", "kid", INCEPTION_SIZE, inception, NUM_EARLY_FEATURES if early else 0)


class _Inception(nn.Module):
    """The network of the TorchScript file, loaded from the state dict; input scaling as in TorchScript."""

    def __init__(self, path: Path, early: bool) -> None:
        super().__init__()
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        for name, block in (
            ("Mixed_5b", inception_pytorch.FIDInceptionA(192, pool_features=32)),
            ("Mixed_5c", inception_pytorch.FIDInceptionA(256, pool_features=64)),
            ("Mixed_5d", inception_pytorch.FIDInceptionA(288, pool_features=64)),
            ("Mixed_6b", inception_pytorch.FIDInceptionC(768, channels_7x7=128)),
            ("Mixed_6c", inception_pytorch.FIDInceptionC(768, channels_7x7=160)),
            ("Mixed_6d", inception_pytorch.FIDInceptionC(768, channels_7x7=160)),
            ("Mixed_6e", inception_pytorch.FIDInceptionC(768, channels_7x7=192)),
            ("Mixed_7b", inception_pytorch.FIDInceptionE_1(1280)),
            ("Mixed_7c", inception_pytorch.FIDInceptionE_2(2048)),
        ):
            setattr(network, name, block)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, pickle.UnpicklingError, EOFError):
            raise InputError(f"{path}: not Inception weights; check fetch.extractor") from None
        layers = [layer for layer in network.children() if layer is not network.fc]  # its input is the feature vector
        self._early, self._late = nn.Sequential(*layers[:EARLY_LAYERS]), nn.Sequential(*layers[EARLY_LAYERS:])
        self._return_early = early

    def forward(self, images: Tensor) -> Tensor:
        early = self._early((images - 128) / 128)
        features = self._late(early).flatten(1)
        return torch.cat([features, early.mean(dim=(2, 3))], dim=1) if self._return_early else features


def extract(extractor: Extractor, images: Iterable[NDArray[np.uint8]], batch_size: int) -> NDArray[np.float32]:
    """Return features `[n, d]` of RGB images `uint8 [height, width, 3]`, resized as in clean-fid (Parmar et al., 2022).

    clean-fid uses PIL's antialiased bicubic filter on floats, without rounding to bytes. Memory holds one batch per
    core. Raises InputError if a feature is not finite.
    """
    side = extractor.input_size
    resize = make_resizer("PIL", False, "bicubic", (side, side))
    remaining = iter(images)

    @torch.no_grad()
    def extract_batch(batch: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        inputs = torch.from_numpy(np.stack([resize(image) for image in batch])).permute(0, 3, 1, 2).contiguous()
        return extractor.network(inputs.to(default_device())).cpu().numpy()

    batches = iter(lambda: list(islice(remaining, batch_size)), [])
    with full_precision():
        features = np.concatenate(list(map_single_threaded(extract_batch, batches, default_device())))
    if not np.isfinite(features).all():
        raise InputError("the extractor returned non-finite features; fetch models/extractor again")
    return features
