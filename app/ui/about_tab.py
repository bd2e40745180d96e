"""The About tab: the model card, its metrics, and the commit that evaluated the model."""

import re
import subprocess
from pathlib import Path

import gradio as gr
import pandas as pd

from app.model import Model
from app.ui.runner import QUIET
from finetune.artifacts import read_table
from finetune.errors import InputError

GIT_TIMEOUT = 20  # seconds; git searches the file's complete history
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
PREVIEW = re.compile(r"^!\[.*?\]\(preview\.png\)\n", re.MULTILINE)
BASELINES = ["floor", "reconstructed", "base", "fine-tuned"]
CHECKER = {
    True: "The safety checker screens every image.",
    False: "There is **no safety checker**.",
}


def make_about_tab(model: Model) -> None:
    gr.Markdown(describe_model(model))
    gr.Image(
        model.folder / "preview.png",
        label="Samples for validation captions",
        interactive=False,
        buttons=["fullscreen"],
        alt_text="Generated images, each above its caption",
    )
    _make_metrics_plot(model.folder / "curves/ladder.csv", model.serving["headline"])
    with gr.Row():
        for name, title in (("loss", "Training loss"), ("validation", "Validation loss")):
            gr.LinePlot(
                pd.DataFrame(read_table(model.folder / "curves" / f"{name}.csv", ["step", "loss"])),
                x="step",
                y="loss",
                title=title,
                height=260,
                min_width=280,
                buttons=[],
            )
    card = (model.folder / "README.md").read_text(encoding="utf-8")
    gr.Markdown(PREVIEW.sub("", FRONT_MATTER.sub("", card)), elem_id="card")


def describe_model(model: Model) -> str:
    commit = find_commit(model.serving["dvc_md5"])
    evaluated = f"commit `{commit}`" if commit else "a commit that the model card explains how to find"
    pipeline = model.pipeline
    device = "a GPU in fp16" if pipeline.device.type == "cuda" else "a CPU in fp32"
    return (
        f"This page runs on {device}. Its model (manifest SHA-256 `{model.digest}`) was evaluated in {evaluated}. "
        f"{CHECKER[pipeline.safety_checker is not None]}"
    )


def find_commit(md5: str) -> str | None:
    """Return the first commit whose dvc.lock has this output, or None outside such a repository, as in a container."""
    try:
        log = subprocess.run(
            ["git", "log", "--reverse", "--format=%H", f"-S{md5}", "--", "dvc.lock"],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return log.stdout.split("\n", 1)[0] or None


def _make_metrics_plot(file: Path, headline: str) -> None:
    """Plot one metric at a time, because their scales differ."""
    table = read_ladder(file, headline).replace({"images": {"tuned": "fine-tuned"}})

    def rows(metric: str) -> pd.DataFrame:
        return table[table["metric"] == metric]

    chosen = gr.Dropdown(
        [*table["metric"].unique()],
        value=headline,
        label="Metric",
        info="Lower is better for kid, fd, fid and cmmd metrics; higher is better for the others.",
        filterable=False,
    )
    plot = gr.BarPlot(rows(headline), x="images", y="value", sort=BASELINES, height=260, buttons=[])
    chosen.change(rows, chosen, plot, **QUIET)


def read_ladder(file: Path, headline: str) -> pd.DataFrame:
    """Read the metrics of all baselines. Raises InputError unless `headline` is one of the metrics."""
    table = pd.DataFrame(read_table(file, ["value"], texts=["metric", "images"]))
    if headline not in {*table["metric"]}:
        raise InputError(
            f"{file}: no metric {headline}, which prompts.json names; run `dvc repro` or `dvc pull export`"
        )
    return table
