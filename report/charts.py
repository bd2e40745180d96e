"""Charts as SVG text. Equal data gives equal bytes."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {"floor": "#8a8f98", "reconstructed": "#b9bec6", "base": "#e0912f", "tuned": "#2f6fdb"}
TINTS = ("#9dbcf0", "#6f9be6", "#2f6fdb", "#173f86")  # for the parts of one quantity
VARIABLES = {  # color -> CSS variable of the page, which differs in dark mode
    "#20242b": "--ink",
    "#5b616b": "--faint",
    "#eceef1": "--grid",
    "#c9ccd1": "--axis",
    "#173f86": "--deep",
}
MAX_TICKS = 8
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#c9ccd1",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": "#5b616b",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": "#eceef1",
    "svg.fonttype": "none",  # text, rendered with the browser's fonts
    "svg.hashsalt": "report",
    "text.color": "#20242b",
    "xtick.color": "#5b616b",
    "ytick.color": "#5b616b",
}


def bars(values: Mapping[str, tuple[float, float]]) -> str:
    """Draw a bar for each image set. values: name -> (value, standard deviation), shown as an error bar."""

    def draw(axes: Axes) -> None:
        names = list(values)[::-1]
        heights, errors = zip(*(values[name] for name in names), strict=True)
        axes.barh(names, heights, xerr=errors, color=[COLORS[name] for name in names], height=0.62, ecolor="#20242b")
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color="#c9ccd1", linewidth=1)
        axes.tick_params(length=0)

    return _svg(draw, 4.6, 1.75)


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    stds: Sequence[float] | None = None,
) -> str:
    """Plot each of `series` over `x`. stds: standard deviations of a single series, shown as a band."""

    def draw(axes: Axes) -> None:
        tints = cycle(TINTS)
        for name, y in series.items():
            color = COLORS.get(name) or next(tints)
            axes.plot(x, y, color=color, marker="o", markersize=3.5, linewidth=2, label=name)
            if stds is not None:
                low, high = ([a + sign * d for a, d in zip(y, stds, strict=True)] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(x) <= MAX_TICKS:
            axes.set_xticks(x)
        if len(series) > 1:
            axes.legend(frameon=False)

    return _svg(draw, 5.2, 2.9)


def _svg(draw: Callable[[Axes], Any], width: float, height: float) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    # without a fixed size, the chart fills its container
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg.replace("\n", " "), count=1)
