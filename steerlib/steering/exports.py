"""Files of other tools that push along a direction: each adds ``multiplier × step`` after a block, at all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

Tool = Literal["llama.cpp", "repeng", "steering-vectors"]


class Unsayable(ValueError):
    """What a format has no word for."""


def repeng(step: Float[np.ndarray, " d"], layer: int, model: str, told: Mapping[str, str]) -> bytes:
    """A GGUF of its `ControlVector`: a float32 tensor a layer, counted from 0; ``told`` are keys that it does not read.

    https://github.com/vgel/repeng, `ControlVector.import_gguf` of 0.4.0.
    """
    from gguf import GGUFWriter  # for this alone

    with TemporaryDirectory() as folder:
        writer = GGUFWriter(file := Path(folder) / "vector.gguf", "controlvector")
        for key, text in {"controlvector.model_hint": model, **told}.items():
            writer.add_string(key, text)
        writer.add_uint32("controlvector.layer_count", 1)
        writer.add_tensor(f"direction.{layer}", step)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file.read_bytes()


def llama_cpp(step: Float[np.ndarray, " d"], layer: int, model: str, told: Mapping[str, str]) -> bytes:
    """The same, which llama.cpp reads as a control vector. Raises Unsayable for the first layer."""
    if layer == 0:  # it refuses the whole file
        raise Unsayable("is of layer 0, which a control vector of llama.cpp cannot say")
    return repeng(step, layer, model, told)


def steering_vectors(step: Float[np.ndarray, " d"], layer: int, model: str, told: Mapping[str, str]) -> bytes:
    """The arguments of its `SteeringVector`, by torch.save: it has no format of its own, and no room for more.

    https://github.com/steering-vectors/steering-vectors, 0.12.2. Read without running anything (``weights_only``).
    """
    file = BytesIO()
    torch.save({"layer_activations": {layer: torch.from_numpy(step)}, "layer_type": "decoder_block"}, file)
    return file.getvalue()


TOOLS = {"llama.cpp": llama_cpp, "repeng": repeng, "steering-vectors": steering_vectors}
