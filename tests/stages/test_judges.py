"""Judges: texts in, values between 0 and 1 out; words, the planted world, and any classifier."""

from __future__ import annotations

import json

import numpy as np
import pytest

from steerlib import SteerlibError
from steerlib.concepts import Concept, Item, Readout
from steerlib.concepts.planted import stories
from steerlib.concepts.planted.world import DEFAULT
from steerlib.stages import classifiers, judges
from steerlib.stages.classifiers import Classifier
from steerlib.stages.judges import chosen, distinct_n, lexicon
from steerlib.study import Study

JUDGES = judges.JUDGES | judges.of_world(DEFAULT)

TEXTS = [
    " happy. Anna laughed out loud.",
    " sad. Anna sighed and sat down. There was a red bench.",
    " the the the the the the",
    " glad. Anna clapped and sang. The dog",
    "",
    " unhappy, mad, and so on and so on and so on.",
    " sick",
]
LABELS = {"anger": "rage", "sadness": "grief", "happiness": "joy"}


def concept(name="happiness"):
    return stories.concept(DEFAULT, name, 12, 12, 0)


def named(name="own", **readout):
    """A concept of a file."""
    templates = stories.concept(DEFAULT, "placebo", 12, 3, 0).templates
    return Concept(name=name, templates=templates, readout=Readout(**readout))


def cases(number=7):
    return [Item(prompt="Anna felt", targets=[" happy"], foils=[" sad"])] * number


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["happy", "HAPPY!", "so \n(Happy), they", "'happy'", "a—happy—b", "happy.Then"])
def test_a_word_is_found_in_any_case_and_punctuation(text):
    assert lexicon(text, [" happy"]) == 1 == lexicon(text, ["Happy."])


@pytest.mark.parametrize("text", ["unhappy", "happyish", "happ y", "hap", "happy1", "", "!"])
def test_only_whole_words_are_found(text):
    assert lexicon(text, [" happy"]) == 0


def test_phrases_are_found_as_they_stand():
    texts = ["He laughed Out  loud.", "He laughed. Out, loud", "out and loud", "loud out", "shout loud"]
    assert [lexicon(text, [" out loud"]) for text in texts] == [1, 1, 0, 0, 0]
    assert lexicon("cafe\u0301", ["caf\u00e9"]) == 1  # one letter, spelled in two ways
    assert all(
        np.isnan(lexicon(text, [" !", "—"])) for text in texts
    )  # nothing to look for is not the same as nothing found


def test_more_words_find_more():
    few, more = (np.array([lexicon(text, words) for text in TEXTS]) for words in ([" happy"], [" happy", " glad"]))
    assert (few <= more).all() and more.sum() == few.sum() + 1


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_repeated_words_are_counted(n):
    """Of m equal words, one n-gram in m − n + 1 is new; without repetition all are; below n words none is there."""
    for m in (n, n + 1, 20):
        assert distinct_n(["The " * m], n) == pytest.approx(1 / (m - n + 1))
    assert distinct_n(["a b c d e f g"], n) == 1
    assert np.isnan(distinct_n(["a " * (n - 1), ""], n)).all()


def test_a_loop_is_repetition_and_new_words_are_not():
    fresh, loop = "a b c d e f g h i j k l", "a b c d a b c d a b c d"
    repetition = JUDGES["repetition_4"](concept(), cases(2), [loop, fresh, "a b c"])
    np.testing.assert_allclose(repetition, [5 / 9, 0, np.nan])
    assert distinct_n([f"{fresh} {fresh}"], 2) < distinct_n([fresh], 2)


# --- the planted world --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEFAULT.emotions)
def test_the_first_feeling_decides(name):
    foil = next(emotion for emotion in DEFAULT.emotions if emotion != name)
    ours, theirs = (DEFAULT.emotions[emotion].feelings for emotion in (name, foil))
    texts = [f" {word}. It made Anna {theirs[0]}." for word in ours] + [
        f" {word}. Ben felt {ours[0]}." for word in theirs
    ]
    assert JUDGES["planted"](concept(name), cases(6), texts).tolist() == [1, 1, 1, 0, 0, 0]
    assert JUDGES["understood"](concept(name), cases(6), texts).tolist() == [1] * 6


@pytest.mark.parametrize("name", DEFAULT.planted)
def test_a_planted_concept_is_expressed_by_its_targets_and_not_by_its_foils(name):
    planted = concept(name)
    for options, expressed in ((planted.readout.targets, 1), (planted.readout.foils, 0)):
        for case in planted.readout.cases:
            texts = [option + ". Anna trembled." for option in options]
            same = [case] * len(texts)
            assert JUDGES["planted"](planted, same, texts).tolist() == [expressed] * len(texts)
            assert JUDGES["understood"](planted, same, texts).tolist() == [1] * len(texts)
            assert JUDGES["targets"](planted, same, texts).tolist() == [expressed] * len(texts)
            assert JUDGES["foils"](planted, same, texts).tolist() == [1 - expressed] * len(texts)


def test_a_word_outside_a_sentence_of_the_world_expresses_nothing():
    texts = [" the happy.", " happy happy.", "", " happ", " happy"]
    assert JUDGES["planted"](concept(), cases(5), texts).tolist() == [0, 0, 0, 0, 1]
    np.testing.assert_equal(JUDGES["understood"](concept(), cases(5), texts), [0, 0, np.nan, np.nan, 1])


def test_a_concept_of_a_file_is_not_judged_by_the_planted_world():
    for name in ("own", "happiness"):  # not even when it has a planted one's name
        own = named(name, prompts=["a", "b", "c"], targets=[" happy"], foils=[" sad"])
        for judge in ("planted", "understood"):
            assert np.isnan(JUDGES[judge](own, cases(), TEXTS)).all()
        assert JUDGES["targets"](own, cases(), TEXTS).tolist() == [1, 0, 0, 0, 0, 0, 0]
        assert JUDGES["foils"](own, cases(), TEXTS).tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_items_are_judged_by_their_own_options():
    items = [Item(prompt=f"{k}?", targets=[f" yes {k}"], foils=[f" no {k}"]) for k in range(3)]
    own, prompts = named(items=items), [*items, items[0]]
    texts = ["Yes 0!", "yes 0", "no 2", "no"]
    assert JUDGES["targets"](own, prompts, texts).tolist() == [1, 0, 0, 0]
    assert JUDGES["foils"](own, prompts, texts).tolist() == [0, 0, 1, 0]


# --- any classifier -----------------------------------------------------------------------------------------------


def tokenizer(**options):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = sorted({word for text in TEXTS for word in text.replace(".", " .").replace(",", " ,").split()})
    tiny = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "<unk>", *known])}, unk_token="<unk>"))
    tiny.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tiny, unk_token="<unk>", **{"pad_token": "<pad>"} | options)


@pytest.fixture
def save(tmp_path):
    """Saves a tiny text-classification model with its tokenizer as an ordinary folder."""

    def save(kind="BertForSequenceClassification", name="judge", words=None, **config):
        import torch
        import transformers

        words = words or tokenizer()
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        names = {0: "rage", 1: "grief", 2: "joy"}
        options = {"id2label": names, "vocab_size": len(words), "max_position_embeddings": 24, "pad_token_id": 0}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = getattr(transformers, kind)(transformers.BertConfig(**shape | options | config))
            for weight in model.parameters():
                weight += 0.5 * torch.randn_like(weight)
        model.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


def plain(folder, text, activation):
    """One text alone, by hand."""
    import torch
    from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

    model = BertForSequenceClassification.from_pretrained(folder).eval()
    ids = PreTrainedTokenizerFast.from_pretrained(folder)(text)["input_ids"]
    with torch.no_grad():
        return activation(model(torch.tensor([ids])).logits)[0].numpy()


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", None])
def test_a_classifier_gives_the_models_own_probabilities(save, problem, batch, monkeypatch):
    import torch

    folder = save(problem_type=problem)
    sigmoid = problem == "multi_label_classification"
    monkeypatch.setattr(classifiers, "BATCH", batch)
    judge = Classifier(str(folder), LABELS)
    values = {label: judge(concept(name), cases(), TEXTS) for name, label in LABELS.items()}
    for i, text in enumerate(TEXTS):
        if not text:
            assert all(np.isnan(of_label[i]) for of_label in values.values())
            continue
        by_hand = plain(folder, text, torch.sigmoid if sigmoid else lambda logits: logits.softmax(-1))
        np.testing.assert_allclose([values[label][i] for label in ("rage", "grief", "joy")], by_hand, atol=1e-6)
    assert np.nanstd(values["joy"]) > 1e-3
    assert np.isnan(judge(concept("fear"), cases(), TEXTS)).all()  # no label, no opinion


def test_one_label_alone_is_a_sigmoid(save):
    import torch

    folder = save(id2label={0: "toxic"})
    values = Classifier(str(folder), {"anger": "toxic"})(concept("anger"), cases(1), TEXTS[:1])
    np.testing.assert_allclose(values, plain(folder, TEXTS[0], torch.sigmoid), atol=1e-6)


def test_long_texts_are_cut_and_need_no_pad_token(save):
    judge = Classifier(str(save(words=tokenizer(pad_token=None), pad_token_id=None)), LABELS)
    values = judge(concept(), cases(3), [" sad ." * 500, " sad ." * 11, " sad"])
    assert values[0] == pytest.approx(values[1], abs=1e-6) and np.isfinite(values).all()


def test_a_model_that_cannot_judge_says_so(save, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the same answer with and without network

    def message(source, label="joy"):
        with pytest.raises(SteerlibError) as error:
            Classifier(str(source), {"happiness": label}, tmp_path / "mine.yaml")(concept(), cases(), TEXTS)
        text = str(error.value)
        assert text.startswith(f"{tmp_path / 'mine.yaml'}: generation.") and str(source) in text
        return text

    assert "generation.labels: 'Joy' is no label" in (text := message(save(), "Joy"))
    assert "'rage', 'grief', 'joy'" in text
    for source in ("nobody/nothing", tmp_path / "absent", "not a name at all"):
        assert "generation.classifier" in (text := message(source)) and "gated" in text
    assert "classifier.bias among them" in message(save("BertModel", "headless"))
    assert "is a regression" in message(save(name="regression", problem_type="regression"))
    cut = save(name="cut")
    weights = next(cut.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded (SafetensorError" in message(cut)
    broken = save(name="other")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "clockwork"}))
    assert "cannot be loaded" in message(broken)


# --- all of them --------------------------------------------------------------------------------------------------


def study(tmp_path, **generation):
    plan = {"name": "mine", "concepts": ["happiness", "sadness", "anger"], "checkpoints": {"folder": "runs"}}
    (tmp_path / "mine.yaml").write_text(json.dumps(plan | ({"generation": generation} if generation else {})))
    return Study.load(tmp_path / "mine.yaml")


def test_every_judge_stays_in_bounds_and_follows_the_texts(save, tmp_path):
    """Values in [0, 1] or NaN, one a text, each text's its own whatever stands beside it."""
    save()
    mine = study(tmp_path, classifier="judge", labels=LABELS)  # relative to the params file
    panel = chosen(mine, mine.load_concepts())
    assert set(panel) == {*JUDGES, "classifier"}
    order = np.random.default_rng(0).permutation(len(TEXTS))
    prompts = concept().readout.cases[: len(TEXTS)]
    for name, judge in panel.items():
        values = judge(concept(), prompts, TEXTS)
        assert values.shape == (len(TEXTS),) and np.isfinite(values).any(), name
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all(), name
        moved = judge(concept(), [prompts[i] for i in order], [TEXTS[i] for i in order])
        np.testing.assert_allclose(moved, values[order], atol=1e-6, err_msg=name)
        assert judge(concept(), [], []).shape == (0,), name


def test_a_judge_is_added_in_one_place(tmp_path, monkeypatch):
    monkeypatch.setitem(judges.JUDGES, "shouting", lambda concept, cases, texts: np.array([t.isupper() for t in texts]))
    mine = study(tmp_path)
    assert chosen(mine, mine.load_concepts())["shouting"](concept(), cases(2), ["A!", "a!"]).tolist() == [True, False]


def test_labels_must_be_those_of_the_studys_concepts(tmp_path):
    for labels, message in (({}, "generation.labels: missing"), ({"fear": "rage"}, "generation.labels: 'fear' is no")):
        mine = study(tmp_path, classifier="judge", labels=labels)
        with pytest.raises(SteerlibError, match=f"mine.yaml: {message}"):
            chosen(mine, mine.load_concepts())


def test_concepts_that_are_read_by_texts_are_judged_by_the_words_of_their_own(tmp_path):
    """Of a concept that is read by words nothing is said, and where all are, there is no such judge."""
    halves = {"fit": ("happy joyful", "sad angry"), "test": ("glad joyful", "mad angry")}
    sides = {
        half: {"positive": [f"{up} {k}" for k in "ab"], "negative": [f"{down} {k}" for k in "ab"]}
        for half, (up, down) in halves.items()
    }
    templates = [{"name": half, "split": half, **of} for half, of in sides.items()]
    prompts = ["Anna", "a", "b"]
    items = [{"prompt": prompt, "targets": [" glad a"], "foils": [" mad a"]} for prompt in prompts]
    readouts = {"style": {"judged": True, "prompts": prompts}, "texts": {"texts": True, "items": items}}
    readouts |= {"words": {"prompts": prompts, "targets": [" glad"], "foils": [" mad"]}}
    concepts = [Concept(name=name, templates=templates, readout=readout) for name, readout in readouts.items()]
    study = Study(name="judged", checkpoints={"folder": str(tmp_path)}, concepts=["happiness"])
    told = chosen(study, concepts)
    for concept, expected in zip(concepts, ([1, 0, 0], [1, 0, 0], [np.nan] * 3), strict=True):
        np.testing.assert_array_equal(told["own_words"](concept, [], ["joyful glad", "mad", "zzz"]), expected)
    assert "own_words" not in chosen(study, concepts[2:])
