"""app.request: validation of generation settings."""

import json
from typing import Any

import pytest

from app.request import MAX_PROMPT, MAX_SEED, Request
from finetune.errors import InputError

GOOD: dict[str, Any] = {
    "prompt": "a star",
    "negative_prompt": "",
    "seed": 7,
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "scheduler": "DDIM",
    "width": 64,
    "height": 128,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": None}, "The prompt is empty"),
        ({"prompt": ["a star"]}, "The prompt must be text, not list"),
        ({"prompt": "a" * (MAX_PROMPT + 1)}, "The prompt has 1,001 characters"),
        ({"negative_prompt": "a" * (MAX_PROMPT + 1)}, "The negative prompt has 1,001 characters"),
        ({"seed": -1}, "Seed is -1; it must be between 0 and 2,147,483,647"),
        ({"seed": MAX_SEED + 1}, "Seed is 2,147,483,648"),
        ({"seed": 10**5000}, "Seed is out of range; it must be"),
        ({"seed": 1.5}, "Seed is 1.5; it must be an integer"),
        ({"seed": None}, "Seed is empty"),
        ({"seed": True}, "Seed must be a number, not bool"),
        ({"num_inference_steps": 0}, "Steps is 0; it must be between 1 and 100"),
        ({"num_inference_steps": "10"}, "Steps must be a number, not str"),
        ({"guidance_scale": 31}, "Guidance scale is 31; it must be between 1 and 30"),
        ({"guidance_scale": float("nan")}, "Guidance scale is nan"),
        ({"width": 1088}, "Width is 1,088; it must be between 64 and 1,024"),
        ({"height": 100}, "Height is 100; it must be a multiple of 64"),
        ({"scheduler": "__import__"}, "Unknown scheduler '__import__'; choose one of DDIM"),
        ({"scheduler": ["DDIM"]}, "Unknown scheduler "),
    ],
)
def test_an_invalid_value_gives_a_one_line_error(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Request(**GOOD | wrong)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_a_request_round_trips_through_json() -> None:
    assert Request.from_json(json.loads(json.dumps(Request(**GOOD).to_json()))) == Request(**GOOD)


@pytest.mark.parametrize("content", [None, [], "a star", {}, GOOD | {"extra": 1}, {"prompt": "a star"}])
def test_json_with_other_keys_is_rejected(content: Any) -> None:
    with pytest.raises(InputError, match="not the settings of an image"):
        Request.from_json(content)
