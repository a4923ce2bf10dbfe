"""What a notebook opens: its job, or a line on why there is none. And what every notebook is to its reader."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import yaml

from helpers.studies import PROJECT, STEPS, tiny_study
from steerlib import SteerlibError
from steerlib.running import lab, notebook, worker
from steerlib.running.notebook import open_comparison, open_job
from steerlib.study import Study

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
LINK = r"\]\(([\w./%-]+)(?:#[\w-]+)?\)"
SCHEMA = (PROJECT / "steerlib" / "results" / "schema.yaml").read_text()


@pytest.mark.parametrize(
    ("stage", "step", "message"),
    [
        ("generations", STEPS[0], "does not ask for generations; give it generation$"),
        ("probes", 7, "has no checkpoint at step 7; its steps are 0, 10, 20"),
    ],
)
def test_what_the_study_does_not_have_is_told(params, tmp_path, stage, step, message):
    with pytest.raises(SteerlibError, match=message):
        open_job(stage, str(params), str(tmp_path), step)


def test_all_that_a_notebook_shows_is_made_before_it_in_order_and_nothing_else(home, tmp_path, monkeypatch):
    """Opened by hand, not by a run; only what is not there."""
    more = {"generation": {}, "instrument": {"steps": STEPS[1:]}}
    params, made = tiny_study(home, STEPS, "asks-for-all", **more), []

    def run_notebook(workspace, job, params):
        made.append(str(job))
        workspace.data(job).parent.mkdir(parents=True, exist_ok=True)
        workspace.data(job).touch()

    monkeypatch.setattr(notebook, "run_notebook", run_notebook)
    for _ in range(2):
        open_job("interventions", str(params), str(tmp_path), STEPS[1])
    assert made == ["probes step 10"]
    open_job("emergence", str(params), str(tmp_path))
    assert len(made) == len({*made}) == 9 and all(
        made.index(f"probes step {s}") < made.index(f"interventions step {s}") for s in STEPS
    )
    assert {job.split()[0] for job in made} == {"probes", "interventions", "similarity"}
    variants = {"first": {}, "second": {"seed": 1}}
    (home / "two.yaml").write_text(yaml.safe_dump({"name": "two", "study": params.name, "variants": variants}))
    made.clear()
    open_comparison(str(home / "two.yaml"), str(tmp_path))
    assert {job.split()[0] for job in made} == {"probes", "interventions", "emergence"} and made[-1] == "emergence"
    assert Path.cwd() != PROJECT / "notebooks", "the folder is what it was"


def parts(path: Path) -> list[tuple[str, str]]:
    cells = json.loads(path.read_text())["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_tells_what_it_is_for_and_what_each_picture_shows(path):
    cells = parts(path)
    header = cells[0][1]
    assert all(f"**{word}**" in header for word in ("You will learn", "It needs", "It takes"))
    linked = {target for _, text in cells for target in re.findall(LINK, text)}
    assert {"../docs/glossary.md"} <= linked and all((path.parent / target).exists() for target in linked)
    words = set(re.findall(r'<a id="([\w-]+)">', (PROJECT / "docs/glossary.md").read_text()))
    named = {word for _, text in cells for word in re.findall(r"glossary\.md#([\w-]+)\)", text)}
    assert named <= words, f"no words of the glossary: {named - words}"
    picture = "\0"
    story = "".join(text if kind == "markdown" else picture * ("figures.s" in text) for kind, text in cells)
    for told in re.split(f"{picture}+", story)[1:]:
        assert "**To see.**" in told and "**Wrong to conclude.**" in told


def test_the_notebooks_are_a_chain():
    """Whoever follows `next` from the first comes through all of them, and back by `previous`."""
    of = {path.name: parts(path)[0][1] for path in NOTEBOOKS}
    following = {name: re.findall(r"\]\((\w+\.ipynb)\) →", header) for name, header in of.items()}
    before = {name: re.findall(r"← \[[^]]*\]\((\w+\.ipynb)\)", header) for name, header in of.items()}
    (here,) = (name for name, links in before.items() if not links)
    seen = [here]
    while following[here]:
        (there,) = following[here]
        assert before[there] == [here]
        seen.append(here := there)
    assert sorted(seen) == sorted(of)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_executed_notebook_has_one_cell_of_parameters_and_its_own_are_of_a_study(path):
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    run = parameterize_notebook(load_notebook_node(str(path)), {"study": "mine.yaml"}, kernel_name="python3")
    assert sum(bool(re.search(r"^study = ", cell.source, re.MULTILINE)) for cell in run.cells) == 2, (
        "some may be left out"
    )
    executed = nbformat.reads(worker.kept(nbformat.writes(run).encode(), path.parent), as_version=4)
    (cell,) = (cell for cell in executed.cells if re.search(r"^study = ", cell.source, re.MULTILINE))
    assert "mine.yaml" in cell.source and len(executed.cells) == len(run.cells) - 1
    given: dict = {}
    exec(next(text for kind, text in parts(path) if kind == "code"), given)
    if "step" in given:
        assert given["step"] in Study.load(PROJECT / given["study"]).checkpoints.steps


def test_a_notebook_that_was_run_and_saved_is_unchanged_to_git(tmp_path):
    """By the filter that `make lab` sets up, for the paths that .gitattributes names."""
    strip = re.search(r"^STRIP *= *(.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1]
    hook = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"][-1]
    assert hook["entry"] == strip and "notebooks/*.ipynb filter=notebooks" in (PROJECT / ".gitattributes").read_text()
    before = NOTEBOOKS[0].read_bytes()
    saved = json.loads(before)
    saved["metadata"]["language_info"] = {"name": "python", "version": "3.11.2", "codemirror_mode": {"version": 3}}
    saved["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    for cell in saved["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]}
            cell["metadata"] |= {"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}}
    command = shlex.split(strip)
    command[0] = str(Path(os.sys.executable).with_name("nbstripout"))
    done = subprocess.run(command, input=json.dumps(saved).encode(), capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout == before


def test_git_looks_again_at_a_saved_notebook_and_marks_only_what_is_changed(tmp_path):
    """It goes by the size of a file before it looks at what the filter leaves: here all but outputs."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    asked = lambda *words: subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.split()  # noqa: E731
    write = lambda name, content: (tmp_path / name).write_text(content)  # noqa: E731
    asked("init", "-q")
    asked("config", "filter.notebooks.clean", "grep -v ^output")
    write(".gitattributes", "*.ipynb filter=notebooks\n")
    for name in "ab":
        write(f"{name}.ipynb", "source\n")
    asked("add", ".")
    asked("commit", "-qm", "first")
    for name, content in {"a": "source\noutput\n", "b": "another\noutput\n", "new": "source\n"}.items():
        write(f"{name}.ipynb", content)
    assert asked("status", "--short") == ["M", "a.ipynb", "M", "b.ipynb", "??", "new.ipynb"]
    for name in ("a", "b", "new"):
        lab.look_again(str(tmp_path / f"{name}.ipynb"), model=None).wait()
    assert asked("status", "--short") == ["M", "b.ipynb", "??", "new.ipynb"] and not asked("diff", "--cached")
    assert f"post_save_hook={lab.__name__}.look_again" in (PROJECT / "Makefile").read_text()


@pytest.mark.long
def test_no_reader_meets_a_red_box_a_nan_or_a_name_of_ours(smoke):
    """In what a run has executed: what a notebook shows is words and numbers, and pictures that can be read aloud."""
    ours = {name for name in re.findall(r"^ *(\w+_\w+):", SCHEMA, re.MULTILINE)}
    for path in sorted((smoke / "smoke" / "notebooks").glob("*.ipynb")):
        linked = re.findall(LINK, path.read_text())
        assert linked and all((path.parent / unquote(target)).exists() for target in linked), linked
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                assert output.get("name") != "stderr" and "application/vnd.jupyter.widget-view+json" not in output
                data = output.get("data", {})
                text = "".join(output.get("text", data.get("text/html", data.get("text/plain", ""))))
                told = re.sub(r"<style.*?</style>|data:image[^\"]*", "", text, flags=re.DOTALL)
                assert not re.search(r"\b(nan|inf|NaN|None)\b", told), f"{path.name}: {told[:2000]}"
                assert not ours & {*re.findall(r"<th[^>]*>(\w+)</th>", told)}, path.name
                assert "image/png" not in data or "<img" in told, f"{path.name}: a picture without words"
                assert all(len(alt) > 20 for alt in re.findall(r'<img[^>]*?alt="([^"]*)"', told)), path.name
