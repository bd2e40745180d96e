"""Validate the configuration of a base model before anything is computed with it."""

from pathlib import Path
from typing import Any

from finetune.artifacts import read_json
from finetune.errors import InputError

KEYS = {
    "scheduler": (),
    "text_encoder": ("hidden_size", "vocab_size"),
    "unet": ("cross_attention_dim", "in_channels"),
    "vae": ("block_out_channels", "latent_channels"),
}
PREDICTIONS = ("epsilon", "v_prediction")
HINT = "choose a different model under fetch.base in params.yaml"


def check_base(base: Path) -> dict[str, dict[str, Any]]:
    """Return the configuration of each part.

    Raises InputError if one is damaged, if parts do not fit together, or if the prediction type is not supported.
    """
    parts = {part: read_config(base, part) for part in KEYS}
    for part, key, other, other_key in (
        ("unet", "cross_attention_dim", "text_encoder", "hidden_size"),
        ("unet", "in_channels", "vae", "latent_channels"),
    ):
        if (value := parts[part][key]) != (expected := parts[other][other_key]):
            raise InputError(f"{base / part}: {key} is {value}, but {other_key} of {other} is {expected}; {HINT}")
    if (prediction := parts["scheduler"].get("prediction_type", "epsilon")) not in PREDICTIONS:
        supported = " or ".join(PREDICTIONS)
        raise InputError(f"{base / 'scheduler'}: prediction_type must be {supported}, not {prediction!r}; {HINT}")
    return parts


def read_config(base: Path, part: str) -> dict[str, Any]:
    """Return the configuration of one part. Raises InputError if it is missing, damaged, or lacks a key of KEYS."""
    path = base / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    content: dict[str, Any] = read_json(path, dict[str, Any], HINT)
    if missing := [key for key in KEYS[part] if key not in content]:
        raise InputError(f"{path}: {missing[0]} is missing; {HINT}")
    return content
