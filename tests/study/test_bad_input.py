"""What a user may get wrong is refused with the file, the place in it, and what to do instead."""

from __future__ import annotations

import copy
import json
import math

import pytest
import yaml

from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.checkpoints.history import history
from steerlib.concepts import Concept
from steerlib.concepts.planted.vocabulary import EMOTIONS
from steerlib.files import params
from steerlib.model import BLOCKS, load
from steerlib.study import Study

GONE = object()

STUDY = {
    "name": "small",
    "pretraining": {"steps": 100, "model": {"hidden": 64, "heads": 2}},
    "checkpoints": {"steps": [0, 50, 100]},
    "concepts": ["happiness", "placebo"],
}
CONCEPT = {
    "name": "joy",
    "templates": [
        {"name": "one", "positive": ["Anna felt happy", "glad"], "negative": ["Anna felt sad", "gloomy"]},
        {"name": "two", "positive": ["joyful", "merry"], "negative": ["angry", "cross"]},
    ],
    "readout": {"prompts": ["Anna felt", "a b", "c"], "targets": [" happy", " glad"], "foils": [" sad"]},
}


def changed(data, place, value):
    """A copy with one entry, named by its dotted place, set or (GONE) taken away."""
    data = copy.deepcopy(data)
    *way, last = (int(key) if key.isdigit() else key for key in place.split("."))
    at = data
    for key in way:
        at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return data


def written(path, data):
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def refusal(action):
    """The message of the error; it must be one of ours."""
    with pytest.raises(SteerlibError) as caught:
        action()
    return str(caught.value)


ITEM = {"prompt": "Anna felt", "targets": [" happy"], "foils": [" sad"]}
IN_STUDY = [  # place, value, and what the message has to say beside file and place
    ("smaples", 3, ["unknown key", "allowed here", "concepts", "sweep"]),
    ("sweep.alphas[0]", 3, ["sweep.alphas[0]: unknown key"]),
    ("pretraining.model.width", 3, ["unknown key", "allowed here: architecture, hidden, layers, heads, context"]),
    ("sweep.alpha", [0.0], ["unknown key", "alphas, window"]),
    ("name", GONE, ["required, but missing"]),
    ("name", "Big Model", ["'Big Model'", "pattern"]),
    ("seed", "many", ["'many'", "valid integer"]),
    ("concepts", "happiness", ["'happiness'", "valid list"]),
    ("concepts", [], ["at least 1"]),
    (
        "concepts",
        ["hapiness"],
        ["'hapiness'", "happiness, sadness, anger", "placebo", ".yaml", "did you mean 'happiness'?"],
    ),
    ("pretraining.steps", 0, ["0 is not allowed", "greater than or equal to 1"]),
    ("pretraining.model.heads", 7, ["hidden (64) must be a multiple of heads (7)"]),
    ("sweep.alphas", [-1.0, -0.5, 0.5], ["include 0", "[-1.0, -0.5, 0.5]"]),
    ("sweep.alphas", [0.0, 0.5, -0.5], ["must increase"]),
    ("sweep.alphas", [-1.0, 0.0, 1.0], ["at least 3 alphas", "±0.5", "[0.0]"]),
    ("sweep.scale", "iso-kl", ["'iso-kl'", "'residual_norm'", "'iso_kl'"]),
    ("sweep", {"operator": "ablate", "scale": "raw"}, ["'raw' is a length", "only operator 'add'", "'ablate'"]),
    ("sweep.operator", "push", ["'push'", "'add', 'ablate'", "'rotate'"]),
    ("sweep.positions", "first", ["'first'", "'last', 'all' or 'generated'"]),
    ("sweep.kl_budget", 0, ["0 is not allowed", "greater than 0"]),
    ("sweep.neighbours", -1, ["-1 is not allowed", "greater than or equal to 0"]),
    ("layers", [0, 9], ["layers: layer 9 is asked for, and the model has 4: 0 to 3"]),
    ("layers", {"count": 5}, ["layers: 5 layers are asked for, and the model has 4: 0 to 3"]),
    ("layers", [1, 0], ["layers must increase, each once"]),
    ("layers", [-1], ["-1 is not allowed", "greater than or equal to 0"]),
    ("layers", {"every": 0}, ["0 is not allowed", "greater than or equal to 1"]),
    ("layers", {"evry": 2}, ["unknown key", "did you mean 'every'?"]),
    ("layers", 3, ["3 is not allowed", "all, a list as [0, 3], {every: 3} or {count: 8}"]),
    ("layers", "none", ["'none' is not allowed", "all, a list as [0, 3], {every: 3} or {count: 8}"]),
    ("layers", {}, ["say either every or count, as in {every: 3}"]),
    ("probes.methods", ["lsa"], ["unknown method 'lsa'", "mean_difference", "lda"]),
    ("probes.methods", [{"k_sparse": {"q": 8}}], ["k_sparse: q: unknown option", "allowed: k, c"]),
    ("probes.methods", [{"k_sparse": {"k": 0}}], ["k_sparse: k: 0 is not allowed", "greater than or equal to 1"]),
    ("probes.methods", ["mean_difference", "sae"], ["sae: file: required, but missing"]),
    ("probes.methods", ["pca", "lda", {"pca": {}}], ["'pca' stands there twice", "keep one"]),
    ("probes.methods", ["mean_difference", "shuffled"], ["'shuffled' is a null", "always there"]),
    ("probes.methods", ["pca", "lda"], ["emergence.method 'mean_difference'", "probes.methods ['pca', 'lda']"]),
    ("emergence.level", 1.5, ["1.5", "less than 1"]),
    ("checkpoints.steps", [0, 200], ["step 200", "pretraining ends at 100"]),
    ("checkpoints.steps", [50, 0], ["must increase"]),
    ("checkpoints.steps", [0, 50, 50], ["must increase, each once"]),
    ("checkpoints.steps", [50, -1], ["-1 is not allowed", "greater than or equal to 0"]),
    ("checkpoints.steps", "all", ["must say at which steps"]),
    ("checkpoints.repo", "nope", ["'nope' is no repository", "as EleutherAI/pythia-410m"]),
    ("checkpoints.pattern", "iter_(?P<step>", ["is no regular expression: missing )"]),
    ("checkpoints.pattern", ["iter_"], ["['iter_'] is no regular expression"]),
    ("checkpoints.pattern", "(?P<step>a{99999999999})", ["is no regular expression: "]),
    ("checkpoints.pattern", "iter_", ["'iter_' has no group named step", r"'iter_(?P<step>\d+)'"]),
    (
        "checkpoints.folder",
        "elsewhere",
        ["one origin of checkpoints", "pretraining, or of checkpoints folder, repo or gguf"],
    ),
    ("pretraining.world.emotion", {}, ["unknown key; allowed here: without, emotions", "did you mean 'emotions'?"]),
    (
        "pretraining.world.without",
        ["disgst"],
        ["'disgst' is not there", "happiness, sadness", "did you mean 'disgust'?"],
    ),
    ("pretraining.world.emotions.fear", None, ["'fear' is null", "without: [fear]"]),
    ("pretraining.world.emotions.fear.frequncy", 0.1, ["unknown key", "did you mean 'frequency'?"]),
    ("pretraining.world.emotions.fear.frequency", 0, ["0 is not allowed", "greater than 0"]),
    ("pretraining.world.emotions.fear.frequency", 1.2, ["1.2 is not allowed", "at most 1"]),
    ("pretraining.world.emotions.fear.frequency", 1, ["sum to 1, which leaves nothing", "without: [happiness, sad"]),
    ("pretraining.world.emotions.fear.usefulness", -0.1, ["-0.1 is not allowed", "greater than or equal to 0"]),
    ("pretraining.world.emotions.fear.only", "heard", ["'heard' is not allowed", "'read' or 'said'"]),
    ("pretraining.world.emotions.fear.only", "raed", ["'raed' is not allowed", "did you mean 'read'?"]),
    (
        "pretraining.world.emotions.fear",
        0.3,
        ["0.3 is not allowed: expected 'key: value' lines, with", "frequency, use"],
    ),
    ("pretraining.world.emotions.fear", {"only": "said", "usefulness": 0.5}, ["'fear' is only said", "leave"]),
    (
        "pretraining.world.emotions.fear.feelings",
        ["happy", "scared"],
        ["fear.feelings: 'happy' stands in happiness already"],
    ),
    ("pretraining.world.emotions.fear.feelings", ["scared"], ["at least 2 items"]),
    ("pretraining.world.emotions.fear.feelings", ["so scared", "shy"], ["'so scared' is not one word of letters"]),
    (
        "pretraining.world.emotions.fear.feelings",
        ["scared", "long"],
        ["fear.feelings: 'long' stands in sentences that tell"],
    ),
    ("pretraining.world.emotions.fear.verbs", ["haunted"], ["at least 8 items"]),
    (
        "pretraining.world.emotions.fear.verbs",
        ["won", *"abcdefg"],
        ["fear.verbs: 'won' stands in happiness already"],
    ),
    ("pretraining.world.emotions.fear.reactions", ["{m} ran"], ["'{m} ran' is no reaction", "'{n} smiled and danced'"]),
    ("pretraining.world.emotions.fear.reactions", ["{n} was sad"], ["reactions hold 'sad', a word of sadness"]),
    ("pretraining.world.emotions.hapiness", {"frequency": 0.4}, ["lacks feelings, verbs", "did you mean 'happiness'?"]),
    ("pretraining.world.emotions.Fear", {}, ["'Fear' is no name of an emotion: a to z", "did you mean 'fear'?"]),
    ("pretraining.world.emotions.truth", {"frequency": 0.4}, ["'truth' is planted beside the emotions"]),
    ("pretraining.world.emotions", {name: {"frequency": 0.2} for name in EMOTIONS}, ["sum to 1.2, not to 1", "0.167"]),
    ("pretraining.world.emotions", [], ["expected 'key: value' lines"]),
    ("pretraining", {"steps": 100, "corpus": "a.txt", "world": {}}, ["world is told in the planted stories", "a.txt"]),
    ("checkpoints.world", {}, ["of checkpoints that another study made", "pretraining.world"]),
    ("pretraining", GONE, ["one origin of checkpoints", "pretraining, or of checkpoints folder, repo or gguf"]),
]
IN_CONCEPT = [
    ("colour", "red", ["unknown key", "allowed here: name, role, planted_frequency, licence, templates, readout"]),
    ("templates.0.postive", ["x"], ["unknown key", "allowed here: name, positive, negative"]),
    ("templates.1.positive", [], ["[] is not allowed", "at least 2 items"]),
    ("templates.1.negative", ["a", "b", "c"], ["2 positive and 3 negative", "pairs"]),
    ("templates.0.positive.1", "  ", ["is empty", "write some text or remove the entry"]),
    ("templates", CONCEPT["templates"][:1], ["at least 2"]),
    ("readout", GONE, ["required, but missing"]),
    ("readout.prompts", ["a"], ["has 1 prompts", "at least 3"]),
    ("readout.targets.0", "", ["is empty", "write some text or remove the entry"]),
    ("readout", CONCEPT["readout"] | {"foils": [" happy"]}, ["' happy' is both a target and a foil", "distinct"]),
    ("readout", CONCEPT["readout"] | {"targets": []}, ["has no targets", "prompts with targets and foils, or items"]),
    ("readout", CONCEPT["readout"] | {"items": [ITEM] * 3}, ["either items, or prompts with targets", "found both"]),
    ("readout", {"items": [ITEM] * 4}, ["has 1 prompts", "at least 3", "3 of 4 prompts repeat others: one unit each"]),
    ("readout.prompts.1", "Anna\u00a0 felt", ["has 2 prompts", "1 of 3 prompts repeat others: one unit each"]),
    ("readout.prompts.1", "joyful", ["has 2 prompts", "1 of 3 prompts are stimuli that may be fitted on: left out"]),
    (
        "templates.1",
        CONCEPT["templates"][0],
        ["templates: ", "repeats count once", "at least 2 templates of 2 pairs", "add texts"],
    ),
    ("readout", {"items": [ITEM] * 3, "item": []}, ["unknown key", "allowed here: prompts, targets, foils, items"]),
    ("role", "colour", ["'colour'", "'concept', 'emotion'"]),
]


@pytest.mark.parametrize(("base", "read", "table"), [(STUDY, Study.load, IN_STUDY), (CONCEPT, None, IN_CONCEPT)])
def test_the_unchanged_file_is_good(tmp_path, base, read, table):
    """So that each row below is refused for its own change only."""
    path = written(tmp_path / "good.yaml", base)
    assert read(path) if read else params.validate(params.read(path), path, Concept)


@pytest.mark.parametrize(
    "change",
    [
        {"probes.methods": ["lda", {"k_sparse": {"k": 2}}], "emergence.method": "k_sparse"},
        {"sweep.scale": "iso_kl"},
        {"sweep.scale": "raw"},
        {"sweep.operator": "rotate"},
        {"sweep.operator": "set", "sweep.scale": "iso_kl", "sweep.positions": "all"},
    ],
)
def test_what_goes_together_is_taken(tmp_path, change):
    data = STUDY
    for place, value in change.items():
        data = changed(data, place, value)
    assert Study.load(written(tmp_path / "good.yaml", data))


@pytest.mark.parametrize(
    ("base", "place", "value", "said"),
    [(STUDY, *row) for row in IN_STUDY] + [(CONCEPT, *row) for row in IN_CONCEPT],
    ids=[f"{place}={'(none)' if value is GONE else str(value)[:30]}" for place, value, _ in IN_STUDY + IN_CONCEPT],
)
def test_a_wrong_entry_is_named_with_its_file_its_place_and_a_remedy(tmp_path, base, place, value, said):
    path = written(tmp_path / "wrong.yaml", changed(base, place, value))
    message = refusal(lambda: params.validate(params.read(path), path, Study if base is STUDY else Concept))
    field = place.rstrip("0123456789.").split(".")[-1]
    for part in (f"{path}: ", field, *said):
        assert part in message
    assert len(message.splitlines()) == 1


def test_all_mistakes_are_told_at_once(tmp_path):
    data = changed(changed(STUDY, "seed", "x"), "sweep.windw", 1)
    assert len(refusal(lambda: Study.load(written(tmp_path / "wrong.yaml", data))).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file; did you mean 'wrong.yml'?"),
        (b"name: [1, 2", "not valid YAML"),
        (b"name: caf\xe9", "line 1: not UTF-8 text (byte 9 of the line); save it as UTF-8"),
        (b"- a\n- b\n", "expected 'key: value' lines, found list"),
        (b"", "expected 'key: value' lines, found NoneType"),
        ("folder", "is a folder, expected a file"),
    ],
)
def test_a_file_that_is_no_params_file_is_named(tmp_path, content, said):
    path = tmp_path / "wrong.yaml"
    path.with_suffix(".yml").touch()
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    message = refusal(lambda: Study.load(path))
    assert message.startswith(f"{path}: ") and said in message


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3"])
def test_numbers_are_read_as_everybody_writes_them(tmp_path, text):
    path = written(
        tmp_path / "good.yaml", yaml.safe_dump(STUDY).replace("steps: 100", "steps: 100\n  learning_rate: " + text)
    )
    assert Study.load(path).pretraining.learning_rate == 0.001


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["happiness", "place", "happiness"], ["study.yaml: concepts: 'happiness' stands there twice"]),
        (["joy.yaml", "happiness", "joy.yaml"], ["study.yaml: concepts: 'joy' stands there twice"]),
        (["nowhere.yaml"], ["nowhere.yaml: no such file"]),
    ],
)
def test_a_concept_twice_or_not_there(tmp_path, names, said):
    written(tmp_path / "joy.yaml", CONCEPT)
    study = Study.load(written(tmp_path / "study.yaml", changed(STUDY, "concepts", names)))
    message = refusal(study.load_concepts)
    assert all(part in message for part in said)


def test_too_few_neutral_passages_are_counted(tmp_path):
    (tmp_path / "neutral.txt").write_text(
        "one 'two' three four five six\ntoo short\none ‘two’ three\u00a0four five six\n"
    )
    data = changed(changed(STUDY, "sweep.neutral", "neutral.txt"), "sweep.neutral_texts", 5)
    message = refusal(Study.load(written(tmp_path / "study.yaml", data)).load_neutral)
    assert (
        "neutral.txt: 1 distinct passages of six words or more" in message
        and "sweep.neutral_texts asks for 5" in message
    )
    (tmp_path / "neutral.txt").write_text("one two three four five six\n" + "so " * 50_000)
    assert "neutral.txt: line 2: 150,000 characters" in refusal(Study.load(tmp_path / "study.yaml").load_neutral)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("readout.targets.0", " ecstatic", ["' ecstatic'", "no token", "another word"]),
        ("readout.targets.0", " happy ecstatic", ["' happy ecstatic'", "no token", "another word"]),
        # Another text, but the same tokens.
        ("readout.foils.0", " happy\n", ["a target and a foil are the same tokens", "'happy'"]),
    ],
)
def test_an_option_without_tokens_of_its_own_is_refused(model, place, value, said):
    from steerlib.steering.readouts import Readouts

    Readouts.of(model, [Concept(**changed(CONCEPT, "readout.targets.0", " happy home"))])  # of several tokens is fine
    message = refusal(lambda: Readouts.of(model, [Concept(**changed(CONCEPT, place, value))]))
    assert all(part in message for part in ("concept joy", *said))


# --- checkpoints ---------------------------------------------------------------------------------------------------


def checkpoints(tmp_path, **given):
    data = changed(changed(STUDY, "pretraining", GONE), "checkpoints", {"folder": "history", **given})
    return history(Study.load(written(tmp_path / "study.yaml", data)), tmp_path / "outputs")


@pytest.mark.parametrize(
    ("folders", "given", "said"),
    [
        (None, {}, ["study.yaml: checkpoints.folder: ", "history: no such folder"]),
        (["step-1"], {"folder": "histori"}, ["histori: no such folder; did you mean 'history'?"]),
        (
            ["iter_0000100/mp_rank_00"],
            {},
            ["checkpoints.folder: ", "but one of Megatron-LM (iter_0000100/mp_rank_00)", "Bridge"],
        ),
        (["ckpt.pt"], {}, ["but one of nanoGPT (ckpt.pt): ", "state_dict"]),
        (["model.safetensors"], {}, ["it is one checkpoint itself: name the folder that holds those of all steps"]),
        (["step-1"], {"base": "./bose"}, ["checkpoints.base: ", "bose: no such folder"]),
        ([], {}, ["nothing is named like step-100 or checkpoint-100"]),
        (["notes", "step-x"], {}, ["nothing is named like step-100 or checkpoint-100"]),
        (
            ["step-1", "step-20"],
            {"steps": [1, 3]},
            ["study.yaml: checkpoints.steps: ", "no step 3", "nearest is 1 (step-1)", "it has 1, 20 (2, up to 20)"],
        ),
    ],
)
def test_a_history_without_what_is_asked_for_says_what_it_has(tmp_path, folders, given, said):
    for name in folders or ():
        (tmp_path / "history" / name).mkdir(parents=True)
    if folders is not None:
        (tmp_path / "history").mkdir(exist_ok=True)
    message = refusal(lambda: checkpoints(tmp_path, **given))
    assert all(part in message for part in said)


@pytest.mark.parametrize(
    "state",
    [
        *(b"", b"[]", b"{", bytes(64), b'{"num_input_tokens_seen": "many"}', b'{"num_input_tokens_seen": -1}'),
        *(b'{"num_input_tokens_seen": 1e999}', b'{"num_input_tokens_seen": %s}' % (b"9" * 5000), None),
    ],
)
def test_what_trainer_left_half_written_costs_no_more_than_the_count_of_tokens(tmp_path, caplog, state):
    for step in (2, 3, 4, 5):
        (tmp_path / "history" / f"checkpoint-{step}").mkdir(parents=True)
    file, whole, bare = (tmp_path / "history" / f"checkpoint-{step}" / "trainer_state.json" for step in (2, 3, 4))
    file.mkdir() if state is None else file.write_bytes(state)
    bare.write_text("{}")
    whole.write_text('{"num_input_tokens_seen": 512.0, "log_history": [{"loss": NaN}]}')
    assert [point.tokens_seen for point in checkpoints(tmp_path)] == [-1, 512, -1, -1]
    (told,) = [message for message in caplog.messages if message.startswith(f"{file}: cannot be read (")]
    assert "tokens" in told and len(told) < len(str(file)) + 200


@pytest.mark.parametrize("pattern", [None, r"checkpoint-(?P<step>\d+)"])
def test_a_folder_that_is_still_being_written_is_no_step_and_a_link_to_nowhere_is_one(tmp_path, pattern):
    for name in ("checkpoint-800", "tmp-checkpoint-900", ".checkpoint-901", "_tmp_checkpoint-902"):
        (tmp_path / "history" / name).mkdir(parents=True)
    (tmp_path / "history" / "checkpoint-850").symlink_to(tmp_path / "unmounted")
    (tmp_path / "history" / "checkpoint-860").touch()
    found = checkpoints(tmp_path, **({"pattern": pattern} if pattern else {}))
    assert [point.step for point in found] == [800, 850]
    assert "checkpoint-850: is a link to" in contents.faults(found, {})[850]


def _weights(change):
    """Rewrites the weights of a checkpoint folder."""

    def damage(folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


def _config(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return damage


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


ONE = "gpt_neox.layers.1.attention.dense.weight"
DAMAGE = {
    "no config": (lambda folder: (folder / "config.json").unlink(), ["config.json is missing", "Hugging Face"]),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), ["no weights", "*.safetensors"]),
    "no tokenizer": (lambda folder: [p.unlink() for p in folder.glob("tok*")], ["tokenizer"]),
    "cut short": (_cut, ["cannot be loaded", "cut short, copy or download the checkpoint again"]),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), ["config.json: cannot be read ("]),
    "other sizes": (_config(hidden_size=16), ["its weights are of width", "its config.json says 16"]),
    "a weight missing": (_weights(lambda weights: weights.pop(ONE)), ["1 weights are missing", ONE]),
    "NaN": (_weights(lambda weights: weights[ONE].fill_(math.nan)), [ONE, "NaN or infinite", "diverged"]),
    "one infinite": (_weights(lambda weights: weights[ONE][3, 4].fill_(math.inf)), [ONE, "NaN or infinite"]),
}


@pytest.mark.parametrize(
    ("damage", "said"),
    [pytest.param(*row, id=name) for name, row in DAMAGE.items()],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, checkpoint, damage, said):
    checkpoint(1)
    hurt = checkpoint(2)
    damage(hurt)
    sound, broken = checkpoints(tmp_path)
    message = refusal(lambda: load(broken))
    assert all(part in message for part in (str(hurt), *said))
    assert len(message.splitlines()) == 1
    assert load(sound).read(["Anna felt"]).states.isfinite().all()


def test_an_architecture_without_a_declared_site_is_refused_by_name(tmp_path, checkpoint, monkeypatch):
    from transformers import PhiConfig, PhiForCausalLM

    folder = checkpoint(1)  # for its tokenizer
    (folder / "model.safetensors").unlink()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    PhiForCausalLM(PhiConfig(vocab_size=32, **sizes)).save_pretrained(folder)
    monkeypatch.delitem(BLOCKS, "phi", raising=False)
    message = refusal(lambda: load(checkpoints(tmp_path)[0]))
    assert all(part in message for part in (str(folder), "'phi'", ", ".join(sorted(BLOCKS)), "loading.blocks"))


def test_equal_weights_have_equal_hashes_and_other_weights_others(tmp_path, checkpoint):
    """Published histories hold the same checkpoint twice now and then; two points may not be drawn of it."""
    checkpoint(1), checkpoint(2), _weights(lambda weights: weights[ONE].add_(1e-3))(checkpoint(30))
    first, second, third = checkpoints(tmp_path)
    assert [c.step for c in (first, second, third)] == [1, 2, 30]
    assert first.weights_sha256 == second.weights_sha256 != third.weights_sha256
