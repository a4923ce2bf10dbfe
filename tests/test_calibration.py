"""`make calibrate` finds a rule that is right to be right, one that is wrong to be wrong, and ours to cover."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from benchmarks import calibration
from benchmarks.calibration import CURVES, MIDDLE, cells, seeds, steps_of, true_onsets
from steerlib.numerics import onsets


@pytest.fixture
def oracle(monkeypatch):
    """The rule replaced by one that knows when the sigmoid is where, and tells a checkpoint so many after it."""

    def told_late(by: int) -> None:
        def judge(measured, *_):
            true = [*true_onsets(CURVES["sigmoid"], measured.steps).values()]
            after = np.searchsorted(measured.steps, true) + by
            ends = measured.steps[after - 1], measured.steps[after]
            names = ("onset", "onset_lower", "onset_upper")
            return xr.Dataset(
                {name: ("question", end.astype(float)) for name, end in zip(names, (ends[1], *ends), strict=True)}
            ), None

        monkeypatch.setattr(onsets, "judge", judge)
        monkeypatch.setattr(calibration, "shifted", lambda curve, by, x: curve(x))

    return told_late


@pytest.mark.parametrize("checkpoints", [8, 30])
def test_an_exact_rule_holds_and_one_that_is_late_does_not(oracle, checkpoints):
    oracle(0)
    for exact in cells("sigmoid", checkpoints, 10):
        assert (exact.told, exact.covered) == (1, 1) and 0 <= exact.bias <= 1 and exact.wide == pytest.approx(1)
    oracle(1)
    for late in cells("sigmoid", checkpoints, 10):
        assert (late.told, late.covered) == (1, 0) and 1 <= late.bias <= 2


def test_true_onsets_are_where_the_curve_crosses_and_there_may_be_none():
    steps = steps_of(15)
    for true in true_onsets(CURVES["step"], steps).values():
        assert np.log1p(true) == pytest.approx(MIDDLE, abs=0.01)
    assert [*true_onsets(CURVES["never"], steps).values()] == [np.inf] * 2
    first, half = true_onsets(CURVES["slow"], steps).values()
    assert 32 < first < half < 300
    assert len(steps) == 15 and steps[0] == 0 and steps[-1] == 1000 and (np.diff(steps) > 0).all()


@pytest.mark.parametrize(
    ("name", "checkpoints"), [("sigmoid", 8), ("sigmoid", 30), ("slow", 15), ("fades", 8), ("fades", 30)]
)
def test_our_rule_covers_with_few_checkpoints_and_with_many(name, checkpoints):
    """The small version of what `make calibrate` measures; 0.9 leaves room for chance in so few repeats."""
    for found in cells(name, checkpoints, 40):
        assert found.told == 1 and found.covered >= 0.87 and abs(found.bias) < 0.4


def test_a_mean_over_seeds_and_a_new_seed_are_where_they_are_said_to_be():
    for found in seeds("step", 15, 3, 30):
        assert found.told == 1 and found.mean_covered >= 0.87 and found.new_covered >= 0.87


def test_our_rule_finds_twice_the_least_effect_and_nothing_where_nothing_is():
    assert all(found.told >= 0.9 for found in cells("twice the least", 15, 30))
    assert all(found.told <= 0.05 and found.covered is None for found in cells("never", 15, 30))
    assert all(found.told <= 0.05 for found in cells("half the least", 15, 30))


def test_other_seeds_are_other_noise_and_equal_ones_the_same():
    assert cells("weak", 8, 10, seed=1) == cells("weak", 8, 10, seed=1) != cells("weak", 8, 10, seed=2)


def test_the_command_writes_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "CURVES", {"step": CURVES["step"]})
    calibration.main(repeats=3, seed=0, output=tmp_path / "new" / "calibration.json")
    written = (tmp_path / "new" / "calibration.json").read_text()
    assert '"checkpoints": 30' in written and capsys.readouterr().out.count("step") == 12
    assert '"seeds": 3' in (tmp_path / "new" / "calibration_seeds.json").read_text()
    assert (tmp_path / "new" / "calibration.png").stat().st_size > 10_000
