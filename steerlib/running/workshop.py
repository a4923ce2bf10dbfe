"""What the workshop's notebooks call: checks that speak to who solves an exercise, and a study that is made meanwhile.

with exercise("1.1") as check:
    made = check.call(difference_of_means, above, below, shape=(3,))
    check.wrong(made[0] < 0, "it points from the positives to the negatives: take those from these")
"""

import json
import linecache
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import seaborn as sns
import xarray as xr
import yaml
from IPython import get_ipython
from matplotlib.axes import Axes

from steerlib import SteerlibError, figures
from steerlib.figures.look import looks
from steerlib.files import locks, store
from steerlib.results.freshness import Freshness
from steerlib.results.opening import OpenStudy, open_study
from steerlib.results.workspace import Workspace
from steerlib.running.notebook import prepare, progress
from steerlib.study import Study

ARRAYS = np.ndarray | xr.DataArray
PATIENCE = 12  # seconds for which a cell waits for a study that is being made
LOOK = {
    "figure.figsize": (6.2, 3),
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


# --- checks -----------------------------------------------------------------------------------------------------------


class Unsolved(SteerlibError):
    """What is still to be done, as a sentence."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Check:
    """What looks at an exercise, and says what is wrong with it."""

    def __init__(self, number: str):
        self.number = number

    def call(self, function: Callable, *arguments, shape: tuple[int, ...] | None = None, optional: bool = False):
        """What the function makes of the arguments: something, and where a shape is told numbers of it.

        What is ``optional`` may be None.
        """
        self.wrong(not callable(function), f"{function!r} stands where the exercise asks for a function")
        name = getattr(function, "__name__", "your function")
        given = [deepcopy(one) for one in arguments if isinstance(one, ARRAYS)]
        made = function(*arguments)
        now = [one for one in arguments if isinstance(one, ARRAYS)]
        altered = not all(map(np.array_equal, given, now))
        self.wrong(altered, f"{name} alters what it is given; leave that as it is, and make something new")
        self.wrong(made is None and not optional, f"{name} gives nothing back; end it with `return …`")
        if shape is None or made is None:
            return made
        try:
            made = np.asarray(made, float)
        except (TypeError, ValueError):
            self.wrong(True, f"{name} gives back {made!r}, where numbers are wanted")
        told = [f"numbers of shape {size}" if size else "one number" for size in (made.shape, shape)]
        self.wrong(made.shape != shape, f"{name} gives back {told[0]}, where {told[1]} should be")
        self.wrong(np.isnan(made).any(), f"{name} gives back what is no number (nan)")
        return made

    def wrong(self, condition: object, sentence: str) -> None:
        """Says what is wrong, where it is."""
        if condition:
            raise Unsolved(f"Exercise {self.number}: {sentence}.")


@contextmanager
def exercise(number: str) -> Iterator[Check]:
    """A block that looks at an exercise: whatever goes wrong in it is told in a sentence, without a traceback."""
    try:
        yield Check(number)
    except Unsolved as unsolved:
        told = str(unsolved)
    except NotImplementedError as stub:
        told = f"Exercise {number} is still to be done: {stub}."
    except KeyboardInterrupt as error:
        told = f"Exercise {number}: you interrupted it{_where(error)}. Is there a loop that never ends?"
    except (Exception, SystemExit) as error:  # whatever a beginner's code may do
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        where = f"your code stopped{found}" if (found := _where(error)) else "this cannot be checked"
        told = f"Exercise {number}: {where}. What Python says: {said}"
        if isinstance(error, NameError):
            told += ". Has every cell above been run, in its order?"
    else:
        print(f"Exercise {number}: solved.")
        return
    raise Unsolved(told) from None


def _where(error: Exception) -> str:
    """The line, in a function that a cell defines, at which it came up; nothing where that is the check's own."""
    found, inside, trace = "", False, error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        inside = inside or code is Check.call.__code__  # from where on it is the answer's, and no more the check's
        if inside and code.co_name != "<module>" and "ipykernel" in code.co_filename:
            line = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            found = f" at `{line}` in {code.co_qualname.partition('.')[0]}"
        trace = trace.tb_next
    return found


# --- pictures ---------------------------------------------------------------------------------------------------------


def colours(concepts) -> dict[str, str]:
    """Every concept's colour, the same as in all figures."""
    return {name: look["color"] for name, look in looks(list(concepts)).items()}


def show(axes: Axes, said: str) -> None:
    """A picture, with what there is to see in it said to those who cannot see it."""
    axes.figure.set_label(said)
    figures.show(axes.figure)


# --- a study that is made meanwhile -----------------------------------------------------------------------------------

_begun: dict[Path, subprocess.Popen] = {}  # by this kernel: folder of results -> the command at work


def made(params: str | Path, outputs: str | Path = "outputs") -> OpenStudy:
    """A study all of whose results are there. What is not is made in the background, and waited for, but not for long.

    Raises Unsolved while it is being made, with how far it is, and SteerlibError where it cannot be made.
    """
    workspace = _workspace(params, outputs)
    if _left(workspace):
        begin(params, outputs)
        _wait(workspace)
    sns.set_theme(style="ticks", context="paper", rc=LOOK)
    return open_study(workspace.study.path, workspace.folder.parent)


def begin(params: str | Path, outputs: str | Path = "outputs") -> None:
    """Have a study made in the background, by the command that anybody would type, unless it is done or at work."""
    workspace = _workspace(params, outputs)
    if not _left(workspace) or _at_work(workspace):
        return
    words = [sys.executable, "-m", "steerlib", "run", workspace.study.path, "--outputs", workspace.folder.parent]
    plain = {name: value for name, value in os.environ.items() if "COLOR" not in name} | {"TERM": "dumb"}
    with store.making(log := _log(workspace)):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as told:  # in a session of its own, so that it goes on when this kernel ends
            options = {"stdout": told, "stderr": told, "env": plain, "start_new_session": True}
            _begun[workspace.folder] = subprocess.Popen(words, **options)


def planted(check: Check, like: OpenStudy, name: object, world: dict, watched: list[str]) -> tuple[Path, Study]:
    """A study ``like`` another but in its world, and the file that its params are written to: a check of both."""
    rename = "write another `name` above, and run its cell and those after it again"
    check.wrong(
        not re.fullmatch("[a-z0-9][a-z0-9_-]*", str(name)),
        f"{name!r} is no name of a study (a to z, 0 to 9, _ and -): {rename}",
    )
    told = yaml.safe_load(like.params.path.read_text())
    kept = {key: told[key] for key in told if key not in ("generation", "instrument", "readiness")}
    kept["pretraining"] = told["pretraining"] | {"world": world}
    text = yaml.safe_dump(kept | {"name": str(name), "concepts": [*watched, "placebo"]})
    folder = like.workspace.folder.parent
    params = folder / "workshop" / f"{name}.yaml"
    others = (folder / str(name), like.params.path.with_name(params.name))
    taken = not params.exists() and any(path.exists() for path in others)
    check.wrong(taken, f"there is another {name} already: {rename}")
    other_world = params.with_suffix(".prediction.json").exists() and params.read_text() != text
    check.wrong(other_world, f"of {name} you predicted something when its world was another: {rename}")
    params.parent.mkdir(exist_ok=True)
    params.write_text(text)
    try:
        study = Study.load(params)
        study.load_concepts()
    except SteerlibError as error:
        check.wrong(True, f"such a world cannot be made. {'; '.join(str(error).splitlines())}")
    return params, study


def predicted(params: Path, guess: dict) -> dict:
    """What is predicted of a study, written down beside its params: the first time for good.

    Raises Unsolved where something was predicted of other things.
    """
    path = params.with_suffix(".prediction.json")
    if not path.is_file():
        store.write_json(path, guess)
    kept = json.loads(path.read_text())
    if kept.keys() != guess.keys():
        raise Unsolved(f"Of {params.stem} {', '.join(kept)} were predicted before; give your study another name.")
    if kept != guess:
        print("What you predicted first stands.")
    return kept


def _workspace(params: str | Path, outputs: str | Path) -> Workspace:
    path, folder = prepare(str(params), str(outputs))
    return Workspace(Study.load(path), folder)


def _log(workspace: Workspace) -> Path:
    return workspace.folder.parent / f"{workspace.study.name}.log"


def _left(workspace: Workspace) -> bool:
    return bool(Freshness(workspace).todo())


def _at_work(workspace: Workspace) -> bool:
    """Whether somebody makes it: this kernel's command, or whoever holds the lock of its folder."""
    if (process := _begun.get(workspace.folder)) and process.poll() is None:
        return True
    if not workspace.folder.is_dir() or (lock := locks.hold(workspace.folder / ".lock")) is None:
        return workspace.folder.is_dir()
    lock.release()
    return False


def _wait(workspace: Workspace) -> None:
    end, jobs = time.monotonic() + (PATIENCE if _is_watched() else float("inf")), workspace.jobs()
    points = [checkpoint.whole for checkpoint in workspace.checkpoints.values()]
    with progress(len(jobs) + len(points), workspace.study.name) as bar:
        while True:
            working = _at_work(workspace)
            here = sum(path.is_dir() for path in points) + sum(workspace.stamp(job).is_file() for job in jobs)
            bar.update(here - bar.n)
            if not working or time.monotonic() > end:
                break
            time.sleep(0.5)
    if working:
        raise Unsolved(
            f"{workspace.study.name} is being made in the background. Read on, and run this cell again in a minute."
        )
    if _left(Workspace(workspace.study, workspace.folder.parent)):
        lines = (log := _log(workspace)).read_text(errors="replace").strip().splitlines()
        raise SteerlibError(
            f"{workspace.study.name} could not be made ({log}): {lines[-1] if lines else 'no word of why'}"
        )


def _is_watched() -> bool:
    """Whether somebody sits before the notebook, who can be asked, and can run a cell again; nbconvert cannot."""
    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))
