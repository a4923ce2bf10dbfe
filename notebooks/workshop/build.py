"""`make workshop`: exercises, solutions and the facilitator's page, from the masters beside this.

In a cell tagged ``exercise`` a solution stands in a region, from ``# BEGIN SOLUTION: what is to be
done`` to ``# END SOLUTION``. The exercise has in its place the region's comments that begin with
``# Hint``, and a stub that says what is to be done. A cell tagged ``check`` follows. Cells tagged
``facilitator`` are for the facilitator's page alone.
"""

import argparse
import os
import re
from pathlib import Path

import nbformat
from nbconvert.exporters import NotebookExporter
from nbconvert.preprocessors import Preprocessor, TagRemovePreprocessor
from nbformat import NotebookNode
from traitlets import Bool, Unicode

HERE = Path(__file__).resolve().parent
PLACE = HERE.parents[1] / "outputs" / "workshop"
KINDS = ("exercises", "solutions")
REGION = re.compile(
    r"^( *)# BEGIN SOLUTION: ([^\n]+)\n(.*?)^ *# END SOLUTION(?:\n|\Z)", re.MULTILINE | re.DOTALL
)
HINT = re.compile(r"^ *# Hint(?:.*)\n(?: *# .*\n)*", re.MULTILINE)
NUMBER = re.compile(r'exercise\("(\d\.\d)"\)')

# The first cell of what participants open.
COLAB = """# Only on Colab: brings steerlib there, in some minutes. Elsewhere it does nothing.
# It could not be tried where it was written, as that has no network; nor could Binder.
import sys

if "google.colab" in sys.modules:
    repository = "{repository}"  # of steerlib: https://…
    assert repository, "Ask your facilitator where steerlib is kept, and write it above."
    !git clone -q --depth 1 {{repository}} steerlib
    %pip install -q -e steerlib
    %cd steerlib
    sys.path.insert(0, ".")"""


# The first line of a check, so that it has a sentence also for those whose kernel has just begun.
ANSWERS = "from steerlib.running.workshop import exercise"


class Mistake(Exception):
    """In a master, told with its cell."""


class Regions(Preprocessor):
    """Exercises as stubs, or solved. Raises Mistake for one without a region, or a marker left."""

    solved = Bool()

    def preprocess_cell(self, cell: NotebookNode, resources: dict, index: int):
        if "exercise" in tags(cell):
            cell.source, regions = REGION.subn(solution if self.solved else stub, cell.source)
            if regions != 1:
                raise Mistake(f"cell {cell.id}: an exercise has one region, and this has {regions}")
            cell.source = cell.source.rstrip("\n")
        if "SOLUTION" in cell.source:
            raise Mistake(
                f"cell {cell.id}: a marker of a solution stands outside of an exercise's region"
            )
        return cell, resources


class SetUp(Preprocessor):
    """The first cell, checks folded, and links as they are from where the notebook will lie."""

    repository, folder = Unicode(), Unicode()

    def preprocess(self, notebook: NotebookNode, resources: dict):
        first = nbformat.v4.new_code_cell(COLAB.format(repository=self.repository), id="colab")
        first.metadata = {"tags": ["colab"], "jupyter": {"source_hidden": True}}
        for cell in notebook.cells:
            if "check" in tags(cell):  # which is long, and read by those who want to know
                cell.metadata["jupyter"] = {"source_hidden": True}
                cell.source = f"{ANSWERS}\n\n{cell.source}"
            if cell.cell_type == "markdown":
                cell.source = re.sub(r"\]\((\.\./[^)#]+)", self.moved, cell.source)
        notebook.cells.insert(0, first)
        return notebook, resources

    def moved(self, link: re.Match) -> str:
        return f"]({os.path.relpath(HERE / link[1], self.folder)}"


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def stub(region: re.Match) -> str:
    indent, told, code = region.groups()
    return f'{"".join(HINT.findall(code))}{indent}raise NotImplementedError("{told}")\n'


def solution(region: re.Match) -> str:
    return HINT.sub("", region[3])


def masters() -> list[Path]:
    return sorted(HERE.glob("*.ipynb"))


def exercises(notebook: NotebookNode) -> dict[str, tuple[NotebookNode, NotebookNode]]:
    """By number, each exercise's cell and its check. Raises Mistake where no check follows."""
    found = {}
    for cell, after in zip(
        notebook.cells, [*notebook.cells[1:], nbformat.v4.new_raw_cell()], strict=True
    ):
        if "exercise" in tags(cell):
            number = NUMBER.search(after.source)
            if "check" not in tags(after) or number is None or number[1] in found:
                raise Mistake(f"cell {cell.id}: a check of its own has to follow an exercise")
            found[number[1]] = cell, after
    return found


def made(
    master: Path, solved: bool, repository: str = "", folder: Path = PLACE / "any"
) -> NotebookNode:
    """A version of a master, for a folder. Raises Mistake, with the master's name."""
    exporter = NotebookExporter()
    exporter.register_preprocessor(
        TagRemovePreprocessor(enabled=True, remove_cell_tags={"facilitator"}), True
    )
    exporter.register_preprocessor(Regions(solved=solved), True)
    exporter.register_preprocessor(SetUp(repository=repository, folder=str(folder)), True)
    notebook = nbformat.read(master, as_version=4)
    try:
        exercises(notebook)
        return nbformat.reads(exporter.from_notebook_node(notebook)[0], as_version=4)
    except Mistake as mistake:
        raise Mistake(f"{master.name}: {mistake}") from None


def facilitator() -> str:
    """One page: what the masters tell facilitators, beside the answers that it is about."""
    parts = [
        "# The workshop, for facilitators\n\nMade by `make workshop` from the masters: change them."
    ]
    for master in masters():
        notebook = nbformat.read(master, as_version=4)
        for cell in notebook.cells:
            if "facilitator" in tags(cell):
                parts.append(cell.source)
            elif "exercise" in tags(cell):
                parts.append(f"```python\n{REGION.sub(solution, cell.source).rstrip()}\n```")
            elif cell.cell_type == "markdown":
                parts += re.findall(
                    r"^#+ .*(?:Workshop|Exercise|bet).*$", cell.source, re.MULTILINE
                )
    return (
        "\n\n".join(
            re.sub(r"^#", "##", part) if part.startswith("#") and k else part
            for k, part in enumerate(parts)
        )
        + "\n"
    )


def write(kind: str, repository: str = "", anew: bool = True) -> Path:
    """All notebooks of a kind in a folder; those that are there stay, unless ``anew``."""
    folder = PLACE / kind
    folder.mkdir(parents=True, exist_ok=True)
    for master in masters():
        if anew or not (folder / master.name).exists():
            notebook = made(master, kind == "solutions", repository, folder)
            nbformat.write(notebook, folder / master.name)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", default="", help="where Colab gets steerlib: https://…")
    repository = parser.parse_args().repository
    for kind in KINDS:
        print(f"{write(kind, repository)}: written")
    page = PLACE / "facilitator.md"
    page.write_text(facilitator(), encoding="utf-8")
    print(f"{page}: written")


if __name__ == "__main__":
    main()
