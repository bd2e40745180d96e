"""report.licenses: NOTICE.md names the license of every locked package."""

from email.message import Message
from pathlib import Path

import pytest

from report import licenses
from report.licenses import LOCK, NOTICE, SILENT, license_of, packages, with_packages

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ([("License-Expression", "MIT"), ("License", "other")], "MIT"),
        ([("License", "BSD"), ("Classifier", "License :: OSI Approved :: BSD License")], "BSD"),
        (
            [("License", "A text\nof lines"), ("Classifier", "License :: OSI Approved :: MIT License")],
            "MIT License",
        ),
        ([("License", "UNKNOWN"), ("Classifier", "Topic :: Software")], SILENT),
        ([], SILENT),
    ],
)
def test_the_most_exact_declaration_counts(
    declared: list[tuple[str, str]], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Message()
    for name, value in declared:
        message[name] = value
    monkeypatch.setattr(licenses, "metadata", lambda _: message)
    assert license_of("package") == expected


def test_the_notice_is_of_the_locked_packages() -> None:
    notice, lock = (ROOT / NOTICE).read_text(), (ROOT / LOCK).read_text()
    assert with_packages(notice, lock) == notice, "run `make notice`"
    listed = [name for line in notice.splitlines() if line.startswith("| ") for name in line.split("|")[2].split(", ")]
    assert {*packages(lock)} <= {name.strip() for name in listed}
