"""Many tiny checkpoints on two workers, with workers, kernels, fork servers and the driver killed at random.

The study has to end complete, equal to a calm run, and with no process left: `make soak`, or
`python tests/soak.py CHECKPOINTS SECONDS-BETWEEN-KILLS`. Whatever was killed in a round, the driver is started again
until it says that all is done, as a person would.
"""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import transformers

from helpers.processes import soak
from helpers.studies import PROJECT, command, contents, tiny_study


def main(count: int = 200, pause: float = 4) -> None:
    transformers.utils.logging.disable_progress_bar()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        home, started = Path(folder), time.time()
        steps = list(range(0, 10 * count, 10))
        params = tiny_study(home, steps)
        calm = subprocess.run(command(params, home / "calm"), cwd=PROJECT, capture_output=True, text=True)
        assert calm.returncode == 0, calm.stdout + calm.stderr
        print(f"calm run: {count} checkpoints in {time.time() - started:.0f} s", flush=True)
        started = time.time()
        killed = soak(home, params, pause, chance)
        expected, found = (contents(home / outputs / "tiny") for outputs in ("calm", "outputs"))
        assert found == expected, "differs from the calm run"
        print(f"{len(found)} datasets equal to the calm run's after {time.time() - started:.0f} s and {dict(killed)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
