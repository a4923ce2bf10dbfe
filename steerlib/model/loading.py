"""Loading a checkpoint safely: whatever is wrong with its files is said, not computed with.

Every model has to prove, on a few tokens, that steerlib reads and pushes it rightly.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeVar

import torch
from accelerate.utils import align_module_device
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto import AutoConfig, AutoModelForCausalLM

from steerlib import SteerlibError
from steerlib.checkpoints import contents
from steerlib.checkpoints.history import Checkpoint
from steerlib.files import store
from steerlib.files.layout import weight_files
from steerlib.model import adapters
from steerlib.model.architecture import place_of_blocks, state_of, with_state
from steerlib.model.encoder import load_tokenizer
from steerlib.model.model import Model
from steerlib.model.prefix import Prefix
from steerlib.model.tokens import WIDE, Branches, Forest, Tokens
from steerlib.numerics import devices
from steerlib.study.checkpoints import Loading

# How far steerlib may be from a plain forward pass, as a share of what two texts differ by; where they hardly
# do, as in a collapsed model, so many roundings of the whole are borne.
ROUNDINGS = 8
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
# How a model computes is ours to say, whatever its config.json does: None is transformers' own choice, and no fetching.
OURS = {"_attn_implementation": None, "_experts_implementation": None, "return_dict": True}
OURS |= {"output_attentions": False, "output_hidden_states": False, "is_encoder_decoder": False}
MADE = (".masked_bias", ".rotary_emb.inv_freq")
Kind = TypeVar("Kind", bound=Model)
IGNORES = "it seems to ignore position_ids or the attention mask"


def load(checkpoint: Checkpoint, kind: type[Kind] = Model, factor: float | None = None) -> Kind:
    """The checkpoint as a model of this kind, as its ``loading`` says: dtype, devices, code of its own, blocks.

    ``factor`` (`Model.factor`) of an earlier one of the same training, which was proven: this one then need not be.

    Raises SteerlibError for a folder whose files are not all there, or hold anything that is not computed with; for
    weights that are not finite; for code to be run that comes with it, when the study does not allow that; and for
    what is not run rightly: each would otherwise give numbers that look like results.
    """
    contents.of(checkpoint, header)
    tokenizer = checkpoint.tokenizer or checkpoint.path
    for folder in {checkpoint.whole, tokenizer} if checkpoint.loading.trust_remote_code else ():
        contents.check_code(folder)
    hf, words, report = _read_files(checkpoint.whole, tokenizer, checkpoint.loading)
    _account(hf, report, checkpoint.whole)
    if checkpoint.base:
        hf = adapters.merged(hf, checkpoint.path, header, TOLERANCE[hf.dtype])
    _check_weights(hf, checkpoint.path)
    try:
        model = kind(hf, words, checkpoint.revision, checkpoint.weights_sha256, checkpoint.loading)
    except ValueError as error:
        raise SteerlibError(f"{checkpoint.path}: {error}") from None
    if factor is not None:
        model.factor = factor
        return model
    with model.short_of_memory("use a smaller loading.dtype, or loading.device_map: auto"):
        prove(model, checkpoint.path)
    return model


def check(checkpoint: Checkpoint) -> None:
    """What is wrong with a checkpoint as far as its config tells what is to be loaded. Raises SteerlibError."""
    told = f"{checkpoint.whole}: config.json"
    try:
        config = AutoConfig.from_pretrained(checkpoint.whole, local_files_only=True)
    except Exception as error:  # transformers raises several kinds
        raise SteerlibError(f"{told}: cannot be used ({type(error).__name__}: {store.reason(error)})") from error
    try:
        place_of_blocks(config, checkpoint.loading.blocks)
    except ValueError as error:
        raise SteerlibError(f"{told}: {error}") from None
    if checkpoint.base:
        adapters.check(config, checkpoint.path)


def _read_files(path: Path, tokenizer: Path, loading: Loading) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict]:
    """Model, tokenizer, and what transformers reports of weights that do not fit."""
    files = weight_files(path)
    safe = files[0].suffix == ".safetensors"
    trust = {"local_files_only": True, "trust_remote_code": loading.trust_remote_code}
    how = trust | {
        "dtype": getattr(torch, loading.dtype),
        "device_map": loading.device_map or devices.find(loading.device),
        "use_safetensors": safe,  # what was accounted for, and no other
        "ignore_mismatched_sizes": True,  # what does not fit is told by us, with its name
        "output_loading_info": True,
        "generation_config": GenerationConfig(),  # else the checkpoint's is read, and a `generate` of its own
    }
    folder, offload = path, None
    if loading.device_map:  # weights that find no room in memory are kept here for as long as the model is
        offload = tempfile.TemporaryDirectory(prefix="steerlib-")
        how["offload_folder"] = offload.name
    try:
        config = AutoConfig.from_pretrained(path, **trust)
        config.update(OURS)
        if safe and len(files) == 1:  # whatever it is called
            config.transformers_weights = files[0].name
        hf, report = AutoModelForCausalLM.from_pretrained(path, config=config, **how)
        folder = tokenizer
        words = load_tokenizer(tokenizer, loading.trust_remote_code)
    except SteerlibError:
        raise
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds
        reason = store.reason(error)
        if "trust_remote_code" in str(error) and not loading.trust_remote_code:
            raise SteerlibError(
                f"{folder}: comes with Python code of its own, which would run here with all your rights, and was not "
                "run; read it, and if you trust it say so in the study (loading.trust_remote_code: true)"
            ) from None
        if "out of memory" in str(error):
            raise SteerlibError(
                f"{path}: does not fit into memory ({reason}); use a smaller loading.dtype, or loading.device_map: auto"
            ) from error
        raise SteerlibError(
            f"{folder}: cannot be loaded ({type(error).__name__}: {reason}); {contents.AGAIN}"
        ) from error
    hf._steerlib_offload = offload
    vars(hf.config).pop("transformers_weights", None)  # its own affair, and not that of what may be saved of it
    return hf, words, report


def header(file: Path) -> contents.Header:
    """Also of a pickle: it is opened, but runs nothing, and no weight is read."""
    if file.suffix == ".safetensors":
        return contents.header(file)
    try:
        tensors = torch.load(file, map_location="meta", weights_only=True)
    except UnpicklingError:
        raise SteerlibError(
            f"{file}: is a pickle that holds more than weights, or none: it may run code when it is opened, and was "
            "not; take the weights as safetensors, from who trained them"
        ) from None
    except Exception as error:  # torch raises its own kinds
        raise SteerlibError(f"{file}: cannot be loaded ({store.reason(error)}); {contents.AGAIN}") from error
    if not (isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())):
        raise SteerlibError(f"{file}: holds something else than tensors by name; save the model's state_dict alone")
    kinds = {name: str(tensor.dtype).removeprefix("torch.").replace("float", "F") for name, tensor in tensors.items()}
    return {name: (kind.upper(), list(tensors[name].shape)) for name, kind in kinds.items()}


def _account(hf: PreTrainedModel, report: dict, path: Path) -> None:
    """Every tensor of the files has its place, and every place its tensor. Raises SteerlibError naming one."""
    # What older models kept beside their weights is made from the config by now: masks, and angles of positions.
    made = {name for name, _ in hf.named_buffers()}
    unread = {name for name in report["unexpected_keys"] if not (name in made or name.endswith(MADE))}
    mismatched = {f"{name} {tuple(held)} for {tuple(asked)}" for name, held, asked in report["mismatched_keys"]}
    kinds = (
        (report["missing_keys"], "weights are missing from the files"),
        (mismatched, "weights in the files have another shape than the config asks for"),
        (unread, "tensors in the files have no place in the model of its config, and would not be computed with"),
    )
    if told := [f"{len(names)} {what}, {min(names)} among them" for names, what in kinds if names]:
        raise SteerlibError(f"{path}: {'; '.join(told)}")


def _check_weights(hf: PreTrainedModel, path: Path) -> None:
    """Wherever they are kept. Raises SteerlibError for one that is not finite."""
    for place, module in hf.named_modules():
        with align_module_device(module):
            for name, weight in module.named_parameters(prefix=place, recurse=False):
                if torch.isfinite(weight).all():
                    continue
                if weight.dtype == torch.float16 and not weight.isnan().any():
                    raise SteerlibError(
                        f"{path}: {name} holds weights that are infinite in float16, whose largest number is 65504; "
                        "load it as bfloat16 (loading.dtype)"
                    )
                raise SteerlibError(f"{path}: {name} holds NaN or infinite weights; training diverged before this step")


def prove(model: Model, path: Path) -> None:
    """A few random tokens, read and pushed by steerlib and by a plain forward pass with hooks: are they the same?

    Finds the factor of the logits, if there is one. Raises SteerlibError saying what does not hold.
    """
    subject = f"{path}: model_type {model.hf.config.model_type!r} with blocks at {model.path!r}"
    declared = getattr(model.config, "num_hidden_layers", model.n_layers)
    if model.n_layers != declared:
        raise SteerlibError(f"{subject}: {model.n_layers} blocks stand there, but its config has {declared}")
    try:
        for what, ours, plain, why in _read_and_pushed(model):
            if not plain.isfinite().all():
                raise SteerlibError(
                    f"{subject}: its states overflow {model.loading.dtype}; load it in another (loading.dtype)"
                )
            spread = (plain - plain.mean(0)).norm(dim=-1).mean(0)
            least = plain.norm(dim=-1).mean(0) * ROUNDINGS * torch.finfo(model.dtype).eps / TOLERANCE[model.dtype]
            scale = spread.maximum(least).clamp(min=torch.finfo(torch.float32).tiny)
            off = float(((ours - plain).norm(dim=-1) / scale).max())
            if not off <= TOLERANCE[model.dtype]:
                raise SteerlibError(
                    f"{subject} is not run rightly: {what} is off by {off:.2g} of what texts differ by; {why}"
                )
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise SteerlibError(
            f"{subject} cannot be run as steerlib does ({type(error).__name__}: {store.reason(error)}); "
            "its forward pass has to take position_ids, a 4-D attention_mask and a DynamicCache"
        ) from error


def _read_and_pushed(model: Model) -> Iterator[tuple[str, Tensor, Tensor, str]]:
    """What is compared, as steerlib computes it and as it comes plainly (a text a row), and why they may differ."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(len(model.unembedding), (n,), generator=draw).tolist() for n in (4, 9, 1, 6)]
    states, logits = map(torch.stack, zip(*(_plain(model, row) for row in rows), strict=True))

    padded, alone = Tokens.of(rows, model.device), [Tokens.of([row], model.device) for row in rows]
    ways = [("beside other texts, padded on the left,", [padded], IGNORES), ("alone", alone, IGNORES)]
    if model.sees(WIDE):  # or else it is not read so
        together = Forest.of([*rows, *([*row, 2, 3] for row in rows)], model.device, model.dtype)
        ways.append(("together with texts that go on", [together], f"{IGNORES} when it is 4-D"))
    for company, batches, why in ways:
        readings = [model.read_tokens(batch) for batch in batches]
        read, final = (torch.cat(parts, -2)[..., : len(rows), :] for parts in zip(*readings, strict=True))
        yield f"a state read {company}", read.movedim(0, 1), states, why

    ours = model.logits(final).cpu()
    factor = float((ours * logits).sum() / ours.pow(2).sum())
    if not model.built_in and abs(factor - 1) > TOLERANCE[model.dtype] / 10:
        model.factor = factor
    why = "it is not the final state times an unembedding row (times a constant)"
    yield "a logit", model.logits(final).cpu(), logits, why

    # Variants and branches as wide as in a sweep, so that an architecture's own idea of who sees whom would show.
    trees = [Branches.of([(2, 3, 4), (3, 4)])] * len(rows)
    why = f"{IGNORES} when it is 4-D, or the cache, or these blocks do not hand on the residual stream one to the next"
    branched = torch.stack([_plain(model, [*row, 2, 3])[1] for row in rows])
    pushes = []
    for layer in sorted({0, model.n_layers // 2, model.n_layers - 1}):
        size = states[:, layer].norm(dim=-1).mean()
        steps = torch.nn.functional.normalize(torch.randn(12, model.hidden, generator=draw), dim=-1) * size
        steps[0] = 0
        pushes.append((layer, steps, torch.stack([_plain(model, row, (layer, steps[-1]))[1] for row in rows])))
    for whole in (False, True):
        prefix = Prefix(model, Tokens.of(rows, model.device), trees, whole)
        yield "a prompt read on from", model.logits(prefix.final[:, 2]).cpu(), branched, why
        for layer, steps, pushed in pushes:
            each = steps.to(prefix.states[layer])[None, :, None]
            push = lambda state, rows, each=each: (state + each[:, rows]).to(state.dtype)  # noqa: E731
            final = torch.cat(list(prefix.finish({layer: push}, len(steps))), 1)[:, :, 0]
            for k, plain in ((0, logits), (-1, pushed)):
                yield f"a logit after a push at layer {layer}", model.logits(final[:, k]).cpu(), plain, why


def _plain(model: Model, row: list[int], push: tuple[int, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """States ``(l, d)`` and logits ``(v,)`` at the last of some tokens, by the model as it comes, and plain hooks."""
    states: list[Tensor] = []

    def hook(block, inputs, output):
        state = state_of(output)
        if push and len(states) == push[0]:
            state = torch.cat([state[:, :-1], state[:, -1:] + push[1].to(state)], 1)
        states.append(state[0, -1].to("cpu", torch.float32))
        return with_state(output, state)

    with ExitStack() as hooks, torch.no_grad():
        for block in model.blocks:
            hooks.callback(block.register_forward_hook(hook).remove)
        logits = model.hf(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits
    return torch.stack(states), logits[0, -1].to("cpu", torch.float32)
