"""The explorer of a study, written beside its results."""

from pathlib import Path

from rich.console import Console

from steerlib import SteerlibError
from steerlib.figures import explorer
from steerlib.files import store
from steerlib.files.hashes import file_sha256
from steerlib.results import audit
from steerlib.results.opening import OpenStudy, open_study
from steerlib.running import cluster, pipeline, tables


def write(params: Path, outputs: Path, console: Console) -> None:
    """A study that pretrains its own model is run first, where it was not yet. Raises SteerlibError where the page
    cannot be made (`steerlib.figures.explorer.page`), or written."""
    study = open_study(params, outputs)
    if study.params.pretraining and not has_results(study):
        run_first(study, console)
        study = open_study(params, outputs)
    path, made = study.workspace.folder / "explorer.html", explorer.page(study).encode()
    store.write_bytes(path, made)
    audit.note(path.parent, "explorer written", file=str(path), sha256=file_sha256(path))  # models and directions leave
    told = f"{path}: written ({len(made) / 1e6:.1f} MB). It runs in any browser: open it by a double click."
    console.print(told, soft_wrap=True, highlight=False)


def has_results(study: OpenStudy) -> bool:
    try:
        return bool(study.results)
    except SteerlibError:
        return False


def run_first(study: OpenStudy, console: Console) -> None:
    """All of the study, as `steerlib run` does it. Raises SteerlibError for one whose model no page bears."""
    plan, folder = study.params.pretraining, study.workspace.folder
    try:
        explorer.check_kind(plan.model.architecture)
        explorer.check_size(plan.weights() + plan.vocabulary * plan.model.hidden)  # of one checkpoint
    except explorer.Unfit as why:
        raise explorer.refused(study, why) from None
    told = f"{folder} holds no results yet: the study is run first, as by `steerlib run {study.params.path}`. That "
    told += "takes minutes on a laptop (toy: three to eight); interrupted, the same command goes on where it stopped."
    console.print(told, soft_wrap=True, highlight=False)
    tables.failures(pipeline.run(study.params, folder.parent, cluster.client_of, console), console)
