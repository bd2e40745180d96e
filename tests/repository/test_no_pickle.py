"""Weights and arrays are data: a file that would run code when it is read is refused, and nothing in it runs."""

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from finetune.artifacts import sha256_file
from finetune.data.latents import LatentCache
from finetune.errors import InputError
from finetune.evaluation import features
from finetune.evaluation.clip import FILES, Clip
from finetune.evaluation.efficientnet_lite import load_efficientnet_lite
from finetune.evaluation.feature_set import FeatureSet, read_feature_set, write_feature_set
from finetune.evaluation.features import STATE_DICT, TORCHSCRIPT, load_extractor
from finetune.model.fp16 import write_fp16
from finetune.model.loading import load_text_encoder, load_unet, load_vae
from finetune.model.tokenizer import load_tokenizer
from finetune.training.batches import CaptionedLatents
from finetune.training.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[2]
# Ray sends work to its own processes by pickle; anyone who can reach a Ray cluster can run code on it anyway.
MAY_UNPICKLE = {"finetune/ray_pool.py"}
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops"}
SAFE_LOADERS = {"_PlainLoader"}  # PyYAML's SafeLoader with the floats of YAML 1.2


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def risks(file: Path) -> Iterator[str]:
    for name, call in calls(file):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        module, _, function = name.rpartition(".")
        loads = function in ("load", "loads", "Unpickler")
        if (
            (loads and module in MODULES)
            or (name == "torch.load" and options.get("weights_only") != "True")
            or (name.startswith(("np.", "numpy.")) and options.get("allow_pickle", "False") != "False")
            or (module == "yaml" and loads and {*map(ast.unparse, call.args[1:])} - SAFE_LOADERS != set())
            or (module == "yaml" and loads and len(call.args) < 2)
            or (module == "yaml" and function in ("unsafe_load", "full_load"))
            or name in ("eval", "exec", "torch.jit.load", "os.system", "pd.read_pickle")
            or (function == "from_pretrained" and options.get("trust_remote_code", "False") != "False")
            or options.get("shell", "False") != "False"
        ):
            yield f"{file.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"


def code() -> list[Path]:
    folders = ("app", "bench", "finetune", "report", "sample", "stages")
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_no_code_reads_what_could_run_code() -> None:
    found = [risk for file in code() for risk in risks(file)]
    assert [risk for risk in found if risk.split(":")[0] not in MAY_UNPICKLE] == []


def test_this_search_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.repository.test_no_pickle.ROOT", tmp_path)
    lines = (
        "pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)",
        "yaml.load(f)", "yaml.load(f, yaml.Loader)", "eval(text)", "subprocess.run(c, shell=True)", "torch.jit.load(f)",
    )  # fmt: skip
    (tmp_path / "code.py").write_text("\n".join((*lines, "torch.load(f, weights_only=True)", "np.load(f)")))
    assert len([*risks(tmp_path / "code.py")]) == len(lines)


def weights(name: str, load: Callable[[Path], object], part: str = "") -> Callable[[Path, Path], object]:
    """Loads a part of a model whose weights in safetensors are a pickle."""

    def loaded(base: Path, folder: Path) -> object:
        shutil.copytree(base / part, folder / part)
        torch.save({"weight": Malicious()}, folder / part / name)
        return load(folder / part)

    return loaded


def bin_only(base: Path, folder: Path) -> object:
    """A folder in the older layout, which diffusers would read by unpickling."""
    shutil.copytree(base / "unet", folder / "unet")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"weight": Malicious()}, folder / "unet/diffusion_pytorch_model.bin")
    return load_unet(folder / "unet")


def checkpoint(_base: Path, folder: Path) -> object:
    torch.save({"state": Malicious()}, folder / "step-00000001.safetensors")
    return load_checkpoint(folder / "step-00000001.safetensors")


def exported(_base: Path, folder: Path) -> object:
    torch.save({"weight": Malicious()}, folder / "model.safetensors")
    return write_fp16(folder / "model.safetensors", folder / "half.safetensors")


def latents(_base: Path, folder: Path) -> object:
    np.save(folder / "00000.npy", np.array([Malicious()], object), allow_pickle=True)
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": "00000.npy", "images": 1}]}))
    return LatentCache(folder)


def bare_pickle_as_latents(_base: Path, folder: Path) -> object:
    (folder / "00000.npy").write_bytes(pickle.dumps(Malicious()))
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": "00000.npy", "images": 1}]}))
    return LatentCache(folder)


def tokens(_base: Path, folder: Path) -> object:
    pq.write_table(pa.table({"dataset": []}), folder / "images.parquet")
    np.save(folder / "ids.npy", np.array([Malicious()], object), allow_pickle=True)
    return CaptionedLatents(folder, {})


def feature_set(_base: Path, folder: Path) -> object:
    write_feature_set(folder / "set", FeatureSet([], np.zeros((0, 1), np.float32), {}))
    np.save(folder / "set/features.npy", np.array([Malicious()], object), allow_pickle=True)
    return read_feature_set(folder / "set")


def efficientnet(_base: Path, folder: Path) -> object:
    torch.save({"_fc.weight": Malicious()}, folder / "efficientnet-lite0.pth")
    return load_efficientnet_lite(folder / "efficientnet-lite0.pth")


def inception(_base: Path, folder: Path) -> object:
    torch.save({"fc.weight": Malicious()}, folder / STATE_DICT)
    with pytest.MonkeyPatch.context() as patched:  # as if its sha256 were the published one
        patched.setitem(features.PUBLISHED, STATE_DICT, sha256_file(folder / STATE_DICT))
        return load_extractor(folder / STATE_DICT)


def torchscript(_base: Path, folder: Path) -> object:
    torch.save({"fc.weight": Malicious()}, folder / TORCHSCRIPT)
    return load_extractor(folder / TORCHSCRIPT)


def clip(base: Path, folder: Path) -> object:
    for name in FILES:
        (folder / name).write_text("{}")
    shutil.copy(base / "text_encoder/config.json", folder)
    torch.save({"weight": Malicious()}, folder / "model.safetensors")
    return Clip(folder, batch_size=1)


def tokenizer(base: Path, folder: Path) -> object:
    shutil.copytree(base / "tokenizer", folder, dirs_exist_ok=True)
    for file in folder.iterdir():
        file.write_bytes(pickle.dumps(Malicious()))
    return load_tokenizer(folder)


LOADERS: dict[str, Callable[[Path, Path], object]] = {
    "unet": weights("diffusion_pytorch_model.safetensors", load_unet, "unet"),
    "vae": weights("diffusion_pytorch_model.safetensors", load_vae, "vae"),
    "text encoder": weights("model.safetensors", load_text_encoder, "text_encoder"),
    "unet as .bin": bin_only,
    "checkpoint": checkpoint,
    "export": exported,
    "latents": latents,
    "bare pickle as latents": bare_pickle_as_latents,
    "tokens": tokens,
    "features": feature_set,
    "efficientnet": efficientnet,
    "inception": inception,
    "torchscript": torchscript,
    "clip": clip,
    "tokenizer": tokenizer,
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_in_disguise_is_refused_and_not_run(
    name: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disguised").mkdir()
    with pytest.raises(InputError) as refused:
        LOADERS[name](tiny_base, tmp_path / "disguised")
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(refused.value)
    assert "disguised" in str(refused.value), "the file or its folder is named"


def test_the_disguised_pickle_does_run_where_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "ran").exists()
