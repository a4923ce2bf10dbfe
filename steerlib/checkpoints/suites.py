"""Published training histories, one row each: which repositories, what their revisions are called, what is known.

Numbers are from the model cards, papers and training code that `source` names; what was not found there is left out
(None, -1 or "") instead of guessed. Steps are optimizer steps (Amber's are chunks of data), counted from the start of
training; tokens are those seen until then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from steerlib import SteerlibError

# Names of folders and revisions that no suite and no user's pattern tells.
GENERIC = re.compile(r"(?:^|[^0-9a-z])?(?:global_)?(?:step|checkpoint|ckpt)[-_=]?(?P<step>\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Revision:
    """A checkpoint as its repository calls it."""

    name: str
    step: int  # global: over all stages
    tokens_seen: int  # -1 when not known
    stage: str = ""
    note: str = ""  # what is wrong with it, as far as others have reported


@dataclass(frozen=True)
class Suite:
    """A family of repositories whose revisions are called alike."""

    pattern: re.Pattern  # of revisions: groups `step` and, if names tell them, `tokens` (as 4B) and `stage`
    title: str = ""
    repos: str = ""  # a regular expression of whole names, owner/name
    examples: tuple[str, ...] = ()  # repositories
    like: tuple[str, ...] = ()  # revisions
    architecture: str = ""  # transformers' model_type
    source: str = ""
    order: tuple[str, ...] = ()  # stages in order of training, as regular expressions; one can stand for parallel ones
    main: tuple[str, ...] = ()  # the stages studied unless others are asked for
    before: dict[str, int] = field(default_factory=dict)  # steps before a stage of `order`; else the listing tells
    tokens_per_step: int | dict[str, int] | None = None  # the dict is by stage
    offset: int = 0  # steps done at the name's step 0: Amber's is saved after the first chunk
    end: int | None = None  # steps that are 100 % of training
    grid: tuple[str, ...] | None = None  # all revisions, where they are known exactly
    sizes: dict[str, int] = field(default_factory=dict)  # part of the repository's name -> parameters
    own: dict[str, dict] = field(default_factory=dict)  # part of the repository's name -> what differs there
    dtype: str = ""  # of the published weights, which a download's size follows
    remote_code: bool = False
    blocks: str = ""  # for `loading.blocks`, when steerlib does not know the architecture
    notes: dict[tuple[str, str], str] = field(default_factory=dict)  # patterns of repository and revision -> note

    def at(self, repo: str) -> Suite:
        """As it is for one repository."""
        return replace(self, **_of_size(self.own, repo, {}), own={})

    def parameters(self, repo: str) -> int | None:
        return _of_size(self.sizes, repo)

    def bytes(self, repo: str) -> int | None:
        """Of a checkpoint's weights, by the number of parameters; None where size or dtype are not known."""
        wide, count = {"float16": 2, "bfloat16": 2, "float32": 4}.get(self.dtype), self.parameters(repo)
        return wide and count and wide * count

    @property
    def needs(self) -> str:
        """What a study has to say besides the repository."""
        return f"loading: {{trust_remote_code: true, blocks: {self.blocks}}}" if self.remote_code else ""


def _of_size(table: dict, repo: str, default=None):
    """The row whose key is a part of the repository's name, between hyphens; the longest one."""
    return table.get(
        max((key for key in table if f"-{key}-" in f"-{repo.split('/')[-1]}-"), key=len, default=""), default
    )


def _olmo2(steps: int, rows: int) -> dict:
    """Stage 1: its length, and how many rows of 4,096 tokens a step takes. Of stage 2 the names tell."""
    return {"end": steps, "before": {INGREDIENT: steps}, "tokens_per_step": {"stage1": rows * 4096}}


# fmt: off
_SIZES = {"14m": 14_067_712, "31m": 30_494_720, "70m": 70_426_624, "160m": 162_322_944, "410m": 405_334_016,
    "1b": 1_011_781_632, "1.4b": 1_414_647_808, "2.8b": 2_775_208_960, "6.9b": 6_857_302_016, "12b": 11_846_072_320}
_PYTHIA = dict(
    pattern=re.compile(r"^step(?P<step>\d+)$"), like=("step0", "step512", "step143000"), architecture="gpt_neox",
    tokens_per_step=1024 * 2048, end=143_000, dtype="float16",
    grid=tuple(f"step{step}" for step in (0, *(2**i for i in range(10)), *range(1000, 143_001, 1000))))
_LACKING, _FIRST = "reported to lack its weights", "as step0: the learning rate of the first step was 0"
TOKENS = re.compile(r"^step(?P<step>\d+)-tokens(?P<tokens>\d+[BT])$")
# OLMo 2: parallel runs with other data, all from the end of stage 1. Names count steps and tokens anew in every stage.
INGREDIENT = r"stage2-ingredient\d+"
LATER = r"stage2(?:-ingredient\d+)?"
_OLMO2 = dict(
    pattern=re.compile(rf"^(?P<stage>stage1|{INGREDIENT})-step(?P<step>\d+)-tokens(?P<tokens>\d+[BT])$"),
    architecture="olmo2", source="arXiv 2501.00656; github.com/allenai/OLMo (README; issue 915)", dtype="float32",
    order=("stage1", INGREDIENT), main=("stage1",))
SUITES = {
    "pythia": Suite(
        title="Pythia", repos=r"EleutherAI/pythia-(14m|31m|70m|160m|410m|1b|1\.4b|2\.8b|6\.9b|12b)(-deduped)?",
        examples=("EleutherAI/pythia-70m", "EleutherAI/pythia-2.8b-deduped"), sizes=_SIZES, **_PYTHIA,
        source="arXiv 2304.01373; github.com/EleutherAI/pythia (issues 83, 198, 205, 206), gpt-neox (1373)",
        notes={
            (r".*-2\.8b", r"step(\d{1,3}|([1-5]?\d|6[0-5]|103)000|([7-9]|1[0-4])0000)"): "reported to be a last step",
            (".*-12b", "step5[08]000"): "its first layers are reported to be those of the last step",
            (".*", "step1"): _FIRST, (".*", "step2"): "reported to equal step0",
        }),
    "polypythias": Suite(
        title="PolyPythias: Pythia with other seeds",
        repos="EleutherAI/pythia-((14m|31m|70m|160m|410m)-seed[1-9]|160m-(data|weight)-seed[1-3])",
        examples=("EleutherAI/pythia-160m-seed1", "EleutherAI/pythia-160m-data-seed1"), sizes=_SIZES, **_PYTHIA,
        source="arXiv 2503.09543; github.com/EleutherAI/pythia (issues 198, 202, 203)",
        notes={
            (".*410m-seed2", "step111000"): _LACKING, (".*410m-seed6", "step88000"): _LACKING,
            (".*410m-seed9", "step40000"): _LACKING,
            (".*410m-seed[34]", ".*"): "an outlier among the seeds: its loss spiked",
            (".*weight-seed[12]", "step0"): "later steps are reported not to descend from it",
            (".*", "step1"): _FIRST, (".*", "step2"): "reported to equal step0",
        }),
    "amber": Suite(
        title="Amber", repos="(LLM360|IFM)/Amber", examples=("LLM360/Amber",), like=("ckpt_000",), dtype="float32",
        pattern=re.compile(r"^ckpt_(?P<step>\d{3})$"), architecture="llama", sizes={"Amber": 6_738_415_616},
        source="arXiv 2312.06550; the card (ckpt_000 to ckpt_358; main is 359); github.com/LLM360/amber-train main.py",
        tokens_per_step=1_706_976 * 2048, offset=1, end=359, grid=tuple(f"ckpt_{step:03}" for step in range(359)),
    ),
    "crystal": Suite(
        title="Crystal, formerly CrystalCoder", repos="(LLM360|IFM)/Crystal(Coder)?",
        examples=("LLM360/CrystalCoder", "LLM360/Crystal"), architecture="crystalcoder", remote_code=True, blocks="h",
        pattern=re.compile(r"^CrystalCoder_(?P<stage>phase[123])_checkpoint_(?P<step>\d{6})$"),
        like=("CrystalCoder_phase1_checkpoint_055500",), source="arXiv 2312.06550; LLM360/crystalcoder-train (params)",
        order=("phase1", "phase2", "phase3"), main=("phase1", "phase2"), tokens_per_step=2112 * 2048,
        before={"phase2": 79_721, "phase3": 79_721 + 214_387}, end=79_721 + 214_387,  # as She et al. 2025 count percent
        sizes={"CrystalCoder": 6_575_278_720, "Crystal": 6_575_278_720}, dtype="float32",
    ),
    "olmo": Suite(
        title="OLMo", repos="allenai/OLMo-(1B|7B|7B-Twin-2T|7B-0424|1B-0724|7B-0724)-hf",
        examples=("allenai/OLMo-1B-hf", "allenai/OLMo-1B-0724-hf", "allenai/OLMo-7B-hf"), like=("step1000-tokens4B",),
        pattern=TOKENS, architecture="olmo", source="arXiv 2402.00838; the repositories' branches", dtype="float32",
        sizes={"1B": 1_176_764_416, "1B-0724": 1_279_787_008, "7B": 6_888_095_744},
        own={"1B-hf": {"end": 738_020}, "1B-0724-hf": {"end": 1_454_000}},
    ),
    "olmo2": Suite(
        title="OLMo 2", repos="allenai/OLMo-2-(0425-1B|1124-7B|1124-13B|0325-32B)", **_OLMO2,
        examples=("allenai/OLMo-2-0425-1B", "allenai/OLMo-2-1124-7B"), like=("stage1-step10000-tokens21B",),
        sizes={"0425-1B": 1_484_916_736, "1124-7B": 7_298_617_344, "1124-13B": 13_716_198_400},
        own={"0425-1B": _olmo2(1_907_359, 512), "1124-7B": _olmo2(928_646, 1024), "1124-13B": _olmo2(596_057, 2048),
             "0325-32B": _olmo2(721_901, 2048)},
        notes={(".*1124-7B", "stage1-step(101|175|300)000-.*"): "steps 101000, 175000, 300000: reported to be one"},
    ),
    "olmo2-early": Suite(  # the first steps of OLMo-2-0425-1B, of which its own repository has few
        title="OLMo 2, early training", repos="allenai/OLMo-2-0425-1B-early-training",
        examples=("allenai/OLMo-2-0425-1B-early-training",), like=("stage1-step0-tokens0B", "stage1-step1000-tokens3B"),
        sizes={"0425-1B": 1_484_916_736}, **_OLMO2, **_olmo2(1_907_359, 512),
    ),
    "olmo3": Suite(
        title="OLMo 3", repos="allenai/Olmo-3-(1025-7B|1125-32B)", examples=("allenai/Olmo-3-1025-7B",),
        pattern=re.compile(rf"^(?P<stage>stage1|{LATER}|stage3)-step(?P<step>\d+)$"), architecture="olmo3",
        like=("stage1-step3000", "stage2-step47684"), source="the branches; tokens of stages (5.93T, 100B, 50B)",
        order=("stage1", LATER, "stage3"), main=("stage1",), sizes={"1025-7B": 7_298_011_136},
        own={"1025-7B": {"end": 1_413_814, "tokens_per_step": {"stage1": 2**22, "stage2": 2**21, "stage3": 2**22}}},
    ),
    "smollm2": Suite(
        title="SmolLM2", repos=r"HuggingFaceTB/SmolLM2-(135M|360M|1\.7B)-intermediate-checkpoints",
        examples=("HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints",), like=("step-240000",),
        pattern=re.compile(r"^step-(?P<step>\d+)$"), architecture="llama", source="arXiv 2502.02737; the cards",
        sizes={"135M": 134_515_008, "360M": 361_821_120, "1.7B": 1_711_376_384},
        own={"135M": {"tokens_per_step": 2**20}, "1.7B": {"tokens_per_step": 2**21}},
    ),
    "smollm3": Suite(
        title="SmolLM3", repos="HuggingFaceTB/SmolLM3-3B-checkpoints", architecture="smollm3", source="the card",
        examples=("HuggingFaceTB/SmolLM3-3B-checkpoints",), like=("stage1-step-40000", "stage3-step-4720000"),
        pattern=re.compile(r"^(?P<stage>stage[123])-step-(?P<step>\d+)$"), sizes={"3B": 3_075_098_624},
        order=("stage1", "stage2", "stage3"), main=("stage1", "stage2", "stage3"), tokens_per_step=2_359_296,
        before={"stage2": 0, "stage3": 0}, end=4_720_000,  # its names count through
    ),
    "apertus": Suite(
        title="Apertus", repos="swiss-ai/Apertus-(8B|70B)-2509", examples=("swiss-ai/Apertus-8B-2509",), pattern=TOKENS,
        like=("step50000-tokens210B", "step2627139-tokens15T"), architecture="apertus", sizes={"8B": 8_053_338_176},
        source="arXiv 2509.14233; the branches", own={"8B": {"end": 2_627_139}, "70B": {"end": 1_155_828}},
    ),
}
# fmt: on


def suite_of(repo: str) -> tuple[str, Suite] | None:
    """A repository's suite, as it is there, and its name."""
    return next(((name, suite.at(repo)) for name, suite in SUITES.items() if re.fullmatch(suite.repos, repo)), None)


def offline(repo: str) -> list[str] | None:
    """All revisions of a repository, where they are known without asking."""
    return list(known[1].grid) if (known := suite_of(repo)) and known[1].grid else None


def parse(
    names: Iterable[str],
    suite: Suite | None,
    pattern: str | None = None,
    stages: list[str] | None = None,
    tokens_per_step: int | None = None,
    repo: str = "",
) -> list[Revision]:
    """Revisions among names of branches, tags or folders, in order of step: of the main line, or of these stages.

    Names that do not match are passed over. A pattern takes the place of all that the suite knows of steps and tokens.
    Raises SteerlibError when nothing matches, a stage does not exist, or two names are the same step.
    """
    names, notes = list(dict.fromkeys(names)), suite.notes if suite else {}
    if suite is None or pattern is not None:
        expression, like = (GENERIC, ("step-100", "checkpoint-100")) if pattern is None else (re.compile(pattern), ())
        suite = Suite(expression, like=like, order=tuple(map(re.escape, stages or ())))
    suite = suite.at(repo)
    rows = [_read(name, match) for name in names if (match := suite.pattern.search(name)) and match["step"]]
    if not rows:
        like = " or ".join(suite.like) or suite.pattern.pattern
        there = f"there is {', '.join(names[:3]) or 'nothing'}{', and more' * (len(names) > 3)}"
        remedy = "give checkpoints.pattern, a regular expression with a group named step"
        raise SteerlibError(f"nothing is named like {like}; {there}: {remedy}")
    asked = _asked(suite, stages, sorted({stage for _, _, stage, _ in rows}))
    each, found, last, seen = suite.tokens_per_step or tokens_per_step, {}, 0, 0
    for kind in suite.order or map(re.escape, asked):
        start, news = suite.before.get(kind, last), []
        for name, own, stage, told in (row for row in rows if re.fullmatch(kind, row[2])):
            base = seen if pattern is None else 0  # suites count what they tell anew in every stage
            if told is None and isinstance(each, dict):
                told = own * each[stage] if stage in each else None
            elif told is None and each:
                base, told = 0, (start + own + suite.offset) * each
            tokens = -1 if told is None or base == -1 else base + told
            note = [n for (at, like), n in notes.items() if re.fullmatch(at, repo) and re.fullmatch(like, name)]
            news.append(Revision(name, start + own, tokens, stage, "; ".join(note)))
        for new in (new for new in news if new.stage in asked):
            old = found.setdefault(new.step, new)
            # The step 0 of a later stage is the last one before, saved again.
            if old is not new and (new.step != start or re.fullmatch(kind, old.stage)):
                how = "pattern" if new.stage == old.stage else f"stages: {old.stage} or {new.stage}"
                raise SteerlibError(f"{old.name} and {new.name} are both step {new.step}; choose by checkpoints.{how}")
        last, seen = max([new.step for new in news], default=last), max([new.tokens_seen for new in news], default=-1)
    return [found[step] for step in sorted(found)]


def _read(name: str, match: re.Match) -> tuple[str, int, str, int | None]:
    """Name, step within the stage, stage, tokens as the name tells them; without a unit, in billions."""
    groups = match.groupdict()
    tokens = re.fullmatch(r"(\d+(?:\.\d+)?)([MBT]?)", groups.get("tokens") or "")
    if not groups["step"].isdecimal() or (groups.get("tokens") and not tokens):
        raise SteerlibError(f"checkpoints.pattern finds in {name} what is no number: {groups}")
    told = round(float(tokens[1]) * {"M": 1e6, "T": 1e12}.get(tokens[2], 1e9)) if tokens else None
    return name, int(groups["step"]), groups.get("stage") or "", told


def _asked(suite: Suite, stages: list[str] | None, there: list[str]) -> list[str]:
    """The stages to look at, each of which is there."""
    told = f"there are {', '.join(filter(None, there))}" if any(there) else "names tell no stages"
    if absent := [stage for stage in stages or () if stage not in there]:
        raise SteerlibError(f"there is no stage {absent[0]}; {told}: correct checkpoints.stages")
    asked = stages or ([stage for stage in suite.main if stage in there] if suite.main else there)
    if not asked or (len(asked) > 1 and not suite.main and not stages):
        what = f"nothing is of {' or '.join(suite.main)}" if suite.main else "these are several stages"
        raise SteerlibError(f"{what}; {told}: say which to look at, in order, by checkpoints.stages")
    return asked
