"""What a checkpoint's files tell of it before it is loaded: which they are, and how many blocks of which width."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import AliasChoices, BaseModel, Field
from safetensors import SafetensorError, safe_open

from steerlib import SteerlibError
from steerlib.checkpoints import foreign
from steerlib.checkpoints.history import Checkpoint, named_base
from steerlib.files import hub, store
from steerlib.files.layout import STATES, is_adapter, like, loaded_names, weight_files, weight_names

AGAIN = "if a file was cut short, copy or download the checkpoint again"
APART = "one of the two is of another model"
FOREIGN = ("adapter_config.json", "adapter_model.*", "shard-*-model-*-of-*.safetensors")  # to be merged, or of parts
OTHERS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.gguf")  # weights, as far as names tell
FLOATS = ("F64", "F32", "F16", "BF16")
M = TypeVar("M", bound=BaseModel)
Header = dict[str, tuple[str, list[int]]]  # dtype and shape of each tensor, as safetensors calls them


class Contents(NamedTuple):
    blocks: int | None  # None where the files do not say
    width: int | None
    code: bool  # of its own


def _size(*names: str) -> Any:
    return Field(None, validation_alias=AliasChoices(*names))


class Config(BaseModel):
    """What matters here of a `config.json`."""

    blocks: int | None = _size("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    more_blocks: int | None = _size("num_nextn_predict_layers")  # of training only, and in the files all the same
    width: int | None = _size("hidden_size", "n_embd", "d_model")
    # With these transformers would load other files, or compute with something else than what is in them.
    transformers_weights: Any = None
    quantization_config: Any = None
    fusion_config: Any = None
    auto_map: Any = None  # as {"AutoModel": "module.Class"}, where it is not "owner/name--module.Class"


class Index(BaseModel):
    weight_map: dict[str, str]  # tensor: file


def header(file: Path) -> Header:
    """What a file says of its tensors; a pickle says nothing before it is loaded."""
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, framework="np") as tensors:
            parts = {name: tensors.get_slice(name) for name in tensors.keys()}
            return {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise SteerlibError(f"{file}: cannot be loaded ({store.reason(error)}); {AGAIN}") from error


def of(checkpoint: Checkpoint, header: Callable[[Path], Header] = header) -> Contents:
    """What files tell of a checkpoint: of an adapter, whose own are read as well, those of its base."""
    for file in weight_files(checkpoint.path) if checkpoint.base else ():
        header(file)
    found, words = read(checkpoint.whole, header), checkpoint.tokenizer or checkpoint.path
    if not any((words / name).exists() for name in hub.TOKENIZER):
        raise SteerlibError(
            f"{words}: holds no tokenizer; save it beside the weights (tokenizer.save_pretrained), or name one "
            "(checkpoints.tokenizer, or --tokenizer)"
        )
    return found


def read(folder: Path, header: Callable[[Path], Header] = header) -> Contents:
    """Raises SteerlibError when something of it is not there, or would not be what is computed with."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for path in (folder, *(folder / name for name in loaded_names(names))):
        if path.is_symlink() and not path.exists():
            raise SteerlibError(f"{path}: is a link to {path.readlink()}, which is not there; mend or remove it")
    if is_adapter(names):
        raise SteerlibError(f"{folder}: is an adapter (of peft) alone; a study names its base (checkpoints.base)")
    if ("config.json" not in names or not weight_names(names)) and (other := foreign.told(folder)):
        raise SteerlibError(f"{folder}: {other}")
    if "config.json" not in names:
        held = sorted(path.parent.name for path in folder.glob("*/*config.json"))
        which = f"name the folder of one step, as {folder / held[-1]}" if held else "is this a Hugging Face checkpoint?"
        raise SteerlibError(f"{folder}: config.json is missing; {which}")
    config = _json(folder / "config.json", Config)
    if parts := like(names, FOREIGN):
        raise SteerlibError(
            f"{folder}: holds {', '.join(parts)}, an adapter or a part of a model, beside what is loaded; merge it "
            "(peft's merge_and_unload, then save_pretrained), or remove it if it is none of this checkpoint"
        )
    if field := next((name for name in list(Config.model_fields)[3:-1] if getattr(config, name)), None):
        raise SteerlibError(
            f"{folder}: config.json: {field}: then not the weights that lie here would be computed with, as they are; "
            "save the model without it"
        )
    weights = weight_files(folder)
    loaded = [file.name for file in weights]
    if others := {*like(names, OTHERS)} - {*loaded, *like(names, STATES)}:
        store.tell(f"{folder.parent}: of a checkpoint {loaded[0]} is loaded, and {min(others)} beside it is not")
    index = folder / (re.sub(r"-\d+-of-\d+", "", loaded[0]) + ".index.json")
    named = _json(index, Index).weight_map if re.search(r"-\d+-of-\d+", loaded[0]) else None
    if named and (apart := sorted({*named.values()} ^ {*loaded})):
        found = "is not there" if apart[0] in named.values() else "is not named there, and so not loaded"
        raise SteerlibError(f"{index}: {apart[0]} {found}; copy or download the checkpoint again")
    tensors: Header = {}
    for file in weights:
        told = header(file)
        if named and (astray := [name for name in told if named.get(name) != file.name]):
            raise SteerlibError(f"{file}: holds {astray[0]}, which its index does not say of it; {APART}")
        tensors |= told
    return Contents(_blocks(folder, config, tensors), config.width, bool(config.auto_map))


def check_code(folder: Path) -> None:
    """Raises SteerlibError where the code that is trusted is not that which lies here, and may become another."""
    for file in sorted(folder.glob("*config.json")):
        if apart := re.search(r'"([^"]+)--([^".]+)', json.dumps(_json(file, Config).auto_map)):
            raise SteerlibError(
                f"{file}: auto_map: its code is that of another repository, {apart[1]}, and may change there; save "
                f"{apart[2]}.py here and name it without the repository"
            )


def _blocks(folder: Path, config: Config, tensors: Header) -> int | None:
    """By names, kinds and shapes of tensors. Raises SteerlibError where they are not those of the config."""
    if twice := [name for name in tensors if name.partition(".")[2] in tensors]:
        raise SteerlibError(
            f"{folder}: its weights hold {twice[0]} and {twice[0].partition('.')[2]}, which are one to transformers; "
            "remove those that are not this model's"
        )
    if whole := [name for name, (dtype, _) in tensors.items() if name.endswith("weight") and dtype not in FLOATS]:
        raise SteerlibError(
            f"{folder}: {whole[0]} is of {tensors[whole[0]][0]}, codes of a quantisation that its config.json does not "
            "tell of; save the model in full precision"
        )
    numbers: dict[str, set[int]] = {}
    dims: Counter[int] = Counter()
    for found in filter(None, (re.match(r"(.+?)\.(\d+)\..*", name) for name in tensors)):
        numbers.setdefault(found[1], set()).add(int(found[2]))
        dims.update({*tensors[found[0]][1]} if found[2] == "0" else ())
    place, held = max(numbers.items(), key=lambda item: len(item[1]), default=("", set()))
    if config.blocks and held and len(held) not in (config.blocks, config.blocks + (config.more_blocks or 0)):
        there = f"{len(held)} blocks ({place}.{min(held)} to {place}.{max(held)})"
        raise SteerlibError(f"{folder}: its weights have {there}, but its config.json says {config.blocks}; {APART}")
    # What a block does goes from the residual stream to it: its width is among the most frequent sizes.
    if config.width and dims and dims[config.width] < max(dims.values()):
        there = dims.most_common(1)[0][0]
        raise SteerlibError(
            f"{folder}: its weights are of width {there}, but its config.json says {config.width}; {APART}"
        )
    return len(held) or config.blocks


def faults(
    checkpoints: Iterable[Checkpoint],
    shapes: dict[int, str],
    fits: Callable[[Checkpoint], object] = lambda one: None,
    layers_of: Callable[[int], object] = lambda blocks: None,
) -> dict[int, str]:
    """What is wrong with those whose files are here, by step: in themselves, or as they are not like most others.

    ``shapes`` are those of the history that were seen before, and what is seen now joins them. ``fits`` raises
    SteerlibError where something is wrong with one that these files alone do not tell, ``layers_of`` where one has too
    few layers for what is asked.
    """
    told = {}
    for one in (one for one in checkpoints if one.step not in shapes and os.path.lexists(one.whole)):
        try:
            blocks, width, code = of(one)
            if blocks:
                layers_of(blocks)
            if not code:  # which no driver need run
                fits(one)
            named = (named_base(one.path) if one.base else None) or ""
            if named and not any(f"--{part}".endswith(f"--{Path(named).name}") for part in one.base.parts):
                store.tell(f"{one.path.parent}: adapters of {named}, as they say, are merged into {one.base}")
        except SteerlibError as error:
            told[one.step] = str(error)
            continue
        shapes[one.step] = f"{blocks} blocks of width {width}"
        if code and not one.loading.trust_remote_code:
            own = "a checkpoint comes with code of its own, which only loading.trust_remote_code would have run"
            store.tell(f"{one.path.parent}: {own}")
    usual = Counter(reversed(shapes.values())).most_common(1)  # of as many, the later
    for step in (step for step, shape in shapes.items() if shape != usual[0][0]):
        told[step] = (
            f"the checkpoint of step {step} has {shapes[step]}, but most of this history have {usual[0][0]}: it is of "
            "another model; leave it out (checkpoints.steps)"
        )
    return told


def refuse_unfit(history: Collection[Checkpoint], faults: dict[int, str]) -> None:
    """Raises SteerlibError when all of a history is at fault, be it all adapters, a line for each kind of fault."""
    if {one.step for one in history if one.path not in {other.base for other in history}} - faults.keys():
        return
    alike: dict[str, list[int]] = {}
    for step, fault in sorted(faults.items()):
        alike.setdefault(re.sub(r"\d+", "", fault), []).append(step)
    more = lambda steps: f", and {len(steps) - 1} more steps alike" if steps[1:] else ""  # noqa: E731
    raise SteerlibError(*(f"{faults[steps[0]]} (step {steps[0]}{more(steps)})" for steps in alike.values()))


def _json(path: Path, model: type[M]) -> M:
    try:
        return store.parse_json(path.read_bytes(), model)
    except store.NO_JSON as error:
        raise SteerlibError(f"{path}: cannot be read ({store.reason(error)}); {AGAIN}") from None
