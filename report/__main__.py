"""Write metrics/ and params.yaml as one self-contained HTML page: `make report` or `python -m report`."""

import argparse
from pathlib import Path

from finetune.artifacts import atomic_write, require_writable
from finetune.errors import InputError
from finetune.params import load_params
from finetune.stage import run_stage
from report.page import render


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    out: Path = parser.parse_args().out
    if out.is_dir():
        raise InputError(f"{out}: is a folder; pass a file name, such as --out report.html")
    require_writable(out)
    html = render(load_params())
    with atomic_write(out) as partial:
        partial.write_text(html, encoding="utf-8")
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    run_stage(main)
