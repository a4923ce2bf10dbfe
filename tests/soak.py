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
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import transformers
import yaml
from hub import tiny_checkpoints

from steerlib.files import store

PROJECT = Path(__file__).parents[1]
STEPS = [0, 10, 20]
KINDS = ("worker", "kernel", "fork server", "driver")


def tiny_study(home: Path, steps: list[int], name: str = "tiny", **more) -> Path:
    """Params of a study whose jobs take about a second, over checkpoints made in ``home``."""
    if not (home / "history").exists():
        tiny_checkpoints(home / "history", steps, width=16)
    params = {
        "name": name,
        "checkpoints": {"folder": str(home / "history"), "steps": steps, "tokens_per_step": 1000},
        "concepts": ["happiness", "sadness"],
        "probes": {"methods": ["mean_difference"], "pairs": 12, "random": 20, "shuffled": 20},
        "sweep": {"alphas": [-0.5, 0, 0.5], "prompts": 6, "neutral_texts": 6, "bootstrap": 100},
        "similarity": {"texts": 8},
        "emergence": {"bootstrap": 100},
    }
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(params | more))
    return path


def command(params: Path, outputs: Path, *words: str) -> list[str]:
    more = words or ("--workers", "2")
    return [sys.executable, "-m", "steerlib", "run", str(params), "--outputs", str(outputs), *more]


def contents(folder: Path) -> dict[str, str]:
    """What every job's dataset holds, by the hash of its values."""
    return {str(p.relative_to(folder)): store.digest(store.read(p)) for p in sorted(folder.glob("*/*.nc"))}


def family(driver: int) -> dict[str, list[psutil.Process]]:
    """The processes of a run, by kind."""
    found: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
    with suppress(psutil.NoSuchProcess):
        found["driver"].append(psutil.Process(driver))
        found["worker"] += [child for child in psutil.Process(driver).children() if "spawn_main" in words(child)]
    for owner in found["driver"] + found["worker"]:  # a worker has a server of its own when the driver's is gone
        with suppress(psutil.NoSuchProcess):
            for server in owner.children():
                if "forkserver" in words(server):
                    found["fork server"].append(server)
                    found["kernel"] += server.children()
    return found


def words(process: psutil.Process) -> str:
    """Its command line; nothing of one that is no more, such as a fork server that was killed and waits for its end."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(processes: list[psutil.Process], seconds: float = 20) -> bool:
    """Whether they all end within a while."""
    deadline = time.monotonic() + seconds
    while any(map(running, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(running, processes))


def half_files(folder: Path) -> list[Path]:
    """Temporary names that something was written to and that were never renamed, but for what a kill left of data."""
    return [path for path in folder.rglob(".*.nc.*") if path.is_file()]


def soak(home: Path, params: Path, pause: float, chance: random.Random, rounds: int = 60, tell=print) -> Counter:
    """Run a study to its end under kills; returns how many processes of each kind were killed.

    After a round in which no job ended, kills are rarer: the last one, which reads all results, takes longest.
    Raises AssertionError when it does not end, or when a process outlives its driver.
    """
    killed: Counter[str] = Counter()
    before = 0
    for round_ in range(1, rounds + 1):
        with (home / "driver.log").open("a") as log:
            driver = subprocess.Popen(command(params, home / "outputs"), cwd=PROJECT, stdout=log, stderr=log)
        seen: dict[int, psutil.Process] = {}
        next_kill = time.monotonic() + pause * chance.uniform(0.5, 1.5)
        while driver.poll() is None:
            time.sleep(0.1)
            there = family(driver.pid)
            seen |= {process.pid: process for processes in there.values() for process in processes}
            if time.monotonic() < next_kill:
                continue
            # The driver seldom, as it takes all others along.
            kind = chance.choices(KINDS, weights=(4, 6, 3, 1))[0]
            if there[kind]:
                with suppress(psutil.NoSuchProcess):
                    chance.choice(there[kind]).kill()
                    killed[kind] += 1
            next_kill = time.monotonic() + pause * chance.uniform(0.5, 1.5)
        driver.wait()
        assert ended(list(seen.values())), f"outlived the driver: {[p for p in seen.values() if running(p)]}"
        made = len(list((home / "outputs").glob("*/*/*.stamp.json")))
        tell(f"round {round_}: exit {driver.returncode}, {made} jobs done; killed so far: {dict(killed)}", flush=True)
        if driver.returncode == 0:
            return killed
        pause *= 1 if made > before else 1.5
        before = made
    raise AssertionError(f"not done after {rounds} rounds; see {home / 'driver.log'}")


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
