"""What a notebook opens: its job, or a line on why there is none."""

import pytest

from helpers.studies import STEPS
from steerlib import SteerlibError
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
