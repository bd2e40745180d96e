"""CLIP embeddings of images and captions (Radford et al., 2021), for runs that fetch its weights."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from finetune.errors import InputError
from finetune.model.determinism import default_device, full_precision, map_single_threaded

FILES = ("config.json", "merges.txt", "model.safetensors", "vocab.json")
MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB normalization of OpenAI's models
STD = (0.26862954, 0.26130258, 0.27577711)
T = TypeVar("T")


class Clip:
    """Embeds square images and captions. Images are queued one at a time and encoded in batches."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        """Load a model from a folder with FILES, named as on the hub. Raises InputError if one is missing or broken."""
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise InputError(f"{folder}: {', '.join(missing)} is missing; list it under fetch.extractor")
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder}: not a CLIP model: {error}") from None
        self._device = default_device()
        self._model = model.requires_grad_(False).eval().to(self._device)
        self._side = model.config.vision_config.image_size
        self._batch_size = batch_size
        self._queue: list[NDArray[np.uint8]] = []

    def add_image(self, image: NDArray[np.uint8]) -> None:
        """Queue an RGB image, `uint8 [side, side, 3]`."""
        resized = Image.fromarray(image).resize((self._side, self._side), Image.Resampling.BICUBIC)
        self._queue.append(np.asarray(resized))

    def encode_images(self) -> NDArray[np.float32]:
        """Return the unit-length embeddings `[n, d]` of the queued images, in order, and empty the queue."""
        queue, self._queue = self._queue, []
        return self._encode(self._encode_pixels, queue)

    def encode_captions(self, captions: list[str]) -> NDArray[np.float32]:
        """Return the unit-length embeddings `[n, d]` of captions, truncated to CLIP's 77 tokens."""
        return self._encode(self._encode_text, captions)

    def _encode(self, encode: Callable[[list[T]], NDArray[np.float32]], items: list[T]) -> NDArray[np.float32]:
        batches = (items[start : start + self._batch_size] for start in range(0, len(items), self._batch_size))
        with full_precision():
            return np.concatenate(list(map_single_threaded(encode, batches, self._device)))

    @torch.no_grad()
    def _encode_pixels(self, batch: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        normalized = (np.stack(batch) / 255 - MEAN) / STD
        pixels = torch.from_numpy(normalized).float().permute(0, 3, 1, 2).to(self._device)
        return _unit(self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output))

    @torch.no_grad()
    def _encode_text(self, batch: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(batch, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        hidden = self._model.text_model(**tokens.to(self._device)).pooler_output
        return _unit(self._model.text_projection(hidden))


@lru_cache(maxsize=1)
def load_clip(folder: Path, batch_size: int) -> Clip:
    """Load CLIP once per process."""
    return Clip(folder, batch_size)


def _unit(vectors: Tensor) -> NDArray[np.float32]:
    return F.normalize(vectors.float(), dim=-1).cpu().numpy()
