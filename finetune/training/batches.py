"""Training batches as a pure function of the seed and the sample number.

Image order, caption choice, flips, caption dropout, timesteps and noise all come from seeded generators, and nothing
here has state. An interrupted run resumes with exactly the batches it would have seen, for any number of processes.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.artifacts import read_json
from finetune.data.arrays import read_array
from finetune.data.latents import MANIFEST, LatentCache, vae_fingerprint
from finetune.data.shards import read_rows
from finetune.errors import InputError
from finetune.model.config import read_config
from finetune.model.determinism import derive_seed, generator
from finetune.params import Train


@dataclass(frozen=True)
class Batch:
    moments: Tensor  # float16 [n, 2c, h, w], unscaled
    posterior_noise: Tensor  # float32 [n, c, h, w]
    noise: Tensor  # float32 [n, c, h, w]
    timesteps: Tensor  # int64 [n]
    token_ids: Tensor  # int64 [n, 77]

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


class CaptionedLatents:
    """Cached latents and caption tokens, indexed by the rows of data/tokens/images.parquet."""

    def __init__(self, tokens: Path, latents: dict[str, Path]) -> None:
        """latents: dataset -> its folder. `check_match` verifies that they belong to `tokens`."""
        self.rows: list[dict[str, Any]] = list(read_rows(tokens / "images.parquet"))
        self.token_ids: NDArray[np.uint16] = read_array(tokens / "ids.npy", mmap_mode="r")
        self.empty_ids: list[int] = read_json(tokens / MANIFEST)["empty"]
        self._caches = [LatentCache(latents[dataset]) for dataset, _ in groupby(self.rows, itemgetter("dataset"))]
        self._starts = np.cumsum([0, *map(len, self._caches)])

    def rows_in_split(self, split: str) -> list[int]:
        """Return the rows of `split` that have at least one caption."""
        return [i for i, row in enumerate(self.rows) if row["split"] == split and row["captions"] > 0]

    def moments(self, row: int, mirrored: bool) -> Tensor:
        """Unscaled posterior moments of one image or of its mirror image, as in LatentCache: float16 [2c, h, w]."""
        cache = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._caches[cache].moments(row - int(self._starts[cache]), mirrored)

    def caption_ids(self, row: int, number: int) -> Tensor:
        """Token ids of one of the image's captions: int64 [77]."""
        return torch.from_numpy(self.token_ids[self.rows[row]["first"] + number].astype(np.int64))


@dataclass(frozen=True)
class Schedule:
    """Assigns samples to optimizer steps. The last, partial global batch of each epoch is dropped."""

    seed: int
    images: int
    epochs: int
    global_batch: int  # samples per optimizer step, over all processes and accumulated batches

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.global_batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def image_index(self, sample: int) -> int:
        """Return the training image of the run's n-th sample. Each epoch is a new permutation."""
        epoch, position = divmod(sample, self.steps_per_epoch * self.global_batch)
        return int(_permutation(self.seed, epoch, self.images)[position])


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, "order", epoch))).permutation(images)


def training_batch(
    data: CaptionedLatents,
    rows: list[int],
    schedule: Schedule,
    samples: range,
    params: Train,
    timesteps: int,
) -> Batch:
    """Return the batch of the given samples of the run, with timesteps uniform in [0, `timesteps`).

    `params.noise_offset` is the standard deviation of a normal offset per channel of the noise, with which the network
    learns to change an image's mean brightness (Guttenberg, 2023, "Diffusion with Offset Noise").
    """
    moments, posterior_noises, noises, times, ids = [], [], [], [], []
    for sample in samples:
        row = rows[schedule.image_index(sample)]
        rng = generator(schedule.seed, "sample", sample)
        # draw every number even if its parameter disables it, so that changing one parameter leaves the rest alone
        flip, drop = torch.rand(2, generator=rng).tolist()
        caption = int(torch.randint(2**31, (), generator=rng)) % data.rows[row]["captions"]
        times.append(int(torch.randint(timesteps, (), generator=rng)))
        moments.append(data.moments(row, flip < params.flip_probability))
        shape = (moments[-1].shape[0] // 2, *moments[-1].shape[1:])
        posterior_noises.append(torch.randn(shape, generator=rng))
        noise, offset = torch.randn(shape, generator=rng), torch.randn((shape[0], 1, 1), generator=rng)
        noises.append(noise + params.noise_offset * offset)
        ids.append(torch.tensor(data.empty_ids) if drop < params.caption_dropout else data.caption_ids(row, caption))
    return Batch(
        torch.stack(moments), torch.stack(posterior_noises), torch.stack(noises), torch.tensor(times), torch.stack(ids)
    )


T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Returns `make(n)` and starts `make(n + 1)` in a background thread."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1)
        self._next: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        current = self._next.pop(number, None) or self._pool.submit(self._make, number)
        self._next = {number + 1: self._pool.submit(self._make, number + 1)}
        return current.result()


def check_match(tokens: Path, latents: dict[str, Path], base: Path) -> None:
    """Check that token ids, latents and base model are consistent. latents: dataset -> folder.

    Raises InputError if the tokenizer has more tokens than the text encoder, if latents come from a different VAE, or
    if tokens and latents list different images.
    """
    token_manifest = read_json(tokens / MANIFEST)
    vocab_size = read_config(base, "text_encoder")["vocab_size"]
    if token_manifest["vocab_size"] > vocab_size:
        raise InputError(
            f"{tokens}: the tokenizer has {token_manifest['vocab_size']} tokens, but {base / 'text_encoder'} only "
            f"{vocab_size}; run `dvc repro tokenize`"
        )
    expected = vae_fingerprint(base / "vae")
    for dataset, folder in latents.items():
        manifest = read_json(folder / MANIFEST)
        if manifest["vae_fingerprint"] != expected:
            raise InputError(
                f"{folder}: encoded with a different VAE than {base / 'vae'}; run `dvc repro latents@{dataset}`"
            )
        if manifest["index_sha256"] != token_manifest["indexes"].get(dataset):
            raise InputError(f"{tokens} and {folder} list different images; run `dvc repro tokenize latents@{dataset}`")
