"""What things cost in seconds: on a busy machine these depend on what else it does."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pytest
from jupyter_client.provisioning import KernelProvisionerFactory

from helpers.notebooks import execute, report
from helpers.studies import PROJECT, steerlib
from steerlib import SteerlibError
from steerlib.concepts.check import near_duplicates
from steerlib.running.check import check
from steerlib.running.kernels import use_warm_kernels

# what a notebook of a study imports
IMPORTS = """
import torch, nnsight, xarray, seaborn, sklearn.linear_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM
"""


def test_warm_notebook_costs_less(tmp_path, monkeypatch):
    factory = KernelProvisionerFactory.instance()
    monkeypatch.setattr(factory, "default_provisioner_name", factory.default_provisioner_name)
    if sys.platform != "linux":
        pytest.skip("kernels are forked on Linux only")
    use_warm_kernels()

    def cpu_seconds() -> float:
        before = time.process_time()
        _, (kernel,) = execute(tmp_path, IMPORTS, report("time.process_time()"))
        return time.process_time() - before + kernel

    execute(tmp_path, IMPORTS)  # whatever is paid once
    warm_cost = cpu_seconds()
    factory.default_provisioner_name = "local-provisioner"
    assert warm_cost < cpu_seconds() / 3


def test_analysis_of_the_toy_costs_at_most_twice_its_pretraining():
    """CPU seconds of everything but the training itself: notebooks, workers, imports and driver."""
    done = steerlib("run", "params/toy.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((PROJECT / "outputs" / "toy" / "run.json").read_text())
    stages = {stage: cost["cpu_seconds"] for stage, cost in record["stages"].items()}
    training = stages.pop("pretraining")
    overhead = sum(sum(run["overhead_cpu_seconds"].values()) for run in record["runs"][:1])
    assert sum(stages.values()) + overhead <= 2 * training, (stages, overhead, training)


def test_near_duplicates_of_ten_thousand_texts_are_found_quickly():
    rng = np.random.default_rng(0)
    texts = [["so", "it", "is", *rng.choice(3000, 12).astype(str)] for _ in range(10_000)]
    start = time.perf_counter()
    near_duplicates(texts, np.array(["fit", "test"] * 5000))
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text,label\n" + "x" * 10**6 + ",polite\n"), ("a.json", "[" * 200_000), ("a.json", "{}")],
)
def test_a_bad_file_is_refused_at_once(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    start = time.perf_counter()
    with pytest.raises(SteerlibError):
        check(tmp_path / name, {})
    assert time.perf_counter() - start < 2
