"""Stage datacard: describe the images and captions of the run in a page, a contact sheet and JSON numbers."""

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

SHEET_IMAGES = 8  # per dataset
SHEET_COLUMNS = 8
COLUMNS = ("dataset", "id", "split", "shard", "member", "width", "height", "captions")
Row = dict[str, Any]


def datacard(images: Mapping[str, Path], tokens: Path, output: Path) -> None:
    """Write card.md, contact.png and numbers.json to `output`.

    images: dataset -> its folder. numbers.json has the number of `truncated` captions and, for each dataset, `images`
    and `captions` of its index, images `used` by split, and images `dropped` (by preprocess-512) and
    `dropped_by_tokenize` by reason.
    """
    statistics = {dataset: DatasetStatistics() for dataset in images}
    for row, used in used_captions(images, tokens, COLUMNS):
        statistics[row["dataset"]].add(row, used)
    dropped_by_tokenize = _dropped_by_tokenize(tokens)
    numbers: dict[str, Any] = {
        "truncated": read_json(tokens / "manifest.json")["truncated"],
        "datasets": {
            dataset: collected.numbers()
            | {"dropped": _dropped(images[dataset]), "dropped_by_tokenize": dropped_by_tokenize.get(dataset, {})}
            for dataset, collected in statistics.items()
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


def _dropped_by_tokenize(tokens: Path) -> dict[str, Counter[str]]:
    """Return dataset -> reason -> number of images."""
    counts: dict[str, Counter[str]] = {}
    for reason, names in read_json(tokens / "dropped.json").items():
        for name in names:
            counts.setdefault(name.split("/")[0], Counter())[reason] += 1
    return counts


def _write_contact_sheet(images: Mapping[str, Path], tokens: Path, trained: Mapping[str, int], path: Path) -> None:
    """Show training images at even distances in each dataset's index, which avoids cherry-picking."""
    wanted = {
        dataset: {i * count // SHEET_IMAGES for i in range(min(SHEET_IMAGES, count))}
        for dataset, count in trained.items()
    }
    seen: Counter[str] = Counter()
    chosen: dict[str, list[Row]] = {dataset: [] for dataset in images}
    for row, used in used_captions(images, tokens, COLUMNS):
        if used and row["split"] == "train":
            if seen[row["dataset"]] in wanted[row["dataset"]]:
                chosen[row["dataset"]].append(row)
            seen[row["dataset"]] += 1
    sheet = [image for dataset, rows in chosen.items() for image in read_images(images[dataset], rows)]
    captions = [f"{row['dataset']}: {row['captions'][0].strip()}" for row, _ in sheet]
    make_grid([[pixels] for _, pixels in sheet], [], captions, SHEET_COLUMNS).save(path)


def main() -> None:
    params = load_params()
    datacard(paths.dataset_dirs(paths.IMAGES, params.datasets), paths.TOKENS, paths.DATA_CARD)


if __name__ == "__main__":
    run_stage(main)
