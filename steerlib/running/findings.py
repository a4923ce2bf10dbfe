"""What the console shows of results: onsets as tables, and in words what they mean."""

import xarray as xr
from rich.console import Console

from steerlib.concepts.reading import Draft
from steerlib.files import datasets
from steerlib.numerics.onsets import QUESTIONS, STATUS
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Workspace
from steerlib.running.comparison import LAST, ComparisonRun
from steerlib.running.tables import table_of
from steerlib.stages import comparison, summary, trajectories
from steerlib.study import Study
from steerlib.study.sources import neutral_file


def results_of_study(workspace: Workspace, console: Console) -> None:
    """When each concept became separable, expressed and steerable; nothing unless the analysis of all holds."""
    if Freshness(workspace).state(LAST) == "done":  # not an earlier run's, when it failed in this one
        found = workspace.read(LAST.stage)
        console.print(table_of(summary.summary(found), "First detectable: training step, with its interval"))
        for line in summary.legend(found):
            console.print(line, soft_wrap=True, style="dim")
        console.print()
        for line in summary.conclusions(found):
            console.print(line, soft_wrap=True)
        look = f"Look at {workspace.folder / 'figures' / 'emergence_curves.png'} next"
        console.print(f"{look}; {workspace.notebook(LAST)} explains it.", soft_wrap=True)
        console.print(f"Results: {workspace.folder / 'results.zarr'} (docs/results.md)", soft_wrap=True)
        for line in defaults(workspace.study):
            console.print(line, soft_wrap=True, style="dim", highlight=False)


def defaults(study: Study) -> list[str]:
    """What nobody has said of a study's texts, and is decided all the same."""
    drafts = [draft for draft in study.read_concepts() if isinstance(draft, Draft) and draft.defaults]
    lines = [f"By default, {draft.name}: {'; '.join(draft.defaults)}" for draft in drafts]
    if study.sweep.neutral is None and neutral_file(study):
        lines.append(
            "By default, side effects: on neutral English of ours, params/concepts/neutral.txt (sweep.neutral)"
        )
    return lines


def results_of_comparison(run: ComparisonRun, console: Console) -> None:
    """The onsets of all variants side by side; nothing unless the comparison holds."""
    if run.state() == "done":
        compared = datasets.read(run.data)
        for question in QUESTIONS:
            title = f"Steerability {question.replace('_', ' ')}: training step, with its interval"
            console.print(table_of(comparison.summary(compared, question=question), title))
        if (taus := comparison.taus(compared)).ne("").any(axis=None):
            console.print(table_of(taus, "Kendall's tau of planted frequency and earliness of steerability"))
        console.print(f"Figures: {run.figures}", soft_wrap=True)
        console.print(f"Results: {run.data}", soft_wrap=True)


def show_onsets(found: xr.Dataset, order: str | None, console: Console) -> None:
    """The onsets of a table's trajectories, and in words what is said in place of one."""
    console.print(table_of(trajectories.summary(found, order), "Onset: training step, with its interval"))
    console.print("difference: at the last step, from the untrained level or chance", soft_wrap=True)
    console.print("q: the share of false finds to expect among all trajectories whose q is no larger", soft_wrap=True)
    for status in sorted({*found.status.values} - {"rises"}):
        remedy = "; --chance gives one where step 0 is missing" if status == "unknown" else ""
        console.print(f"{status}: {STATUS[status]}{remedy}", soft_wrap=True)
