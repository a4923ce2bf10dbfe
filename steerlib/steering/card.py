"""The card of a direction: what is known of where it comes from and what pushing along it did. None: not told."""

from __future__ import annotations

from steerlib.files.params import Strict
from steerlib.files.store import Sha256


class Told(Strict):
    """One criterion of readiness, as it came out (`steerlib.stages.criteria`)."""

    outcome: str
    said: str
    value: float | None
    lower: float | None
    upper: float | None
    threshold: float | None


class Texts(Strict):
    """Those that it was fitted on."""

    sha256: Sha256  # of [positives, negatives] in JSON, as they were put to the model
    pairs: int
    frame: str  # what each was put into; "{}": nothing
    licence: str | None  # as their file tells it


class Pushed(Strict):
    """What came of pushing along it, at its layer and at the recommended alpha, on prompts and passages kept for it."""

    verdict: str  # of readiness
    held_back: str  # the first criterion that keeps it from the next verdict
    alpha: float | None  # the recommended one; none where no alpha that was tried surely keeps to the budgets
    alpha_lower: float | None  # between these it is chosen, when the prompts that choose it are drawn anew
    alpha_upper: float | None
    operator: str
    scale: str  # what alpha counts
    strength: float  # what alpha multiplies: of `add` the length of a push at alpha 1
    positions: str  # the tokens that were pushed
    level: float  # of all intervals
    null_upper: float | None  # upper quantile of what directions from shuffled labels do, beside the value of `size`
    criteria: dict[str, Told]  # `size` is its effect, in nat per unit of alpha; `kl` and `nll` what it costs


class Card(Strict):
    """What a direction's file tells beside the direction. Made by hand, it is empty."""

    study: str | None = None
    source: str | None = None  # the repository or folder that the checkpoint is of
    step: int | None = None
    seed: int | None = None
    texts: Texts | None = None
    pushed: Pushed | None = None
    versions: dict[str, str] | None = None
    commit: str | None = None  # of steerlib
    made: str | None = None  # when it was found

    def rows(self) -> dict[str, str]:
        """To be read: a line for whatever a card may tell, and `not told` where it does not."""
        told = self.model_dump(exclude={"pushed", "texts", "versions"})
        told |= {f"texts: {key}": getattr(self.texts, key, None) for key in Texts.model_fields}
        push = self.pushed.model_dump(exclude={"criteria"}) if self.pushed else {"pushed": None}
        if self.pushed and self.pushed.alpha is None:
            push["alpha"] = "none is recommended"
        push |= {name: one.said for name, one in self.pushed.criteria.items()} if self.pushed else {}
        told |= push | {"versions": self.versions and ", ".join(f"{name} {of}" for name, of in self.versions.items())}
        return {name: "not told" if value is None else f"{value}" for name, value in told.items()}
