"""The outputs of a miniature pipeline run, ready for export."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.artifacts import write_json
from finetune.data.shards import INDEX, encode_lossless, shard_name, write_index, write_shard
from finetune.export.model_card import CardConfig, CardResults, read_card_results
from finetune.params import load_params
from stages.export import WEIGHTS, export

PROMPTS = ("a star in a white room", "two hearts | three rings", "a ring")


@dataclass(frozen=True)
class TinyRun:
    base: Path
    tuned: Path
    generated: Path
    qualitative: Path
    curves: dict[str, Path]
    config: CardConfig
    results: CardResults

    def export_to(self, output: Path) -> Path:
        inputs = self.base, self.tuned, self.generated, self.qualitative, self.curves
        export(*inputs, output, self.config, self.results)
        return output


def make_tiny_run(base: Path, folder: Path) -> TinyRun:
    """Write a slightly modified UNet, three images and made-up metrics to `folder`."""
    params = load_params()
    config = CardConfig(params.export, params.fetch, params.train, params.generate)
    return TinyRun(
        base=base,
        tuned=_tune(base / "unet", folder / "tuned"),
        generated=_generate(folder / "generated"),
        qualitative=_generate_examples(folder / "qualitative"),
        curves=_plot(folder),
        config=config,
        results=_measure(folder),
    )


def _tune(unet: Path, tuned: Path) -> Path:
    (tuned / "unet").mkdir(parents=True)
    # diffusers records the folder from which a model was loaded
    write_json(
        tuned / "unet/config.json", json.loads((unet / "config.json").read_text()) | {"_name_or_path": str(unet)}
    )
    weights = {name: tensor * 1.01 for name, tensor in load_file(unet / WEIGHTS["unet"]).items()}
    save_file(weights, tuned / "unet" / WEIGHTS["unet"], {"format": "pt"})
    return tuned


def _image(number: int) -> bytes:
    return encode_lossless(Image.new("RGB", (64, 64), (80 * number, 40, 90)))


def _generate(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        {"id": str(i), "shard": shard_name(0), "member": f"coco-{i}.webp", "prompt": prompt, "seed": 100 + i}
        for i, prompt in enumerate(PROMPTS)
    ]
    write_shard(folder / shard_name(0), [(row["member"], _image(i)) for i, row in enumerate(rows)])
    write_index(folder / INDEX, rows, pa.Table.from_pylist(rows).schema)
    return folder


def _generate_examples(folder: Path) -> Path:
    """Like the stage qualitative."""
    folder.mkdir()
    examples = [
        {"prompt": prompt, "seed": 100 + i, "base": f"base-{i:02d}.webp", "tuned": f"tuned-{i:02d}.webp"}
        for i, prompt in enumerate(PROMPTS)
    ]
    for i, example in enumerate(examples):
        (folder / example["base"]).write_bytes(_image(0))
        (folder / example["tuned"]).write_bytes(_image(i))
    write_json(folder / "examples.json", examples)
    return folder


def _plot(folder: Path) -> dict[str, Path]:
    content = {
        "ladder": "metric,images,value,sd\nkid,floor,0.0625,0.01\nkid,base,0.5,0.01\nkid,tuned,0.25,0.01\n",
        "loss": "step,loss\n10,0.5\n20,0.25\n",
        "validation": "step,loss\n0,0.75\n20,0.125\n",
    }
    for name, text in content.items():
        (folder / f"{name}.csv").write_text(text)
    return {name: folder / f"{name}.csv" for name in content}


def _measure(folder: Path) -> CardResults:
    (folder / "card.md").write_text("# Data card\n\nA page.\n\n## Images\n\n| coco | 3 |\n\n## Captions\n\n15\n")
    write_json(folder / "train.json", {"steps": 12, "validation": {"loss": 0.125}})
    scores = {"base": {"kid": 0.5, "n": 3}, "floor": {"kid": 0.0625, "n": 3}, "tuned": {"kid": 0.25, "n": 3}}
    scores["reconstructed"] = {"kid": 0.125, "n": 3}
    write_json(folder / "fid.json", scores | {"protocol": {"features": 64, "headline": "kid"}})
    inputs = {"models/tuned": "a" * 32 + ".dir", "metrics/fid.json": "b" * 32}
    return read_card_results(folder / "card.md", folder / "train.json", folder / "fid.json", inputs)
