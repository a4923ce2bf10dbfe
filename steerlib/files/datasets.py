"""Datasets as netCDF files, each with a checksum behind its end. They are whole or absent, as `store` writes them."""

import hashlib
import io
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.conventions import cf_encoder, encode_dataset_coordinates
from xarray.core import indexing

from steerlib import SteerlibError
from steerlib.files import store

NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."  # netCDF's own name for such a scale
CHECKED = b" sha256 "  # before the checksum of a dataset's file
BLOCK = 1 << 20  # bytes


def write(dataset: xr.Dataset, path: Path) -> None:
    """Write atomically. Raises SteerlibError when the disk is full; nothing half-written keeps the name.

    Also for what no file would hold, or not hold as it is, such as an attribute that is NaN.
    """
    dataset = dataset.drop_encoding()  # of the file it was read from: an integer's has no place for what is NaN by now
    try:
        for name, of in {"": dataset, **dataset.variables}.items():
            if name and of.dtype.kind == "c":
                raise ValueError(f"{name} has complex numbers")
            for key, value in of.attrs.items():
                kind = np.asarray(value).dtype.kind
                if kind == "b" or (kind in "fc" and not np.isfinite(value).all()):
                    raise ValueError(
                        f"{f'{name}: ' if name else ''}{key} is not {'a number' if kind == 'b' else 'finite'}"
                    )
        data = _as_file(dataset)
    except (TypeError, ValueError) as error:
        raise SteerlibError(f"{path}: not written, as no file would hold it ({store.reason(error)})") from error
    store.write_bytes(
        path, data + CHECKED + hashlib.sha256(data).digest()
    )  # behind the end, where readers of HDF5 look not


def _as_file(dataset: xr.Dataset) -> bytes:
    """As netCDF 4 has it in HDF5: a scale for every dimension, and every variable with those that it lies along."""
    # Not by xarray's engine: see `read`. In memory first: a failing write is then an ordinary OSError of ours, not an
    # HDF5 library in an unknown state.
    variables, attributes = cf_encoder(*encode_dataset_coordinates(dataset))
    with io.BytesIO() as stream, h5py.File(stream, "w") as file:
        scales = {}
        for number, (dim, size) in enumerate(dataset.sizes.items()):
            if dim in variables:
                scales[dim] = _stored(file, dim, variables[dim])
            else:
                scales[dim] = file.create_dataset(dim, (size,), ">f4")
            scales[dim].make_scale(dim if dim in variables else f"{NO_VARIABLE} {size:10}")
            scales[dim].attrs["_Netcdf4Dimid"] = np.int32(number)
        numbers = {dim: number for number, dim in enumerate(scales)}
        for name, variable in variables.items():
            data = scales[name] if name in scales else _stored(file, name, variable)
            data.attrs["_Netcdf4Coordinates"] = np.array([numbers[dim] for dim in variable.dims], np.int32)
            for axis, dim in enumerate(variable.dims) if name not in scales else ():
                h5py.h5ds.attach_scale(data.id, scales[dim].id, axis)
        _tell(file, attributes)
        file.flush()
        return stream.getvalue()


def _stored(file: h5py.File, name: str, variable: xr.Variable) -> h5py.Dataset:
    values = variable.values
    if values.dtype.kind in "UO":
        values = np.where(pd.isnull(values), "", values).astype(h5py.string_dtype())  # there is no missing text
    packed = {"compression": 1, "shuffle": True} if values.dtype.kind == "f" and values.size > 256 else {}
    data = file.create_dataset(name, data=values, **packed)
    _tell(data, variable.attrs)
    return data


def _tell(of: h5py.HLObject, attributes: dict) -> None:
    """Of a file or a variable. netCDF has no single numbers there, but rows of one."""
    of.attrs.update(
        {name: [value] if isinstance(value, int | float | np.number) else value for name, value in attributes.items()}
    )


def read(path: Path, without: Collection[str] = (), later: float = math.inf) -> xr.Dataset:
    """A dataset of this package, in memory, but for some variables. Raises SteerlibError when missing or not whole.

    Numbers that take more than so many bytes are read ``later``, as far as they are used, if the file is still there.
    """
    # Not by xarray's engine, which looks every dimension of every variable up in HDF5 again and again: 0.1 s and more.
    with _explained(path), _whole(path), h5py.File(path) as file:
        dims = {scale.attrs["_Netcdf4Dimid"]: name for name, scale in file.items() if scale.is_scale}
        variables = {}
        for name, data in file.items():
            if name not in without and not data.attrs.get("NAME", b"").startswith(NO_VARIABLE.encode()):
                names = [dims[number] for number in data.attrs.get("_Netcdf4Coordinates", [])]
                if h5py.check_string_dtype(data.dtype):
                    values = np.asarray(data.asstr()[()], str)
                else:
                    values = indexing.LazilyIndexedArray(_Later(path, data)) if data.nbytes > later else data[()]
                variables[name] = names, values, _attrs(data)
        return xr.decode_cf(xr.Dataset(variables, attrs=_attrs(file)))


class _Later(BackendArray):
    """A variable of a file, which is opened anew for each part of it."""

    def __init__(self, path: Path, data: h5py.Dataset):
        self.path, self.name, self.shape, self.dtype = path, data.name, data.shape, data.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._part)

    def _part(self, key: tuple) -> np.ndarray:
        with _explained(self.path), h5py.File(self.path) as file:
            return file[self.name][key]


def attrs(path: Path) -> dict:
    """Its attributes alone. Raises SteerlibError when it is missing or not whole."""
    with _explained(path), _whole(path), h5py.File(path) as file:
        return _attrs(file)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Only where the checksum holds that was written with it: HDF5 may search a damaged file for ever."""
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        left = max(0, path.stat().st_size - len(CHECKED) - sha256.digest_size)
        while block := stream.read(min(left, BLOCK)):  # of a file that may be larger than what memory there is
            sha256.update(block)
            left -= len(block)
        end = stream.read()
    if end.startswith(CHECKED) and end != CHECKED + sha256.digest():
        raise ValueError("its checksum does not hold")
    yield


def _attrs(of: h5py.HLObject) -> dict:
    """Of a file or a variable. Capitals and underscores are HDF5's and netCDF's own."""
    values = {name: of.attrs[name] for name in of.attrs if name[0].islower() or name == "_FillValue"}
    return {name: value.item() if np.shape(value) == (1,) else value for name, value in values.items()}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SteerlibError(f"{path}: not there yet; `steerlib run` makes it") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:  # h5py has them all
        raise SteerlibError(f"{path}: cannot be read ({error}); delete it and run again") from error


def digest(dataset: xr.Dataset) -> str:
    """Hash of values, coordinates and names: equal for equal data, whatever wrote the file."""
    sha256 = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        values = np.ascontiguousarray(dataset[name].values)
        data = "\0".join(map(str, values.ravel())).encode() if values.dtype.kind in "OUT" else values.tobytes()
        sha256.update(f"{name}{dataset[name].dims}{values.shape}".encode() + data)
    return sha256.hexdigest()
