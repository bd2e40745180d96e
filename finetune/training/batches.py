"""What a training step sees, as a function of (seed, step): order, caption, mirror, dropout, timestep, noise.

Nothing here has a state, so a run that is stopped anywhere goes on with the very batches it would have seen, for
any number of processes that share the global batch.
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


@dataclass(frozen=True)
class Batch:
    moments: Tensor  # float16 [n, 8, h, w], unscaled
    posterior_noise: Tensor  # float32 [n, 4, h, w]
    noise: Tensor  # float32 [n, 4, h, w]
    timesteps: Tensor  # int64 [n]
    token_ids: Tensor  # int64 [n, 77]

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))


class CaptionedLatents:
    """Latents and captions of every image, by row of data/tokens/images.parquet."""

    def __init__(self, tokens: Path, latents: dict[str, Path]) -> None:
        """latents: dataset -> its folder. That they belong to the tokens is `check_match`'s to know."""
        self.rows: list[dict[str, Any]] = list(read_rows(tokens / "images.parquet"))
        self.token_ids: NDArray[np.uint16] = read_array(tokens / "ids.npy", mmap_mode="r")
        self.empty_ids: list[int] = read_json(tokens / MANIFEST)["empty"]
        in_order = [latents[dataset] for dataset, _ in groupby(self.rows, itemgetter("dataset"))]
        self._caches = [LatentCache(folder) for folder in in_order]
        self._starts = np.cumsum([0, *map(len, self._caches)])

    def rows_in_split(self, split: str) -> list[int]:
        """Rows of a split that have a caption."""
        return [i for i, row in enumerate(self.rows) if row["split"] == split and row["captions"] > 0]

    def moments(self, row: int, mirrored: bool) -> Tensor:
        """float16 [8, h, w]."""
        cache = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._caches[cache].moments(row - int(self._starts[cache]), mirrored)

    def caption_ids(self, row: int, number: int) -> Tensor:
        """int64 [77]."""
        return torch.from_numpy(self.token_ids[self.rows[row]["first"] + number].astype(np.int64))


@dataclass(frozen=True)
class Schedule:
    """Which samples make up which step. The last partial global batch of an epoch is left out."""

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

    def image_of(self, sample: int) -> int:
        """Position among the training images of the run's n-th sample: each epoch is a permutation of its own."""
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
    *,
    timesteps: int,
    caption_dropout: float,
    flip_probability: float,
    noise_offset: float,
) -> Batch:
    """The batch of the run's samples `samples`; timesteps are uniform in [0, `timesteps`).

    `noise_offset` times a normal draw shifts each channel of the noise (Guttenberg, 2023, "Diffusion with offset
    noise"), so that the network learns to move an image's mean.
    """
    moments, posterior_noises, noises, times, ids = [], [], [], [], []
    for sample in samples:
        row = rows[schedule.image_of(sample)]
        rng = generator(schedule.seed, "sample", sample)
        # one draw per decision, whatever the parameters: changing one leaves the others' draws alone
        flip, drop = torch.rand(2, generator=rng).tolist()
        caption = int(torch.randint(2**31, (), generator=rng)) % data.rows[row]["captions"]
        times.append(int(torch.randint(timesteps, (), generator=rng)))
        moments.append(data.moments(row, flip < flip_probability))
        shape = (moments[-1].shape[0] // 2, *moments[-1].shape[1:])
        posterior_noises.append(torch.randn(shape, generator=rng))
        noise, offset = torch.randn(shape, generator=rng), torch.randn((shape[0], 1, 1), generator=rng)
        noises.append(noise + noise_offset * offset)
        ids.append(torch.tensor(data.empty_ids) if drop < caption_dropout else data.caption_ids(row, caption))
    return Batch(
        torch.stack(moments), torch.stack(posterior_noises), torch.stack(noises), torch.tensor(times), torch.stack(ids)
    )


T = TypeVar("T")


class Prefetcher(Generic[T]):
    """`make(n)` for any n, with `make(n + 1)` already under way in a thread: a change of speed, not of values."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1)
        self._next: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        wanted = self._next.pop(number, None) or self._pool.submit(self._make, number)
        self._next = {number + 1: self._pool.submit(self._make, number + 1)}
        return wanted.result()


def check_match(tokens: Path, latents: dict[str, Path], base: Path) -> None:
    """Raises InputError where latents come from another VAE or are of other images than the tokens, and where
    captions hold tokens that the text encoder lacks. latents: dataset -> its folder.
    """
    described = read_json(tokens / MANIFEST)
    known = read_config(base, "text_encoder")["vocab_size"]
    if described["vocab_size"] > known:
        raise InputError(
            f"{tokens}: its tokenizer knows {described['vocab_size']} tokens, {base / 'text_encoder'} {known}; "
            "run `dvc repro tokenize`"
        )
    expected = vae_fingerprint(base / "vae")
    for dataset, folder in latents.items():
        manifest = read_json(folder / MANIFEST)
        if manifest["vae_fingerprint"] != expected:
            raise InputError(f"{folder}: encoded by another VAE than {base / 'vae'}; run `dvc repro latents@{dataset}`")
        if manifest["index_sha256"] != described["indexes"].get(dataset):
            raise InputError(f"{tokens} and {folder} list different images; run `dvc repro tokenize latents@{dataset}`")
