"""One direction: where it was found, whether it fits a model, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from steerlib import SteerlibError
from steerlib.files.layout import absent
from steerlib.files.store import write_bytes

FORMAT = "steerlib direction"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Direction:
    """One direction that knows where it belongs, so that it is not added to another model, layer or token."""

    vector: Float[np.ndarray, " d"]  # of unit length, from negative to positive
    length: float  # norm as the method found it: the `raw` scale
    spread: float  # within-class standard deviation of projections: the `projection_std` scale
    method: str
    concept: str
    layer: int
    site: str = "resid_post"  # the residual stream after the block
    token: str = "last"  # whose state it was fitted on
    model: str  # name or path
    weights_sha256: str
    residual_norm: float = float("nan")  # mean norm of the residual stream there: the `residual_norm` scale

    def __repr__(self) -> str:
        """All of its card in a line."""
        size = f"{len(self.vector)} hidden, residual norm {self.residual_norm:.3g}"
        return f"<direction of {self.concept} by {self.method}: layer {self.layer} of {self.model}, {size}>"

    def _repr_html_(self) -> str:
        """Its card as a table."""
        card = asdict(self) | {"vector": f"unit vector of {len(self.vector)}"}
        return pd.Series(card, name="direction").to_frame().to_html()

    def save(self, path: str | Path) -> None:
        """One safetensors file, whole or not at all. Raises SteerlibError when it cannot be written."""
        card = asdict(self)
        tensors = {"vector": np.ascontiguousarray(card.pop("vector"))}
        write_bytes(Path(path), save(tensors, {"format": FORMAT, "about": json.dumps(card)}))

    def export_gguf(self, path: str | Path) -> None:
        """As a control vector of llama.cpp: ``--control-vector-scaled PATH:ALPHA``, alpha in residual norms.

        There it is added after its block at all tokens, as by ``positions: all``. Raises SteerlibError for the first
        block, which has no name in that format, for a direction whose residual norm is not known, and when the file
        cannot be written.
        """
        from gguf import GGUFWriter  # for this alone

        if self.layer == 0:
            raise SteerlibError(f"the direction of {self.concept} is of layer 0, which a control vector cannot say")
        if not np.isfinite(self.residual_norm):
            raise SteerlibError(f"the direction of {self.concept} knows no residual norm, by which alpha counts")
        with TemporaryDirectory() as folder:
            writer = GGUFWriter(file := Path(folder) / "vector.gguf", "controlvector")
            writer.add_string("controlvector.model_hint", Path(self.model).name)
            writer.add_uint32("controlvector.layer_count", 1)
            writer.add_tensor(f"direction.{self.layer}", (self.vector * self.residual_norm).astype(np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            write_bytes(Path(path), file.read_bytes())

    def check(self, hidden: int, weights_sha256: str) -> None:
        """Raises SteerlibError when this direction is of another width or checkpoint than the model to be pushed.

        A checkpoint in memory that came from no file has no hash, and is taken on trust.
        """
        if len(self.vector) != hidden:
            raise SteerlibError(f"a direction of {len(self.vector)} dimensions does not fit a model of {hidden}")
        if self.weights_sha256 and weights_sha256 and self.weights_sha256 != weights_sha256:
            raise SteerlibError(
                f"the direction of {self.concept} was found in other weights ({self.model}); "
                "find it again in this checkpoint, or say that you mean it: transfer=True"
            )

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """A direction that was saved. Raises SteerlibError when the file is missing, damaged or something else."""
        if not Path(path).is_file():
            raise SteerlibError(f"{absent(Path(path), file=True)}; a direction is saved with Direction.save")
        try:
            with safe_open(path, framework="numpy") as stored:
                metadata = stored.metadata() or {}
                if metadata.get("format") != FORMAT or "vector" not in stored.keys():
                    raise SteerlibError(f"{path}: holds no direction of steerlib's; save one with Direction.save")
                card = {"vector": stored.get_tensor("vector"), **json.loads(metadata["about"])}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SteerlibError(f"{path}: cannot be read ({error}); save the direction again") from None
        wrong = sorted({field.name for field in fields(cls)} ^ card.keys())
        if card["vector"].ndim != 1 or not np.isfinite(card["vector"]).all():
            wrong.append("no finite vector")
        if wrong:
            raise SteerlibError(f"{path}: is damaged ({', '.join(wrong)}); save the direction again")
        return cls(**card)
