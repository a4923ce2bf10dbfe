"""The one kind of error that speaks to a person: what is wrong, where, and what to do about it."""

LINE = 1000  # characters of a message's line


def printable(text: str) -> str:
    """The text in one line, with escapes for what a terminal would obey and nobody would see."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class SteerlibError(Exception):
    """A mistake in the input or the surroundings, told in one message without a traceback.

    It may quote what others wrote: whatever that is, a line of it stays a line.
    """

    def __init__(self, message: object = ""):
        lines = [
            line if len(line) <= LINE else f"{line[: LINE - 300]} … {line[-300:]}" for line in str(message).split("\n")
        ]
        super().__init__("\n".join(map(printable, lines)))
