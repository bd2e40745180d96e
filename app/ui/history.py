"""What was drawn before, with its settings. It lives in the visitor's browser; nothing is kept on the server."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from app.jobs import Drawn
from app.png_metadata import KEY, parse
from app.preview import data_url
from app.request import Request
from finetune.errors import InputError

LONGEST = 24  # images
THUMBNAIL = 160  # pixels
DATA = "data:image/jpeg;base64,"
MAX_IMAGE = 40_000  # characters


@dataclass(frozen=True)
class Entry:
    request: Request
    model: str
    image: str  # a thumbnail's data URL


def remember(entries: Any, fresh: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The history with what was just drawn before it."""
    return [*fresh, *(entries if isinstance(entries, list) else [])][:LONGEST]


def entry_of(drawn: Drawn) -> dict[str, str]:
    """As it is stored."""
    thumbnail = drawn.image.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    return {"text": drawn.image.info[KEY], "image": data_url(thumbnail.convert("RGB"))}


def read(stored: Any) -> list[Entry | None]:
    """What the browser gives back, where anyone may have written: None in the place of what is no entry."""
    return [_read(entry) for entry in (stored if isinstance(stored, list) else [])[:LONGEST]]


def _read(entry: Any) -> Entry | None:
    if not isinstance(entry, dict):
        return None
    image = entry.get("image")
    if not isinstance(image, str) or not image.startswith(DATA) or len(image) > MAX_IMAGE:
        return None
    try:
        return Entry(*parse(entry.get("text")), image)
    except InputError:
        return None


def html(stored: Any, model: str) -> str:
    """A card for each image, with two buttons: its settings into the form, and the image again."""
    cards = [_card(i, entry, model) for i, entry in enumerate(read(stored)) if entry]
    if not cards:
        return '<p class="hint">What you draw is listed here with its settings. The list stays in this browser.</p>'
    return f'<ul class="history">{"".join(cards)}</ul>'


def _card(index: int, entry: Entry, model: str) -> str:
    request = entry.request
    prompt = escape(request.prompt)
    other = "" if entry.model == model else '<p class="other">drawn by another model</p>'
    return (
        f'<li><button type="button" data-index="{index}" data-action="restore" aria-label="Settings of: {prompt}" '
        f'title="Put these settings into the form"><img src="{escape(entry.image)}" alt=""></button>'
        f'<p class="prompt" title="{prompt}">{prompt}</p><p class="settings">{escape(settings(request))}</p>{other}'
        f'<button type="button" data-index="{index}" data-action="again">Draw again</button></li>'
    )


def settings(request: Request) -> str:
    """On one line."""
    return (
        f"seed {request.seed} · {request.steps} steps · guidance {request.guidance:g} · {request.scheduler} · "
        f"{request.width}x{request.height}"
    )
