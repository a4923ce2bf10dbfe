"""What the guideline says of our own figures is what the reference datasets hold."""

import pytest
import xarray as xr

from helpers.studies import PROJECT
from steerlib.files import datasets

PAGE = (PROJECT / "docs" / "guideline.md").read_text()
REFERENCE = PROJECT / "outputs" / "reference"


@pytest.fixture(scope="module")
def emerged() -> xr.Dataset:
    return datasets.read(REFERENCE / "toy" / "emergence.nc")


@pytest.fixture(scope="module")
def compared() -> xr.Dataset:
    return datasets.read(REFERENCE / "toy-instrument" / "instrument.nc").squeeze("step")


def test_numbers_of_effects_and_nulls_are_those_of_the_reference(emerged):
    def at(variable, concept, step, measure="steerability"):
        return float(emerged[variable].sel(measure=measure, concept=concept, step=step))

    happiness, null = at("value", "happiness", 810), at("null_upper", "happiness", 810)
    assert f"gains {happiness:.1f} nat per unit" in PAGE and f"gain up to {null:.1f}: half" in PAGE
    assert 0.45 < null / happiness < 0.55
    told, moved, null = (
        at("value", "fear", 160, "separability"),
        at("value", "fear", 160),
        at("null_upper", "fear", 160),
    )
    assert (
        f"(AUROC {told:.2f}), and a push along it gains {moved:.2f} nat, less than shuffled labels do ({null:.2f})"
        in PAGE
    )
    untrained = [at(name, "disgust", 0) for name in ("value", "value_lower", "null_upper")]
    told = "gains {:.2f} nat, and the interval over prompts begins at {:.2f}: sure to be more than zero, and less than"
    assert f"{told} shuffled labels gain ({{:.2f}})".format(*untrained) in PAGE and 0 < untrained[1] < untrained[2]
    surprise = [at("value", "surprise", step) for step in (288, 320)]
    assert "gains {:.1f} nat at step 288 and {:.1f} at step 320".format(*surprise) in PAGE
    words = emerged.baseline_words.sel(measure="separability")
    assert f"AUROC {float(words.min()):.2f} to {float(words.max()):.2f} on the toy's texts" in PAGE


def test_numbers_at_equal_kl_are_those_of_the_reference(compared):
    emotions = compared.concept[compared.role.values == "emotion"]
    assert len(emotions) == 6 and float(compared.auroc.sel(candidate="lda", concept=emotions).min()) == 1
    pushed = compared.steerability.sel(concept=emotions).mean("concept")
    lda, difference = (float(pushed.sel(candidate=name)) for name in ("lda", "mean_difference"))
    assert f"it pushes {lda:.1f} nat where the difference of means pushes {difference:.1f}" in PAGE
    placebo = compared.sel(candidate="mean_difference", concept="placebo")
    own, others = float(placebo.steerability), float(placebo.off_target)
    assert f"its own words by {own:.1f} nat, and those of other concepts by {others:.1f}" in PAGE
    ablated = compared.steerability.sel(candidate="operator ablate")
    sadness, fear = (float(ablated.sel(concept=name)) for name in ("sadness", "fear"))
    assert f"raises sadness by {sadness:.1f} nat and lowers fear by {-fear:.1f}" in PAGE


def test_it_is_two_pages_at_most():
    assert len(PAGE.split()) < 1250
