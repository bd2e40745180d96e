"""Datacard: what the run trains on and validates with, as a page, a contact sheet and the figures behind both."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune import paths
from finetune.artifacts import atomic_directory, read_json, write_json
from finetune.data.card import data_card
from finetune.data.reference import used_captions
from finetune.data.shards import read_images
from finetune.data.statistics import DatasetStatistics
from finetune.image_grid import make_grid
from finetune.params import load_params
from finetune.stage import run_stage

EACH = 8  # images of a dataset on the contact sheet
ACROSS = 8
COLUMNS = ("dataset", "id", "split", "shard", "member", "width", "height", "captions")
Row = dict[str, Any]


def datacard(images: Mapping[str, Path], tokens: Path, output: Path) -> None:
    """Write card.md, contact.png and numbers.json to `output`.

    images: dataset -> its folder. Numbers, by dataset: `images` and `captions` of its index, `used` by split,
    `dropped` by preprocess-512 and `left_out` by tokenize with reasons; and how many captions were `truncated`.
    """
    censuses = {dataset: DatasetStatistics() for dataset in images}
    for row, used in used_captions(images, tokens, COLUMNS):
        censuses[row["dataset"]].add(row, used)
    left_out = _left_out(tokens)
    numbers: dict[str, Any] = {
        "truncated": read_json(tokens / "manifest.json")["truncated"],
        "datasets": {
            dataset: dataset_statistics.numbers()
            | {"dropped": _dropped(images[dataset]), "left_out": dict(left_out.get(dataset, {}))}
            for dataset, dataset_statistics in censuses.items()
        },
    }
    with atomic_directory(output) as folder:
        write_json(folder / "numbers.json", numbers)
        (folder / "card.md").write_text(data_card(numbers), encoding="utf-8")
        trained = {dataset: one["used"]["train"] for dataset, one in numbers["datasets"].items()}
        _write_contact_sheet(images, tokens, trained, folder / "contact.png")


def _dropped(images: Path) -> dict[str, int]:
    report = read_json(images / "dropped.json")["dropped"]
    return {reason: len(names) for reason, names in report.items()}


def _left_out(tokens: Path) -> dict[str, Counter[str]]:
    """Dataset -> reason -> how many."""
    counts: dict[str, Counter[str]] = {}
    for reason, names in read_json(tokens / "dropped.json").items():
        for name in names:
            counts.setdefault(name.split("/")[0], Counter())[reason] += 1
    return counts


def _write_contact_sheet(images: Mapping[str, Path], tokens: Path, trained: Mapping[str, int], path: Path) -> None:
    """Training images at even distances in each dataset's index, so that no one chooses the pretty ones."""
    wanted = {dataset: {i * count // EACH for i in range(min(EACH, count))} for dataset, count in trained.items()}
    seen: Counter[str] = Counter()
    chosen: dict[str, list[Row]] = {dataset: [] for dataset in images}
    for row, used in used_captions(images, tokens, COLUMNS):
        if used and row["split"] == "train":
            if seen[row["dataset"]] in wanted[row["dataset"]]:
                chosen[row["dataset"]].append(row)
            seen[row["dataset"]] += 1
    pictures = [image for dataset, rows in chosen.items() for image in read_images(images[dataset], rows)]
    captions = [f"{row['dataset']}: {row['captions'][0].strip()}" for row, _ in pictures]
    make_grid([[pixels] for _, pixels in pictures], [], captions, ACROSS).save(path)


def main() -> None:
    params = load_params()
    datacard(paths.dataset_dirs(paths.IMAGES, params.datasets), paths.TOKENS, paths.DATA_CARD)


if __name__ == "__main__":
    run_stage(main)
