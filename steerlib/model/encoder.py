"""Texts to ids: the one place that asks a tokenizer, and holds what it says against the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from steerlib import SteerlibError
from steerlib.files import hub, store
from steerlib.model import adapters


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Of a checkpoint. Raises SteerlibError when there is none, and whatever transformers and tokenizers raise."""
    if any((folder / name).exists() for name in hub.TOKENIZER):  # else transformers would look for it on the hub
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        if len(words) > len(words.all_special_tokens):  # from too few files, transformers makes one without words
            return words
    raise SteerlibError(f"{folder}: holds no tokenizer; save it beside the weights (tokenizer.save_pretrained)")


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, asked so that states are read at the last token *of the text*.

    What it puts before a text (BOS) is kept, what it puts behind it (EOS, SEP) is not. The tokens of a continuation are
    those that it adds to its text's: standing alone it may be split otherwise.
    """

    tokenizer: PreTrainedTokenizerBase
    rows: int  # of embedding and unembedding
    context: int | None  # tokens, where the config tells
    # What `split` has made of texts, as each is asked for several times: read, compared, and continued.
    _split: dict[tuple[str, bool], list[int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_files(cls, folder: Path, tokenizer: Path | None = None, adapter: Path | None = None) -> Encoder:
        """Of a checkpoint, without its weights, and without running code of its own.

        Raises SteerlibError when there is no tokenizer, or no config.
        """
        at = tokenizer or folder
        try:
            words = load_tokenizer(at)
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            rows = adapters.check(config, adapter) if adapter else None
        except SteerlibError:
            raise
        except Exception as error:  # transformers and tokenizers each raise their own kinds
            raise SteerlibError(f"{at}: its tokenizer cannot be loaded ({type(error).__name__})") from error
        config = config.get_text_config(decoder=True)
        return cls(words, rows or config.vocab_size, getattr(config, "max_position_embeddings", None))

    def __call__(self, texts: Sequence[str], more: int = 0) -> list[list[int]]:
        """Ids of each text, with room for so many ``more`` behind it.

        Raises SteerlibError for a text of no tokens, one that is too long for the model, an id that is none of the
        model's, and a last token that is not the text's own.
        """
        if not texts:
            return []
        own, [whole] = self.split(texts, special=False), self.split(texts[:1])
        first = own[0]
        before = next((whole[:k] for k in range(len(whole)) if whole[k : k + len(first)] == first), [])
        special = {*self.tokenizer.all_special_ids} - {self.tokenizer.unk_token_id}
        for text, ids in zip(texts, own, strict=True):
            count, limit = len(before) + len(ids) + more, self.context
            if not ids:
                raise SteerlibError(f"text {quoted(text)}: this model's tokenizer has no token for any of it")
            if (largest := max(ids)) >= self.rows:
                raise SteerlibError(
                    f"text {quoted(text)}: its token {self.pieces([largest])} has id {largest}, but the model has only "
                    f"{self.rows}; this is another model's tokenizer, and checkpoints.tokenizer may name the right one"
                )
            if limit and count > limit:
                behind = f", {more} to be written among them" if more > 0 else ""
                raise SteerlibError(
                    f"text {quoted(text)}: {count} tokens{behind}, but the model's context is {limit}; shorten it"
                )
            if ids[-1] in special and not text.endswith(self.tokenizer.convert_ids_to_tokens(ids[-1])):
                raise SteerlibError(
                    f"text {quoted(text)}: this tokenizer makes {self.pieces(ids[-1:])} its last token, which would be "
                    "read instead of the text's own; take that out of tokenizer.json"
                )
        return [before + ids for ids in own]

    @cached_property
    def sha256(self) -> str:
        """Hash of what makes texts to ids, whatever files it came from; how it pads and cuts is no part of that."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        whole = json.loads(backend.to_str()) | {"padding": None, "truncation": None} if backend else None
        told = json.dumps(whole or self.tokenizer.get_vocab(), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def split(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        """Ids as the tokenizer makes them, with its marks if ``special``. Raises SteerlibError where it cannot."""
        new = [text for text in dict.fromkeys(texts) if (text, special) not in self._split]
        try:
            ids = new and self.tokenizer(new, add_special_tokens=special, return_attention_mask=False)["input_ids"]
        except Exception as error:  # of tokenizers, as for a letter that is not known, where nothing stands for those
            raise SteerlibError(f"this model's tokenizer fails at these texts ({store.reason(error)})") from error
        self._split.update(zip(((text, special) for text in new), ids, strict=True))
        return [self._split[text, special] for text in texts]

    def after(self, texts: Sequence[str], options: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens that each option adds to its text's.

        Raises SteerlibError where it adds none, changes the text's, or goes on with its last word.
        """
        alone, added = list(dict.fromkeys(texts)), []
        starts = dict(zip(alone, self(alone), strict=True))
        whole = self([text + option for text, option in zip(texts, options, strict=True)], more=-1)
        for text, option, ids in zip(texts, options, whole, strict=True):
            start = starts[text]
            kept = next((k for k, pair in enumerate(zip(start, ids, strict=False)) if len({*pair}) > 1), len(start))
            glued = all(letter.lower() != letter.upper() for letter in (text[-1], option[0]))
            if kept < len(start) or len(ids) <= kept or glued:
                raise SteerlibError(
                    f"{option!r} after {quoted(text)}: the text ends with {self.pieces(start[max(0, kept - 1) :])}, "
                    f"and both together with {self.pieces(ids[max(0, kept - 1) :])}: "
                    f"{'one word' if glued else 'not the tokens of one, then of the other'}; "
                    "write a space before the option, as in ' happy', and none behind the text"
                )
            added.append(tuple(ids[kept:]))
        return added

    def pieces(self, ids: Sequence[int], shown: int = 8) -> str:
        """Tokens as they read."""
        return " + ".join(repr(self.tokenizer.decode([token])) for token in ids[:shown]) or "nothing"


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """Texts as a list; a single one is a list of one. Raises SteerlibError for what is no text."""
    told = [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if wrong := [text for text in told if not isinstance(text, str)]:
        raise SteerlibError(f"{wrong[0]!r} is no text; give one, or a list of them")
    return told


def quoted(text: str, room: int = 80) -> str:
    """Its end is where a text is read."""
    return repr(text if len(text) <= room else f"… {text[-room:]}")
