"""Serve the demo, or generate PNG files from the command line."""

import os

# Libraries read these on import. They keep the demo offline and turn off telemetry.
os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")

from app.cli import main

if __name__ == "__main__":
    main()
