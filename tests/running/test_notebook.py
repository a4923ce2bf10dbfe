"""What a notebook opens: its job, or a line on why there is none."""

import pytest

from helpers.studies import STEPS
from steerlib import SteerlibError
from steerlib.running import notebook
from steerlib.running.notebook import open_job


@pytest.mark.parametrize(
    ("stage", "step", "message"),
    [
        ("generations", STEPS[0], "does not ask for generations; give it generation$"),
        ("probes", 7, "has no checkpoint at step 7; its steps are 0, 10, 20"),
    ],
)
def test_what_the_study_does_not_have_is_told(params, tmp_path, stage, step, message):
    with pytest.raises(SteerlibError, match=message):
        open_job(stage, str(params), str(tmp_path), step)


def test_all_that_a_notebook_needs_is_made_before_it_in_order(params, tmp_path, monkeypatch):
    """Opened by hand, not by a run; only what is not there."""
    made = []

    def run_notebook(workspace, job, params):
        made.append(str(job))
        workspace.data(job).parent.mkdir(parents=True, exist_ok=True)
        workspace.data(job).touch()

    monkeypatch.setattr(notebook, "run_notebook", run_notebook)
    for _ in range(2):
        open_job("interventions", str(params), str(tmp_path), STEPS[1])
    assert made == ["probes step 10"]
    open_job("emergence", str(params), str(tmp_path))
    assert len(made) == len({*made}) == 9 and all(
        made.index(f"probes step {s}") < made.index(f"interventions step {s}") for s in STEPS
    )
