"""A model as a checkpoint on disk."""

import errno
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlib.files import store


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, notes: Mapping[str, dict] = {}
) -> None:
    """An ordinary Hugging Face folder, and JSON ``notes`` by name, whole or not at all.

    Raises SteerlibError when it cannot be written.
    """

    def fill(temporary: Path) -> None:
        try:
            model.save_pretrained(temporary)
        except SafetensorError as error:  # a full disk, most likely: as an OSError it is told as one
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        for name, note in notes.items():
            store.write_json(temporary / name, note)

    store.replace_folder(folder, fill)
