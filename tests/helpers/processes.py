"""The processes of a run: which there are, whether they end, and killing some of them."""

import random
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from helpers.studies import PROJECT, command

PATIENCE = 900  # seconds for what takes some: no test is to depend on how fast the machine is
KINDS = ("worker", "kernel", "fork server", "driver")


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


def ended(processes: list[psutil.Process], seconds: float = PATIENCE) -> bool:
    """Whether they all end within a while."""
    deadline = time.monotonic() + seconds
    while any(map(running, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(running, processes))


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


def start(params: Path, outputs: Path, *words: str, **given) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(params, outputs, *words), cwd=PROJECT, **pipes | given)


def wait_for(condition, driver: subprocess.Popen, seconds: float = PATIENCE):
    """What a condition gives once it holds, while a driver is at work."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert driver.poll() is None and time.monotonic() < deadline, "it ended before"
        time.sleep(0.05)
    return found
