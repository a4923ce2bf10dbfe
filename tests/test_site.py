"""The site of a run: every page is there, read offline and on a phone; whatever leads nowhere fails its build."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from pydantic import BaseModel

from helpers.browser import CHROMIUM, Page
from helpers.studies import PROJECT
from steerlib.running.worker import kept

MISSING = [name for name in ("furo", "myst_nb", "sphinx-mathjax-offline") if find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason="the site's packages are not here: `make .venv/.site`"),
    pytest.mark.filterwarnings("ignore"),  # of Sphinx's own parts, about one another
]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt install chromium)")
SITE = PROJECT / "docs" / "site"


def executed(run: Path, name: str, job: str) -> None:
    """A notebook as a run leaves it, with a picture as figures are shown."""
    folder = run / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", as_version=4)
    html = '<img src="data:image/png;base64,AAAA" alt="Onsets of nine concepts"><table><tr><td>0.5</td></tr></table>'
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.outputs = [nbformat.v4.new_output("display_data", {"text/html": html, "text/plain": "a figure"})]
    (folder / f"{name}.{job}.ipynb").write_bytes(kept(nbformat.writes(notebook).encode(), folder))


@pytest.fixture(scope="module")
def built() -> dict:
    """What docs/site is made of; in this process, which has imported most of steerlib already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        yield {name: runpy.run_path(str(SITE / f"{name}.py")) for name in ("__main__", "pages", "reference")}


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for name, job in [
        ("1_probe_extraction", "step=00000000"),
        ("1_probe_extraction", "step=00000810"),
        ("4_emergence_analysis", "study"),
    ]:
        executed(folder / "toy", name, job)
    assert built["__main__"]["main"](folder / "toy", folder / "site") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["site", "toy"], "nothing else is left"
    return folder / "site"


def test_every_page_is_there(site):
    docs = {f"docs/{path.stem}.html" for path in (PROJECT / "docs").glob("*.md")}
    notebooks = {f"notebooks/{path.stem}.html" for path in (PROJECT / "notebooks").glob("*.ipynb")}
    wings = {f"api/{path.parent.name}.html" for path in (PROJECT / "steerlib").glob("*/__init__.py")}
    more = {"index.html", "search.html", "notebooks/1_probe_extraction-0.html", "reference/studies.html"}
    there = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert docs | notebooks | wings | more <= there
    assert "not in this site yet" in (site / "docs" / "explorer.html").read_text()  # and how to make it
    assert "Not part of the study" in (site / "notebooks" / "5_comparison.html").read_text()


def test_words_keys_and_faces_are_what_the_code_says(site):
    early = (site / "notebooks" / "1_probe_extraction-0.html").read_text()
    assert 'href="../docs/glossary.html#term-direction"' in early and "step 0" in early
    keys = (site / "reference" / "study.html").read_text()
    assert 'id="confval-sweep.kl_budget"' in keys and "more than 0, at most 100" in keys
    assert "class_mass" not in keys and 'id="confval-pretraining.world.emotions.usefulness"' in keys
    assert "tells the operator" not in keys and "What the model writes when pushed" in keys
    assert "truth.csv" in (site / "reference" / "concepts.html").read_text()
    assert "A direction that was saved." in (site / "api" / "steering.html").read_text()


def test_what_leads_nowhere_fails_the_build(built, tmp_path):
    """Each fault is said with its page; Sphinx finds some, our check of the built pages the others."""
    page = "# A\n\n[one](nowhere.md) [two](index.md#nowhere) {term}`unheard` ![](shared_prefix.png)\n\n"
    page += "$\\alhpa < \\lVert x\\rVert$\n\n$$\n\\hatt x\n$$\n\n"
    page += "{py:func}`steerlib.gone`\n\n"
    page += '<a href="gone.html">three</a> <a href="#gone">four</a> <iframe src="https://example.org/x"></iframe>\n'
    page += "\n```{toctree}\nunseen\n```\n"
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    shutil.copy(PROJECT / "docs" / "shared_prefix.png", source)
    (source / "index.md").write_text(page)
    faults = built["__main__"]["build"](source, out, tmp_path / "explorer.html")
    for said in (
        "nowhere.md",
        "'nowhere'",
        "unheard",
        "steerlib.gone",
        "unseen",
        "no gone.html",
        "no #gone",
        "network",
        "without alt",
        r"\alhpa in a formula",
        r"\hatt in a formula",
    ):
        assert [fault for fault in faults if said in fault and "index" in fault], (said, faults)
    assert not any("Vert" in fault for fault in faults)


def test_a_key_of_which_nothing_is_said_is_named(built):
    keys = built["reference"]["keys"]
    assert "```{confval} first\n:type: whole number\n:default: `1`\n\nsomething\n" in keys(Told)
    with pytest.raises(built["reference"]["Undescribed"], match=r"Silent\.key: nothing is said"):
        keys(Silent)


def test_and_fails_the_build_with_a_line(built, tmp_path, monkeypatch, capsys):
    import reference

    def silent():
        raise reference.Undescribed("Silent.key: nothing is said of it")

    monkeypatch.setattr(reference, "study", silent)
    executed(tmp_path / "toy", "4_emergence_analysis", "study")
    assert built["__main__"]["main"](tmp_path / "toy", tmp_path / "site") == 1
    assert capsys.readouterr().err.startswith("Silent.key: nothing is said of it\n1 faults; ")


class Told(BaseModel):
    first: int = 1  # something


class Silent(BaseModel):
    key: int = 1


def test_without_a_run_it_says_what_to_do(tmp_path):
    done = subprocess.run([sys.executable, SITE, tmp_path / "smoke", tmp_path / "site"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "make reproduce STUDY=smoke" in done.stderr
    assert not (tmp_path / "site").exists()


def test_links_are_turned_to_where_things_are_in_the_site(built, tmp_path):
    sources = built["pages"]["Sources"](PROJECT, tmp_path / "toy", tmp_path / "source")
    text = "[a](../README.md#start-here) [b](array.sbatch) [c](glossary.md#push) [d](../params/) [e](gone.md) [f](#x)"
    text += " [g](../notebooks/workshop/1_directions.ipynb)"
    led = sources.led(text, "docs/cluster.md")
    assert led == (
        "[a](../index.md#start-here) [b](../files/docs/array.sbatch) {term}`c <push>` [d](../reference/studies.md) "
        "[e](gone.md) [f](#x) [g](workshop.md)"
    )
    assert (tmp_path / "source" / "files" / "docs" / "array.sbatch").exists()


@needs_browser
def test_it_is_read_from_a_folder_on_a_phone_in_the_dark(site, tmp_path):
    with Page(tmp_path, 360, 700) as page:
        page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        for name in ("index", "docs/glossary", "notebooks/4_emergence_analysis", "reference/study", "api/steering"):
            page.open((site / f"{name}.html").as_uri())
            assert page.run("document.documentElement.scrollWidth") <= 360, name
            assert page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        page.open((site / "notebooks" / "4_emergence_analysis.html").as_uri())
        drawn = "MathJax.startup.promise.then(() => document.querySelectorAll('mjx-container svg').length)"
        assert page.run(drawn) > 10 and page.run("document.querySelectorAll('[data-mml-node=merror]').length") == 0
        page.open((site / "search.html").as_uri() + "?q=steerability")
        page._wait(lambda: page.run("document.querySelectorAll('#search-results li a').length") > 3)
        assert not page.wrong, page.wrong
