"""`make mutants`: would the tests notice? Small faults are put into the code, one at a time, and its tests run on each.

A fault that no test fails on stands in the table's list: it is equal to what was there, or a test is missing.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from steerlib.results.provenance import PROJECT

# What must not be wrong unnoticed, and the tests that should say so, the likeliest first.
TESTS = {
    "numerics/onsets": ["numerics/test_onsets.py", "stages/test_emergence.py"],
    "numerics/statistics": ["numerics/test_statistics.py", "numerics/test_onsets.py"],
    "numerics/replicates": ["numerics/test_replicates.py"],
    "numerics/separability": ["numerics/test_statistics.py", "stages/test_repeated.py"],
    "numerics/labels": ["numerics/test_methods.py", "numerics/test_directions.py"],
    "stages/emergence": ["stages/test_emergence.py"],
    "stages/source": ["results/test_source.py", "results/test_keys.py"],
    "results/keys": ["results/test_keys.py", "results/test_workspace.py"],
    "results/made": ["results/test_keys.py", "results/test_workspace.py"],
    "results/freshness": ["results/test_keys.py", "results/test_workspace.py"],
    "checkpoints/contents": ["model/test_accounting.py", "study/test_bad_input.py"],
    "checkpoints/history": ["results/test_keys.py", "study/test_bad_input.py"],
    "model/encoder": ["model/test_encoder.py"],
    "model/loading": ["model/test_accounting.py", "model/test_loading.py", "model/test_architectures.py"],
    "files/hashes": ["files/test_hashes.py"],
}
# Imported once, before a process is forked for each mutant: they take longer than most tests.
# Not nnsight, which hangs `save` on every object, and anyio does not like that.
PRELOAD = ("pytest", "torch", "transformers", "xarray", "zarr", "scipy.stats", "sklearn", "matplotlib.pyplot")
PATIENCE = 5  # times as long as the tests take of the code as it is; longer hangs, and that is noticed

SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Invert: ast.UAdd, ast.USub: ast.UAdd, ast.Pow: ast.Mult,
}  # fmt: skip
NOT_RUN = ("annotation", "returns", "decorator_list", "type_params")  # types; and what is said to a person, below


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Those that compute: no types, no messages."""
    yield tree
    for field, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in NOT_RUN and not isinstance(child, ast.Raise | ast.JoinedStr):
                yield from nodes(child)


def faults(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be done wrong at a node: in words, and how it is done."""
    if (swap := SWAPS.get(type(getattr(node, "op", None)))) and not isinstance(node, ast.AugAssign):
        yield f"{type(node.op).__name__} -> {swap.__name__}", lambda: setattr(node, "op", swap())
    for k, op in enumerate(getattr(node, "ops", ())):
        if swap := SWAPS.get(type(op)):
            yield f"{type(op).__name__} -> {swap.__name__}", lambda k=k, swap=swap: node.ops.__setitem__(k, swap())
    match node:
        case ast.Constant(value=bool(value)):
            yield f"{value} -> {not value}", lambda: setattr(node, "value", not value)
        case ast.Constant(value=int(value) | float(value)):
            yield f"{value} -> {value + 1}", lambda: setattr(node, "value", value + 1)
        case ast.UnaryOp(op=ast.Not()):
            yield "Not -> nothing", lambda: node.__dict__.update(op=ast.UAdd(), operand=_call("bool", node.operand))
        case ast.If() | ast.IfExp() | ast.While():
            yield "condition -> its opposite", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Expr(value=ast.Call()):
            yield "call -> nothing", lambda: setattr(node, "value", ast.Constant(None))
        case ast.Call(keywords=[_, *_]):
            for k, keyword in enumerate(node.keywords):
                yield f"{keyword.arg}= -> left out", lambda k=k: node.keywords.pop(k)
        case ast.Dict(keys=[_, *_]):
            for k, key in enumerate(node.keys):
                told = ast.unparse(key) if key else "**"
                yield f"{told}: -> left out", lambda k=k: (node.keys.pop(k), node.values.pop(k))


def _call(name: str, argument: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [argument], [])


def mutants(source: str) -> list[tuple[str, str]]:
    """Every mutant of a module: what was done to it, by line, and its source."""
    count = sum(1 for node in nodes(ast.parse(source)) for _ in faults(node))
    made = []
    for wanted in range(count):
        tree = ast.parse(source)
        every = ((node, *fault) for node in nodes(tree) for fault in faults(node))
        node, words, apply = next(one for k, one in enumerate(every) if k == wanted)
        apply()
        line = source.splitlines()[node.lineno - 1].strip() if hasattr(node, "lineno") else ""
        made.append((f"{getattr(node, 'lineno', 0)}: {words}: {line}", ast.unparse(ast.fix_missing_locations(tree))))
    return made


def passes(copy: Path, tests: list[str], patience: float) -> tuple[bool, float]:
    """Whether the tests pass on a copy of the project, in a process of their own, and the seconds that they took."""
    started = time.monotonic()
    if (child := os.fork()) == 0:
        os.setsid()  # what tests start ends with them
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("steerlib", "benchmarks")]:
            del sys.modules[name]
        sys.path.insert(0, str(copy))
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            import pytest

            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)])
        os._exit(int(code))
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - started < patience:
        time.sleep(0.02)
    if ended[0] == 0:
        os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1]) == 0, time.monotonic() - started


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Some of them: {', '.join(TESTS)}.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Faults of each module, drawn at random.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("outputs/mutants.json"),
) -> None:
    """Put faults into the code, run its tests, list the faults that none of them notices."""
    if wrong := {*(only or ())} - {*TESTS}:
        raise typer.BadParameter(f"there is no module {', '.join(sorted(wrong))}; there are {', '.join(TESTS)}")
    for module in PRELOAD:
        import_module(module)
    console, found = Console(), {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / PROJECT.name
        for name in subprocess.check_output(["git", "-C", PROJECT, "ls-files", "-z"], text=True).split("\0")[:-1]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, copy / name)
        for module in only or TESTS:
            path = copy / "steerlib" / f"{module}.py"
            source, tests = path.read_text(), TESTS[module]
            every = mutants(source)
            drawn = sorted(random.Random(seed).sample(range(len(every)), min(sample, len(every))))
            whole, seconds = passes(copy, tests, 3600)
            if not whole:
                raise typer.BadParameter(f"{module}: its tests fail without any fault")
            survivors = []
            for k in track(drawn, module, console=console):
                path.write_text(every[k][1])
                if passes(copy, tests, 10 + PATIENCE * seconds)[0]:
                    survivors.append(every[k][0])
            path.write_text(source)
            found[module] = {"faults": len(every), "tried": len(drawn), "survivors": survivors}
    table = Table("module", "faults", "tried", "noticed")
    for module, of in found.items():
        table.add_row(module, str(of["faults"]), str(of["tried"]), f"{1 - len(of['survivors']) / of['tried']:.0%}")
    console.print(table)
    for module, of in found.items():
        for survivor in of["survivors"]:
            console.print(f"{module}:{survivor}", highlight=False, markup=False, soft_wrap=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
