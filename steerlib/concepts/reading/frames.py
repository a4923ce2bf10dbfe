"""Words that stimuli are put into, so that a text ends where what is looked for is due: "{} {they} felt"."""

import re
from string import Formatter

FIELDS = ("", "they", "concept")  # the text; who it tells of, at the beginning of a sentence; the concept's name
PERSONS = re.compile(
    r"\b(?:(?P<She>she|hers?|herself)|(?P<He>he|him|his|himself)|(?P<You>you|yours?|yourself|yourselves))\b",
    re.IGNORECASE,
)


def checked(frame: str) -> str:
    """The frame. Raises ValueError when it is none."""
    example = "as in '{} She felt'"
    try:
        fields = [field for field in Formatter().parse(frame) if field[1] is not None]
    except ValueError as error:
        raise ValueError(f"{frame!r} is no frame ({error}); it holds {{}} where the text goes, {example}") from None
    if unknown := [name for _, name, spec, conversion in fields if name not in FIELDS or spec or conversion]:
        raise ValueError(f"{frame!r} has the unknown field {{{unknown[0]}}}; known are {{}}, {{they}} and {{concept}}")
    if (texts := sum(name == "" for _, name, *_ in fields)) != 1:
        raise ValueError(f"{frame!r} holds {{}} {texts} times; once it must stand, where the text goes, {example}")
    return frame


def pronoun(text: str) -> str:
    """She, He or You, by the first person that the text names with a pronoun; You when it names none."""
    person = PERSONS.search(text)
    return person.lastgroup if person else "You"


def put(frame: str, text: str, concept: str) -> str:
    """The text in the frame."""
    return frame.format(text, they=pronoun(text), concept=concept)
