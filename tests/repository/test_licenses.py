"""report.licenses: NOTICE.md names the license of every locked package."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report import licenses
from report.licenses import LOCK, NOTICE, UNDECLARED, license_of, packages, with_packages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"license_expression": "MIT", "license": "other"}, "MIT"),
        ({"license": "BSD", "classifier": ["License :: OSI Approved :: BSD License"]}, "BSD"),
        ({"license": "A text\nof lines", "classifier": ["License :: OSI Approved :: MIT License"]}, "MIT License"),
        ({"license": "UNKNOWN", "classifier": ["Topic :: Software"]}, UNDECLARED),
        ({}, UNDECLARED),
    ],
)
def test_the_most_exact_declaration_counts(
    declared: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(licenses, "metadata", lambda _: SimpleNamespace(json=declared))
    assert license_of("package") == expected


def test_the_notice_is_of_the_locked_packages() -> None:
    notice, lock = (ROOT / NOTICE).read_text(), (ROOT / LOCK).read_text()
    assert with_packages(notice, lock) == notice, "run `make notice`"
    listed = [name for line in notice.splitlines() if line.startswith("| ") for name in line.split("|")[2].split(", ")]
    assert {*packages(lock)} <= {name.strip() for name in listed}
