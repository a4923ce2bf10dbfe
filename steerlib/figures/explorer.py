"""A study as one page, in which its small model runs by itself: `outputs/<study>/explorer.html`.

In it are all checkpoints' weights (float16), the study's directions and steerability curves, and a model in plain
JavaScript (`page/model.js`, held against PyTorch by tests). It asks nothing of a server, and opens by double click.
"""

import json
import re
from base64 import b64encode
from html import escape
from importlib.resources import files

import numpy as np
import pandas as pd
import xarray as xr
from transformers import GPTNeoXConfig

from steerlib import SteerlibError
from steerlib.figures.axes import LINEAR, first_trained
from steerlib.figures.look import looks
from steerlib.numerics.onsets import QUESTIONS
from steerlib.results.opening import OpenStudy
from steerlib.results.provenance import provenance
from steerlib.stages.interventions import alpha_unit
from steerlib.stages.summary import onset_texts

LARGEST = 64 << 20  # bytes of weights in a page: what a browser opens in a second or two
PLACE = re.compile(r"\{\{([\w.]+)\}\}")  # in page.html: a file beside it, or what is told of the study
SHOWN = 8  # example prompts, neutral texts, targets, foils
PUSHES = 2.0  # the least that the dial of alpha goes to


class Unfit(ValueError):
    """Why a page does not run a model."""


def page(study: OpenStudy) -> str:
    """The page's text. Raises SteerlibError where there are no results or checkpoints yet, and for a model that is too
    large for a page or that its JavaScript does not run."""
    try:
        model = _model(study, len(study.steps))  # before results are asked for: nobody makes them for no page
    except Unfit as why:
        raise refused(study, why) from None
    steps = [int(step) for step in study.results["emergence"].step]
    weights = {step: _weights(study, step) for step in steps}
    told = {
        "study": study.params.name,
        **model,
        "axis": {"first": first_trained(np.array(steps)), "linear": LINEAR},
        "about": {key: str(value) for key, value in provenance(study.params).items() if key != "params"},
        **_found(study, model["config"]["layers"]),
    }
    parts = {
        "title": f"{escape(study.params.name)}: steer it while it learns",
        "data": json.dumps(told, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "weights": "\n".join(f'<script type="text/plain" id="step-{k}">{w}</script>' for k, w in weights.items()),
    }
    # Each place once, in one go: what is filled in may hold what looks like a place.
    return PLACE.sub(lambda place: parts.get(place[1]) or _file(place[1]), _file("page.html"))


def refused(study: OpenStudy, why: Unfit) -> SteerlibError:
    """What else there is for a study of which no page is made."""
    return SteerlibError(
        f"{study.params.name}: no page is made of it, as {why}; push it in a notebook instead: "
        f'steerlib.explore("{study.params.path}")'
    )


def _file(name: str) -> str:
    return (files(__package__) / "page" / name).read_text("utf-8")


# --- the model --------------------------------------------------------------------------------------------------------


def _model(study: OpenStudy, steps: int) -> dict:
    """What is told of the last checkpoint; one that is too large, or another, is not loaded to find that out."""
    folder = study.workspace.analysed[study.steps[-1]].whole
    if (config := folder / "config.json").is_file():
        check_kind(json.loads(config.read_text("utf-8")).get("model_type"))
        check_size(sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 4 * steps)
    model = study.model()
    check_size(sum(weight.numel() for weight in model.hf.parameters()) * steps)
    return told_of(model)


def check_kind(kind: str) -> None:
    """Of an architecture. Raises Unfit."""
    if kind != GPTNeoXConfig.model_type:
        raise Unfit(f"it runs models like Pythia ({GPTNeoXConfig.model_type}), and this one is {kind}")


def check_size(numbers: int) -> None:
    """Of so many weights in all. Raises Unfit."""
    if (size := numbers * 2 * 4 // 3) > LARGEST:  # of two bytes each, in base 64
        raise Unfit(f"its weights would take {size >> 20:,} MB in it, and a browser bears {LARGEST >> 20}")


def told_of(model) -> dict:
    """All that the JavaScript has to know of a model but its weights. Raises Unfit for one that it does not run."""
    config, size = model.hf.config, model.config.hidden_size // model.config.num_attention_heads
    neox = isinstance(config, GPTNeoXConfig) and config.hidden_act == "gelu"
    rope = config.rope_parameters if neox else {}
    rotary = int(size * rope.get("partial_rotary_factor", 1))
    if not neox or rope["rope_type"] != "default" or rotary % 2:
        raise Unfit(f"it runs GPT-NeoX with GELU and plain rotary positions, and this {config.model_type} is another")
    return {
        "config": {
            "hidden": config.hidden_size,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "inner": config.intermediate_size,
            "rotary": rotary,
            "theta": rope["rope_theta"],
            "epsilon": config.layer_norm_eps,
            "parallel": config.use_parallel_residual,
            "context": config.max_position_embeddings,
            "end": model.tokenizer.eos_token_id,
        },
        "shapes": [[name, weight.numel()] for name, weight in model.hf.named_parameters()],
        "tokenizer": tokenizer_of(model.tokenizer),
    }


def tokenizer_of(tokenizer) -> dict:
    """Its tokens by id, and merges. Raises Unfit for one that is no byte-level BPE, or that adds tokens to texts."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    model, form, apart = told["model"], told["normalizer"], told["pre_tokenizer"] or {}
    plain = not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    plain &= not model.get("ignore_merges") and (form is None or form["type"] == "NFC")
    plain &= apart.get("type") == "ByteLevel" and apart["use_regex"] and not apart["add_prefix_space"]
    if not (model["type"] == "BPE" and plain and tokenizer("a")["input_ids"] == [model["vocab"].get("a")]):
        raise Unfit("it reads texts by byte-level BPE, as Pythia's is, and this tokenizer is another one")
    tokens = {id: token for token, id in model["vocab"].items()} | {t["id"]: t["content"] for t in told["added_tokens"]}
    return {
        "tokens": [tokens.get(id, "") for id in range(1 + max(tokens))],
        "merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        "added": {t["content"]: t["id"] for t in told["added_tokens"]},
        "form": form["type"] if form else "",
    }


def _weights(study: OpenStudy, step: int) -> str:
    """Of one checkpoint. Raises SteerlibError where the results are not of these."""
    model, of = study.model(step), study.results["probes"].weights_sha256.sel(step=step).item()
    if model.weights_sha256 != of:
        raise SteerlibError(
            f"{model.name}: its weights are not those that the results are of; run the study again: "
            f"steerlib run {study.params.path}"
        )
    return in_halves(model.hf)


def in_halves(hf) -> str:
    """All of a model's weights in float16, one after the other, as text."""
    halves = [weight.detach().cpu().half().numpy().astype("<f2").ravel() for weight in hf.parameters()]
    return b64encode(np.concatenate(halves).tobytes()).decode()


# --- what was found ---------------------------------------------------------------------------------------------------


def _found(study: OpenStudy, layers: int) -> dict:
    """Directions, strengths, curves and words of every concept at every step: no direction in layers not looked at."""
    results, plan = study.results, study.params.sweep
    emergence = results["emergence"].load()
    method, unit = study.params.emergence.method, alpha_unit(study.params)
    names = [str(name) for name in emergence.concept.values]
    if names != study.concepts:
        raise SteerlibError(f"the results are of other concepts; run again: steerlib run {study.params.path}")
    at = {"step": emergence.step.values, "concept": names}
    every = {"layer": range(layers)}
    probes = results["probes"][["direction", "residual_norm"]].sel(probe=method, **at).reindex(every)
    direction = probes.direction.transpose("step", "concept", "layer", "hidden").load()
    if unit == "radian" or unit.startswith("full "):  # of another operator
        strength, unit = probes.residual_norm.expand_dims(concept=names), "residual norm"
    else:
        strength = results["interventions"].strength.sel(probe=method, **at).reindex(every)
    there = np.isfinite(direction).all("hidden")
    last = emergence.sel(measure="steerability").isel(step=-1)
    when = pd.DataFrame({question: onset_texts(emergence, question)["steerability"] for question in QUESTIONS})
    told, gain = looks(names), emergence.gain.isel(step=-1).fillna(-np.inf) - emergence.unsteered.isel(step=-1)
    half_way = last.onset.sel(question="half_way").values
    # Of the concepts that a push does most for the latest: there is most to see before.
    begin = names[np.lexsort([half_way, np.where(np.isfinite(half_way), gain, -np.inf)])[-1]]
    return {
        "steps": emergence.step.values.tolist(),
        "tokensSeen": probes.tokens_seen.values.tolist(),
        "method": method,
        "alpha": {"most": max(PUSHES, *map(abs, plan.alphas)), "unit": unit, "curve": alpha_unit(study.params)},
        "budget": plan.kl_budget,
        "level": study.params.emergence.level,
        "directions": b64encode(direction.fillna(0).values.astype("<f4").tobytes()).decode(),
        "strength": _numbers(strength.transpose("step", "concept", "layer").where(there)),
        "chosen": emergence.layer_by_step.transpose("step", "concept").values.astype(int).tolist(),
        "begin": begin,
        "neutral": _neutral(study),
        "concepts": [
            {
                "name": name,
                "colour": told[name]["color"],
                "curve": _curve(emergence.sel(measure="steerability", concept=name), when.loc[name]),
                **_words(concept),
            }
            for name, concept in zip(names, study.workspace.concepts, strict=True)
        ],
    }


def _curve(of: xr.Dataset, when: pd.Series) -> dict:
    """A concept's steerability over training, and both answers to when, in numbers and in words."""
    names = ("value", "value_lower", "value_upper", "null_lower", "null_upper", "bar")
    places = ("onset", "onset_lower", "onset_upper")
    onsets = {question: {key: _numbers(of[key].sel(question=question)) for key in places} for question in QUESTIONS}
    words = {question: onsets[question] | {"text": when[question]} for question in QUESTIONS}
    return {name: _numbers(of[name]) for name in names} | {"onsets": words}


def _words(concept) -> dict:
    """What is asked, and which words answer: of items, those of the first."""
    cases = concept.readout.cases
    prompts = list(dict.fromkeys(case.prompt for case in cases[: 1 if concept.readout.items else SHOWN]))
    return {"prompts": prompts, "targets": cases[0].targets[:SHOWN], "foils": cases[0].foils}


def _neutral(study: OpenStudy) -> list[str]:
    """Neutral passages, cut in the middle."""
    words = [passage.split() for passage in study.params.load_neutral()[:SHOWN]]
    return [" ".join(of[: max(3, len(of) // 2)]) for of in words]


def _numbers(values: xr.DataArray) -> object:
    """As lists; None where there is no number."""
    return np.where(np.isfinite(values.values), values.values, None).tolist()
