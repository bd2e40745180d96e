"""Where a drawing stands, as HTML.

Values go through `escape`, never through gr.HTML's templates: what a template inserts is run as a template again, and
`${...}` in a prompt would be code.
"""

from collections.abc import Sequence
from html import escape

from app.jobs import Job, Watch
from app.preview import Preview, data_url


def idle(text: str) -> str:
    return f'<div class="stage"><p>{escape(text)}</p></div>'


def progress(watch: Watch, jobs: Sequence[Job], preview: Preview) -> str:
    """The model's present guess over a bar."""
    step, job = watch.step, jobs[watch.number]
    which = f"Picture {watch.number + 1} of {len(jobs)} · " if len(jobs) > 1 else ""
    text = f"{which}{job.label} · step {step.done} of {step.total}"
    done = watch.number * step.total + step.done
    return (
        f'<div class="stage"><img src="{data_url(preview.image(step.guess))}" '
        f'style="aspect-ratio: {job.request.width} / {job.request.height}" alt="Preview, becoming clearer"></div>'
        f'<progress value="{done}" max="{len(jobs) * step.total}" aria-label="Steps done"></progress>'
        f'<p class="standing">{escape(text)}</p>'
    )
