"""Names of revisions become steps and tokens, and what cannot be told apart is said."""

import re

import pytest

from steerlib import SteerlibError
from steerlib.checkpoints.suites import GENERIC, known, parse, suite_of

JUNK = ["main", "gguf", "refs/pr/1", "step", "bf16", "fp16-step5000x", "mdl_phase1_step_000100"]
BILLION = 10**9
# Repository, revision, stages to ask for, global step, tokens: as in shared/science.md and on the model cards.
REAL = [
    ("EleutherAI/pythia-410m", "step0", None, 0, 0),
    ("EleutherAI/pythia-70m", "step512", None, 512, 512 * 2_097_152),
    ("EleutherAI/pythia-12b-deduped", "step143000", None, 143_000, 143_000 * 2_097_152),
    ("EleutherAI/pythia-160m-seed3", "step1000", None, 1000, 2_097_152_000),
    ("LLM360/Amber", "ckpt_000", None, 0, 3_495_886_848),
    ("LLM360/Amber", "ckpt_358", None, 358, 359 * 3_495_886_848),
    ("LLM360/CrystalCoder", "CrystalCoder_phase1_checkpoint_055500", None, 55_500, 55_500 * 4_325_376),
    ("LLM360/CrystalCoder", "CrystalCoder_phase2_checkpoint_105000", None, 184_721, 184_721 * 4_325_376),
    ("LLM360/Crystal", "CrystalCoder_phase3_checkpoint_027728", ["phase3"], 321_836, 321_836 * 4_325_376),
    ("allenai/OLMo-1B-hf", "step1000-tokens4B", None, 1000, 4 * BILLION),
    ("allenai/OLMo-1B-0724-hf", "step1454000-tokens3048B", None, 1_454_000, 3048 * BILLION),
    ("allenai/OLMo-2-0425-1B", "stage1-step1000-tokens3B", None, 1000, 3 * BILLION),
    ("allenai/OLMo-2-1124-7B", "stage1-step928646-tokens3896B", None, 928_646, 3896 * BILLION),
    ("allenai/OLMo-2-0425-1B-early-training", "stage1-step36000-tokens76B", None, 36_000, 76 * BILLION),
    ("allenai/Olmo-3-1025-7B", "stage1-step3000", None, 3000, 3000 * 4_194_304),
    ("allenai/Olmo-3-1125-32B", "stage1-step3000", None, 3000, -1),
    ("HuggingFaceTB/SmolLM2-1.7B-intermediate-checkpoints", "step-125000", None, 125_000, 125_000 * 2_097_152),
    ("HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", "step-240000", None, 240_000, 240_000 * 1_048_576),
    ("HuggingFaceTB/SmolLM2-360M-intermediate-checkpoints", "step-160000", None, 160_000, -1),
    ("HuggingFaceTB/SmolLM3-3B-checkpoints", "stage1-step-40000", None, 40_000, 94_371_840_000),
    ("HuggingFaceTB/SmolLM3-3B-checkpoints", "stage3-step-4720000", None, 4_720_000, 4_720_000 * 2_359_296),
    ("swiss-ai/Apertus-8B-2509", "step50000-tokens210B", None, 50_000, 210 * BILLION),
    ("swiss-ai/Apertus-8B-2509", "step2627139-tokens15T", None, 2_627_139, 15_000 * BILLION),
]
OLMO2 = [
    "stage1-step0-tokens0B",
    "stage1-step1907359-tokens4001B",
    "stage1-step10000-tokens21B",
    "stage2-ingredient1-step23852-tokens51B",
    "stage2-ingredient2-step23852-tokens51B",
]


def read(repo, names, **given):
    return parse(names, suite_of(repo), **given)


def refusal(*args, **given) -> str:
    with pytest.raises(SteerlibError) as caught:
        parse(*args, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("repo", "name", "stages", "step", "tokens"), REAL, ids=lambda value: str(value)[:40])
def test_names_of_every_suite_become_steps_and_tokens(repo, name, stages, step, tokens):
    (revision,) = read(repo, [*JUNK, name], stages=stages)
    assert (revision.revision, revision.step, revision.tokens_seen) == (name, step, tokens)


def test_every_suite_is_among_the_real_names():
    assert {suite_of(repo).repos for repo, *_ in REAL} == {suite.repos for suite in known().values()}


@pytest.mark.parametrize("name", known())
def test_examples_are_of_one_suite_and_its_patterns_hold(name):
    suite = known()[name]
    for repo in suite.examples:
        assert suite_of(repo).repos == suite.repos
        assert [other for other, row in known().items() if re.fullmatch(row.repos, repo)] == [name]
        assert suite.parameters(repo) > 1e6
    assert all(suite.pattern.search(like) for like in suite.like)
    assert all(any(re.fullmatch(kind, stage) for kind in suite.order) for stage in suite.main)
    assert suite.before.keys() <= set(suite.order) and suite.source and suite.architecture
    assert all(suite_of(repo).parameters(repo) for repo in suite.examples)


@pytest.mark.parametrize(
    "repo", ["EleutherAI/pythia-70m-v0", "EleutherAI/pythia-1b-seed1", "allenai/OLMo-7B", "my/own"]
)
def test_other_repositories_are_of_no_suite(repo):
    assert suite_of(repo) is None


def test_the_grid_of_pythia():
    for repo in ("EleutherAI/pythia-410m", "EleutherAI/pythia-14m-seed9", "EleutherAI/pythia-160m-weight-seed2"):
        names = suite_of(repo).grid
        found = read(repo, names)
        assert len(found) == len(set(names)) == 154 and [one.revision for one in found] == names
        steps = [revision.step for revision in found]
        assert steps == sorted(set(steps)) and steps[:4] == [0, 1, 2, 4] and steps[11:14] == [1000, 2000, 3000]
        assert all(revision.tokens_seen == revision.step * 2_097_152 for revision in found)
        assert steps[-1] == suite_of(repo).end == 143_000


def test_the_grid_of_amber():
    assert [revision.step for revision in read("LLM360/Amber", suite_of("LLM360/Amber").grid)] == list(range(359))


@pytest.mark.parametrize("repo", ["LLM360/CrystalCoder", "allenai/OLMo-2-0425-1B", "swiss-ai/Apertus-8B-2509"])
def test_grids_that_are_not_known_are_not_made_up(repo):
    assert not suite_of(repo).grid


def test_percent_of_crystal_is_the_papers():
    suite = suite_of("LLM360/CrystalCoder")
    published = {105_000: 62.81, 120_000: 67.91, 150_000: 78.11, 195_000: 93.41}
    found = parse([f"CrystalCoder_phase2_checkpoint_{step:06}" for step in published], suite)
    assert [round(100 * revision.step / suite.end, 2) for revision in found] == list(published.values())
    assert suite.needs and suite.end == 294_108
    ends = ["CrystalCoder_phase1_checkpoint_079721", "CrystalCoder_phase2_checkpoint_214387"]
    assert [revision.step for revision in parse(ends, suite)] == [79_721, 294_108]


def test_order_is_that_of_steps_and_not_of_letters():
    names = ["step9000", "step10000", "step1000", "step2"]
    assert [revision.step for revision in read("EleutherAI/pythia-70m", names)] == [2, 1000, 9000, 10_000]
    assert [revision.step for revision in parse(["checkpoint-20", "checkpoint-100", "checkpoint-3"], None)] == [
        3,
        20,
        100,
    ]


def test_the_main_line_and_stages():
    repo = "allenai/OLMo-2-0425-1B"
    assert [revision.step for revision in read(repo, OLMO2)] == [0, 10_000, 1_907_359]
    *_, end, last = read(repo, OLMO2, stages=["stage1", "stage2-ingredient2"])
    assert (last.step, last.tokens_seen) == (1_907_359 + 23_852, 4_052 * BILLION)
    assert end.stage == "stage1" and last.stage == "stage2-ingredient2"
    assert [found.revision for found in read(repo, OLMO2, stages=["stage2-ingredient1"])] == [OLMO2[3]]


def test_a_stage_starts_at_the_end_of_the_one_before():
    names = ["stage1-step1413814", "stage2-step0", "stage2-step47684", "stage3-step0", "stage3-step11921"]
    names += ["stage2-step47684-mix-a-from-2T-ckpt", "stage1-step1000"]
    for suite in (known()["olmo3"], suite_of("allenai/Olmo-3-1025-7B")):
        found = parse(names, suite, stages=["stage1", "stage2", "stage3"])
        assert [revision.step for revision in found] == [1000, 1_413_814, 1_461_498, 1_473_419]
        assert "stage2-step0" not in {one.revision for one in found}, "the last of stage 1, saved again"
    assert [round(revision.tokens_seen / BILLION) for revision in found] == [4, 5930, 6030, 6080]
    assert [revision.step for revision in parse(names, suite, stages=["stage2"])] == [1_413_814, 1_461_498]


def test_tokens_of_a_stage_without_the_one_before_are_not_known():
    (revision,) = read("allenai/OLMo-2-0425-1B", OLMO2[3:4], stages=["stage2-ingredient1"])
    assert (revision.step, revision.tokens_seen) == (1_931_211, -1)


def test_parallel_stages_are_refused():
    said = refusal(OLMO2, known()["olmo2"], stages=["stage1", "stage2-ingredient1", "stage2-ingredient2"])
    assert OLMO2[3] in said and OLMO2[4] in said
    assert said.endswith("choose by checkpoints.stages: stage2-ingredient1 or stage2-ingredient2")


def test_a_step_in_two_spellings_is_refused():
    said = refusal(["step-100", "checkpoint-100", "step-200"], None)
    assert "step-100 and checkpoint-100 are both step 100" in said and "checkpoints.pattern" in said


@pytest.mark.parametrize("name", ["temp-checkpoint-10", "backup_checkpoint-10", "copy-of-checkpoint-10", "step10"])
def test_what_is_not_called_as_the_others_is_no_step_among_them(name):
    said = refusal(["checkpoint-7", name], None)
    assert f"checkpoint-7 and {name} are not called alike" in said and "checkpoints.pattern" in said
    assert parse(["checkpoint-7", name], None, r"^checkpoint-(?P<step>\d+)$")[0].step == 7


def test_a_stage_that_is_not_there_is_refused():
    said = refusal(OLMO2, known()["olmo2"], stages=["stage3"])
    assert "no stage stage3; there are stage1, stage2-ingredient1, stage2-ingredient2" in said
    assert "names tell no stages" in refusal(["step1"], known()["pythia"], stages=["stage1"])
    said = refusal(OLMO2[3:], known()["olmo2"])
    assert "nothing is of stage1; there are stage2-ingredient1, stage2-ingredient2" in said


def test_a_pattern_takes_the_suites_place():
    names = ["iter_0001000-1.5", "iter_0002000-3.0", "step1000", "main"]
    own = r"iter_(?P<step>\d+)-(?P<tokens>[\d.]+)"
    found = read("EleutherAI/pythia-70m", names, pattern=own, tokens_per_step=7)
    assert [(revision.step, revision.tokens_seen) for revision in found] == [(1000, 1_500_000_000), (2000, 3 * BILLION)]
    (revision,) = read("EleutherAI/pythia-70m", names, pattern=r"^step(?P<step>\d+)$")
    assert revision.tokens_seen == -1, "its steps may be others than the suite's"
    (revision,) = read("EleutherAI/pythia-70m", names, pattern=r"^step(?P<step>\d+)$", tokens_per_step=7)
    assert revision.tokens_seen == 7000


def test_stages_of_a_pattern_follow_in_the_order_asked_for():
    names = ["warm.up-100", "cool-50", "cool-100", "warm.up-200"]
    own = r"(?P<stage>[a-z.]+)-(?P<step>\d+)"
    found = parse(names, None, own, ["warm.up", "cool"], tokens_per_step=10)
    assert [(one.revision, one.step) for one in found] == [
        ("warm.up-100", 100),
        ("warm.up-200", 200),
        ("cool-50", 250),
        ("cool-100", 300),
    ]
    assert [revision.tokens_seen for revision in found] == [1000, 2000, 2500, 3000]
    assert "several stages; there are cool, warm.up" in refusal(names, None, own)
    assert [revision.step for revision in parse(names[1:3], None, own)] == [50, 100]


def test_a_pattern_that_finds_no_number_is_refused():
    assert "step-x" in refusal(["step-x"], None, r"step-(?P<step>.+)")
    assert "step-1-many" in refusal(["step-1-many"], None, r"step-(?P<step>\d+)-(?P<tokens>.+)")


@pytest.mark.parametrize(
    ("name", "step"),
    [("step-100", 100), ("checkpoint_7", 7), ("run.ckpt=12", 12), ("global_step5000", 5000), ("STEP=00000003", 3)],
)
def test_the_generic_pattern(name, step):
    assert int(GENERIC.search(name)["step"]) == step
    assert parse([name, *JUNK[:3]], None)[0].step == step


def test_tokens_a_step_are_the_suites_before_the_users():
    (revision,) = read("EleutherAI/pythia-70m", ["step10"], tokens_per_step=1)
    assert revision.tokens_seen == 20_971_520
    (revision,) = read("HuggingFaceTB/SmolLM2-360M-intermediate-checkpoints", ["step-160000"], tokens_per_step=2)
    assert revision.tokens_seen == 320_000


def test_nothing_that_matches_is_refused():
    said = refusal(["main", "gguf", "a", "b"], known()["pythia"])
    assert "named like step0 or step512" in said and "main, gguf, a, and more" in said and "checkpoints.pattern" in said
    assert "nothing is named like step-100 or checkpoint-100; there is nothing" in refusal([], None)
    assert "like iter_" in refusal(["step1"], known()["pythia"], r"iter_(?P<step>\d+)")


@pytest.mark.parametrize(
    ("repo", "bad", "good"),
    [
        ("EleutherAI/pythia-2.8b", ["step0", "step512", "step53000", "step65000", "step140000"], ["step66000"]),
        ("EleutherAI/pythia-2.8b-deduped", [], ["step0", "step1000"]),
        ("EleutherAI/pythia-410m-seed3", ["step1000", "step143000"], []),
        ("EleutherAI/pythia-410m-seed9", ["step40000"], ["step41000"]),
        (
            "allenai/OLMo-2-1124-7B",
            ["stage1-step101000-tokens424B", "stage1-step300000-tokens1259B"],
            ["stage1-step102000-tokens428B"],
        ),
    ],
)
def test_revisions_known_to_be_wrong_have_a_note(repo, bad, good):
    notes = {found.revision: found.note for found in read(repo, bad + good)}
    assert all(notes[name] for name in bad) and not any(notes[name] for name in good)


def test_a_branch_and_a_tag_of_one_name_are_one():
    assert len(read("LLM360/Amber", iter(["ckpt_001", "ckpt_001"]))) == 1
