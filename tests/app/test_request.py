"""app.request: whatever comes in is an image that can be drawn, or one line that says why not."""

import json
from typing import Any

import pytest

from app.request import MAX_PROMPT, MAX_SEED, Request
from finetune.errors import InputError

GOOD: dict[str, Any] = {
    "prompt": "a star",
    "negative_prompt": "",
    "seed": 7,
    "steps": 2,
    "guidance": 4.0,
    "scheduler": "DDIM",
    "width": 64,
    "height": 128,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": None}, "The prompt is empty"),
        ({"prompt": ["a star"]}, "The prompt is list"),
        ({"prompt": "a" * (MAX_PROMPT + 1)}, "The prompt has 1,001 characters"),
        ({"negative_prompt": "a" * (MAX_PROMPT + 1)}, "The negative prompt has 1,001 characters"),
        ({"seed": -1}, "Seed is -1: it must lie between 0 and 2,147,483,647"),
        ({"seed": MAX_SEED + 1}, "Seed is 2,147,483,648"),
        ({"seed": 10**5000}, "Seed is beyond all bounds: it must lie"),
        ({"seed": 1.5}, "Seed is 1.5: it must be a whole number"),
        ({"seed": None}, "Seed is empty"),
        ({"seed": True}, "Seed is bool"),
        ({"steps": 0}, "Steps is 0: it must lie between 1 and 100"),
        ({"steps": "10"}, "Steps is str"),
        ({"guidance": 31}, "Guidance is 31: it must lie between 1 and 30"),
        ({"guidance": float("nan")}, "Guidance is nan"),
        ({"width": 1088}, "Width is 1,088: it must lie between 64 and 1,024"),
        ({"height": 100}, "Height is 100: it must be a multiple of 64"),
        ({"scheduler": "__import__"}, "The scheduler is '__import__': choose one of DDIM"),
        ({"scheduler": ["DDIM"]}, "The scheduler is "),
    ],
)
def test_what_cannot_be_drawn_is_named_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Request(**GOOD | wrong)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_a_request_survives_json() -> None:
    assert Request.from_json(json.loads(json.dumps(Request(**GOOD).to_json()))) == Request(**GOOD)


@pytest.mark.parametrize("content", [None, [], "a star", {}, GOOD | {"extra": 1}, {"prompt": "a star"}])
def test_json_of_another_form_is_no_request(content: Any) -> None:
    with pytest.raises(InputError, match="not the settings of an image"):
        Request.from_json(content)
