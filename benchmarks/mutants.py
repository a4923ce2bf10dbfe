"""`make mutants`: would the tests notice? Small faults are put into the code, one at a time, and its tests run on each.

`mutants.yaml` says which modules, and by which tests; and which faults none need notice, and why. Others that no test
fails on are listed: tests are missing. The exit status is 1 where these are more than a tenth of those tried.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from steerlib.files import params
from steerlib.results.provenance import PROJECT

# By module: `tests`, the likeliest to notice first, and `equal`, by the reason: faults that none need notice.
MODULES = params.read(Path(__file__).with_suffix(".yaml"))
# Imported once, before a process is forked for each mutant: they take longer than most tests.
# Not nnsight, which hangs `save` on every object, and anyio does not like that.
PRELOAD = ("torch", "transformers", "xarray", "zarr", "scipy.stats", "sklearn", "matplotlib.pyplot")
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
            yield "Not -> nothing", lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
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


def mutants(source: str) -> dict[str, Callable[[], str]]:
    """Every mutant of a module: by what is done to which line (the second time " #2", …), how to get its source."""

    def made(wanted: int) -> str:
        tree = ast.parse(source)
        [apply for node in nodes(tree) for _, apply in faults(node)][wanted]()
        return ast.unparse(ast.fix_missing_locations(tree))

    lines, found, times = source.splitlines(), {}, Counter()
    for k, (node, words) in enumerate((n, words) for n in nodes(ast.parse(source)) for words, _ in faults(n)):
        name = f"{words}: {lines[node.lineno - 1].strip()}"
        times[name] += 1
        found[name + f" #{times[name]}" * (times[name] > 1)] = lambda k=k: made(k)
    return found


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
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        os._exit(int(pytest.main([*options, *(f"tests/{test}" for test in tests)])))
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - started < patience:
        time.sleep(0.02)
    if ended[0] == 0:
        os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1]) == 0, time.monotonic() - started


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Some of them: {', '.join(MODULES)}.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Faults of each module, drawn at random.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("outputs/mutants.json"),
) -> None:
    """Put faults into the code, run its tests, list the faults that none of them notices."""
    if wrong := {*(only or ())} - {*MODULES}:
        raise typer.BadParameter(f"there is no module {', '.join(sorted(wrong))}; there are {', '.join(MODULES)}")
    for module in PRELOAD:
        import_module(module)
    console, found = Console(), {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / PROJECT.name
        shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "outputs"))
        for module in only or MODULES:
            path, (tests, reasons) = copy / "steerlib" / f"{module}.py", MODULES[module].values()
            source, equal = path.read_text(), {name: why for why, names in reasons.items() for name in names}
            every = mutants(source)
            drawn = sorted(random.Random(seed).sample(range(len(every)), min(sample, len(every))))
            whole, seconds = passes(copy, tests, 3600)
            if not whole:
                raise typer.BadParameter(f"{module}: its tests fail without any fault")
            names, survivors = [*every], []
            for k in track(drawn, module, console=console):
                path.write_text(every[names[k]]())
                os.utime(path, (k, k))  # or bytecode of the one before, if it is as long, would be taken for its own
                if passes(copy, tests, 10 + PATIENCE * seconds)[0]:
                    survivors.append(names[k])
            path.write_text(source)
            found[module] = {"faults": len(every), "tried": len(drawn), "noticed": len(drawn) - len(survivors)} | {
                "equal": [f"{name} ({equal[name]})" for name in survivors if name in equal],
                "unnoticed": [name for name in survivors if name not in equal],
                "no longer there": sorted({*equal} - {*every}),
            }
    table = Table(Column("module", no_wrap=True), *next(iter(found.values())))
    for module, of in found.items():
        table.add_row(module, *(str(n if isinstance(n, int) else len(n)) for n in of.values()))
    console.print(table)
    kinds = ("equal", "unnoticed", "no longer there")
    lines = (f"{kind}: {module}: {name}" for kind in kinds for module, of in found.items() for name in of[kind])
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1))
    raise typer.Exit(any(len(of["unnoticed"]) > of["tried"] / 10 for of in found.values()))


if __name__ == "__main__":
    typer.run(main)
