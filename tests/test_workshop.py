"""The workshop: solutions run, exercises say what is wrong with them, and nobody finds an answer before its time."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers.studies import PROJECT, SMOKE
from helpers.wrong_answers import WRONG
from steerlib import SteerlibError
from steerlib.running import workshop
from steerlib.running.workshop import Unsolved, exercise

FOLDER = PROJECT / "notebooks" / "workshop"
MASTERS = sorted(FOLDER.glob("*.ipynb"))
WORDS = set(re.findall(r'<a id="([\w-]+)">', (PROJECT / "docs" / "glossary.md").read_text()))


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = script("build")
check = script("check")


# --- what is made of the masters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_a_session_tells_what_it_is_for_and_every_link_leads_somewhere(path):
    for kind in build.KINDS:
        notebook = build.made(path, kind == "solutions", folder=PROJECT / "outputs" / "workshop" / kind)
        told = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        assert all(f"**{word}**" in told[0] for word in ("You will learn", "It needs", "It takes"))
        for target, word in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", "\n".join(told)):
            there = (PROJECT / "outputs" / "workshop" / kind / target).resolve()
            assert there.exists() or (target.endswith(".ipynb") and there.name in {p.name for p in MASTERS}), target
            assert not word or word in WORDS, word
        pictures = [cell for cell in notebook.cells if re.search(r"^show\(", cell.source, re.MULTILINE)]
        assert pictures or path.stem.startswith("0")
        assert all("plt.show" not in cell.source for cell in notebook.cells)


@pytest.mark.parametrize("path", MASTERS, ids=lambda path: path.stem)
def test_no_answer_is_left_in_an_exercise_and_no_note_to_facilitators_in_either(path):
    master, answers, notes = nbformat.read(path, as_version=4), [], []
    for cell in master.cells:
        if "exercise" in build.tags(cell):
            region = build.REGION.search(cell.source)
            answers += [line.strip() for line in build.solution(region).splitlines() if len(line.strip()) > 8]
        elif "facilitator" in build.tags(cell):
            notes += cell.source.splitlines()
    todo, solved = (nbformat.writes(build.made(path, solved)) for solved in (False, True))
    for answer in answers:
        said = json.dumps(answer, ensure_ascii=False)[1:-1]
        assert said not in todo and said in solved, answer
    assert notes and not [note for note in notes if note and note in todo + solved]
    assert "SOLUTION" not in todo + solved
    page = build.facilitator()
    assert all(text in page for text in answers + notes)


def test_where_colab_gets_steerlib_is_told_to_the_builder():
    first = build.made(MASTERS[0], False, "https://example.org/steerlib").cells[0]
    assert '"google.colab" in sys.modules' in first.source and '"https://example.org/steerlib"' in first.source


@pytest.mark.parametrize(
    ("source", "after", "message"),
    [
        ("def answer(): ...", 'exercise("1.1")', "one region, and this has 0"),
        ("# BEGIN SOLUTION: it\n# END SOLUTION\n" * 2, 'exercise("1.1")', "one region, and this has 2"),
        ("# BEGIN SOLUTION: it\n# END SOLUTION\n# END SOLUTION", 'exercise("1.1")', "marker"),
        ("# BEGIN SOLUTION: it\n# END SOLUTION", "1 + 1", "a check of its own has to follow"),
    ],
)
def test_a_master_with_a_mistake_makes_nothing(tmp_path, source, after, message):
    cells = [nbformat.v4.new_code_cell(text) for text in (source, after)]
    for cell, tag in zip(cells, ("exercise", "check"), strict=True):
        cell.metadata = {"tags": [tag]}
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "9_wrong.ipynb")
    with pytest.raises(build.Mistake, match=f"9_wrong.ipynb: cell .*{message}"):
        build.made(tmp_path / "9_wrong.ipynb", False)


# --- done as by a participant -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(smoke, tmp_path_factory) -> Path:
    """Results of the smoke study, in which concepts are what they are in the workshop's own, only smaller."""
    return Path(shutil.copytree(smoke, tmp_path_factory.mktemp("workshop") / "outputs"))


class Participant:
    """Runs cells, and reads what stands below them."""

    def __init__(self, notebook: nbformat.NotebookNode, folder: Path):
        self.client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        self.count = 0

    def run(self, source: str) -> tuple[list[str], str]:
        """What is shown, and the whole of what is shown of an error."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        try:
            self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        except CellExecutionError:
            pass  # it stands below the cell
        shown = [output.get("text") or output.get("data", {}).get("text/html", "") for output in cell.outputs]
        return shown, "\n".join(line for output in cell.outputs for line in output.get("traceback", []))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [*MASTERS[:-1], pytest.param(MASTERS[-1], marks=pytest.mark.long)], ids=lambda path: path.stem
)
def test_an_exercise_says_what_is_wrong_until_it_is_solved(path, outputs, warm):
    """Cell by cell: before a check each stub, each wrong answer and then the solution; all other cells as they are."""
    todo, solved = (build.made(path, solved) for solved in (False, True))
    exercises = build.exercises(todo)
    numbers = {cell.id: number for number, (cell, _) in exercises.items()}
    assert {*exercises} == {number for number in WRONG if number[0] == path.stem[0]}
    someone = Participant(nbformat.v4.new_notebook(), outputs)
    with someone.client.setup_kernel():
        for number, (_, looked) in exercises.items():  # as after a restart of the kernel
            _, error = someone.run(looked.source)
            assert error.startswith(f"Exercise {number}: ") and "Has every cell above been run" in error, error
        for stub, cell in zip(todo.cells, solved.cells, strict=True):
            if "parameters" in build.tags(cell):
                cell.source += f"\nstudy, outputs = {str(SMOKE)!r}, {str(outputs)!r}"
            if number := numbers.get(cell.id):
                looked = exercises[number][1].source
                first = f"Exercise {number} is still to be done: "
                for source, message in [(stub.source, first), *WRONG[number]]:
                    _, error = someone.run(source)
                    assert not error, error
                    _, error = someone.run(looked)
                    assert "\n" not in error and error.startswith(f"Exercise {number}"), f"{source}\n{error}"
                    assert message in error, f"{source}\n{error}"
            if cell.cell_type == "code":
                shown, error = someone.run(cell.source)
                assert not error, f"{cell.source}\n{error}"
                assert not [out for out in someone.client.nb.cells[-1].outputs if out.get("name") == "stderr"]
                if "check" in build.tags(cell):
                    assert "".join(shown).endswith(": solved.\n"), shown  # a line may come in parts
                if re.search(r"^show\(", cell.source, re.MULTILINE):
                    assert re.search(r'<img .*alt="\w', "".join(shown)), cell.source


def test_what_goes_wrong_in_a_check_is_one_line_in_a_participants_words():
    def told(number="1.1", **answers):
        with pytest.raises(Unsolved) as unsolved, exercise(number) as check:
            check.call(*answers.values(), shape=(2,))
        (line,) = unsolved.value._render_traceback_()
        assert line.startswith("Exercise 1.1: ")
        return line

    def alters(values):
        values += 1
        return values

    import numpy as np

    assert "gives nothing back" in told(answer=lambda: None)
    assert "gives back one number, where numbers of shape (2,)" in told(answer=lambda: 3.0)
    assert "gives back 'x', where numbers are wanted" in told(answer=lambda: "x")
    assert "no number (nan)" in told(answer=lambda: [np.nan, 1])
    assert "alters what it is given" in told(answer=alters, values=np.ones(2))
    assert "ZeroDivisionError: division by zero" in told(answer=lambda: 1 / 0)
    assert "3 stands where the exercise asks for a function" in told(answer=3)

    def ends(how):
        raise how

    assert "you interrupted it. Is there a loop that never ends?" in told(answer=ends, how=KeyboardInterrupt())
    assert "What Python says: SystemExit: 1" in told(answer=ends, how=SystemExit(1))


# --- a study that is made meanwhile -------------------------------------------------------------------------------


def test_a_study_that_is_being_made_keeps_nobody_waiting(params, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(workshop.subprocess, "Popen", lambda words, **_: begun.append(words) or Running(None))
    monkeypatch.setattr(workshop, "_is_watched", lambda: True)
    monkeypatch.setattr(workshop, "PATIENCE", 0)
    for _ in range(2):
        with pytest.raises(Unsolved, match=r"being made in the background\. Read on, and run this cell again"):
            workshop.made(params, tmp_path)
    (words,) = begun
    assert [*map(str, words[1:])] == ["-m", "steerlib", "run", str(params), "--outputs", str(tmp_path)]
    workshop._begun[tmp_path / "tiny"] = Running(2)
    monkeypatch.setattr(workshop, "begin", lambda *_: (tmp_path / "tiny.log").write_text("…\nerror: the disk is full"))
    with pytest.raises(SteerlibError, match=r"tiny could not be made .*: error: the disk is full"):
        workshop.made(params, tmp_path)


class Running:
    def __init__(self, code: int | None):
        self.poll = lambda: code


def test_a_prediction_that_was_written_down_stands(tmp_path, capsys):
    params = tmp_path / "mine.yaml"
    assert workshop.predicted(params, {"anger": 100}) == {"anger": 100}
    assert workshop.predicted(params, {"anger": None}) == {"anger": 100}
    assert capsys.readouterr().out == "What you predicted first stands.\n"
    with pytest.raises(Unsolved, match="Of mine anger were predicted before; give your study another name"):
        workshop.predicted(params, {"fear": 100})


# --- the evening before -------------------------------------------------------------------------------------------


def test_a_machine_that_is_not_ready_is_told_what_to_do(monkeypatch, capsys):
    def lacks():
        raise AssertionError("there is no disk; buy one")

    monkeypatch.setattr(check, "CHECKS", {"versions": check.versions, "figures": check.figure})
    check.main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("All is well: ")
    monkeypatch.setattr(check, "CHECKS", {"disk": lacks, "figures": check.figure})
    with pytest.raises(SystemExit) as end:
        check.main()
    assert "\nNot ready:\ndisk: there is no disk; buy one\n" in end.value.code
    assert "figures: a figure of" in capsys.readouterr().out, "the others are tried all the same"


def test_exercises_are_written_for_participants_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PLACE", tmp_path)
    assert sorted(path.name for path in build.write("exercises").iterdir()) == [path.name for path in MASTERS]
    assert [path.name for path in tmp_path.iterdir()] == ["exercises"]
    (begun := tmp_path / "exercises" / MASTERS[0].name).write_text("somebody has begun")
    build.write("exercises", anew=False)
    assert begun.read_text() == "somebody has begun"
