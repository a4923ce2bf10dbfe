"""What JupyterLab does after it has saved a notebook, as `make lab` tells it."""

import shlex
import subprocess
from contextlib import suppress
from pathlib import Path


def look_again(os_path: str, **saved: object) -> subprocess.Popen | None:
    """Let git see that nothing but outputs is new in a notebook, which its filter strips.

    By its size git believes that it was changed, and `git status` goes on saying so though `git diff` is empty.
    Nothing is staged: what is added is what the index holds. It is not waited for, as Lab would stand still meanwhile.
    """
    notebook = Path(os_path)
    if notebook.suffix != ".ipynb":
        return None
    name = shlex.quote(notebook.name)
    command = ["sh", "-c", f"git diff --quiet -- {name} && git add --update -- {name}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # where there is no repository
    with suppress(OSError):  # neither where there is no git
        return subprocess.Popen(command, cwd=notebook.parent, **quiet)
    return None
