"""The commit that recorded a model's evaluation, where the page runs in the repository that trained it."""

import re
import subprocess
from pathlib import Path

import gradio as gr
import pandas as pd

from app.model import Model
from finetune.artifacts import read_table
from finetune.errors import InputError

TIMEOUT = 20  # seconds; the search reads the whole history of one file


def commit_of(md5: str) -> str | None:
    """The first commit whose dvc.lock names this output; None outside of such a repository, as in a container."""
    try:
        found = subprocess.run(
            ["git", "log", "--reverse", "--format=%H", f"-S{md5}", "--", "dvc.lock"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return found.stdout.split("\n", 1)[0] or None


FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
PREVIEW = re.compile(r"^!\[.*?\]\(preview\.png\)\n", re.MULTILINE)
RUNGS = ["floor", "reconstructed", "base", "tuned"]
CHECKER = {
    True: "The safety checker looks at every image before it is shown.",
    False: "There is **no safety checker** before this model.",
}


def make_about_tab(model: Model) -> None:
    gr.Markdown(served(model))
    gr.Image(
        model.folder / "preview.png",
        label="Held-out captions, drawn by this model",
        interactive=False,
        buttons=["fullscreen"],
        alt_text="Images by this model, each over its caption",
    )
    _make_ladder(model.folder / "curves/ladder.csv", model.serving["headline"])
    with gr.Row():
        for name, title in (("loss", "Training loss"), ("validation", "Held-out loss")):
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


def _make_ladder(file: Path, headline: str) -> None:
    """One figure at a time: they share no scale."""
    table = read_ladder(file, headline)

    def rungs(figure: str) -> pd.DataFrame:
        return table[table["metric"] == figure]

    chosen = gr.Dropdown(
        [*table["metric"].unique()],
        value=headline,
        label="Figure of the evaluation",
        info="Less is better where a name begins with kid, fd, fid or cmmd; of the others more is better.",
        filterable=False,
    )
    plot = gr.BarPlot(rungs(headline), x="images", y="value", sort=RUNGS, height=260, buttons=[])
    chosen.change(rungs, chosen, plot, queue=False, show_progress="hidden", api_visibility="private")


def read_ladder(file: Path, headline: str) -> pd.DataFrame:
    """Raises InputError unless `headline` is one of its figures."""
    table = pd.DataFrame(read_table(file, ["value"], texts=["metric", "images"]))
    if headline not in {*table["metric"]}:
        raise InputError(f"{file}: no figure {headline}, which prompts.json names; `dvc repro` or `dvc pull export`")
    return table


def served(model: Model) -> str:
    commit = commit_of(model.serving["dvc_md5"])
    found = f"evaluated in commit `{commit}`" if commit else "evaluated in a commit that its card tells how to find"
    pipeline = model.pipeline
    where = "a GPU in fp16" if pipeline.device.type == "cuda" else "a CPU in fp32"
    return (
        f"This page draws on {where} with the model whose manifest has the sha256 `{model.digest}`, {found}. "
        f"{CHECKER[pipeline.safety_checker is not None]}"
    )
