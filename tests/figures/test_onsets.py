"""Figures and texts of when: whatever a measure does is told, by a mark or in words, and nothing else is."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from helpers.histories import STUDY, collected
from steerlib.figures import onsets
from steerlib.stages.emergence import analyse
from steerlib.stages.summary import legend, separability_first, summary

SEPARATED, STEERED = ({"measure": name} for name in ("separability", "steerability"))


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    """Early and late rise, never does not; and separability of each is made to do something else."""
    found = analyse(*collected(), STUDY)
    found["status"] = found.status.astype(object)  # longer words than those that are there
    ways = {"early": ("from the start", -np.inf), "late": ("words alone", np.inf), "never": ("too few", np.nan)}
    for concept, (status, onset) in ways.items():
        at = SEPARATED | {"concept": concept}
        found.status.loc[at] = status
        for name in ("onset", "onset_lower", "onset_upper"):
            found[name].loc[at] = onset
    return found


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(axis: plt.Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_curves_tell_in_words_what_does_not_rise_and_mark_what_does(found):
    figure = onsets.emergence_curves(found)
    grid = np.array(figure.axes).reshape(3, 3)
    assert [texts(axis)[0] for axis in grid[:, 0]] == ["from the start", "words alone", "too few"]
    assert [texts(axis)[0] for axis in grid[:, 2]] == ["", "", "not reached"]
    marks = [{line.get_marker() for line in axis.lines} & {"^", "D"} for axis in grid[:, 2]]
    assert marks == [{"^", "D"}, {"^", "D"}, set()]
    assert "1 nat (odds × 2.7)" in grid[0, 2].get_title()


def test_the_summary_tells_not_reached_from_what_has_no_onset(found):
    axis = onsets.onset_summary(found).axes[0]
    hollow = [line.get_marker() for line in axis.lines if line.get_markerfacecolor() == "none"]
    assert sorted(hollow) == ["s", "v"], "never is neither expressed nor steerable"
    marks = [line.get_label() for line in axis.lines]
    assert (marks.count("from the start"), marks.count("no onset told")) == (1, 2)
    assert texts(axis) == ["words alone", "too few"]


def test_the_order_leaves_empty_what_cannot_be_told_and_says_where_there_is_none(found):
    one = {"concept": "early", "concept_b": "never"}
    unknown = found.before.copy(deep=True)
    unknown.loc[one] = np.nan
    left, right = onsets.order(found.assign(before=unknown)).axes[:2]
    assert left.get_title().startswith("first detectable\nτ = 1.00") and right.get_title().startswith("half-way up")
    assert [label.get_text() for label in left.get_yticklabels()] == ["early", "late", "never"]
    assert texts(left) == ["1.00", "0.00", "1.00", "0.00", "0.00"]
    tied = onsets.order(found.assign(tied=found.tied * 0 + 1, before=found.before * 0)).axes[0]
    assert texts(tied) == ["="] * 6


@pytest.mark.parametrize("step", [0, -1])
def test_one_checkpoint_has_its_figures_and_words(step):
    probes, interventions = (dataset.isel(step=[step]) for dataset in collected())
    found = analyse(probes, interventions, STUDY)
    for draw in (onsets.emergence_curves, onsets.onset_summary, onsets.order, onsets.with_and_without):
        draw(found).canvas.draw()
    said = "absent" if step == 0 else "present"
    assert (summary(found)["steerability"] == [said, said, "absent"]).all()
    assert any(line.startswith(said) and "one checkpoint" in line for line in legend(found))
    assert (separability_first(found) == "–").all(axis=None)


def test_words_are_explained_where_they_occur_only(found):
    told = summary(found)
    assert told["separability"].tolist() == ["from the start", "words alone", "too few"]
    words = [line.split(":")[0] for line in legend(found)[3:]]
    assert words == ["words alone", "too few"]
