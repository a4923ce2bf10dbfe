"""What the console shows of results: onsets as tables, and in words what they mean.

A study's are kept in words by the notebook that finds them; nothing that computes is imported to show them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel
from rich.console import Console

from steerlib.concepts.reading import Draft
from steerlib.files import store
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import LAST, Workspace
from steerlib.running.tables import table, table_of
from steerlib.study import Study
from steerlib.study.sources import neutral_file

if TYPE_CHECKING:
    import xarray as xr

    from steerlib.running.comparison import ComparisonRun


class Findings(BaseModel):
    """`findings.json`, as `steerlib.stages.summary.findings` tells them."""

    summary: dict[str, dict[str, str]]  # concept -> column -> what stands there
    legend: list[str]
    conclusions: list[str]


def results_of_study(workspace: Workspace, console: Console, holds: bool = False) -> None:
    """When each concept became separable, expressed and steerable; nothing unless the analysis of all holds.

    Whether it does is looked up, unless it is known that it ``holds``: a run has just found nothing to do.
    """
    holds = holds or Freshness(workspace).state(LAST) == "done"  # not an earlier run's, when it failed in this one
    if holds and (found := store.read_json(workspace.findings, Findings)):
        rows = [{"concept": name, **row} for name, row in found.summary.items()]
        console.print(table([*rows[0]], map(dict.values, rows), "First detectable: training step, with its interval"))
        for line in found.legend:
            console.print(line, soft_wrap=True, style="dim")
        console.print()
        for line in found.conclusions:
            console.print(line, soft_wrap=True)
        look = f"Look at {workspace.folder / 'figures' / 'emergence_curves.png'} next"
        console.print(f"{look}; {workspace.notebook(LAST)} explains it.", soft_wrap=True)
        console.print(f"Results: {workspace.folder / 'results.zarr'} (docs/results.md)", soft_wrap=True)
        for line in defaults(workspace.study):
            console.print(line, soft_wrap=True, style="dim", highlight=False)


def defaults(study: Study) -> list[str]:
    """What nobody has said of a study's texts, and is decided all the same."""
    drafts = [draft for draft in study.read_files() if isinstance(draft, Draft) and draft.defaults]
    lines = [f"By default, {draft.name}: {'; '.join(draft.defaults)}" for draft in drafts]
    if study.sweep.neutral is None and neutral_file(study):
        lines.append(
            "By default, side effects: on neutral English of ours, params/concepts/neutral.txt (sweep.neutral)"
        )
    return lines


def results_of_comparison(run: ComparisonRun, console: Console) -> None:
    """The onsets of all variants side by side; nothing unless the comparison holds."""
    from steerlib.files import datasets
    from steerlib.numerics.onsets import QUESTIONS
    from steerlib.stages import comparison

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
    from steerlib.numerics.onsets import STATUS
    from steerlib.stages import trajectories

    console.print(table_of(trajectories.summary(found, order), "Onset: training step, with its interval"))
    console.print("difference: at the last step, from the untrained level or chance", soft_wrap=True)
    console.print("q: the share of false finds to expect among all trajectories whose q is no larger", soft_wrap=True)
    for status in sorted({*found.status.values} - {"rises"}):
        remedy = "; --chance gives one where step 0 is missing" if status == "unknown" else ""
        console.print(f"{status}: {STATUS[status]}{remedy}", soft_wrap=True)
