"""What a visitor, a script or a file may ask for."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from finetune.attention.words import is_unicode
from finetune.errors import InputError

MAX_PROMPT = 1000  # characters; CLIP reads 77 tokens of them
MAX_SEED = 2**31 - 1
MAX_COUNT = 8  # images in one go
STEPS = (1, 100)
GUIDANCE = (1.0, 30.0)
SIDES = (64, 1024)  # pixels
SIDE_STEP = 64  # the deepest layer of Stable Diffusion sees one value for 64 pixels
SCHEDULERS = ("DDIM", "DPM++ 2M", "Euler", "Euler ancestral")


@dataclass(frozen=True)
class Request:
    """All that one image depends on beside the model.

    Raises InputError with one line for the page if it cannot be drawn; whatever comes in is checked here.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    scheduler: str
    width: int  # pixels
    height: int

    def __post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative_prompt)):
            if text is not None and not isinstance(text, str):
                raise InputError(f"The {name} is {type(text).__name__}: it must be text.")
            if text and not is_unicode(text):
                raise InputError(f"The {name} has half a character, as text of another encoding does: write it anew.")
            if text and len(text) > MAX_PROMPT:
                raise InputError(f"The {name} has {len(text):,} characters: {MAX_PROMPT:,} are allowed.")
        if not (self.prompt and self.prompt.strip()):
            raise InputError("The prompt is empty: say what the image should show.")
        check_whole("Seed", self.seed, 0, MAX_SEED)
        check_whole("Steps", self.steps, *STEPS)
        check_number("Guidance", self.guidance, *GUIDANCE)
        for name, side in (("Width", self.width), ("Height", self.height)):
            check_whole(name, side, *SIDES)
            if side % SIDE_STEP:
                raise InputError(f"{name} is {side}: it must be a multiple of {SIDE_STEP} pixels.")
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"The scheduler is {self.scheduler!r:.40}: choose one of {', '.join(SCHEDULERS)}.")

    @classmethod
    def from_json(cls, content: Any) -> "Request":
        """From parsed JSON of unknown origin: exactly the fields above, nothing else."""
        if not isinstance(content, dict) or content.keys() != {field.name for field in fields(cls)}:
            raise InputError("These are not the settings of an image that was drawn here.")
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise InputError where `value` is no number within the limits; NaN is in none."""
    if value is None:
        raise InputError(f"{name} is empty: it must lie between {_shown(low)} and {_shown(high)}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {type(value).__name__}: it must be a number.")
    if not low <= value <= high:
        raise InputError(f"{name} is {_shown(value)}: it must lie between {_shown(low)} and {_shown(high)}.")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    check_number(name, value, low, high)
    if not isinstance(value, int):
        raise InputError(f"{name} is {value:g}: it must be a whole number.")


def _shown(value: float) -> str:
    if isinstance(value, float):
        return f"{value:,g}"
    return f"{value:,}" if abs(value) < 10**15 else "beyond all bounds"
