"""CLIP embeddings, with a small model of random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from finetune.errors import InputError
from finetune.evaluation.clip import MEAN, STD, Clip
from finetune.evaluation.feature_set import read_feature_set
from finetune.evaluation.features import Extractor
from stages.features import features, generated_images
from stages.generate import SCHEMA as GENERATED_SCHEMA
from stages.reconstruct import SCHEMA as RECONSTRUCTED_SCHEMA
from tests.builders.image_sets import shapes, write_generated_rows


@pytest.fixture(scope="module")
def clip_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with random weights, in the layout of the hub."""
    folder = tmp_path_factory.mktemp("extractor") / "clip"
    tokenizer = CLIPTokenizer.from_pretrained(tiny_base / "tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    text = CLIPTextConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **small)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            shutil.copy(tiny_base / "tokenizer" / name, folder / name)
    return folder


def test_embeddings_have_unit_length_and_equal_those_of_the_model(clip_folder: Path) -> None:
    images, captions = shapes(1, 5), ["a star", "stars", "", "a star " * 99, "a"]
    clip = Clip(clip_folder, batch_size=2)
    for image in images:
        clip.add_image(image)
    image_embeds, text_embeds = clip.encode_images(), clip.encode_captions(captions)
    assert image_embeds.shape == text_embeds.shape == (5, 12)
    assert np.linalg.norm(image_embeds, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    small = np.asarray(Image.fromarray(images[3]).resize((32, 32), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy((small / 255 - MEAN) / STD).float().permute(2, 0, 1)[None]
    model = CLIPModel.from_pretrained(clip_folder)
    ids = CLIPTokenizer.from_pretrained(clip_folder)(["stars"], return_tensors="pt")
    with torch.no_grad():
        theirs = model(pixel_values=pixels, **ids)
    assert image_embeds[3] == pytest.approx(theirs.image_embeds[0].numpy(), abs=1e-5)
    assert text_embeds[1] == pytest.approx(theirs.text_embeds[0].numpy(), abs=1e-5)


def test_missing_file_is_named(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"clip: merges\.txt is missing; list it under fetch\.extractor"):
        Clip(tmp_path / "clip", batch_size=2)


def test_features_stage_stores_clip_embeddings(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Extractor("fd_quick", "kid_quick", 8, lambda images: images.mean(dim=(2, 3)))
    monkeypatch.setattr("stages.features.load_extractor", lambda *_, **__: quick)
    (tmp_path / "quick.pth").write_bytes(b"weights")
    rows = [{"id": str(i), "dataset": "coco", "prompt": "a star", "seed": i} for i in range(5)]
    for name, schema in {"generated": GENERATED_SCHEMA, "reconstructed": RECONSTRUCTED_SCHEMA}.items():
        write_generated_rows(tmp_path / "images" / name, rows, shapes(1, 5), schema)
        parts = generated_images(tmp_path / "images" / name, name)
        features(parts, tmp_path, tmp_path / "quick.pth", tmp_path / name, 2, clip_folder)
    generated, reconstructed = (read_feature_set(tmp_path / name) for name in ("generated", "reconstructed"))
    assert generated.clip_images is not None
    assert np.array_equal(generated.clip_images, reconstructed.clip_images)
    assert generated.clip_captions.shape == generated.clip_images.shape == (5, 12)
    assert reconstructed.clip_captions is None
    assert generated.protocol["clip"] == "clip"
    assert len(generated.subset(np.array([1, 3])).clip_captions) == 2
