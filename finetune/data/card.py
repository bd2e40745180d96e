"""The data card: a Markdown page about the images and captions of a run."""

from collections.abc import Callable
from typing import Any

from finetune.artifacts import markdown_table
from finetune.data.statistics import MIN_FREQUENT_LENGTH, SHAPES
from finetune.data.transforms import RESOLUTION

Numbers = dict[str, Any]
NOT_IN_ARCHIVE = "no_image"  # a name in the annotations that the archives lack
OFFICIAL = {123_287, 8_091}  # images in the archives of COCO 2017's train and val, and of Flickr8k


def data_card(numbers: Numbers) -> str:
    """Render the card from the numbers of `stages/datacard.py` alone, so that equal runs have equal cards."""
    sets = numbers["datasets"]
    return f"""# Data card

The images and captions that this run trains on and validates with. `stages/datacard.py` counts them in the indexes of
`preprocess-512` and `tokenize`; [numbers.json](numbers.json) has all numbers. `docs/data.md` explains the reasons.

![Training images of every dataset, each with its first caption](contact.png)

## From archives to training

{markdown_table(("images", *sets, "all"), _balance(sets))}

{_missing(sets)}{_reference(sets)}\
Names of all dropped images: `data/images/<dataset>/dropped.json`, `data/tokens/dropped.json`.

## Captions

All captions of all usable images, unedited. A word is a run of letters; case is ignored.

{markdown_table(("captions", *sets), _by_dataset(sets, _captions))}

Truncated to CLIP's 77 tokens: {numbers["truncated"]:,} of the captions used.

{_frequent(sets)}

## Original images

Upright, before resizing to {RESOLUTION}x{RESOLUTION}.

{markdown_table(("original images", *sets), _by_dataset(sets, _original_images))}
"""


def archived_images(numbers: Numbers) -> int:
    """Return the number of images in a dataset's archives, usable or not."""
    dropped = sum(count for reason, count in numbers["dropped"].items() if reason != NOT_IN_ARCHIVE)
    return int(numbers["images"]["count"]) + dropped


def _balance(sets: dict[str, Numbers]) -> list[list[str]]:
    every = sets.values()
    reasons = sorted({reason for one in every for reason in one["dropped"]} - {NOT_IN_ARCHIVE})
    later_reasons = sorted({reason for one in every for reason in one["dropped_by_tokenize"]})
    counts = {
        "in the archives": [archived_images(one) for one in every],
        **{f"- `{reason}`": [one["dropped"].get(reason, 0) for one in every] for reason in reasons},
        f"usable at {RESOLUTION}x{RESOLUTION}": [one["images"]["count"] for one in every],
        **{f"- `{reason}`": [one["dropped_by_tokenize"].get(reason, 0) for one in every] for reason in later_reasons},
        "- validation images": [one["used"]["validation"] for one in every],
        "**training images**": [one["used"]["train"] for one in every],
    }
    return [[name, *(f"{count:,}" for count in (*line, sum(line)))] for name, line in counts.items()]


def _missing(sets: dict[str, Numbers]) -> str:
    names = {dataset: one["dropped"].get(NOT_IN_ARCHIVE, 0) for dataset, one in sets.items()}
    parts = [f"{count:,} in {dataset}" for dataset, count in names.items() if count]
    return f"Images that the annotations name and the archives lack: {', '.join(parts)}.\n\n" if parts else ""


def _reference(sets: dict[str, Numbers]) -> str:
    """Explain the published number of training images. Only true for the complete official archives."""
    if not {archived_images(one) for one in sets.values()} >= OFFICIAL:
        return ""
    trained = sum(one["used"]["train"] for one in sets.values())
    return f"""\
The write-up that this run follows counts 126,090 training images. COCO's train2017 and all of Flickr8k together have
118,287 + 8,091 = 126,378, which is 288 more; the write-up does not say which images it excludes. This run trains
on {trained:,}. The table accounts for the others; Flickr8k's own dev and test images are used for validation.

"""


def _by_dataset(sets: dict[str, Numbers], describe: Callable[[Numbers], dict[str, str]]) -> list[list[str]]:
    columns = [describe(one) for one in sets.values()]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def _captions(one: Numbers) -> dict[str, str]:
    captions = one["captions"]
    return {
        "total": f"{captions['count']:,}",
        "used for training and validation": f"{captions['used']:,}",
        "images by number of captions": ", ".join(f"{n}: {m:,}" for n, m in captions["per_image"].items()),
        **_spread("words per caption", captions["words"]),
        "distinct words": f"{captions['vocabulary']:,}",
        "of these used once": f"{captions['words_seen_once']:,}",
    }


def _original_images(one: Numbers) -> dict[str, str]:
    images = one["images"]
    return {
        **_spread("shorter side, pixels", images["shorter_side"]),
        f"enlarged (shorter side below {RESOLUTION})": f"{images['enlarged']:.1%}",
        **_spread("width / height", images["aspect_ratio"]),
        ", ".join(SHAPES): ", ".join(f"{images[shape]:.1%}" for shape in SHAPES),
    }


def _spread(name: str, summary: dict[str, float]) -> dict[str, str]:
    rows = {"min, mean, max": ("min", "mean", "max"), "5, 25, 50, 75, 95%": ("p05", "p25", "p50", "p75", "p95")}
    return {f"{name}: {label}": ", ".join(f"{summary[key]:,g}" for key in keys) for label, keys in rows.items()}


def _frequent(sets: dict[str, Numbers]) -> str:
    lines = [
        f"Most frequent words of {MIN_FREQUENT_LENGTH} or more letters in {dataset}: "
        + ", ".join(f"{word} ({count:,})" for word, count in one["captions"]["frequent_words"].items())
        + "."
        for dataset, one in sets.items()
    ]
    return "\n\n".join(lines)
