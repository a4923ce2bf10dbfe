"""The card of a direction that a study has found: where it comes from, and what pushing along it did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from zlib import crc32

import numpy as np
import xarray as xr

from steerlib.concepts import Concept
from steerlib.numerics.statistics import FEW, interval
from steerlib.results import audit
from steerlib.results.provenance import now
from steerlib.results.workspace import Workspace
from steerlib.stages.criteria import finite, plain
from steerlib.stages.effects import recommended_alpha
from steerlib.stages.source import versions
from steerlib.steering import Direction
from steerlib.steering.card import Card, Pushed, Texts
from steerlib.study import Study

CHOOSING = ["log_odds", "split", "kl_validation_upper", "delta_nll_validation_upper"]  # what alpha hangs on


def of(workspace: Workspace, concept: Concept, step: int, pushed: Pushed | None) -> Card:
    """Of a concept's direction at a step."""
    study = workspace.study
    texts = concept.stimuli("fit", study.seed)
    told = json.dumps([texts.positive, texts.negative], ensure_ascii=False)
    return Card(
        study=study.name,
        source=study.checkpoints.origin or f"pretrained by {study.name}",
        step=step,
        seed=study.seed,
        texts=Texts(
            sha256=hashlib.sha256(told.encode()).hexdigest(),
            pairs=len(texts.positive),
            frame=concept.frame,
            licence=concept.licence,
        ),
        pushed=pushed,
        versions={"steerlib": version("steerlib"), **versions()},
        commit=audit.commit(),
        made=now(),
    )


def cell_of(
    readiness: xr.Dataset, results: Mapping[str, xr.Dataset], direction: Direction, step: int
) -> xr.Dataset | None:
    """What readiness says of a direction that one of the study's methods found at a step.

    None where it was pushed at another layer, or in other weights than these.
    """
    at = {"step": step, "probe": direction.method, "concept": direction.concept}
    if any(value not in readiness[dim] for dim, value in at.items()):
        return None
    cell, swept = readiness.sel(at), results["interventions"].sel(step=step)
    same = swept.weights_sha256.item() == direction.weights_sha256
    return cell if same and int(cell.layer_pushed) == direction.layer else None


def pushed(study: Study, results: Mapping[str, xr.Dataset], cell: xr.Dataset) -> Pushed:
    """What came of pushing along the direction that a cell of readiness is about."""
    name, step, method, plan = cell.concept.item(), cell.step.item(), cell["probe"].item(), study.sweep
    here = results["interventions"].sel(step=step, probe=method, layer=int(cell.layer_pushed), concept=[name])
    null = results["emergence"].null_upper.sel(measure="steerability", step=step, concept=name)
    lower, upper = alphas(here[CHOOSING].sel(readout_concept=[name]).compute(), study)
    return Pushed(
        verdict=str(cell.verdict.item()),
        held_back=str(cell.held_back.item()),
        alpha=finite(cell.recommended_alpha),
        alpha_lower=lower,
        alpha_upper=upper,
        operator=plan.operator,
        scale=plan.scale,
        strength=here.strength.item(),
        positions=plan.positions,
        level=study.emergence.level,
        null_upper=finite(null) if method == study.emergence.method else None,
        criteria=plain(cell),
    )


def alphas(swept: xr.Dataset, study: Study) -> tuple[float | None, float | None]:
    """Between which the recommended one lies, when the validation prompts that choose it are drawn anew.

    The budgets stay as they are: these are kept by upper bounds already.
    """
    asked = swept.log_odds.notnull().all("alpha").squeeze() & (swept.split.squeeze() == "validation")
    some = np.flatnonzero(asked.values)
    if len(some) < FEW or not np.isfinite(recommended_alpha(swept, study)).all():
        return None, None
    seed = [study.seed, crc32(b"alpha"), crc32(str(swept.concept.item()).encode())]
    drawn = np.random.default_rng(seed).choice(some, (study.emergence.bootstrap, len(some)))
    draws = recommended_alpha(swept.isel(prompt=xr.DataArray(drawn, dims=("draw", "prompt"))), study)
    return tuple(map(float, interval(draws.transpose("draw", ...).values.squeeze(), study.emergence.level)))
