"""Questions with right and wrong answers, as a concept: what a model holds to be true or sensible.

Some of the questions become readout items, where a push is to raise the right answers; stimuli are made of the others.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from steerlib.concepts.concept import Item
from steerlib.concepts.reading.drafts import QUESTIONS, Draft
from steerlib.concepts.reading.pairing import Pair
from steerlib.concepts.reading.records import Record
from steerlib.concepts.repeats import normalised, once

AS_PUBLISHED = "take the file as it was published, .jsonl or .parquet"


class Question(NamedTuple):
    """A question of the file, with its right and its wrong answers."""

    row: Record
    text: str
    right: list[str]
    wrong: list[str]


def fill_choices(draft: Draft, rows: Sequence[Record]) -> None:
    """Questions with choices, one of them right: OpenBookQA and ARC, as published or with answers counted from 0.

    Mihaylov et al. 2018, arXiv 1809.02789; Clark et al. 2018, arXiv 1803.05457.
    """
    questions = []
    for row in rows:
        fields = {"question": row.fields.get("question_stem")} | row.fields
        if isinstance(fields["question"], dict):
            fields |= fields["question"] | {"question": fields["question"].get("stem")}
        answer = str(fields.get("answer", fields.get("answerkey")))
        choices = _by_name(fields.get("choices"))
        if answer not in choices:
            listed = ", ".join(choices) or "none that can be read"
            raise row.error(f"answer {answer!r} is not among the choices; there are {listed}")
        right = choices.pop(answer)
        question = row._replace(fields=fields).text("question")
        questions.append(Question(row, question, [right], [*choices.values()]))
    _fill_questions(draft, questions)


def _by_name(choices: Any) -> dict[str, str]:
    """Choices by the name that the answer calls them by: their label, or else their place."""
    match choices:
        case {"text": list(texts), "label": list(labels)}:
            named = zip(labels, texts, strict=True) if len(labels) == len(texts) else ()
        case [{"text": _, "label": _}, *_]:
            named = ((choice.get("label"), choice.get("text")) for choice in choices if isinstance(choice, dict))
        case list():
            named = enumerate(choices)
        case _:
            named = ()
    named = [(str(label), text) for label, text in named]
    return dict(named) if len(dict(named)) == len(named) else {}


def fill_truthfulqa(draft: Draft, rows: Sequence[Record]) -> None:
    """TruthfulQA: the best answer against the best incorrect one or, in older files, against all incorrect ones.

    Lin et al. 2022, "TruthfulQA: Measuring How Models Mimic Human Falsehoods", arXiv 2109.07958. Never train on it.
    """
    questions = []
    for row in rows:
        if scored := row.fields.get("mc0_targets") or row.fields.get("mc1_targets"):
            right, wrong = _by_score(row, scored)
        else:
            right, best = [row.text("best_answer")], row.fields.get("best_incorrect_answer")
            wrong = [best] if best else row.cell("incorrect_answers")
            if not isinstance(wrong, list):
                wrong = row.text("incorrect_answers").split(";")
                if wrong[0].startswith("["):
                    raise row.error(f"incorrect_answers is a list written as text; {AS_PUBLISHED}")
        questions.append(Question(row, row.text("question"), right, wrong))
    _fill_questions(draft, questions)


def _by_score(row: Record, scored: Any) -> tuple[list[str], list[str]]:
    """Answers of score 1 and of score 0: {answer: score}, or as the hub has them, {choices: [...], labels: [...]}."""
    match scored:
        case {"choices": list(answers), "labels": list(scores)}:
            pass
        case {**by_answer}:
            answers, scores = by_answer.keys(), by_answer.values()
        case _:
            answers, scores = (), (None,)
    if len(answers) != len(scores) or any(score not in (0, 1) for score in scores):
        raise row.error(f"its scored answers cannot be read; {AS_PUBLISHED}")
    return tuple([a for a, score in zip(answers, scores, strict=True) if score == side] for side in (1, 0))


def _fill_questions(draft: Draft, questions: Sequence[Question]) -> None:
    """Some questions become readout items; the others, with a right and with a wrong answer, pairs of stimuli.

    The wording of the stimuli is RepE's (Zou et al. 2023, arXiv 2310.01405).
    """
    draft.refuse("positive", "words", "prompts", "targets", "foils", "frame", "readout", "pairs", "length")
    distinct: dict[str, Question] = {}
    for question in questions:
        right, wrong = (_distinct(question.row, side) for side in question[2:])
        if not right or not wrong or {*map(normalised, right)} & {*map(normalised, wrong)}:
            raise question.row.error("needs right answers and wrong ones, and none that is both")
        distinct.setdefault(normalised(question.text), question._replace(right=right, wrong=wrong))
    if repeated := len(questions) - len(distinct):
        draft.losses.append(f"repeated questions: {repeated}")
    draft.counts = {"questions": len(questions)}
    order = [list(distinct.values())[i] for i in draft.rng.permutation(len(distinct))]
    draft.places = {text: question.row.where for text, question in distinct.items()}
    half = 0 if draft.first else min(draft.options.questions or QUESTIONS, len(order) // 2)
    asked, claimed = order[:half], order[half:]
    draft.readout["items"] = []
    for question in asked:  # the beginning of a sentence waits to be completed
        prompt = f"Question: {question.text}\nAnswer:" if question.text.endswith("?") else question.text
        targets, foils = ([f" {answer}" for answer in side] for side in question[2:])
        draft.readout["items"].append(Item(prompt=prompt, targets=targets, foils=foils))
    if draft.first is None:
        draft.defaults.append(
            f"readout.items: {len(asked)} of the questions; stimuli are made of the {len(claimed)} others"
        )
    draft.defaults.append("pairs: a question with its right answer, and with a wrong one drawn at random")
    draft.fill_templates(
        [Pair(_claim(q.text, q.right[0]), _claim(q.text, q.wrong[draft.rng.integers(len(q.wrong))])) for q in claimed]
    )


def _distinct(row: Record, answers: Sequence[Any]) -> list[str]:
    return once(
        [row.readable("an answer", answer) for answer in answers if not isinstance(answer, str) or answer.strip()]
    )


def _claim(question: str, answer: str) -> str:
    answer = answer.removesuffix(".")
    if question.endswith("?"):
        ask = "Consider the correctness of the answer to the following question:"
        return f"{ask}\nQuestion: {question}\nAnswer: {answer}."
    return f"Consider the correctness of the following fact:\nFact: {question} {answer}."
