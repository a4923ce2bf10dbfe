"""Known protocols by name: defaults that a study takes with `preset:`. Whatever its YAML says itself wins."""

from __future__ import annotations

from steerlib.files.params import overlaid

# PAPER: stated in She et al. 2025 (arXiv 2508.01892) or its reviews. OURS: not stated there, or for steerlib to choose.
PRESETS: dict[str, dict] = {
    # The Intervention Detector. Its fine-tuning of every checkpoint is PAPER, too, and left to `finetuning:`, so that
    # the same study can be made with it and without.
    "id": {
        "probes": {
            "methods": ["pca"],  # PAPER: first component of the differences of positive and negative states
            "pairs": 256,  # PAPER: 256 stimuli a concept from templates; OURS: that these are pairs
        },  # PAPER: states of every layer are read at token -1; steerlib reads them nowhere else
        "sweep": {
            "operator": "add",  # PAPER: the direction of a layer is added at that layer
            "scale": "raw",  # PAPER: unscaled; OURS: that alpha 1 is then the direction as it was found
            "positions": "last",  # OURS: where a push acts is not stated, so where it was read
        },  # OURS: several alphas, log-odds against foils; the paper has a chat model judge one strength
        "emergence": {
            "method": "pca",  # OURS: onsets with intervals and nulls, of the paper's direction
        },
    },
}


def apply(given: dict) -> dict:
    """Params as given, over the defaults of the preset that they name. An unknown name is for `Study` to refuse."""
    name = given.get("preset")
    return overlaid(PRESETS[name], given) if isinstance(name, str) and name in PRESETS else given
