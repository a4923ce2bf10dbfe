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
pytestmark = pytest.mark.skipif(bool(MISSING), reason="the site's packages are not here: `make .venv/.site`")
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


def command(run: Path, out: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SITE, run, out], capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for name, job in [
        ("1_probe_extraction", "step=00000000"),
        ("1_probe_extraction", "step=00000810"),
        ("4_emergence_analysis", "study"),
    ]:
        executed(folder / "toy", name, job)
    done = command(folder / "toy", folder / "site")
    assert done.returncode == 0, done.stdout + done.stderr
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


def test_what_leads_nowhere_fails_the_build(tmp_path, monkeypatch):
    """Each fault is said with its page; Sphinx finds some, our check of the built pages the others."""
    monkeypatch.syspath_prepend(str(SITE))
    page = "# A\n\n[one](nowhere.md) [two](index.md#nowhere) {term}`unheard` ![](shared_prefix.png)\n\n"
    page += '<a href="gone.html">three</a> <a href="#gone">four</a> <iframe src="https://example.org/x"></iframe>\n'
    page += "\n```{toctree}\nunseen\n```\n"
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    shutil.copy(PROJECT / "docs" / "shared_prefix.png", source)
    (source / "index.md").write_text(page)
    faults = runpy.run_path(str(SITE / "__main__.py"))["build"](source, out, tmp_path / "explorer.html")
    for said in ("nowhere.md", "'nowhere'", "unheard", "unseen", "no gone.html", "no #gone", "network", "without alt"):
        assert [fault for fault in faults if said in fault and "index" in fault], (said, faults)


def test_a_key_of_which_nothing_is_said_is_named(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))
    reference = runpy.run_path(str(SITE / "reference.py"))
    assert "`silent`" not in reference["keys"](Told)
    with pytest.raises(reference["Undescribed"], match=r"Silent\.key: nothing is said"):
        reference["keys"](Silent)


class Told(BaseModel):
    first: int = 1  # something


class Silent(BaseModel):
    key: int = 1


def test_without_a_run_it_says_what_to_do(tmp_path):
    done = command(tmp_path / "smoke", tmp_path / "site")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "make reproduce STUDY=smoke" in done.stderr
    assert not (tmp_path / "site").exists()


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
