"""What the command shows, and how it ends: plain text, errors in a line, signals heard."""

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from steerlib import SteerlibError

# What would steer the terminal, or begin another line.
STEERING = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Plain(Console):
    """Texts are shown as they are: nothing in a path or a message is taken for markup, or reaches the terminal."""

    def __init__(self, **options):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options) -> Text:
        return super().render_str(text.translate(STEERING), **options)


def guarded(app: Callable[[], None]) -> None:
    """Do it, with our own errors, and the machine's, told in one line instead of a traceback."""
    for number in range(3):  # what is closed would be a socket, to which libraries then print
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may know less than our texts hold
            stream.reconfigure(errors="backslashreplace")
    stopped: list[int] = []

    def stop(number: int, _) -> None:
        stopped.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL)  # who asks again does not want to wait until all is tidied up
        raise SystemExit

    before = {number: found for number in STOPS if (found := signal.getsignal(number)) != signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, stop)
        app()
    except BaseException as error:  # what stops us may come out as anything, such as an import that failed
        if isinstance(error, SystemExit) and error.code is None and not stopped:
            stopped.append(signal.SIGINT)  # which dask_jobqueue, from its import on, answers so
        if not stopped and not isinstance(error, SteerlibError | OSError):
            raise
        told = f"{error.filename}: {error.strerror}" if getattr(error, "filename", None) else str(error)
        told = Text(told) if isinstance(error, SteerlibError) else told  # which is printable, a line a mistake
        told = "interrupted; what is done is kept: run again" if stopped else told
        Plain(stderr=True).print(Text("error:", "red"), told, soft_wrap=True, highlight=False)
        raise SystemExit(128 + stopped[0] if stopped else 2) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
