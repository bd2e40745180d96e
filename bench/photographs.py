"""Real photographs for benchmarks, which are no part of the repository."""

import io
import zipfile
from pathlib import Path

from PIL import Image

MIN_SIDE = 256  # pixels, as in params.yaml


def photos(folder: Path) -> list[bytes]:
    """Every photo of the archives below `folder` that preprocess-512 would use."""
    found = []
    for archive in sorted(folder.glob("*/*.zip")):
        with zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                if name.endswith(".jpg") and not name.startswith("__MACOSX/"):
                    content = members.read(name)
                    with Image.open(io.BytesIO(content)) as image:
                        if min(image.size) >= MIN_SIDE:
                            found.append(content)
    return found
