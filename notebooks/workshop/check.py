"""`make check`: whether this machine is ready for the workshop, to be tried the evening before.

Makes what the sessions look at, about two minutes, and the exercises. What is wrong is told with
what to do about it, and the exit code is 1.
"""

import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO

import build  # which lies beside this

PARAMS = build.HERE.parents[1] / "params" / "first.yaml"
LIBRARIES = ("torch", "transformers", "nnsight", "xarray", "seaborn", "jupyterlab")


def versions() -> str:
    return (
        ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        + f", Python {platform.python_version()}"
    )


def study() -> str:
    """By the very command; but what it found is not shown, as that is the workshop's to find."""
    from steerlib.running.workshop import made

    made(PARAMS)
    return "the model of `first` is trained, and its checkpoints are analysed"


def push() -> str:
    import steerlib

    first = steerlib.open(PARAMS, PARAMS.parents[1] / "outputs")
    prompt, model = "In the morning Anna came to the shore. Anna felt", first.model()
    before = model.write(prompt, tokens=1)
    with model.steer(first.direction("happiness"), alpha=1):
        pushed = model.write(prompt, tokens=1)
    happy = first.params.world.emotions["happiness"].feelings
    assert pushed.strip() in happy, (
        f"a pushed model says{pushed}; remove outputs/first and try again"
    )
    assert model.write(prompt, tokens=1) == before, "a push left something behind; please report it"
    return f"unsteered Anna felt{before}, pushed{pushed}"


def figure() -> str:
    import matplotlib.pyplot as plt
    import seaborn as sns

    axes, drawn = sns.lineplot(x=[0, 1], y=[0, 1]), BytesIO()
    axes.figure.savefig(drawn)
    plt.close(axes.figure)
    return f"a figure of {len(drawn.getvalue()):,} bytes was drawn"


def notebooks() -> str:
    """A kernel as JupyterLab starts it, which has to be the one in which steerlib is."""
    from jupyter_client.manager import run_kernel

    with run_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as kernel:
        answer = kernel.execute_interactive(
            "import steerlib", timeout=120, output_hook=lambda _: None
        )
    assert answer["content"]["status"] == "ok", (
        "its Python has no steerlib; run `make clean-venv check`"
    )
    folder = build.write("exercises", anew=False)  # somebody may have begun with them
    return f"{folder} holds the exercises, and a kernel runs them"


CHECKS = {
    "versions": versions,
    "study": study,
    "push": push,
    "figures": figure,
    "notebooks": notebooks,
}


def wrong() -> Iterator[str]:
    """What is wrong, while what is well is printed."""
    for name, check in CHECKS.items():
        try:
            print(f"{name}: {check()}", flush=True)
        except Exception as error:  # whatever a machine may do
            yield f"{name}: {error or type(error).__name__}"


def main() -> None:
    if found := list(wrong()):
        remedy = (
            "`make clean-venv check` installs all anew; docs/trouble.md has more of what may be."
        )
        sys.exit("\n".join(["", "Not ready:", *found, remedy]))
    print("\nAll is well: `make lab`, and then open outputs/workshop/exercises/1_directions.ipynb")


if __name__ == "__main__":
    main()
