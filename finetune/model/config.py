"""Whether a base model can be trained here, by its configuration, before hours go into what is made with it."""

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
HINT = "choose another model under fetch.base in params.yaml"


def check_base(base: Path) -> dict[str, dict[str, Any]]:
    """The configurations by part. Raises InputError where one is damaged, does not fit another, or asks the UNet for
    what no loss is known of.
    """
    parts = {part: configuration(base, part) for part in KEYS}
    for part, key, other, its_key in (
        ("unet", "cross_attention_dim", "text_encoder", "hidden_size"),
        ("unet", "in_channels", "vae", "latent_channels"),
    ):
        if (one := parts[part][key]) != (another := parts[other][its_key]):
            raise InputError(f"{base / part}: its {key} is {one}, the {other}'s {its_key} {another}; {HINT}")
    if (prediction := parts["scheduler"].get("prediction_type", "epsilon")) not in PREDICTIONS:
        known = " nor ".join(PREDICTIONS)
        raise InputError(f"{base / 'scheduler'}: prediction_type {prediction!r} is neither {known}; {HINT}")
    return parts


def configuration(base: Path, part: str) -> dict[str, Any]:
    """Raises InputError for one that is not there, is damaged, or lacks what is read of it."""
    path = base / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    content: dict[str, Any] = read_json(path, dict[str, Any], HINT)
    if missing := [key for key in KEYS[part] if key not in content]:
        raise InputError(f"{path}: no {missing[0]}; {HINT}")
    return content
