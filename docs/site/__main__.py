"""`make site`: the run of a study, README and docs/ as pages that are read offline, from a folder.

python docs/site outputs/toy outputs/site
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

import broken
import pages
from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[2]
LAST = "4_emergence_analysis"  # the notebook that a run ends with
# Pages of docs/, by who reads them; those that nobody has named here come last.
GROUPS = {
    "Learn": ["workshop", "results", "glossary", "figures", "explorer", "world"],
    "Use": "concepts checkpoints readiness pilot directions guideline studies cluster trouble".split(),
    "Doubt": ["estimator", "pythia_evals", "trust", "speed"],
    "Carry on": ["architecture"],
}


def main(run: Path, out: Path) -> int:
    """The old site stays as it is until the new one is whole, and whatever was needed for that goes."""
    if not list((run / "notebooks").glob(f"{LAST}.*.ipynb")):
        print(f"{run}: no whole run of this study is here; first `make reproduce STUDY={run.name}`", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="site.", dir=out.parent) as folder:
        source, new = Path(folder) / "source", Path(folder) / "built" / "site"  # MyST-NB writes into the one above, too
        faults = gather(ROOT, run, source) or build(source, new, run / "explorer.html")
        if not faults:
            shutil.rmtree(out, ignore_errors=True)
            new.rename(out)
    if faults:
        print(*faults, f"{len(faults)} faults; {out} is not made anew", sep="\n", file=sys.stderr)
        return 1
    print(f"{out / 'index.html'}: open it in a browser")
    return 0


def gather(root: Path, run: Path, folder: Path) -> list[str]:
    """All that Sphinx reads: the repository's own pages, and those made from its code; why not, where it cannot be."""
    import reference  # which brings all of steerlib, and torch

    sources = pages.Sources(root, run, folder)
    sources.gather()
    try:
        made = {"reference/study.md": reference.study(), "reference/concepts.md": reference.concepts(root)}
    except reference.Undescribed as fault:
        return [str(fault)]
    made |= {"reference/studies.md": reference.studies(root)} | reference.faces(root)
    made["notebooks/index.md"] = notebooks(sources)
    for name, text in made.items():
        sources.write(name, text)
    there = (
        '<a href="../explorer.html">Open this study\'s explorer</a>.'
        if (run / "explorer.html").exists()
        else f"It is not in this site yet: `make explorer STUDY={run.name}`, then `make site`."
    )
    add(folder / "docs" / "explorer.md", f"\n## In this site\n\n{there}\n")
    add(folder / "index.md", contents(sources))
    return []


def add(page: Path, text: str) -> None:
    page.write_text(page.read_text() + text)


def contents(sources: pages.Sources) -> str:
    """The tree of all pages, which stands beside every page."""
    docs = [name.removeprefix("docs/").removesuffix(".md") for name in sources.pages if name.startswith("docs/")]
    groups = {title: [f"docs/{name}" for name in names if name in docs] for title, names in GROUPS.items()}
    named = {name for names in GROUPS.values() for name in names}
    groups["Learn"].insert(0, "notebooks/index")
    groups["Use"] += ["reference/study", "reference/concepts", "reference/studies"]
    groups["Carry on"] += ["api/index", "CONTRIBUTING", *(f"docs/{name}" for name in docs if name not in named)]
    tree = "\n```{{toctree}}\n:hidden:\n:titlesonly:\n:caption: {}\n\n{}\n```\n"
    return "".join(tree.format(title, "\n".join(names)) for title, names in groups.items())


def notebooks(sources: pages.Sources) -> str:
    """The page of all notebooks."""
    entries = []
    for name, steps in sources.executed.items():
        about = sources.led(sources.says.get(name, ""), "docs/results.md", "notebooks/index.md")
        links = ", ".join(f"[{step}](/{sources.place(name, step)})" for step in steps if step)
        of = f" Steps {links}." if links else "" if steps else " Not executed in this study."
        entries.append(f"- [{name}]({name}.ipynb): {about}.{of}")
    return (
        f"# Notebooks\n\nAs they were executed in a run of the study `{sources.run.name}`, in the order to read them "
        "in.\n\n"
        + "\n".join(entries)
        + "\n\n```{toctree}\n:hidden:\n:titlesonly:\n\n"
        + "\n".join(sources.executed)
        + "\n```\n"
    )


def build(folder: Path, out: Path, explorer: Path) -> list[str]:
    """The site of gathered sources; what is wrong with it, a line each."""
    shutil.rmtree(out, ignore_errors=True)
    told = io.StringIO()
    options = ["-n", "-W", "-q", "-c", str(ROOT / "docs"), "-d", str(folder / ".doctrees"), str(folder), str(out)]
    with contextlib.redirect_stderr(told):
        code = build_main(options)
    lines = [line.replace(f"{folder}/", "") for line in told.getvalue().splitlines() if line.strip()]
    if explorer.exists():
        shutil.copy(explorer, out)
    lines += broken.wrong(out)
    return lines or ["Sphinx has failed and does not say why"] * (code != 0)


if __name__ == "__main__":
    sys.exit(main(*(Path(folder).resolve() for folder in sys.argv[1:])))
