"""What figures are drawn from, in little, and every figure there is."""

import json
from pathlib import Path

import numpy as np
import xarray as xr

from steerlib.figures import checkpoint, comparison, instrument, onsets, readiness, training, transfer
from steerlib.stages import groups
from steerlib.stages.criteria import CRITERIA, LEVELS
from steerlib.stages.other_ways import WAYS

REFERENCE = Path(__file__).parents[2] / "outputs" / "reference"
NAMES, STEPS, LAYERS = ["happiness", "disgust", "truth", "place", "placebo"], np.array([0, 32, 160, 192, 810]), 3
ALPHAS, PROMPTS, METHOD = [-0.5, 0.0, 0.5, 1.0], 12, "pca"
PARAMS = {"name": "made-up", "emergence": {"method": METHOD, "level": 0.95}}
PARAMS |= {"sweep": {"scale": "residual_norm", "operator": "add", "window": 0.5, "kl_budget": 0.1}}


def made(names: list[str] = NAMES, steps: np.ndarray = STEPS) -> dict[str, xr.Dataset]:
    """What figures are drawn from, in little: of noise where no reference has it."""
    draw = np.random.default_rng(0)
    places = {"step": steps, "concept": names, "readout_concept": names, "concept_b": names, "layer": np.arange(LAYERS)}
    places |= {"probe": [METHOD, "random", "shuffled"], "alpha": ALPHAS, "variant": ["raw", "projection", "cosine"]}
    free = {"prompt": PROMPTS, "draw": 8, "deal": 20, "fold": 6, "judge": 2}

    def of(*dims: str, **attrs: str) -> xr.DataArray:
        values = draw.normal(size=[free.get(dim) or len(places[dim]) for dim in dims])
        return xr.DataArray(values, {dim: places[dim] for dim in dims if dim in places}, dims, attrs=attrs)

    cell = "step", "probe", "concept", "layer"
    role = {"role": ("concept", ["null" if name == "placebo" else "concept" for name in names])}
    kinds = {"null": ("draw", ["random", "shuffled"] * 4)}
    probes = {"auroc": of(*cell, "fold"), "auroc_words": of("step", "concept", "fold")}
    probes |= {"auroc_shuffled": of("step", "concept", "layer", "fold", "deal"), "id_score": of(*cell, "variant")}
    probes |= {"p_id": abs(of(*cell, "variant")).clip(0, 1) ** 3}
    swept = {"local_slope": of(*cell, units="nat per residual norm"), "kl": abs(of(*cell, "alpha"))}
    swept |= {f"kl_{end}": share * swept["kl"] for end, share in (("lower", 0.8), ("upper", 1.3))}
    swept |= {"log_odds": of(*cell, "alpha", "readout_concept", "prompt", units="nat"), "q": of(*cell[2:], "step")}
    swept |= {"interference_local": of("step", "concept", "layer", "readout_concept", units="nat per residual norm")}
    swept |= {"interference_shuffled": of("step", "concept", "layer", "readout_concept", "deal")}
    similar = {
        "cosine_to_final": of(*cell),
        "cosine_concepts": of(*cell, "concept_b"),
        "id_entropy": of(*cell[:3], "variant"),
    }
    refitted = {"lower": -0.1, "upper": 0.1}
    similar |= {f"{name}_{end}": values + by for name, values in similar.items() for end, by in refitted.items()}
    similar |= {"id_entropy_null": of(*cell[:3], "variant", "draw"), "id_entropy_uniform": of("step")}
    written = xr.Dataset({"judged": of("concept", "probe", "alpha", "prompt", "judge")}, {"judge": ["fluent", "right"]})
    split = {"split": (["readout_concept", "prompt"], [["validation", "test", "test"] * 4] * len(names))}
    found = {
        "probes": xr.Dataset(probes, role | kinds),
        "interventions": xr.Dataset(swept, split).assign(q=lambda swept: abs(swept.q)),
        "similarity": xr.Dataset(similar, kinds),
        "written": written.assign(text=written.judged.isel(judge=0, drop=True).astype(str)),
        "loss": xr.Dataset({"loss": ("step", np.exp(-np.arange(1.0, 9)))}, {"step": np.arange(1, 9)}),
    }
    for name in ("interventions", "written"):
        found[name].alpha.attrs["units"] = "residual norm"
    for name, of_study in (("emergence", "toy"), ("seeds", "toy-seeds"), ("tuned", "toy-finetuned")):
        stored = xr.load_dataset(next((REFERENCE / of_study).glob("[ce]*.nc")))
        found[name] = stored.sel(concept=names, concept_b=names, readout_concept=names, step=steps).drop_attrs(
            deep=False
        )
    found["groups"] = grouped(found["seeds"])
    by_chance = found["emergence"].gain_null  # whose interval the reference does not have
    found["emergence"] = found["emergence"].assign(gain_null_lower=by_chance - 0.1, gain_null_upper=by_chance + 0.1)
    told = {"verdict": np.array(LEVELS), "held_back": np.array([*CRITERIA])}
    told = {name: words[draw.integers(len(words), size=(len(steps), len(names)))] for name, words in told.items()}
    verdicts = xr.Dataset({name: (["step", "concept"], of.astype(object)) for name, of in told.items()})
    found["readiness"] = verdicts.assign_coords(step=steps, concept=names).expand_dims(probe=[METHOD])
    compared = xr.load_dataset(REFERENCE / "toy-instrument" / "instrument.nc").squeeze("step")
    compared = compared.sel(concept=names, concept_b=names, readout_concept=names)
    found["instrument"] = compared.drop_attrs(deep=False)
    found["ways"] = other_ways(names)
    found["transfer"] = transferred(names, steps)
    return {name: dataset.assign_attrs(params=json.dumps(PARAMS)) for name, dataset in found.items()}


def grouped(seeds: xr.Dataset) -> xr.Dataset:
    """Two groups of seeds: in the second every onset is half as late again, and a seed has none of disgust."""
    own = seeds.drop_dims(["group", "variant_b"])
    late = own.assign({f"onset{end}": 1.5 * own[f"onset{end}"] for end in groups.ENDS})
    late = late.assign(onset=late.onset.where((late.concept != "disgust") | (late.seed < 2), np.inf))
    late = late.assign_coords(variant=[f"late-{k}" for k in own.seed.values], of_group=("variant", ["late"] * 3))
    whole = xr.concat([own, late], "variant", data_vars="minimal")
    return whole.merge(groups.over_seeds(whole, 0.95)).merge(groups.shifts(whole, 0.95))


def transferred(names: list[str], steps: list[int]) -> xr.Dataset:
    """Directions last from the second checkpoint on; the first checkpoint has no share to tell."""
    at = {"step": steps, "concept": names, "origin": steps}
    share = xr.DataArray(np.full([len(of) for of in at.values()], 0.9), at)
    share = share.where(share.origin > steps[0], 0.1).where((share.step > steps[0]) | (len(steps) == 1))
    found = xr.Dataset({"share": share, "share_lower": share - 0.1, "share_upper": share + 0.1})
    found["p_transferred"] = xr.where(found.share > 0.5, 0.001, 0.5)
    return found.assign(cosine_to_origin=share.fillna(0.1) / 2, layer_pushed=("concept", [1] * len(names)))


def other_ways(names: list[str]) -> xr.Dataset:
    """What another way would do and cost; texts before the prompt are beyond the budget."""
    effect = xr.DataArray(np.tile([0.0, 1.0, 2.0, 7.0], (len(names), 1)), {"concept": names, "way": [*WAYS]})
    found = xr.Dataset({"effect": effect, "effect_lower": effect - 0.5, "effect_upper": effect + 0.5})
    for name in ("kl", "kl_lower", "kl_upper", "amount", "flop", "cpu_seconds"):
        found[name] = 0.02 * effect
    for name, of in (("texts", [0, 1, 56, 112]), ("tokens", [0, 26, 0, 0]), ("within", [True, False, True, True])):
        found[name] = xr.DataArray(of, dims="way").broadcast_like(effect)
    found["why"] = xr.full_like(effect, "", dtype=object)
    found["effect_null"] = xr.DataArray(np.linspace(-1, 1, 20), dims="draw").expand_dims(concept=names)
    return found.assign_coords(null=("draw", ["shuffled"] * 20), step=810).assign_attrs(params=json.dumps(PARAMS))


def last(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.isel(step=-1)


LAYER = lambda d: d["emergence"].chosen_layer.clip(max=LAYERS - 1)  # noqa: E731
BY_STEP = lambda d: d["emergence"].layer_by_step.clip(max=LAYERS - 1)  # noqa: E731
FIGURES = {
    "checkpoint.separability_by_layer": lambda d: checkpoint.separability_by_layer(last(d["probes"]), METHOD),
    "checkpoint.doses_of_checkpoint": lambda d: checkpoint.doses_of_checkpoint(
        last(d["interventions"]), METHOD, LAYER(d)
    ),
    "checkpoint.cosines_of_concepts": lambda d: checkpoint.cosines_of_concepts(last(d["similarity"]), METHOD, 1),
    "transfer.here": lambda d: transfer.here(last(d["transfer"]), METHOD),
    "transfer.matrix": lambda d: transfer.matrix(
        d["transfer"], d["emergence"].onset.sel(measure="steerability", question="half_way"), METHOD
    ),
    "checkpoint.training_loss": lambda d: checkpoint.training_loss(d["loss"]),
    "checkpoint.judgements": lambda d: checkpoint.judgements(d["written"], METHOD),
    "onsets.emergence_curves": lambda d: onsets.emergence_curves(d["emergence"]),
    "onsets.onset_summary": lambda d: onsets.onset_summary(d["emergence"]),
    "onsets.order": lambda d: onsets.order(d["emergence"]),
    "onsets.with_and_without": lambda d: onsets.with_and_without(d["emergence"]),
    "training.steerability_heatmap": lambda d: training.steerability_heatmap(
        d["interventions"], METHOD, d["interventions"].q
    ),
    "training.id_heatmap": lambda d: training.id_heatmap(d["probes"], METHOD, "projection"),
    "training.id_entropy": lambda d: training.id_entropy(d["similarity"], METHOD),
    "training.dose_response": lambda d: training.dose_response(d["interventions"], METHOD, BY_STEP(d)),
    "training.cosine_to_final": lambda d: training.cosine_to_final(d["similarity"], METHOD, LAYER(d), 128),
    "training.interference": lambda d: training.interference(
        d["interventions"], LAYER(d), d["emergence"].interference_q
    ),
    "training.side_effects": lambda d: training.side_effects(d["interventions"], METHOD, LAYER(d)),
    "readiness.matrix": lambda d: readiness.matrix(d["readiness"], METHOD),
    "readiness.other_ways": lambda d: readiness.other_ways(d["ways"]),
    "comparison.onsets": lambda d: comparison.onsets(d["seeds"]),
    "comparison.order": lambda d: comparison.order(d["seeds"]),
    "comparison.trajectories": lambda d: comparison.trajectories(d["seeds"]),
    "comparison.difference": lambda d: comparison.difference(d["tuned"], "with"),
    "comparison.later": lambda d: comparison.later(d["groups"]),
    "instrument.at_equal_kl": lambda d: instrument.at_equal_kl(d["instrument"]),
    "instrument.cures": lambda d: instrument.cures(d["instrument"]),
}
