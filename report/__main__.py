"""`make report`: metrics/ and params.yaml as one HTML page without any other file; `python -m report` writes it."""

import argparse
from pathlib import Path

from finetune.artifacts import atomic_write, require_writable
from finetune.errors import InputError
from finetune.params import load_params
from finetune.stage import run_stage
from report.page import page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    out: Path = parser.parse_args().out
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file with --out, such as report.html")
    require_writable(out)
    text = page(load_params())
    with atomic_write(out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    run_stage(main)
