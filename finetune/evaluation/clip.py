"""CLIP's view of images and captions, for a run to which its weights are given (Radford et al., 2021)."""

from functools import lru_cache
from pathlib import Path

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
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the colors that OpenAI's CLIP was trained on, and their
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """Square images and captions to embeddings. Images are taken one at a time, embedded in batches."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        """folder: holds FILES, as OpenAI's models on the hub do. Raises InputError where it does not."""
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise InputError(f"{folder}: holds no {', '.join(missing)}; list them under fetch.extractor")
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{folder}: not a CLIP model: {error}") from None
        self._device = default_device()
        self._model = model.requires_grad_(False).eval().to(self._device)
        self._side = model.config.vision_config.image_size
        self._batch_size = batch_size
        self._waiting: list[NDArray[np.uint8]] = []

    def see(self, image: NDArray[np.uint8]) -> None:
        """RGB `uint8 [side, side, 3]`."""
        resized = Image.fromarray(image).resize((self._side, self._side), Image.Resampling.BICUBIC)
        self._waiting.append(np.asarray(resized))

    def seen(self) -> NDArray[np.float32]:
        """Embeddings `[n, d]`, of length 1, of all images since the last call, in their order."""
        waiting, self._waiting = self._waiting, []
        batches = (waiting[start : start + self._batch_size] for start in range(0, len(waiting), self._batch_size))
        with full_precision():
            return np.concatenate(list(map_single_threaded(self._of_pictures, batches, self._device)))

    def read(self, captions: list[str]) -> NDArray[np.float32]:
        """Captions longer than CLIP's 77 tokens are cut."""
        batches = (captions[start : start + self._batch_size] for start in range(0, len(captions), self._batch_size))
        with full_precision():
            return np.concatenate(list(map_single_threaded(self._of_captions, batches, self._device)))

    @torch.no_grad()
    def _of_pictures(self, batch: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = (
            torch.from_numpy((np.stack(batch) / 255 - MEAN) / DEVIATION).float().permute(0, 3, 1, 2).to(self._device)
        )
        return _unit(self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output))

    @torch.no_grad()
    def _of_captions(self, batch: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(batch, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        hidden = self._model.text_model(**tokens.to(self._device)).pooler_output
        return _unit(self._model.text_projection(hidden))


@lru_cache(maxsize=1)
def load_clip(folder: Path, batch_size: int) -> Clip:
    """Once for all shards that a process looks at."""
    return Clip(folder, batch_size)


def _unit(vectors: Tensor) -> NDArray[np.float32]:
    return F.normalize(vectors.float(), dim=-1).cpu().numpy()
