"""The parts of a params file that say what is found, pushed, written, compared and judged at every checkpoint."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from steerlib.files.params import Located, Strict, whole, within
from steerlib.numerics import methods
from steerlib.numerics.methods import Method
from steerlib.study.checkpoints import Steps
from steerlib.study.layers import Neighbours

# Of a method; text among them may name a file.
Option = Annotated[Located | Any, Field(union_mode="left_to_right")]

Alpha = within(float, 10_000, "as half precision overflows soon after", ge=-10_000)
Alphas = Annotated[list[Alpha], Field(min_length=1, max_length=1000)]
NEAREST = 1e-4  # nearer alphas push alike, but for rounding
Resamples = whole(100_000, "as an interval is known well by fewer", least=100)
LENGTHS = ("add",)  # operators of which alpha counts a length (`counts` in steering/operators.py)


class Probes(Strict):
    """How directions are found, and their nulls."""

    # names from steerlib/numerics/methods, each alone or with its options, as in {k_sparse: {k: 8}}
    methods: Annotated[list[str | dict[str, dict[str, Option]]], Field(min_length=1)] = [
        "mean_difference",
        "pca",
        "logistic",
    ]
    # Stimulus pairs of a planted concept; half of its templates fit, half test.
    pairs: whole(2_000, "as the planted world has no more to tell") = 96
    # Null draws: isotropic directions.
    random: whole(10_000, "as each is a direction of every layer", least=20) = 200
    # Null draws: the method itself on shuffled labels.
    shuffled: whole(10_000, "as each is a direction of every layer", least=20) = 20
    # Keep the hidden states of all stimuli with the probes' results, in this precision (they are most of their size);
    # the sweep then need not read them again.
    states: Literal["float16", "float32"] | None = None

    @field_validator("methods")
    @classmethod
    def _distinct(cls, specs):
        created = [methods.create(spec) for spec in specs]
        names = [method.name for method in created]
        if null := next((method.name for method in created if not method.serious), None):
            raise ValueError(f"{null!r} is a null, and nulls are always there; remove it")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice!r} stands there twice; results are kept by name, so keep one")
        return specs

    def load_methods(self) -> list[Method]:
        return [methods.create(spec) for spec in self.methods]

    def load_method(self, name: str) -> Method:
        """One of them, with its options."""
        return next(method for method in self.load_methods() if method.name == name)

    @property
    def names(self) -> list[str]:
        """Of the methods, without their options."""
        return [method.name for method in self.load_methods()]


class Sweep(Strict):
    """How hard is pushed, by which operator, at which tokens, and what is read."""

    alphas: Alphas = [-0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0]  # in units of the scale
    # |alpha| within which log-odds are taken as linear.
    window: within(float, 10_000, "as no alpha is larger", gt=0) = 0.5
    operator: Literal["add", "ablate", "set", "affine", "rotate"] = "add"  # what a push does to the state
    # What alpha counts: residual norms, standard deviations of the projection, lengths of the direction as it was
    # found, or the strength at which KL on neutral text reaches kl_budget (which serves every operator).
    scale: Literal["residual_norm", "projection_std", "raw", "iso_kl"] = "residual_norm"
    # Nat; also bounds the alpha that is chosen on validation prompts.
    kl_budget: within(float, 100, "as nothing of the text is left by then", gt=0) = 0.1
    # Nat a token that neutral text may become less likely by, for an alpha to be recommended (`readiness`).
    nll_budget: within(float, 100, "as nothing of the text is left by then", gt=0) = 0.1
    positions: Literal["last", "all", "generated"] = "generated"  # tokens pushed: the last one and all after it
    # Each direction is pushed at the layer of its greatest slope at alpha 0 on validation prompts, and at so many on
    # either side of it; or at all. Slopes at alpha 0 are of every layer anyway.
    neighbours: Neighbours = 1
    # Readout prompts of a planted concept.
    prompts: whole(2_000, "as the planted world has no more to tell", least=6) = 36
    bootstrap: Resamples = 500  # resamples of prompts for the interval of every slope
    # A text file, a passage a line, for side effects; when absent, stories if the model has read them, else English.
    neutral: Located | None = None
    # Passages or stories of it that are read.
    neutral_texts: whole(10_000, "as the model reads all of them for every push") = 64

    @model_validator(mode="after")
    def _fit_together(self):
        if self.alphas != sorted(set(self.alphas)) or 0.0 not in self.alphas:
            raise ValueError(f"alphas must increase and include 0 (the unsteered model); found {self.alphas}")
        if near := next(([a, b] for a, b in pairwise(self.alphas) if b - a < NEAREST), None):
            raise ValueError(f"alphas must be {NEAREST} apart or more, as nearer ones push alike; found {near}")
        inside = [a for a in self.alphas if abs(a) <= self.window]
        if len(inside) < 3:
            raise ValueError(f"a slope needs at least 3 alphas within the window of ±{self.window}; found {inside}")
        if self.operator not in LENGTHS and self.scale in ("projection_std", "raw"):
            raise ValueError(
                f"scale {self.scale!r} is a length, which only operator {' or '.join(map(repr, LENGTHS))} has; "
                f"with {self.operator!r}, leave scale out or take 'iso_kl'"
            )
        return self


class Generation(Strict):
    """What the model writes when pushed, beside what it writes unsteered; off unless asked for."""

    steps: Steps | None = None  # of these checkpoints; of all of them when absent
    # 0, the unsteered model, is always there, and so is the alpha that is recommended for each concept.
    alphas: Alphas = [0.5, 1.0]
    # Of each concept's readout, from the test split. Of fewer than 13 even no loss at all is not surely a small one.
    prompts: whole(10_000, "as no readout has more") = 24
    tokens: whole(10_000, "as no context here is longer") = 20  # that are written after each prompt
    # A Hugging Face text-classification model (a folder or a repository) that judges.
    classifier: Located | None = None
    labels: dict[str, str] = {}  # concept -> its label there


class Instrument(Strict):
    """All directions and operators side by side at some checkpoints, at equal KL; off unless asked for."""

    steps: Steps  # of these checkpoints
    draws: whole(10_000, "as each is a direction of every layer", least=20) = 100  # null draws of every kind
    # What is tried against interference: directions made orthogonal, whitened, or the other concept erased.
    cures: list[Literal["gram_schmidt", "whitened", "leace"]] = ["gram_schmidt", "whitened", "leace"]


class Transfer(Strict):
    """Directions of each checkpoint, pushed along at each other one; off unless asked for."""

    steps: Steps | None = None  # of these checkpoints; of all of them when absent


class Similarity(Strict):
    """How directions and states resemble one another, by cosine and CKA."""

    # Stimuli over which CKA compares layers.
    texts: whole(10_000, "as each is compared with every other", least=8) = 128


class Least(Strict):
    """The least effects that matter: what is surely more than nothing may yet be too little to mean anything."""

    # AUROC above chance, 0.5: of pairs drawn at random two in three are told right. Twice as much is found nine times
    # in ten (docs/estimator.md), and of expression as well.
    separability: within(float, 0.5, "which is a perfect AUROC", ge=0, lt=0.5) = 0.15
    # Share of texts after which a word is the first choice, above that without evidence.
    expression: within(float, 1, "which is all of them", ge=0, lt=1) = 0.2
    # Nat for a push as long as the state itself (one residual norm), whatever alpha counts; of operators that push no
    # length, for alpha = 1. One nat changes the odds 2.7-fold, e¹.
    steerability: within(float, 1000, "as nothing moves as much", ge=0) = 1.0


class Emergence(Strict):
    """When each measure emerges, and how sure that is."""

    method: str = "mean_difference"  # fixed beforehand, not chosen on the data
    # Of intervals, of the null's quantile, 1 − that of discoveries.
    level: within(float, 1, "which no interval holds", gt=0.5, lt=1) = 0.95
    # Checkpoints that a measure has to stay above, or below, what it has to clear, or it is a dip. 1 is for a handful
    # of checkpoints: of many, noise alone crosses, and intervals hold too little.
    sustained: whole(1_000, "as no study has as many checkpoints in a row") = 2
    least: Least = Least()
    bootstrap: Resamples = 1000  # resamples for the interval of every onset
    # Null draws of its method: labels dealt anew within classes. Only what they do is kept, not their vectors.
    shuffled: whole(10_000, "as each is fitted and pushed along", least=100) = 500


class Readiness(Strict):
    """What is asked of a push before it is called ready; beside these, `emergence.least` and its level."""

    # Share of test prompts that may move the wrong way. One in four is surely not reached where none of 13 does.
    wrong_way: within(float, 1, "which is all of them", gt=0) = 0.25
    # How much other readouts may move, by the size of their slopes, of what its own does.
    off_target: within(float, 100, "as nothing is selective then", gt=0) = 0.5
    # KL on neutral passages, in nat, that the recommended push may cost.
    kl: within(float, 100, "as nothing of the text is left by then", gt=0) = 0.2
    # How much less likely it may make these, in nat a token: 0.1 is perplexity × 1.1.
    nll: within(float, 100, "as nothing of the text is left by then", gt=0) = 0.1
    lasting: whole(1_000, "as no study has as many checkpoints in a row") = 2  # checkpoints in a row, up to this one
    # Share of prompts on which the push has to bring a target to the first place.
    gain: within(float, 1, "which is all of them", gt=0) = 0.1
    text: within(float, 1, "which is all of them", gt=0) = 0.1  # by how much the share of texts with it has to grow
    fluent: within(float, 1, "which is all of them", gt=0) = 0.2  # loss of what a judge of the writing says
    # Share of right answers about other concepts that it may cost.
    task: within(float, 1, "which is all of them", gt=0) = 0.1
    undo: within(float, 1, "which is no undoing", gt=0) = 1e-3  # nat left behind once a push is taken off
