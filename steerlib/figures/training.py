"""Figures over training: where a concept can be steered and how strongly, where directions point, what else moves."""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from steerlib.figures.axes import (
    DISCOVERY,
    LINEAR,
    LOW,
    alpha_axis,
    at_layer,
    band,
    cells,
    dots,
    first_trained,
    horizontal,
    null_band,
    panels,
    spread,
    step_axis,
    step_cells,
    tables,
    write,
    zero,
)
from steerlib.figures.checkpoint import NO_REFITS, gains_of, null_of_doses, with_interval
from steerlib.figures.look import (
    BAND,
    INTERVAL,
    NULL,
    PAGE,
    STYLE,
    all_layers,
    alpha_label,
    broken,
    dressed,
    looks,
    of_layers,
)
from steerlib.figures.onsets import LAYERS
from steerlib.numerics.statistics import false_discovery

FOUND = "at a false discovery rate below 5 % over all cells"
EARLY_TO_LATE = ListedColormap(plt.get_cmap("magma")(np.linspace(0.65, 0.1, 256)))  # of which none is too light to see


def _heatmaps(values: xr.DataArray, label: str, found: xr.DataArray, told: str) -> Figure:
    """Values by layer and step, a panel a concept, one scale for all, so that panels can be compared.

    A dot stands on cells that are ``found``, which is ``told`` in the legend.
    """
    bound = float(np.nanmax(abs(values))) or 1.0
    figure, axes = panels(values.concept, below="training step", left="layer")
    for concept, axis in axes.items():
        mesh = step_cells(axis, values.sel(concept=concept).transpose("layer", "step").to_pandas(), bound, label)
        layer, step = np.nonzero(found.sel(concept=concept).transpose("layer", "step").values)
        dots(axis, values.step.values[step], layer, told)
    figure.colorbar(mesh, ax=list(axes.values()), label=label, shrink=0.8 if len(axes) < 4 else 0.6)
    return figure


def steerability_heatmap(interventions: xr.Dataset, method: str, q: xr.DataArray) -> Figure:
    """Slope at alpha 0 by layer and step. A dot: a false discovery rate ``q`` below 5 % over all cells."""
    unit = fill(interventions.local_slope.attrs["units"], 24)  # of which a mixture's is long
    values = interventions.local_slope.sel(probe=method)
    figure = _heatmaps(values, f"steerability\n({unit})", q < DISCOVERY, f"more than shuffled labels do, {FOUND}")
    return dressed(figure, interventions, all_layers(values.layer), method)


def id_heatmap(probes: xr.Dataset, method: str, variant: str) -> Figure:
    """The Intervention Detector's view: ID score by layer and step. Dots as in `steerability_heatmap`, either way."""
    unit = "cosine" if variant == "cosine" else "activation"
    of = probes[["id_score", "p_id"]].sel(probe=method, variant=variant).compute()
    q = of.p_id.copy(data=false_discovery(of.p_id.values))
    told = f"larger than that of shuffled labels, either way, {FOUND}"
    figure, said = _heatmaps(of.id_score, f"ID score, {variant}\n({unit})", q < DISCOVERY, told), ""
    largest = abs(of.id_score).max(["step", "layer"])
    for name in largest.concept.values[(largest.role == "null").values]:
        share = float(largest.sel(concept=name) / largest.max())
        said = f"{name}, which means nothing, reaches {100 * share:.0f} % of the largest score"
        said += ": size tells no concept here" * (share > 0.5)
    return dressed(figure, probes, all_layers(of.layer), method, said)


def shuffled(null: xr.DataArray) -> xr.DataArray:
    """Draws on shuffled labels; isotropic ones of a method that has no labels to shuffle."""
    of = {kind: null.isel(draw=(null["null"] == kind).values) for kind in ("shuffled", "random")}
    return of["shuffled" if of["shuffled"].notnull().any() else "random"]


def id_entropy(similarity: xr.Dataset, method: str) -> Figure:
    """Entropy of the ID score over layers against step, a row a concept, a column a reading of the score.

    With its interval over refitted directions. Grey: 90 % of directions from shuffled labels; dotted: a score that is
    equal in all layers, log2(layers).
    """
    names = ["id_entropy", "id_entropy_lower", "id_entropy_upper", "id_entropy_null", "id_entropy_uniform"]
    scores = similarity[names].sel(probe=method).compute()
    steps, look = scores.step.values, looks(scores.concept)
    null = shuffled(scores.id_entropy_null).quantile([0.05, 0.95], ["concept", "draw"])
    shape = len(look), scores.sizes["variant"]
    size = PAGE, max(LOW, 0.62 * len(look) + 0.4)
    figure, axes = plt.subplots(*shape, figsize=size, sharex=True, sharey=True, squeeze=False)
    for row, concept in zip(axes, look, strict=True):
        for axis, variant in zip(row, scores.variant.values, strict=True):
            of, ends = scores.sel(concept=concept, variant=variant), null.sel(variant=variant)
            colour = look[concept]["color"]
            axis.plot(steps, of.id_entropy, color=colour, marker="o", ms=1.8, label="entropy")
            band(axis, steps, of.id_entropy_lower, of.id_entropy_upper, INTERVAL, color=colour)
            null_band(axis, steps, *ends.transpose("quantile", "step").values, "null: shuffled labels, 90 % within")
            uniform = {"color": "0.3", "lw": 0.8, "ls": ":"}
            horizontal(axis, float(scores.id_entropy_uniform.max()), **uniform, label="equal in all layers")
        row[0].set_ylabel(broken(concept), rotation=0, ha="right", va="center")
    for top, bottom, variant in zip(axes[0], axes[-1], scores.variant.values, strict=True):
        top.set_title(variant)
        bottom.set_xlabel("training step")
    step_axis(axes[0, 0], steps)
    figure.supylabel("entropy over layers (bit)", fontsize=STYLE["axes.labelsize"])
    return dressed(figure, similarity, "over all layers", method, _refits(scores.id_entropy_lower))


def _refits(lower: xr.DataArray) -> str:
    return "intervals: over refits to resampled texts" if lower.notnull().any() else NO_REFITS


def dose_response(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """Change of log-odds of a concept's own readout against alpha, a line a checkpoint, at the ``layer`` chosen there.

    With its interval over test prompts at the last checkpoint, and there the slopes of directions from shuffled labels.
    """
    alphas, steps = interventions.alpha.values, interventions.step.values
    below, left = alpha_label(interventions.alpha), f"change of log-odds ({interventions.log_odds.attrs['units']})"
    # Shades go as the axis of steps does.
    norm = SymLogNorm(first_trained(steps), LINEAR, vmin=0, vmax=max(steps.max(), 1), base=10)
    figure, axes = panels(interventions.concept, below=below, left=left)
    low, high, final = 0.0, 0.0, interventions.isel(step=-1)
    for concept, axis in axes.items():
        zero(axis)
        gained = gains_of(interventions, layer, concept, probe=method)
        own, (_, lower, upper) = gained.mean("prompt"), with_interval(gained.isel(step=-1), interventions)
        for step in steps:
            axis.plot(alphas, own.sel(step=step), color=EARLY_TO_LATE(norm(step)), lw=0.9, label="a checkpoint")
        last = {"color": EARLY_TO_LATE(norm(steps[-1])), "zorder": 2}
        band(axis, alphas, lower, upper, f"{INTERVAL}, last checkpoint", **last)
        low, high = min(low, float(own.min()), float(lower.min())), max(high, float(own.max()), float(upper.max()))
        null_of_doses(axis, final, layer.isel(step=-1), concept)
    axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) or 1)
    alpha_axis(axis, alphas)
    colours = {"mappable": ScalarMappable(norm, EARLY_TO_LATE), "label": "training step"}
    bar = figure.colorbar(**colours, ax=list(axes.values()), shrink=0.8)
    shown = steps[spread(norm(steps).data, [0.08] * len(steps))]
    bar.set_ticks(shown, labels=[str(step) for step in shown])
    bar.minorticks_off()
    layers = LAYERS.format(of_layers(layer))
    return dressed(figure, interventions, layers, method, "shuffled labels: at the last checkpoint")


def cosine_to_final(similarity: xr.Dataset, method: str, layer: xr.DataArray, hidden: int) -> Figure:
    """How far each direction already points where it will end, with its interval over refits; a panel a concept.

    Grey: how far directions from shuffled labels do, from their own final ones; dotted: where isotropic ones lie.
    """
    names, steps = ("cosine_to_final", "cosine_to_final_lower", "cosine_to_final_upper"), similarity.step.values
    of, lower, upper = (similarity[name].sel(probe=method).compute() for name in names)
    ends = similarity.cosine_to_final.sel(probe="shuffled").quantile([0.05, 0.95], ["concept", "layer"])
    figure, axes = panels(of.concept, below="training step", left="cosine to final direction")
    for concept, look in looks(of.concept).items():
        axis, colour = axes[concept], look["color"]
        axis.plot(steps, at_layer(of, layer, concept), color=colour, marker="o", ms=1.8, label="direction")
        band(axis, steps, *(at_layer(end, layer, concept) for end in (lower, upper)), INTERVAL, color=colour)
        null_band(axis, steps, *ends.transpose("quantile", "step").values, "shuffled labels")
        for end in (-1.96, 1.96):
            horizontal(axis, end / np.sqrt(hidden), color=NULL, lw=0.8, ls=":", label="isotropic")
    step_axis(axis, steps)
    said = (
        f"at the last step 1 by definition; {_refits(lower)}; shuffled labels: a direction of theirs against its own "
    )
    said += f"final one, 90 % of {of.concept.size * of.layer.size} (concepts × layers) within; isotropic: 95 % within"
    return dressed(figure, similarity, of_layers(layer), method, said)


def interference(interventions: xr.Dataset, layer: xr.DataArray, q: xr.DataArray) -> Figure:
    """Slope of every readout at alpha 0 when each concept is pushed, at the final checkpoint.

    Black: moved, either way, more than directions from shuffled labels move it, at a false discovery rate ``q`` below
    5 % over all cells; grey: not.
    """
    own_layer = layer.drop_vars([name for name in layer.coords if name != "concept"])
    last = interventions.interference_local.isel(step=-1).sel(layer=own_layer)
    slopes = last.transpose("concept", "readout_concept").to_pandas()
    found = q.transpose("concept", "readout_concept").values < DISCOVERY
    figure, axes = tables(interventions.concept, 0.3)
    axis = axes[0, 0]
    top, label = float(np.nanmax(abs(slopes))) or 1.0, f"slope\n({fill(last.attrs['units'], 24)})"
    bar = figure.colorbar(cells(axis, slopes, 2.4 * top, label), label=label)  # so light that black on it is read
    bar.ax.set_ylim(-top, top)
    digits = max(1, 1 - int(np.floor(np.log10(top))))  # two that count, of the largest
    told = "black: more than shuffled labels do, either way (false discovery rate < 5 %); grey: not"
    for (row, column), slope in np.ndenumerate(slopes.to_numpy(float).round(digits) + 0):  # no −0.0
        look = {"weight": "bold", "color": "k"} if found[row, column] else {"color": "0.4"}
        write(axis, row, column, f"{slope:.{digits}f}".replace("-", "−"), told, **look)
    axis.set(xlabel="readout", ylabel="pushed concept")
    step = int(interventions.step[-1])
    return dressed(figure, interventions, f"step {step}, {of_layers(layer)}", said="slopes at alpha 0")


def side_effects(interventions: xr.Dataset, method: str, layer: xr.DataArray) -> Figure:
    """What a gain in the readout costs on neutral text, at the final checkpoint; grey: a direction of other labels."""
    final = interventions.isel(step=-1)
    last = final.sel(alpha=final.alpha > 0 if (final.alpha > 0).any() else final.alpha != 0)
    below, left = "KL on neutral text (nat)", f"gain in log-odds ({interventions.log_odds.attrs['units']})"
    figure, axes = panels(last.concept, below=below, left=left)
    cut, all_costs = False, [last[name].compute() for name in ("kl", "kl_lower", "kl_upper")]
    for concept, look in looks(last.concept).items():
        costs = [at_layer(cost, layer, concept) for cost in all_costs]
        gains = with_interval(gains_of(final, layer, concept), interventions)
        zero(axes[concept])
        kinds = (method, "along the direction", look["color"]), ("shuffled", "along one of shuffled labels", NULL)
        for probe, label, colour in kinds:
            own, lower, upper = (of.sel(probe=probe, alpha=last.alpha) for of in gains)
            x, least, most = (of.sel(probe=probe) for of in costs)
            cut = cut or bool((least <= 0).any())  # which a log axis has no place for
            dress = {"color": colour, "zorder": 2 + (probe == method)}
            axes[concept].plot(x, own, marker="o", label=label, **dress)
            dress |= {"lw": 2.5, "alpha": BAND, "label": f"{INTERVAL}s, {label}"}
            axes[concept].vlines(x, lower, upper, **dress)
            axes[concept].hlines(own, least, most, **dress)
    axis = next(iter(axes.values()))
    axis.set_xscale("log")
    if (ends := np.array(axis.get_xlim()))[1] < 30 * ends[0]:  # too few powers of ten to tell where one is
        ticks = np.geomspace(*ends, 5)[1::2]
        axis.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    else:
        axis.xaxis.set_major_locator(LogLocator(numticks=4))
    axis.minorticks_off()
    said = f"a mark an alpha: {', '.join(f'{alpha:g}' for alpha in last.alpha.values)}; "
    said += "intervals: of the gain over prompts, of KL over passages"
    if cut:
        said += "; a bar to the left edge: down to 0"
    return dressed(figure, interventions, f"step {int(last.step)}, {of_layers(layer)}", method, said)
