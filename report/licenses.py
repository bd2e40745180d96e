"""Write the licenses of the locked packages, as declared by the installed ones, to NOTICE.md.

Run by `make notice`.
"""

from collections import defaultdict
from importlib.metadata import metadata
from pathlib import Path

from packaging.requirements import Requirement

from finetune.artifacts import atomic_write, markdown_table

NOTICE = Path("NOTICE.md")
LOCK = Path("requirements.lock")
BEGIN = "<!-- from here on by `make notice` -->\n"
MAX_NAME = 60  # characters; some packages put the full text in the name field
UNDECLARED = "declares none in its metadata"


def license_of(package: str) -> str:
    """Return the license expression (PEP 639), else the license name, else the classifiers."""
    declared = metadata(package).json
    name = str(declared.get("license", "")).strip()
    if expression := declared.get("license_expression"):
        return str(expression)
    if name and "\n" not in name and len(name) <= MAX_NAME and name not in ("UNKNOWN", "Dual License"):
        return name
    classifiers = declared.get("classifier", [])
    return " or ".join(c.split(" :: ")[-1] for c in classifiers if c.startswith("License ::")) or UNDECLARED


def packages(lock: str) -> list[str]:
    """The locked packages that this platform installs."""
    requirements = [Requirement(line.rstrip(" \\")) for line in lock.splitlines() if "==" in line]
    return [each.name for each in requirements if each.marker is None or each.marker.evaluate()]


def with_packages(notice: str, lock: str) -> str:
    """Return the notice with everything below BEGIN regenerated."""
    by_license: dict[str, list[str]] = defaultdict(list)
    for package in packages(lock):
        by_license[license_of(package)].append(package)
    rows = [[name.replace("|", "or"), ", ".join(by_license[name])] for name in sorted(by_license, key=str.lower)]
    return notice.partition(BEGIN)[0] + BEGIN + "\n" + markdown_table(("license", "packages"), rows) + "\n"


def main() -> None:
    text = with_packages(NOTICE.read_text(), LOCK.read_text())
    with atomic_write(NOTICE) as partial:
        partial.write_text(text)


if __name__ == "__main__":
    main()
