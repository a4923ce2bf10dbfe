"""Sources of the site's pages: README, CONTRIBUTING, docs/ and executed notebooks, with links that lead within it.

They are written to read well where the code is hosted. What Sphinx needs beyond that is made here.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode
from pathlib import Path
from posixpath import dirname, relpath
from urllib.parse import unquote

import nbformat

LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
HTML_LINK = re.compile(r"""(\b(?:src|href)=["'])(?!data:|#)([^"']+)""")
ROW = re.compile(r"^\| (.*?) \| (.*) \|$", re.MULTILINE)
NOTEBOOK = re.compile(r"^\| `(\w+)`\*? \| (.*) \|$", re.MULTILINE)  # of docs/results.md
GLOSSARY = "docs/glossary.md"
ANCHOR = re.compile(r'<a id="([^"]+)">')
FOLDERS = {  # which a host of code shows, and what tells of them here
    "notebooks": "notebooks/index.md",
    "notebooks/workshop": "docs/workshop.md",
    "params": "reference/studies.md",
    "params/concepts": "reference/concepts.md",
    "steerlib": "api/index.md",
    "steerlib/study": "reference/study.md",
}
BOLD = re.compile(r"\*\*(.*?)\*\*")


class Sources:
    """The folder that Sphinx reads; ``places`` maps what there is in the repository to where it is in the site."""

    def __init__(self, root: Path, run: Path, folder: Path):
        self.root, self.run, self.folder = root, run, folder
        files = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
        self.pages = {path.relative_to(root).as_posix(): path.read_text() for path in files if path.exists()}
        names = [path.stem for path in sorted((root / "notebooks").glob("*.ipynb"))]
        self.says = dict(NOTEBOOK.findall(self.pages.get("docs/results.md", "")))  # in the order to read them in
        self.names = sorted(names, key=lambda name: ([*self.says, name].index(name), name))
        self.executed = {  # notebook -> step -> file
            name: {step_of(file): file for file in sorted((run / "notebooks").glob(f"{name}.*.ipynb"))}
            for name in self.names
        }
        self.places = {name: "index.md" if name == "README.md" else name for name in self.pages}
        self.places |= {f"notebooks/{name}.ipynb": f"notebooks/{name}.ipynb" for name in self.names}
        self.places |= FOLDERS
        masters = root.glob("notebooks/workshop/*.ipynb")  # which hold the solutions, and are no pages here
        self.places |= {f"notebooks/workshop/{path.name}": FOLDERS["notebooks/workshop"] for path in masters}
        terms = [term for term, _ in ROW.findall(self.pages.get(GLOSSARY, ""))]
        self.words = {  # anchor -> word of the glossary
            mark: word for term in terms for mark, word in zip(ANCHOR.findall(term), BOLD.findall(term), strict=True)
        }

    def gather(self) -> None:
        """README, CONTRIBUTING, pages of docs/ and notebooks."""
        for name, text in self.pages.items():
            self.write(self.places[name], self.led(glossary(text) if name == GLOSSARY else text, name))
        for name, steps in self.executed.items():
            origin = f"notebooks/{name}.ipynb"
            if not steps:
                said = f"Not part of the study `{self.run.name}`: shown as it stands before it is run."
                self.notebook(name, self.root / origin, "", said)
            for step, file in steps.items():
                others = [f"**{of}**" if of == step else f"[{of}](/{self.place(name, of)})" for of in steps]
                said = f"As it was executed for the study `{self.run.name}`"
                said += f", at step {step}. All steps: {' · '.join(others)}" if step else "."
                self.notebook(name, file, step, said)

    def place(self, name: str, step: str) -> str:
        """Of a notebook as of a step; the last step's has the notebook's own name."""
        earlier = step in [*self.executed[name]][:-1]
        return f"notebooks/{name}{f'-{step}' if earlier else ''}.ipynb"

    def notebook(self, name: str, file: Path, step: str, said: str) -> None:
        """A notebook as a page: its links, its attached pictures, and under its title what it was executed for.

        Links of an executed one lead from where it lies: the run has seen to that.
        """
        origin, at = os.path.relpath(file, self.root), self.place(name, step)
        notebook = nbformat.read(file, as_version=4)
        notebook.metadata.pop("widgets", None)
        for cell in notebook.cells:
            for attached, kinds in cell.pop("attachments", {}).items():
                self.write(f"notebooks/{name}-{attached}", b64decode(next(iter(kinds.values()))))
                cell.source = cell.source.replace(f"(attachment:{attached})", f"(/notebooks/{name}-{attached})")
            if cell.cell_type == "markdown":
                cell.source = self.led(cell.source, origin, at, step)
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                data.pop("application/vnd.jupyter.widget-view+json", None)
                if "text/html" in data:
                    data["text/html"] = self.led_html(data["text/html"], origin, at, step)
        title, _, rest = notebook.cells[0].source.partition("\n")
        last, others = at == self.places[f"notebooks/{name}.ipynb"], [*self.executed[name]][-2::-1]
        notebook.cells[0].source = f"{title}{'' if last else f' · step {step}'}\n\n{said}\n{rest}"
        if not last:
            notebook.metadata["nosearch"] = True  # it says the same as the last step's
        elif others:
            tree = "\n".join(f"step {other} </{self.place(name, other).removesuffix('.ipynb')}>" for other in others)
            notebook.cells.append(nbformat.v4.new_markdown_cell(f"```{{toctree}}\n:hidden:\n\n{tree}\n```"))
        self.write(at, nbformat.writes(notebook).replace(f"{self.root}/", ""))

    def led(self, text: str, origin: str, at: str = "", step: str = "") -> str:
        """The text of a page with its links as they lead within the site; those to a word of the glossary are terms."""
        at = at or self.places[origin]

        def link(found: re.Match) -> str:
            path, _, mark = found[2].partition("#")
            if mark in self.words and self.named(path, origin) == GLOSSARY:
                return f"{{term}}`{found[1][1:-1]} <{self.words[mark]}>`"
            return f"{found[1]}({self.leading(found[2], origin, at, step)})"

        return self.led_html(LINK.sub(link, text), origin, at, step)

    def led_html(self, text: str, origin: str, at: str, step: str) -> str:
        return HTML_LINK.sub(lambda found: found[1] + self.leading(found[2], origin, at, step), text)

    def named(self, path: str, origin: str) -> str:
        """What a link of a page means, from the root of the repository."""
        return os.path.relpath(self.root / dirname(origin) / unquote(path), self.root) if path else origin

    def leading(self, target: str, origin: str, at: str, step: str = "") -> str:
        """A link of a page as it leads within the site: to a page, or to a copy of the file that it names.

        From a notebook of a step it leads to another of that step. What leads nowhere stays, and Sphinx says so.
        """
        path, _, mark = target.partition("#")
        if not path or path.startswith("/") or re.match(r"[a-z]+:", target):
            return target
        named = self.named(path, origin)
        place = self.places.get(named)
        if step and step in self.executed.get(Path(named).stem, {}):
            place = self.place(Path(named).stem, step)
        if not place and not named.startswith("..") and (self.root / named).is_file():
            place = self.places[named] = f"files/{named}"
            self.write(place, (self.root / named).read_bytes())
        return relpath(place, dirname(at) or ".") + (f"#{mark}" if mark else "") if place else target

    def write(self, at: str, content: str | bytes) -> None:
        path = self.folder / at
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def step_of(file: Path) -> str:
    """Of `1_probe_extraction.step=00000096.ipynb` 96; of a notebook that is of the whole study nothing."""
    return (re.findall(r"=0*(\d+)$", file.stem) or [""])[0]


def glossary(text: str) -> str:
    """The table of words as Sphinx's glossary, so that a link to a word is checked and the search finds it."""
    rows = [(BOLD.findall(term), said) for term, said in ROW.findall(text)]
    entries = "\n".join("\n".join(words) + f"\n  {said}\n" for words, said in rows if words)
    return f"{text.partition('|')[0]}```{{glossary}}\n{entries}```\n"
