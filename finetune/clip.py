"""CLIP's view of pictures and captions, for a run to which its weights are given (Radford et al., 2021)."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from finetune.errors import InputError

FILES = ("config.json", "merges.txt", "model.safetensors", "vocab.json")
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the colors that OpenAI's CLIP was trained on, and their
DEVIATION = (0.26862954, 0.26130258, 0.27577711)

BANDWIDTH = 10.0  # of the Gaussian kernel, and
SCALE = 1000.0  # of the distance: those of Jayasumana et al. (2024)

Embeddings = NDArray[np.float32]  # [n, d], of length 1


class Clip:
    """Square pictures and captions to embeddings. Pictures are taken one at a time and embedded a batch at a time."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        """folder: holds FILES, as OpenAI's models on the hub do. Raises InputError where it does not."""
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise InputError(f"{folder}: holds no {', '.join(missing)}; list them under fetch.extractor")
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: not a CLIP model: {error}") from None
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.requires_grad_(False).eval().to(self._device)
        self._side = model.config.vision_config.image_size
        self._batch_size = batch_size
        self._waiting: list[NDArray[np.float64]] = []
        self._seen: list[Embeddings] = []

    def see(self, picture: NDArray[np.uint8]) -> None:
        """RGB `uint8 [side, side, 3]`."""
        resized = Image.fromarray(picture).resize((self._side, self._side), Image.Resampling.BICUBIC)
        self._waiting.append((np.asarray(resized) / 255 - MEAN) / DEVIATION)
        if len(self._waiting) == self._batch_size:
            self._embed()

    def seen(self) -> Embeddings:
        """Of all pictures so far, in their order."""
        if self._waiting:
            self._embed()
        return np.concatenate(self._seen)

    @torch.no_grad()
    def read(self, captions: list[str]) -> Embeddings:
        """Captions longer than CLIP's 77 tokens are cut."""
        parts = []
        for start in range(0, len(captions), self._batch_size):
            chosen = captions[start : start + self._batch_size]
            tokens = self._tokenizer(chosen, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            hidden = self._model.text_model(**tokens.to(self._device)).pooler_output
            parts.append(_unit(self._model.text_projection(hidden)))
        return np.concatenate(parts)

    @torch.no_grad()
    def _embed(self) -> None:
        pixels = torch.from_numpy(np.stack(self._waiting)).float().permute(0, 3, 1, 2).to(self._device)
        hidden = self._model.vision_model(pixel_values=pixels).pooler_output
        self._seen.append(_unit(self._model.visual_projection(hidden)))
        self._waiting = []


def clip_score(pictures: Embeddings, captions: Embeddings) -> float:
    """The mean of 100 max(cosine, 0) between each picture and its caption: torchmetrics' scale, not Hessel's 2.5."""
    cosines = (pictures.astype(np.float64) * captions).sum(axis=1)
    return float(100 * np.maximum(cosines, 0).mean())


def cmmd(a: Embeddings, b: Embeddings) -> float:
    """CLIP's maximum mean discrepancy (Jayasumana et al., 2024), by the unbiased estimate: 0 on average for equal sets.

    Their code has the biased one, which is larger by about 2 / n of the kernel's spread.
    """
    within = [_kernel(x, x) for x in (a, b)]
    means = [(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in within]
    return float(SCALE * (means[0] + means[1] - 2 * _kernel(a, b).mean()))


def _kernel(a: Embeddings, b: Embeddings) -> NDArray[np.float64]:
    """Of vectors of length 1, whose squared distance is 2 - 2 x.y."""
    return np.exp((a.astype(np.float64) @ b.astype(np.float64).T - 1) / BANDWIDTH**2)


def _unit(vectors: Tensor) -> Embeddings:
    return F.normalize(vectors.float(), dim=-1).cpu().numpy()
