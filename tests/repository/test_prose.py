"""Words that read as translated stay out of the prose, comments, messages and names of the repository."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = {".css", ".in", ".jinja", ".js", ".md", ".py", ".toml", ".yaml", ".yml", ""}
GENERATED = ("LICENSE", "NOTICE.md", "metrics/", "remote/", "sample/base/", "sample/logs/")
INSTEAD = {
    r"anew": "again, from scratch",
    r"(fore)?told": "reported, listed, predicted",
    r"mend(s|ed|ing)?": "fix",
    r"greatest": "highest, max",
    r"(?<!at )the least(?! recently)": "the lowest, min",
    r"of no account": "has no effect",
    r"(?<!standard )deviations?": "standard deviation",
    r"data sets?": "dataset",
    r"pictures": "images",
    r"photographs?": "photo, real image",
    r"U-Net": "UNet",
    r"autoencoder": "VAE",
    r"averaged weights": "EMA weights",
    r"go(es|ing)? on (at|from|with)": "resume",
    r"beside": "next to, along with",
    r"but for": "except",
    r"whoever|whatever": "anyone who; name the thing",
    r"visitors?": "user, client",
    r"remed(y|ies)": "fix, hint",
    r"rungs?": "baseline",
}


def prose() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    files = [ROOT / name for name in listed.stdout.splitlines() if not name.startswith(GENERATED)]
    kept = [file for file in files if file.suffix in TEXT and file.is_file() and file != Path(__file__)]
    return {str(file.relative_to(ROOT)): file.read_text() for file in kept}


FILES = prose()


@pytest.mark.parametrize("phrase", INSTEAD)
def test_a_phrase_stays_out(phrase: str) -> None:
    pattern = re.compile(rf"(?<![\w/]){phrase}(?!\w)", re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in FILES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == [], f"say instead: {INSTEAD[phrase]}"
