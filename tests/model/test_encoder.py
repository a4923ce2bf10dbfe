"""Texts and options as tokens: what is read and asked for is the text's own, whatever a tokenizer does; or refused."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from helpers.models import WORDS, build, tokenizer, write_remote
from helpers.plain import TEXTS, concept
from steerlib import SteerlibError
from steerlib.checkpoints.history import Checkpoint
from steerlib.model import Model, load
from steerlib.model.encoder import Encoder, as_texts
from steerlib.stages import probing
from steerlib.steering import Push, Readouts, SideEffects, steer, write
from steerlib.steering.asking import examine
from steerlib.steering.operators import Add
from steerlib.study.checkpoints import Loading

ID = {word: k for k, word in enumerate(WORDS, 1)}


@pytest.fixture(scope="module")
def plain() -> Model:
    return build("gpt_neox")


def other(plain: Model, marks=(), special=(), **parts) -> Model:
    """The same weights with a made-up tokenizer: ``marks`` put before and behind every text, other parts."""
    words = tokenizer()
    for name, part in parts.items():
        setattr(words.backend_tokenizer, name, part)
    if marks:
        used = [(word, ID[word]) for mark in marks for word in mark.split()]
        template = " ".join([*marks[0].split(), "$A", *marks[1].split()])
        words.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    if special:
        words.add_special_tokens({"additional_special_tokens": list(special)})
    return Model(plain.hf, words)


def spaced(model: Model) -> Model:
    """Of words with a mark for the space before them, which it also puts before a text, as Llama's."""
    words = {"<unk>": 0} | {f"▁{word}": k for word, k in ID.items() if word != "h"} | {"▁": ID["h"]}
    text = json.loads(tokenizer().backend_tokenizer.to_str()) | {"pre_tokenizer": None}
    text["model"]["vocab"] = words
    made = tokenizer()
    made._tokenizer = type(made.backend_tokenizer).from_str(json.dumps(text))
    made.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    return Model(model.hf, made)


def test_what_a_tokenizer_puts_behind_a_text_is_not_read_nor_written_after(plain):
    """EOS and the like; what it puts before is kept, with or without."""
    for before in ("", "a"):
        marked, texts = other(plain, (before, "mad home")), [f"{before} {text}".strip() for text in TEXTS]
        assert torch.equal(marked.read(TEXTS).states, plain.read(texts).states)
        assert write(marked, TEXTS, 4) == write(plain, texts, 4)
        found, expected = (
            Readouts.of(model, [concept(texts=asked)]) for model, asked in ((marked, TEXTS), (plain, texts))
        )
        assert found.options == expected.options


def test_continuations_are_what_they_add_to_the_text(plain):
    """Alone, an option would begin with a mark of its own: the model would be asked for two spaces."""
    model = spaced(plain)
    assert model.tokenizer(" happy")["input_ids"] == [ID["h"], ID["happy"]]
    assert set(Readouts.of(model, [concept()]).options[0].tokens) == {
        (ID[word],) for word in ("happy", "glad", "sad", "angry", "mad")
    }
    passage = "Anna ran home a b c d"
    assert SideEffects(model, [passage] * 3, 0).following.tolist() == [ID[word] for word in "abc"]
    with pytest.raises(
        SteerlibError, match=r"'happy' after 'Anna felt ': .*ends with '▁felt' \+ '▁', and both .*'▁happy'"
    ):
        Readouts.of(model, [concept(texts=["Anna felt ", "a b", "c d"], targets=["happy"])])
    turned = other(plain, normalizer=normalizers.Replace("ran mad", "ran sad"))
    readouts = Readouts.of(turned, [concept(texts=["Anna felt", "a b", "c d"])])
    assert readouts.pick([1, 1], ["b a", "mad"]).options == readouts.options[:2]
    with pytest.raises(
        SteerlibError, match="joy: readout option ' mad' is other tokens after 'Anna ran' than after its"
    ):
        readouts.pick([0, 0], ["b a", "Anna ran"])


@pytest.mark.parametrize(
    ("parts", "text", "said"),
    [
        (
            {"normalizer": normalizers.Replace(Regex("$"), " mad"), "special": ["mad"]},
            "Anna felt",
            "'mad' its last token",
        ),
        ({"special": ["zebra"]}, "a zebra", r"its token 'zebra' has id 20, but the model has only 20"),
        ({"model": models.WordLevel({"Anna": ID["Anna"]}, "?")}, "zebra", "tokenizer fails at these texts .*Missing"),
        (
            {"normalizer": normalizers.Replace("?", "")},
            "?",
            r"text '\?': this model's tokenizer has no token for any of it",
        ),
        ({}, "a " * 65, "6[56] tokens.*, but the model's context is 64"),
        ({"marks": ("a b", "")}, "a " * 63, "6[56] tokens.*, but the model's context is 64"),
    ],
    ids=[
        "an end that cannot be left out",
        "id beyond the embedding",
        "nothing for what it does not know",
        "none",
        "too long",
        "too long with marks",
    ],
)
def test_a_text_that_is_not_read_as_it_stands_is_refused(plain, parts, text, said):
    model = other(plain, **parts)
    for ask in (model.read, lambda texts: write(model, texts, 1), model.tokens):
        with pytest.raises(SteerlibError, match=said):
            ask(["Anna", text] if parts.get("special") != ["mad"] else [text])


def test_no_word_need_be_known_to_a_tokenizer_but_some(checkpoint):
    folder = checkpoint()
    about = json.loads((folder / "tokenizer.json").read_text())
    about["model"] |= {"vocab": {"mad": 1}, "unk_token": "none"}
    (folder / "tokenizer.json").write_text(json.dumps(about))
    assert Encoder.of_files(folder)(["mad"]) == [[1]] and load(Checkpoint(1, folder, -1)).read(["mad"]).states.any()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    for ask in (Encoder.of_files, lambda folder: load(Checkpoint(1, folder, -1))):
        with pytest.raises(SteerlibError, match=f"{folder}: holds no tokenizer; save it beside the weights"):
            ask(folder)


def test_as_long_as_the_context_is_as_long_as_it_gets(plain):
    assert plain.read(["a " * 64]).states.isfinite().all() and write(plain, ["a " * 60], 4)
    for read, more in ((60, 5), (64, 1)):
        with pytest.raises(SteerlibError, match=f"65 tokens, {more} to be written among them, but .* context is 64"):
            write(plain, ["a " * read], more)
    # Of a continuation the last token is not read.
    assert plain.encoder.after(["a " * 63 + "a"], [" mad"]) == [(ID["mad"],)]
    with pytest.raises(SteerlibError, match="65 tokens, but the model's context is 64"):
        plain.encoder.after(["a " * 63 + "a"] * 2, [" mad", " mad home"])


def test_a_text_is_a_list_of_one_and_a_number_is_no_text():
    assert as_texts("ab") == as_texts(["ab"]) == as_texts(("ab",)) == ["ab"]
    for wrong in (3, ["ab", 3]):
        with pytest.raises(SteerlibError, match=r"^3 is no text"):
            as_texts(wrong)


def test_an_option_is_another_word_and_not_nothing(plain):
    assert plain.encoder.after(["Anna felt ("] * 2, ["mad", " mad"]) == [(ID["mad"],)] * 2
    assert plain.encoder.after(["Anna felt"] * 2, ["(", " mad home"]) == [(0,), (ID["mad"], ID["home"])]
    for text, option, said in (
        ("a", "b", "both together with '<unk>': one word"),
        ("Anna", " ", "ends with 'Anna', .* with 'Anna': not"),
        ("Anna felt", "mad", "both together with 'Anna' \\+ '<unk>': one word"),
    ):
        with pytest.raises(SteerlibError, match=f"^'{option}' after '{text}': .*{said}"):
            plain.encoder.after([text] * 2, [" home", option])
    # A special token that the text itself ends with is its own.
    assert other(plain, special=["mad"]).encoder(["Anna felt mad"]) == [[ID[word] for word in ("Anna", "felt", "mad")]]


OWN = """
open("ran", "w").close()
from transformers import PreTrainedTokenizerFast
class Own(PreTrainedTokenizerFast): pass
"""


def test_code_of_its_own_is_run_only_where_that_is_trusted(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = checkpoint()
    (folder / "own.py").write_text(OWN)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    assert Encoder.of_files(folder)(["mad"]) == [[ID["mad"]]]
    for trusted in (False, True):
        load(Checkpoint(1, folder, -1, loading=Loading(trust_remote_code=trusted)))
        assert (tmp_path / "ran").exists() == trusted
    remote = write_remote(tmp_path / "remote")
    (remote / "modeling_tiny.py").write_text(OWN)
    (tmp_path / "ran").unlink()
    with pytest.raises(SteerlibError, match="remote: its tokenizer cannot be loaded"):
        Encoder.of_files(remote)
    assert not (tmp_path / "ran").exists()


def test_texts_that_become_one_are_refused_and_what_is_lost_is_told(plain):
    model = other(plain, normalizer=normalizers.Lowercase())
    kept = {"positive": ["A b", "c D", "e"], "negative": ["f b", "g d", "h g"]}
    problems, warnings, _ = examine(model.encoder, one := concept(stimuli=kept), one.readout.cases[1:2])
    assert not problems and "texts are read otherwise than written, such as 'A b' as 'a b'" in warnings[0]
    assert warnings[1].startswith("2 texts are one token, such as 'e'")
    lost = concept(stimuli=kept | {"negative": ["a B", "g d", "h g"]})
    with pytest.raises(SteerlibError, match=r"joy: 'A b' and 'a B' are the same tokens to this model \('a' \+ 'b'\)"):
        probing.ReadStimuli(model, [lost], 0)
    assert "'A b' and 'a B' are the same tokens" in examine(model.encoder, lost, lost.readout.cases[1:2])[0][0]
    probing.ReadStimuli(plain, [concept()], 0)


def test_generation_is_ours_whatever_the_checkpoint_says(checkpoint):
    """Sampling, penalties, ends and forced or forbidden tokens in its files; and caching off, as Trainer leaves it."""
    folder, everything = checkpoint(), list(range(20))

    def written():
        model = load(Checkpoint(1, folder, -1, "step-1"))
        push = torch.randn(model.hidden, generator=torch.Generator().manual_seed(0)).mul(3)
        texts = [write(model, TEXTS, 8)]
        for positions in ("last", "generated", "all"):
            with steer(model, Push(1, Add(push), 1.0, positions)):
                ids = model.hf.generate(model.tokens(TEXTS[:1]).ids, max_new_tokens=8)
                texts += [write(model, TEXTS, 8), model.tokenizer.batch_decode(ids)]
        return texts

    expected = written()
    assert len({str(texts) for texts in expected[::2]}) > 2 and expected[0] not in expected[1::2]
    settings = {
        "do_sample": True,
        "temperature": 9.0,
        "top_k": 3,
        "repetition_penalty": 5.0,
        "eos_token_id": everything,
    }
    settings |= {"min_length": 30, "num_beams": 3, "forced_bos_token_id": 3, "forced_eos_token_id": 4}
    settings |= {"bad_words_ids": [[k] for k in everything[1:9]], "suppress_tokens": everything[9:15]}
    settings |= {"no_repeat_ngram_size": 1, "return_dict_in_generate": True, "use_cache": False, "max_length": 3}
    settings |= {"begin_suppress_tokens": everything[2:], "cache_implementation": "static", "guidance_scale": 3.0}
    config = json.loads((folder / "config.json").read_text())
    for file, content in (
        ("config.json", config | {"use_cache": False}),
        ("generation_config.json", settings),
        ("config.json", config | {"repetition_penalty": 5.0, "do_sample": True, "eos_token_id": everything}),
    ):
        (folder / file).write_text(json.dumps(content))
        assert written() == expected, file
