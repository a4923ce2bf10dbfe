"""Checkpoints as other trainers leave them, told by the names of their files, with the conversion that there is."""

import fnmatch
from pathlib import Path

SAVED = "into transformers' model as its state_dict, and save that (save_pretrained), in a folder a step"
# Names of files or folders, the telling ones first; whose they are; and what makes a Hugging Face checkpoint of them.
FORMATS = (
    ("lit_model.pth", "litgpt", f"`litgpt convert_from_litgpt STEP OUT` makes a model.pth of it; load that {SAVED}"),
    ("layer_*-model_*model_states.pt", "GPT-NeoX", "its tools/ckpts/convert_neox_to_hf.py converts it"),
    ("pytorch_model_fsdp_*", "FSDP", "`accelerate merge-weights STEP/pytorch_model_fsdp_0 STEP` joins its parts"),
    ("pytorch_model_fsdp.bin", "FSDP", "rename the file pytorch_model.bin"),
    ("zero_to_fp32.py", "DeepSpeed", "in its folder `python zero_to_fp32.py . . --safe_serialization` joins its parts"),
    ("mp_rank_*_model_states.pt", "DeepSpeed", "its zero_to_fp32.py joins the parts"),
    ("global_step*", "DeepSpeed", "its zero_to_fp32.py joins the parts"),
    ("mp_rank_*", "Megatron-LM", "Megatron Bridge converts it (AutoBridge.export_ckpt)"),
    ("latest_checkpointed_iteration.txt", "Megatron-LM", "Megatron Bridge converts it (AutoBridge.export_ckpt)"),
    (
        "*.distcp",
        "torch.distributed (FSDP, torchtitan, Megatron-LM)",
        "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch STEP OUT.pt` joins its parts; load that "
        + SAVED,
    ),
    ("ckpt*.pt", "nanoGPT", f"load its 'model', with what nanoGPT's from_pretrained transposes, {SAVED}"),
    ("*.ckpt", "PyTorch Lightning", f"load its 'state_dict', without the prefix of the names, {SAVED}"),
    ("consolidated*", "Meta or Mistral", "transformers has a convert_…_weights_to_hf.py for it"),
    ("*.gguf", "llama.cpp", "name the file itself (checkpoints.gguf), or take the weights that it was made from"),
    ("*.msgpack", "Flax", "transformers 4 loads it (from_flax=True), and saves it anew (save_pretrained)"),
    ("*.h5", "TensorFlow", "transformers 4 loads it (from_tf=True), and saves it anew (save_pretrained)"),
    ("model.pt", "a trainer's own kind", f"load its weights {SAVED}"),
)


def told(folder: Path) -> str | None:
    """Whose checkpoint lies in a folder, or in one of a step in it, and what to do about it; None where it is ours."""
    names = sorted(path.relative_to(folder).as_posix() for pattern in ("*", "*/*") for path in folder.glob(pattern))
    for pattern, whose, remedy in FORMATS:
        if found := next((name for name in names if fnmatch.fnmatch(name.rpartition("/")[2], pattern)), None):
            return f"no Hugging Face checkpoint, but one of {whose} ({found}): {remedy}"
    return None
