"""What a worker does: one job's notebook by papermill, then its stamp."""

import hashlib
import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jupyter_core.utils import ensure_event_loop

from steerlib import SteerlibError
from steerlib.files import store
from steerlib.results import keys
from steerlib.results.freshness import DRIVEN, Begun, write_stamp
from steerlib.results.provenance import PROJECT, package_hash
from steerlib.results.workspace import Job, Workspace
from steerlib.running import kernels
from steerlib.stages.source import notebook_code
from steerlib.stages.table import STAGES
from steerlib.study import Study


class LostKernel(SteerlibError):
    """A kernel did not start, or died: not a notebook's own error."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended, and what it cost."""

    job: Job
    state: str  # 'done', 'failed' or 'skipped' (something it needs failed)
    message: str = ""
    notebook: Path | None = None  # the executed copy


@cache
def code() -> str:
    """Hash of the package's source and of all stages' notebooks, as this process has first seen them."""
    parts = [package_hash(), *(notebook_code(stage.notebook) for stage in STAGES.values())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """What all jobs of a run have in common. A worker may be on another machine: it looks first whether that holds."""

    params: Path  # as they were when it began: `Study.keep`
    outputs: Path
    marker: Path  # a file of this run only, in the study's folder of results
    code: str = field(default_factory=code)
    of_stages: dict[str, keys.Key] = field(default_factory=dict)  # what their jobs are made from

    def check(self) -> None:
        """Raises SteerlibError naming the worker's machine and the remedy, when it could not do a job as it should."""
        worker = f"the worker on {platform.node()} (process {os.getpid()})"
        if code() != self.code:
            raise SteerlibError(
                f"{worker} runs another steerlib than this one, from {PROJECT}; give it this checkout, and restart it"
            )
        remedy = "params, outputs and checkpoints must be on a file system that it shares, at the same path"
        for path in (self.params, self.marker):
            if not path.exists():
                raise SteerlibError(f"{worker} does not see {path}; {remedy}")

    def check_key(self, job: Job, key: keys.Key | None) -> None:
        """Raises SteerlibError for what has changed since the run began, or is another here. A history may grow."""
        begun = self.of_stages.get(job.stage, {}) if key else {}
        if terms := [term for term in begun if term != "checkpoints" and begun[term] != key.get(term)]:
            words = "changed since this run began, or differ on the worker's machine; run again"
            raise SteerlibError(f"{' and '.join(terms)} {words}")


def execute(run: Run, job: Job) -> Outcome:
    """One job in a worker: its notebook by papermill, then its stamp. Failures are told, not raised."""
    os.environ[DRIVEN] = "1"
    logging.getLogger("steerlib").setLevel(logging.ERROR)  # what the driver has told need not be told by each
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # of a kernel that ended, we tell
    started = time.time()
    try:
        run.check()
        workspace = Workspace(Study.load(run.params), run.outputs)
        begun = Begun.of(workspace, job)
        run.check_key(job, begun.key)
        try:
            run_notebook(workspace, job, run.params)
        except LostKernel:  # once more, as that may have been the machine's fault
            run_notebook(workspace, job, run.params)
        write_stamp(workspace, job, begun, time.time() - started)
    except Exception as error:  # whatever a notebook, a kernel or a disk may do: the other checkpoints go on
        return Outcome(job, "failed", explain(error))
    return Outcome(job, "done")


def lost_kernel(error: Exception) -> bool:
    """Whether it tells of a kernel that is lost; a notebook's own error papermill wraps."""
    # Its fork server may be what died, and then a pipe or socket to it ends; "didn't respond" when it was started.
    lost = isinstance(error, EOFError | ConnectionError)
    return lost or str(error).startswith(("Kernel died", "Kernel didn't respond"))


def run_notebook(workspace: Workspace, job: Job, params: Path) -> None:
    """Execute a stage's notebook; the executed copy is kept, whether or not it succeeds."""
    parameters = {"study": str(params), "outputs": str(workspace.folder.parent)}
    step = {} if job.step is None else {"step": int(job.step)}
    execute_notebook(STAGES[job.stage].notebook, workspace.notebook(job), parameters | step)


def execute_notebook(name: str, executed: Path, parameters: dict[str, str | int]) -> None:
    """Execute one of the project's notebooks, and keep what it became at ``executed``. Raises LostKernel."""
    # Not what jsonschema would know IRIs by, which no notebook asks for: it makes its grammar anew for over a second.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill
    from traitlets.config import Config

    kernels.use_warm_kernels()
    in_braces = lambda path: str(path).replace("{", "{{").replace("}", "}}")  # noqa: E731 -- papermill formats paths
    # Jupyter looks for free TCP ports before the kernel binds them, and two workers may find the same: Unix sockets, in
    # a folder of this job's own, cannot collide.
    with tempfile.TemporaryDirectory(dir=kernels.folder_of_sockets()) as sockets, store.making(executed) as place:
        ipc = {"transport": "ipc", "ip": f"{sockets}/kernel", "connection_file": f"{sockets}/kernel.json"}
        # Nor anything of the user's own IPython: neither what it runs at every start, nor a home to be written to.
        ours = {"extra_arguments": [f"--BaseIPythonApplication.ipython_dir={sockets}"]}
        try:
            papermill.execute_notebook(
                in_braces(PROJECT / "notebooks" / f"{name}.ipynb"),
                in_braces(place),
                parameters=parameters,
                progress_bar=False,
                request_save_on_cell_execute=False,  # but at the end, whatever that is
                kernel_name="python3",
                cwd=str(PROJECT),
                config=Config({"KernelManager": ipc, "NotebookClient": ours}),
            )
        except Exception as error:
            if lost_kernel(error):
                raise LostKernel(kernels.died_of(error, Path(sockets))) from error
            raise
        finally:
            with suppress(FileNotFoundError, ValueError):  # before its first cell, or half of it, as a disk was full
                store.write_bytes(place, kept(place.read_bytes(), executed.parent))
            # What Jupyter made for this thread may end in a traceback when it is left to the garbage.
            with suppress(RuntimeError):  # it is running: that of the notebook which has asked for another one
                ensure_event_loop().close()


def kept(notebook: bytes, folder: Path) -> bytes:
    """An executed notebook as it is kept: links to others and to docs as they are from another folder than its own, and
    of two cells of parameters the one that was used."""
    there = quote(os.path.relpath(PROJECT / "notebooks", folder)).encode()
    data = json.loads(re.sub(rb"\]\((?=\.\./|\w+\.ipynb)", b"](" + there + b"/", notebook))
    tags = [cell["metadata"].get("tags", []) for cell in data["cells"]]
    if any("injected-parameters" in of for of in tags):
        data["cells"] = [cell for cell, of in zip(data["cells"], tags, strict=True) if "parameters" not in of]
    return json.dumps(data, indent=1, ensure_ascii=False).encode() + b"\n"


def explain(error: Exception) -> str:
    """The last line that a person needs: a notebook's own error rather than papermill's wrapping of it."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    if isinstance(error, LostKernel):
        return f"its kernel died twice: {value}"
    return value if name == "SteerlibError" else f"{name}: {value}"
