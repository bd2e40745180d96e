"""`python -m app`, then http://127.0.0.1:7860 in a browser; or `python -m app "a prompt" -o out.png`."""

import os

# read while the libraries are imported: the page asks no hub and reports to nobody
os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")

from app.cli import main

if __name__ == "__main__":
    main()
