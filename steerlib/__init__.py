"""The one kind of error that speaks to a person: what is wrong, where, and what to do about it."""


class SteerlibError(Exception):
    """A mistake in the input or the surroundings, told in one message without a traceback."""
