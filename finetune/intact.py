"""What an earlier stage wrote, read back: damage, as a power cut leaves it, is one line that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarError
from typing import Any

from finetune.errors import InputError


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Raises InputError for what numpy, Arrow, Pillow, tarfile and json say of a file that is not whole."""
    try:
        yield
    except (EOFError, OSError, SyntaxError, TarError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # the machine's fault, and none of the content's
            raise
        raise InputError(f"{path}: damaged ({error}); remove it and run `dvc repro`") from None


def load_json(path: Path) -> Any:
    """Raises InputError where it is not whole."""
    with intact(path):
        content: Any = json.loads(path.read_text())
    return content
