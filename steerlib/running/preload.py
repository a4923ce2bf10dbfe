"""What the fork server imports for its kernels to have: a name that cannot be imported ends them, and they say why."""

import gc
from contextlib import suppress
from importlib import import_module

from steerlib.running.kernels import PRELOAD

gc.disable()  # all of it stays: to look for garbage in it, again and again, took a quarter of the time
gc.set_threshold(20_000)  # of kernels, which look again; they make many arrays, and hardly anything in circles
for _name in PRELOAD:
    with suppress(Exception):
        import_module(_name)
with suppress(Exception):  # what transformers makes at the first loading, some hundred regular expressions
    import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("")
