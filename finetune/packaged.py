"""Files of installed packages. A stage's output holds a reference to such a file, so that DVC does not store it."""

import importlib.resources
from pathlib import Path
from stat import S_ISREG

from pydantic import BaseModel

from finetune.artifacts import read_json, sha256_file, write_json
from finetune.disk import local_mode
from finetune.errors import InputError

PACKAGE = "package:"  # followed by <import name>/<file inside>
HINT = "`rm -r .venv && make setup` installs the locked packages"


class Reference(BaseModel):
    location: str
    sha256: str


def packaged_file(location: str) -> Path:
    """Return the path of a `package:` location. Raises InputError if the package is not installed or lacks the file."""
    package, _, inside = location.removeprefix(PACKAGE).partition("/")
    try:
        file = importlib.resources.files(package) / inside
    except ModuleNotFoundError:
        raise InputError(f"{location}: the package {package} is not installed; {HINT}") from None
    except (TypeError, ValueError):
        raise InputError(
            f"{location}: {package!r} is not a package; give {PACKAGE}<import name>/<file inside>"
        ) from None
    if not S_ISREG(local_mode(str(file))):
        raise InputError(f"{location}: the package {package} has no file {inside!r}; {HINT}")
    return Path(str(file))


def write_reference(location: str, path: Path) -> None:
    """Write `<path>.json`, which refers to the file at a `package:` location."""
    write_json(_reference(path), {"location": location, "sha256": sha256_file(packaged_file(location))})


def resolve(path: Path) -> Path:
    """Return the packaged file that `<path>.json` refers to, or `path` itself if there is no such reference.

    Raises InputError if the packaged file is missing or is not the one that was referred to.
    """
    reference = _reference(path)
    if path.is_file() or not reference.is_file():
        return path
    content = read_json(reference, Reference)
    file = packaged_file(content["location"])
    if (actual := sha256_file(file)) != content["sha256"]:
        raise InputError(f"{file}: its sha256 is {actual}, not that in {reference}; {HINT}")
    return file


def _reference(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
