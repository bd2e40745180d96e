"""The commands of docs/tutorial.md end in a dataset, a model and an image."""

import re
import sys
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import ROOT, Copy

TUTORIAL = (ROOT / "docs/tutorial.md").read_text()


def merged(content: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(content[key], more[key]) for key in content if isinstance(more.get(key), dict)}
    return content | more | both


@pytest.mark.long
def test_the_tutorial_ends_in_an_image(small_copy: Copy) -> None:
    (program,) = re.findall(r"<<'EOF'\n(.*?)^EOF", TUTORIAL, re.MULTILINE | re.DOTALL)
    small_copy.run(sys.executable, "-c", program)
    (section,) = re.findall(r"^```yaml\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    params = small_copy.root / "params.yaml"
    params.write_text(yaml.safe_dump(merged(small_copy.params(), yaml.safe_load(section)), sort_keys=False))
    refused = small_copy.dvc("repro", "fetch@mine", check=False).stdout
    (digits,) = re.findall(r"error: myimages: its sha256 is ([0-9a-f]{64}), not the expected 0{64}", refused)
    params.write_text(params.read_text().replace("0" * 64, digits))
    planned = small_copy.run("python", "-m", "finetune.planning").stdout
    assert re.search(r"^mine +25 +5 +archives$", planned, re.MULTILINE), planned
    small_copy.dvc("repro")
    card = (small_copy.root / "metrics/data/card.md").read_text()
    assert re.search(r"^\| images \| coco \| flickr8k \| mine \|", card, re.MULTILINE)
    assert re.search(r"^\| \*\*training images\*\* \| 6 \| 6 \| 25 \|", card, re.MULTILINE), card
    small_copy.run("python", "-m", "app", "many red boxes on white", "-o", "boxes.png")
    assert (small_copy.root / "boxes.png").is_file()
