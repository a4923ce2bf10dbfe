"""`make calibrate` finds a rule that is right to be right, one that is wrong to be wrong, and ours as it is."""

import numpy as np
import pytest
import xarray as xr

from benchmarks import calibration
from benchmarks.calibration import CURVES, MIDDLE, cell, steps_of, true_onset
from steerlib.numerics import onsets


@pytest.fixture
def oracle(monkeypatch):
    """The rule replaced by one that knows the curve's onset and tells the checkpoint so many after it."""

    def told_late(by: int) -> None:
        def trajectory(steps, *_, **__):
            at = np.searchsorted(steps, true_onset(CURVES["sigmoid"], steps)) + by
            onset = float(steps[at])
            return xr.Dataset({"onset_step": onset, "onset_lower": onset, "onset_upper": onset}), None

        monkeypatch.setattr(onsets, "trajectory", trajectory)

    return told_late


@pytest.mark.parametrize("checkpoints", [8, 30])
def test_an_exact_rule_holds_and_one_that_is_late_does_not(oracle, checkpoints):
    oracle(0)
    exact = cell("sigmoid", checkpoints, 10)
    assert (exact.told, exact.covered, exact.late, exact.wide) == (1, 1, 0, 1)
    oracle(1)
    late = cell("sigmoid", checkpoints, 10)
    assert (late.told, late.covered, late.late) == (1, 0, 1)


def test_the_true_onset_is_where_the_curve_crosses_its_bar_and_there_may_be_none():
    steps = steps_of(15)
    assert np.log1p(true_onset(CURVES["step"], steps)) == pytest.approx(MIDDLE, abs=0.01)
    assert true_onset(CURVES["never"], steps) == np.inf
    assert len(steps) == 15 and steps[0] == 0 and steps[-1] == 1000 and (np.diff(steps) > 0).all()


def test_our_rule_finds_a_step_and_nothing_where_nothing_is():
    found = cell("step", 8, 20)
    assert found.told == 1 and found.covered >= 0.9
    none = cell("never", 8, 20)
    assert none.told <= 0.05 and none.covered is None


def test_other_seeds_are_other_noise_and_equal_ones_the_same():
    assert cell("weak", 8, 10, seed=1) == cell("weak", 8, 10, seed=1) != cell("weak", 8, 10, seed=2)


def test_the_command_writes_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "CURVES", {"step": CURVES["step"]})
    calibration.main(repeats=10, seed=0, output=tmp_path / "new" / "calibration.json")
    written = (tmp_path / "new" / "calibration.json").read_text()
    assert '"checkpoints": 30' in written and capsys.readouterr().out.count("step") == 3
