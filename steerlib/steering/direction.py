"""One direction: where it was found, whether it fits a model, its card, and its file."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import BeforeValidator, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from steerlib import SteerlibError, nearest
from steerlib.files.layout import absent
from steerlib.files.store import write_bytes
from steerlib.model import Model
from steerlib.steering import exports
from steerlib.steering.card import Card

FORMAT = "steerlib direction"
UNIT = 2e-3  # how far from 1 rounding may bring the length of a vector, in bfloat16 too
Scale = Literal["residual_norm", "projection_std", "raw"]
Length = Annotated[float, BeforeValidator(lambda told: math.nan if told is None else told)]  # JSON has no NaN


@dataclass(
    frozen=True, kw_only=True, eq=False, repr=False, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True)
)
class Direction:
    """One direction that knows where it belongs, so that it is not added to another model, layer or token."""

    vector: Float[np.ndarray, " d"]  # of unit length, from negative to positive
    length: Length  # norm as the method found it: the `raw` scale
    spread: Length  # within-class standard deviation of projections: the `projection_std` scale
    method: str
    concept: str
    layer: int
    site: str = "resid_post"  # the residual stream after the block
    token: str = "last"  # whose state it was fitted on
    model: str  # name or path
    weights_sha256: str
    tokenizer_sha256: str = ""  # of what makes texts to ids (`Encoder.sha256`)
    residual_norm: Length = math.nan  # mean norm of the residual stream there: the `residual_norm` scale
    card: Card = Card()

    def __repr__(self) -> str:
        """What it is, in a line."""
        size = f"{len(self.vector)} hidden, residual norm {self.residual_norm:.3g}"
        pushed = self.card.pushed
        alpha = f", alpha {pushed.alpha:g} ({pushed.verdict})" if pushed and pushed.alpha is not None else ""
        return f"<direction of {self.concept} by {self.method}: layer {self.layer} of {self.model}, {size}{alpha}>"

    def _repr_html_(self) -> str:
        """All that is known of it, as a table."""
        told = self._about() | {"vector": f"unit vector of {len(self.vector)}"}
        rows = {name: "not told" if value in ("", None) else str(value) for name, value in told.items()}
        table = pd.Series({name: escape(told) for name, told in (rows | self.card.rows()).items()}, name="direction")
        with pd.option_context("display.max_colwidth", None):
            return table.to_frame().to_html(escape=False)

    def length_of(self, scale: str, needed: bool = True) -> float:
        """How long a push of alpha 1 is. Raises SteerlibError for another scale, or a length that it does not have."""
        lengths = {"residual_norm": self.residual_norm, "projection_std": self.spread, "raw": self.length}
        if scale not in [*lengths]:
            raise SteerlibError(
                f"scale {scale!r}: along a direction there are {', '.join(lengths)}{nearest(scale, lengths)}"
            )
        if needed and not math.isfinite(lengths[scale]):
            raise SteerlibError(f"the direction of {self.concept} has no {scale}; find it again or take another scale")
        return lengths[scale]

    def _about(self) -> dict[str, Any]:
        """What it is, without its vector and its card."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        del told["vector"], told["card"]
        return {name: None if value != value else value for name, value in told.items()}

    @property
    def metadata(self) -> dict[str, str]:
        """What its files tell beside its vector, each in JSON."""
        return {"about": json.dumps(self._about(), allow_nan=False), "card": self.card.model_dump_json()}

    def save(self, path: str | Path) -> None:
        """One safetensors file, whole or not at all.

        Raises SteerlibError when it cannot be written, and for what could not be pushed along once it is loaded.
        """
        if wrong := self._wrong():
            raise SteerlibError(f"the direction of {self.concept} at layer {self.layer}: {', '.join(wrong)}; not saved")
        tensors = {"vector": np.ascontiguousarray(self.vector)}
        write_bytes(Path(path), save(tensors, {"format": FORMAT, **self.metadata}))

    def export(self, path: str | Path, to: exports.Tool, scale: Scale = "residual_norm") -> None:
        """As a file of another tool, which adds it at all tokens, as ``positions="all"`` does.

        ``to``: ``llama.cpp`` (``--control-vector-scaled PATH:ALPHA``), ``repeng`` (``ControlVector.import_gguf``), or
        ``steering-vectors`` (``SteeringVector(**torch.load(PATH))``). What is multiplied there is alpha, which counts
        what ``scale`` says. Raises SteerlibError for another tool or scale, what a tool's format cannot say, and when
        the file cannot be written.
        """
        if to not in [*exports.TOOLS]:
            raise SteerlibError(f"to {to!r}: there are {', '.join(exports.TOOLS)}{nearest(to, exports.TOOLS)}")
        step = (self.vector * self.length_of(scale)).astype(np.float32)
        told = {f"steerlib.{name}": text for name, text in (self.metadata | {"scale": scale}).items()}
        try:
            data = exports.TOOLS[to](step, self.layer, Path(self.model).name, told)
        except exports.Unsayable as error:
            raise SteerlibError(f"the direction of {self.concept} {error}") from None
        write_bytes(Path(path), data)

    def check(self, model: Model, transfer: bool = False) -> None:
        """Raises SteerlibError when this direction is of another width, checkpoint or tokenizer than a model's.

        ``transfer``: another checkpoint or tokenizer is meant. What came from no file has no hash, and is taken on
        trust.
        """
        if len(self.vector) != model.hidden:
            raise SteerlibError(
                f"a direction of {len(self.vector)} dimensions does not fit a model of {model.hidden}; "
                f"this one, of {self.concept}, was found in {self.model}"
            )
        found = {"in other weights": (self.weights_sha256, model.weights_sha256)}
        found["with another tokenizer"] = self.tokenizer_sha256, model.encoder.sha256
        if not transfer and (other := [how for how, (ours, its) in found.items() if ours and its and ours != its]):
            raise SteerlibError(
                f"the direction of {self.concept} was found {' and '.join(other)} ({self.model}); "
                "find it again in this checkpoint, or say that you mean it: transfer=True"
            )

    def _wrong(self) -> list[str]:
        """What would be pushed along as if it were right."""
        if not np.isfinite(self.vector).all():
            return ["vector: not finite"]
        length, told = float(np.linalg.norm(self.vector)), []
        if abs(length - 1) > UNIT:
            told.append(f"vector: of length {length:.5g}, not 1")
        if self.layer < 0:
            told.append(f"layer: {self.layer}")
        if self.site != "resid_post":
            told.append(f"site: {self.site!r}, and only 'resid_post' is pushed")
        return told

    @classmethod
    def load(cls, path: str | Path) -> Direction:
        """A direction that was saved. Raises SteerlibError when the file is missing, damaged or something else."""
        if not Path(path).is_file():
            raise SteerlibError(f"{absent(Path(path), file=True)}; a direction is saved with Direction.save")
        try:
            with safe_open(path, framework="numpy") as stored:
                told, names = stored.metadata() or {}, stored.keys()
                if told.get("format") != FORMAT or "vector" not in names:
                    raise SteerlibError(f"{path}: holds no direction of steerlib's; save one with Direction.save")
                if "card" not in told:
                    raise SteerlibError(
                        f"{path}: has no card, as an older steerlib saved it; find the direction again and save it"
                    )
                vector = stored.get_tensor("vector")
            found = cls(vector=vector, card=json.loads(told["card"]), **json.loads(told["about"]))
            wrong = found._wrong()
        except ValidationError as invalid:
            wrong = sorted({".".join(map(str, error["loc"])) for error in invalid.errors()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SteerlibError(f"{path}: cannot be read ({error}); save the direction again") from None
        if wrong:
            raise SteerlibError(f"{path}: is damaged ({', '.join(wrong)}); save the direction again")
        return found
