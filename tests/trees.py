"""Whole datasets as a study's tree of results."""

from contextlib import closing
from pathlib import Path

import xarray as xr

from steerlib.results.tree import Tree


def write_tree(groups: dict[str, xr.Dataset], path: Path, attrs: dict) -> None:
    with closing(Tree(path)) as tree:
        for name, dataset in groups.items():
            tree.add(name, [dataset])
        tree.finish(attrs)
