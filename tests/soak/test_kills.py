"""Tiny checkpoints on two workers, with workers, kernels, fork servers and the driver killed at random.

The study has to end complete, equal to a calm run, and with no process left. Whatever was killed in a round, the driver
is started again until it says that all is done, as a person would.
"""

import os
import random
import subprocess
import sys

import pytest

from helpers.processes import soak
from helpers.studies import PROJECT, command, contents, half_files, tiny_study
from steerlib.results.freshness import Freshness
from steerlib.results.workspace import Workspace
from steerlib.study import Study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by their commands on Linux")
CHECKPOINTS = int(os.environ.get("CHECKPOINTS", 200))


@pytest.mark.parametrize("count", sorted({3, CHECKPOINTS}))
def test_kills_at_random_lose_nothing(count, tmp_path):
    params = tiny_study(tmp_path, list(range(0, 10 * count, 10)))
    calm = subprocess.run(command(params, tmp_path / "calm"), cwd=PROJECT, capture_output=True, text=True)
    assert calm.returncode == 0, calm.stdout + calm.stderr
    killed = soak(tmp_path, params, pause=4, chance=random.Random(1))
    assert killed.total() >= 2
    assert contents(tmp_path / "outputs" / "tiny") == contents(tmp_path / "calm" / "tiny")
    assert Freshness(Workspace(Study.load(params), tmp_path / "outputs")).todo() == [] and not half_files(tmp_path)
