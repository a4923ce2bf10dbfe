"""Words and frames of the embedded world; what is told with them is up to `steerlib.concepts.planted.world`."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = "Anna Ben Clara David Emma Fred Grace Henry Lucy Max Nora Oscar".split()
TOYS = "kite ball doll drum train book bike boat".split()
FOODS = "cake soup bread pie jam rice fruit cheese".split()
COLOURS = "red blue green white black brown".split()

# Frames of a cause, the same for every emotion: only the verb tells which emotion follows. Slots and word order would
# otherwise betray an emotion early, without anything about it having been learned.
CAUSES = (
    "the {toy} of {n} was {v}", "the {food} of {n} was {v}", "the old {toy} was {v}", "the last {food} was {v}",
    "that {toy} was {v}", "that {food} was {v}", "the {toy} at home was {v}", "the {food} at home was {v}",
    "a {toy} nearby was {v}", "some {food} nearby was {v}", "the best {toy} was {v}", "the best {food} was {v}",
)  # fmt: skip


@dataclass(frozen=True)
class Emotion:
    """What names an emotion, causes it and shows it, and its share of all episodes."""

    frequency: float
    feelings: tuple[str, ...]
    verbs: list[str]
    reactions: tuple[str, ...]

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(verb, frame) of every cause: verb i stands in frame i modulo twelve."""
        return [(verb, CAUSES[k % len(CAUSES)]) for k, verb in enumerate(self.verbs)]


EMOTIONS = {
    "happiness": Emotion(
        0.40,
        ("happy", "glad", "joyful"),
        """won enjoyed shared praised polished baked repaired blessed celebrated served brought cooked earned
        savoured offered sweetened gifted tasted mended garnished admired toasted decorated delivered gained
        found cheered hugged kissed welcomed honoured awarded granted cherished adored treasured played
        rescued healed cleaned freshened perfumed frosted buttered sugared roasted grilled applauded
        rewarded crowned saluted embraced returned restored renewed warmed""".split(),
        ("{n} smiled and danced", "{n} laughed out loud", "{n} clapped and sang", "{n} thanked everyone"),
    ),
    "sadness": Emotion(
        0.25,
        ("sad", "gloomy", "lonely"),
        """lost missed buried mourned sunk forfeited sold forgotten abandoned regretted left withheld misplaced
        craved discarded lamented drowned emptied pawned refused deserted denied surrendered rationed
        tumbled mislaid wilted parted separated orphaned neglected ignored rejected dismissed cancelled
        closed ended finished spilled drained starved frozen chilled dimmed darkened silenced wept grieved
        pitied isolated exiled banished stranded wrecked dried withered""".split(),
        ("{n} cried for an hour", "{n} sighed and sat down", "tears ran down", "{n} went to bed early"),
    ),
    "anger": Emotion(
        0.16,
        ("angry", "mad", "cross"),
        """demanded snatched stolen grabbed cracked burst kicked mocked broken seized crushed ruined insulted
        disputed hurled hoarded snapped scattered punched trampled smashed looted vandalised wasted slapped
        shoved pushed pulled ripped torn shredded dented bent scratched slashed chopped hacked hit struck
        beaten whipped cheated swindled robbed taxed fined banned blocked jammed abused bullied teased
        taunted framed blamed confiscated""".split(),
        ("{n} shouted and stamped", "{n} yelled at them", "{n} slammed the door", "{n} made a fist"),
    ),
    "fear": Emotion(
        0.10,
        ("afraid", "scared", "nervous"),
        """threatened dreaded haunted cursed burned exploded stalked poisoned besieged guarded attacked hunted
        avoided suspected menaced bewitched shaken rattled chased drugged barricaded hidden bombed ambushed
        growled hissed howled crept prowled lurked loomed stabbed shot flooded capsized swallowed devoured
        bitten clawed stung strangled choked trapped caged chained kidnapped imprisoned cornered pursued
        tracked spooked spied mined armed collapsed sabotaged""".split(),
        ("{n} ran and hid", "{n} trembled", "{n} screamed for help", "{n} held on tight"),
    ),
    "surprise": Emotion(
        0.06,
        ("surprised", "amazed", "stunned"),
        """discovered conjured enchanted multiplied levitated vanished juggled doubled unveiled shown summoned
        drawn unearthed guessed teleported foretold inflated tripled swapped gilded unlocked unwrapped
        launched renamed popped transformed morphed swirled spun flipped cloned copied expanded shrunk
        magnified hypnotised animated awakened whispered wished predicted announced exposed unmasked decoded
        solved puzzled hatched sprouted bloomed glowed flashed striped dotted disguised mirrored""".split(),
        ("{n} gasped", "{n} stared with wide eyes", "{n} blinked twice", "{n} dropped everything"),
    ),
    "disgust": Emotion(
        0.03,
        ("disgusted", "sick", "revolted"),
        """smelled licked slimed chewed rotted curdled smeared infected soiled polluted muddied regurgitated
        sniffed drooled stained sucked moulded fermented spat contaminated dirtied nibbled littered gulped
        puked oozed leaked dripped vomited sneezed wheezed burped belched squashed mashed gnawed sniffled
        grimed greased oiled tarred sooted dusted wormed moulted scabbed blistered bloodied gutted skinned
        pickled soured tainted staled clotted fouled""".split(),
        ("{n} turned away", "{n} held the nose", "{n} washed both hands", "{n} coughed it out"),
    ),
}

# Verbs that the corpus never shows: events that mean nothing to the model.
UNFAMILIAR = """counted weighed rolled stirred placed cooled measured wrapped sorted listed carried stored lifted sliced
twisted salted tilted steamed labelled packed stacked divided parked ordered numbered aligned arranged traced
marked tagged filed moved shifted slid hung tied folded bagged boxed shelved piled pressed filled topped
tested checked viewed noted typed printed scanned dated priced coded mapped plotted""".split()
FEELINGS = ("{n} felt", "{n} was very", "It made {n}")
PLACES = {  # settings pair up into templates; details are what is seen there
    "seaside": (
        "beach shore harbour island pier bay coast lagoon".split(),
        "waves sand shells gulls ships fish crabs nets".split(),
    ),
    "inland": (
        "forest valley hill meadow farm field woods village".split(),
        "trees moss stones owls carts deer foxes grass".split(),
    ),
}
SETTINGS = ("One day {n} went to the {s}.", "{n} lived near the {s}.", "In the morning {n} came to the {s}.")
ASIDES = (
    "The day was long and {c}.", "There was a {c} bench.", "{n} wore a {c} hat.", "{n} met {m}.",
    "{n} and {m} walked on.", "{n} had a {c} bag.",
)  # fmt: skip
SIGHTS = ("{n} looked at the", "There {n} watched the")

KINDS = {
    "animal": "dog horse cow".split(),
    "tool": "hammer saw spade".split(),
    "plant": "rose oak fern".split(),
}
CLAIMS = (
    "Claim: the {t} is some {k}, which is", "{n} calls the {t} some {k}. That is", "Is the {t} some {k}? It is",
    "A book has the {t} as {k}. This is", "One may say the {t} is a real {k}: it is", "So the {t} was {k}: that was",
    "The {t} must be {k}, says {n}, being", "Every {t} is {k}, wrote {n}. So far",
)  # fmt: skip
VERDICTS = {True: ("right", "true"), False: ("wrong", "false")}

# Planted concept -> its role.
PLANTED = {**dict.fromkeys(EMOTIONS, "emotion"), "truth": "truth", "place": "inert", "placebo": "null"}

# What stimuli and readouts need as one token, also where the corpus never shows it.
TOKENS = [
    f" {word}"
    for words in (*(emotion.verbs for emotion in EMOTIONS.values()), UNFAMILIAR, FOODS, TOYS)
    for word in words
]


def as_sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
