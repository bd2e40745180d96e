"""The page that says what a run is trained on and validated with."""

from collections.abc import Callable
from typing import Any

from finetune.artifacts import markdown_table
from finetune.data.statistics import LONG_WORD
from finetune.data.transforms import SIDE

Numbers = dict[str, Any]
NOT_IN_ARCHIVE = "no_image"  # a name in a list, no image
OFFICIAL = {123_287, 8_091}  # images in the archives of COCO 2017's train and val, and of Flickr8k


def data_card(numbers: Numbers) -> str:
    """Markdown; a function of the numbers, which stages/datacard.py describes, so that equal runs have equal cards."""
    sets = numbers["datasets"]
    return f"""# Data card

What this run trains on and validates with. `stages/datacard.py` counts it in the indexes that `preprocess-512` and
`tokenize` wrote; [numbers.json](numbers.json) has every figure. `docs/data.md` explains the reasons.

![Training images of every dataset, each over its first caption](contact.png)

## From the archives to the training

{markdown_table(("images", *sets, "all"), _balance(sets))}

{_missing(sets)}{_reference(sets)}\
Names of all that is left out: `data/images/<dataset>/dropped.json`, `data/tokens/dropped.json`.

## Captions

Of all usable images, as their authors wrote them; a word is a run of letters, whatever their case.

{markdown_table(("captions", *sets), _by_dataset(sets, _captions))}

{_truncated(numbers["truncated"])}

{_frequent(sets)}

## Original images

Upright, before they become {SIDE}x{SIDE}.

{markdown_table(("originals", *sets), _by_dataset(sets, _originals))}
"""


def found(numbers: Numbers) -> int:
    """Images in a dataset's archives, usable or not."""
    lost = sum(count for reason, count in numbers["dropped"].items() if reason != NOT_IN_ARCHIVE)
    return int(numbers["images"]["count"]) + lost


def _balance(sets: dict[str, Numbers]) -> list[list[str]]:
    every = sets.values()
    dropped = sorted({reason for one in every for reason in one["dropped"]} - {NOT_IN_ARCHIVE})
    left_out = sorted({reason for one in every for reason in one["left_out"]})
    counts = {
        "in the archives": [found(one) for one in every],
        **{f"- `{reason}`": [one["dropped"].get(reason, 0) for one in every] for reason in dropped},
        f"usable at {SIDE}x{SIDE}": [one["images"]["count"] for one in every],
        **{f"- left out: `{reason}`": [one["left_out"].get(reason, 0) for one in every] for reason in left_out},
        "- held out for validation": [one["used"]["validation"] for one in every],
        "**trained on**": [one["used"]["train"] for one in every],
    }
    return [[name, *(f"{count:,}" for count in (*line, sum(line)))] for name, line in counts.items()]


def _missing(sets: dict[str, Numbers]) -> str:
    names = {dataset: one["dropped"].get(NOT_IN_ARCHIVE, 0) for dataset, one in sets.items()}
    parts = [f"{count:,} in {dataset}" for dataset, count in names.items() if count]
    return f"Names that lists or captions have and the archives lack: {', '.join(parts)}.\n\n" if parts else ""


def _reference(sets: dict[str, Numbers]) -> str:
    """Only of the official archives, whole: of others it would not be true."""
    if not {found(one) for one in sets.values()} >= OFFICIAL:
        return ""
    trained = sum(one["used"]["train"] for one in sets.values())
    return f"""\
The write-up that this run follows counts 126,090 training images. COCO's train2017 and all of Flickr8k together hold
118,287 + 8,091 = 126,378, which is 288 more; the number alone does not tell which ones it leaves out. This run trains
on {trained:,}: the table says what became of the others; Flickr8k's own dev and test images are held out.

"""


def _by_dataset(sets: dict[str, Numbers], describe: Callable[[Numbers], dict[str, str]]) -> list[list[str]]:
    columns = [describe(one) for one in sets.values()]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def _captions(one: Numbers) -> dict[str, str]:
    captions = one["captions"]
    return {
        "written": f"{captions['count']:,}",
        "used, held-out ones included": f"{captions['used']:,}",
        "captions per image: images": ", ".join(f"{n}: {m:,}" for n, m in captions["per_picture"].items()),
        **_spread("words each", captions["words"]),
        "different words": f"{captions['vocabulary']:,}",
        "of these seen once": f"{captions['words_seen_once']:,}",
    }


def _originals(one: Numbers) -> dict[str, str]:
    images = one["images"]
    return {
        **_spread("shorter side, pixels", images["shorter_side"]),
        f"enlarged (shorter side below {SIDE})": f"{images['enlarged']:.1%}",
        **_spread("width / height", images["aspect_ratio"]),
        "landscape, portrait, square": ", ".join(f"{images[f]:.1%}" for f in ("landscape", "portrait", "square")),
    }


def _spread(name: str, summary: dict[str, float]) -> dict[str, str]:
    return {
        f"{name}: least, mean, greatest": ", ".join(f"{summary[key]:,g}" for key in ("least", "mean", "greatest")),
        f"{name}: 5%, 25%, 50%, 75%, 95% have at most": ", ".join(
            f"{summary[key]:,g}" for key in ("p05", "p25", "p50", "p75", "p95")
        ),
    }


def _truncated(count: int) -> str:
    return f"Cut because they have more than CLIP's 77 tokens: {count:,} of the captions used."


def _frequent(sets: dict[str, Numbers]) -> str:
    lines = [
        f"Most frequent in {dataset}, of words with {LONG_WORD} letters or more: "
        + ", ".join(f"{word} ({count:,})" for word, count in one["captions"]["frequent_words"].items())
        + "."
        for dataset, one in sets.items()
    ]
    return "\n\n".join(lines)
