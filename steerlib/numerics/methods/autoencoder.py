"""A direction taken from the decoder of a sparse autoencoder, published or one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from steerlib import SteerlibError
from steerlib.files.params import Located
from steerlib.numerics.labels import positives
from steerlib.numerics.methods import Method

if TYPE_CHECKING:  # for which nobody waits who only looks at a study
    from jaxtyping import Float

# Names that published autoencoders give their decoder: SAELens and sparsify; Linear layers of PyTorch.
LAYOUTS = ("W_dec", "decoder.weight", "decoder_linear.weight")


class SAE(Method, name="sae"):
    """Decoder row of one feature: the one named, or the one along which the fitting states separate best.

    Best is the AUROC furthest from 1/2, either way round; a row that is higher for negatives is turned. The file is a
    safetensors of the layer named by ``layer``, or one file a layer with ``{layer}`` in the path. At layers that
    have no file there is no direction: the vector is zero.
    Raises SteerlibError for a file that is missing, damaged, or of another model's size.
    """

    formula = r"v = W_{\mathrm{dec}}[j^*],\ j^* = \arg\max_j |\mathrm{AUROC}(W_{\mathrm{dec}}[j]^\top h) - \tfrac12|"
    source = "sparse autoencoders, Bricken et al. 2023; choice of the feature by AUROC, AxBench, Wu et al. 2025"
    rotates = False

    file: Located
    tensor: str = LAYOUTS[0]  # features × hidden; a torch Linear's `….weight` is hidden × features
    layer: Annotated[int, Field(ge=0)] | None = None
    feature: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _of_a_layer(self):
        if self.layer is None and "{layer}" not in self.file:
            raise ValueError("say which layer the file is of: as `layer: 3`, or with {layer} in the path")
        return self

    def files(self) -> list[Path]:
        """Every layer's file. Raises SteerlibError when there is none."""
        layers = range(1000) if self.layer is None else [self.layer]
        if paths := [path for path in map(self._file_of, layers) if path.is_file()]:
            return list(dict.fromkeys(paths))
        raise SteerlibError(f"{self.file.path}: no such file; option `file` of method sae names a safetensors file")

    def vectors(self, states, labels, seed, layer):
        draws, layer = len(labels), self.layer if layer is None else layer
        if layer is None:
            raise SteerlibError(f"{self.file.path}: there is a file a layer; say of which layer the states are")
        path = self._file_of(layer)
        if path not in self.files() or self.layer not in (None, layer):
            return np.zeros((draws, states.shape[1]))
        rows = self._decoder(path, states.shape[1])
        if self.feature is None:
            chosen = _most_separating(rows, states, positives(labels, len(states)))
        elif self.feature < len(rows):
            chosen = np.full(draws, self.feature)
        else:
            raise SteerlibError(f"{path}: has features 0 to {len(rows) - 1}; option `feature` asks for {self.feature}")
        return rows[chosen].astype(np.float64)

    def _file_of(self, layer: int) -> Path:
        return Path(str(self.file.path).replace("{layer}", str(layer)))

    def _decoder(self, path: Path, hidden: int) -> Float[np.ndarray, "features d"]:
        """Decoder rows as the file has them. Raises SteerlibError."""
        names = dict.fromkeys([self.tensor, *LAYOUTS])
        try:
            with safe_open(path, framework="numpy") as stored:
                shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}
                name = next((name for name in names if name in shapes), None)
                if len(shapes.get(name, ())) != 2 or hidden not in shapes[name]:
                    wanted = f"{', '.join(names)} with a side of the model's {hidden} hidden dimensions"
                    there = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
                    raise SteerlibError(f"{path}: no tensor {wanted}; there are: {there}. Name one as option `tensor`")
                tensor = stored.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise SteerlibError(f"{path}: cannot be read as safetensors ({error}); fetch it again") from None
        except TypeError:  # numpy has no bfloat16
            raise SteerlibError(f"{path}: {name} is of a type that numpy lacks; save it as float32") from None
        if not np.isfinite(tensor).all():
            raise SteerlibError(f"{path}: {name} holds NaN or infinite values; fetch it again")
        # The side that fits is hidden; when both do, torch's convention tells.
        upright = tensor.shape[1] == hidden and not (tensor.shape[0] == hidden and name.endswith(".weight"))
        return tensor if upright else tensor.T


def _most_separating(rows, states, positive):
    """For every draw, the row whose projections rank the positives furthest from the middle: AUROC, rescaled."""
    from scipy.stats import rankdata  # a second's import, not every study's

    # Centred, so that ranks do not drown in a large common offset at the precision of the file.
    ranks = rankdata(rows.astype(np.float32) @ (states - states.mean(0)).T.astype(np.float32), axis=-1)
    middle = positive.sum(0) * (len(states) + 1) / 2
    return np.abs(ranks @ positive - middle).argmax(0)
