"""Results as files that are either whole or absent.

Each job writes one dataset, `<stage>/step=NNNNNNNN.nc`, to a temporary name and then renames it. A stamp beside it,
written last, holds the hash of all that the dataset was made from: it alone proves that the job was done.
"""

import ctypes
import errno
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from pydantic import Field, TypeAdapter, ValidationError
from xarray.conventions import cf_encoder, encode_dataset_coordinates

from steerlib import SteerlibError, printable

T = TypeVar("T")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
tell = cache(logging.getLogger("steerlib").warning)  # a line on standard error, once
_told: list[tuple] = []  # of files alike
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."  # netCDF's own name for such a scale
CHECKED = b" sha256 "  # before the checksum of a dataset's file
NO_JSON = (OSError, ValueError, RecursionError)  # what reading may raise: not UTF-8, not JSON, not of that kind


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
        raise SteerlibError(f"{path}: not written, as no file would hold it ({reason(error)})") from error
    write_bytes(path, data + CHECKED + hashlib.sha256(data).digest())  # behind the end, where readers of HDF5 look not


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


def read(path: Path, without: Collection[str] = ()) -> xr.Dataset:
    """A dataset of this package, in memory, but for some variables. Raises SteerlibError when missing or not whole."""
    # Not by xarray's engine, which looks every dimension of every variable up in HDF5 again and again: 0.1 s and more.
    with _explained(path), _whole(path), h5py.File(path) as file:
        dims = {scale.attrs["_Netcdf4Dimid"]: name for name, scale in file.items() if scale.is_scale}
        variables = {}
        for name, data in file.items():
            if name not in without and not data.attrs.get("NAME", b"").startswith(NO_VARIABLE.encode()):
                names = [dims[number] for number in data.attrs.get("_Netcdf4Coordinates", [])]
                values = np.asarray(data.asstr()[()], str) if h5py.check_string_dtype(data.dtype) else data[()]
                variables[name] = names, values, _attrs(data)
        return xr.decode_cf(xr.Dataset(variables, attrs=_attrs(file)))


def attrs(path: Path) -> dict:
    """Its attributes alone. Raises SteerlibError when it is missing or not whole."""
    with _explained(path), _whole(path), h5py.File(path) as file:
        return _attrs(file)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Only where the checksum holds that was written with it: HDF5 may search a damaged file for ever."""
    data = path.read_bytes()
    told = data[-hashlib.sha256().digest_size :]
    rest = data.removesuffix(CHECKED + told)
    if rest != data and hashlib.sha256(rest).digest() != told:
        raise ValueError("its checksum does not hold")
    del data, rest
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


def write_json(path: Path, data: Any) -> None:
    """Raises SteerlibError for what JSON cannot hold, such as NaN."""
    try:
        text = json.dumps(data, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SteerlibError(f"{path}: not written, as it would not be JSON ({error})") from error
    write_bytes(path, text.encode())


def read_json(path: Path, kind: type[T]) -> T | None:
    """A file of ours, as a model or another type; None where there is none.

    What is not of that kind (cut off, of an older version, a folder, somebody's) counts as none as well: that is said,
    of those alike in a folder once, and it is overwritten when the file is next written.
    """
    try:
        loaded = json.loads(path.read_bytes(), object_pairs_hook=_once)
        json.dumps(loaded, ensure_ascii=False, allow_nan=False).encode()  # NaN and half characters Python would take
        return TypeAdapter(kind).validate_python(loaded, strict=True)
    except FileNotFoundError:
        return None
    except NO_JSON as error:
        if (alike := (path.parent, path.suffix, reason(error))) not in _told:
            _told.append(alike)
            tell(f"{path}: counts as not there ({reason(error)})")
        return None


def parse_json(data: bytes, kind: type[T]) -> T:
    """What matters here of others' JSON, which may hold what it should not elsewhere. Raises some of `NO_JSON`."""
    return TypeAdapter(kind).validate_python(json.loads(data, object_pairs_hook=_once))


def _once(pairs: list[tuple[str, Any]]) -> dict:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in it")
    return found


def reason(error: Exception) -> str:
    """Why something was not read, in a few words: never more than a line of what was in it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = f"{place}: {first['msg']}" if place else first["msg"]
    else:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(words.strip().partition("\n")[0][:120])


def write_bytes(path: Path, data: bytes) -> None:
    """To another name, to disk, then renamed. Raises SteerlibError when it does not fit."""
    with _beside(path) as (temporary, place):
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        take_name(temporary, place)


def replace_folder(path: Path, fill) -> None:
    """Make a folder whole or not at all: ``fill(temporary)`` writes it, then it takes the name."""
    with _beside(path) as (temporary, place):
        temporary.mkdir()
        fill(temporary)
        take_name(temporary, place)


@contextmanager
def making(path: Path) -> Iterator[Path]:
    """Something of that name, in a folder that is there from now on. Raises SteerlibError when the disk refuses.

    A link is followed, such as one to a larger disk: it stays, and what is made gets the name that it gives.
    """
    try:
        place = Path(os.path.realpath(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        yield place
    except OSError as error:
        raise explain(path, error) from error


@contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, Path]]:
    """A name on the same disk for what is to be renamed, and to what; what is left is removed. Raises SteerlibError."""
    with making(path) as place:
        with tempfile.TemporaryDirectory("", f".{place.name}.", place.parent, ignore_cleanup_errors=True) as folder:
            yield Path(folder) / "temporary", place


def take_name(temporary: Path, path: Path) -> None:
    """What is finished takes its name, and what had it is removed: never is there half of either. Raises OSError."""
    if os.path.lexists(path) and (path.is_dir() or temporary.is_dir()):
        _exchange(temporary, path)
        with suppress(OSError):  # what is left of it goes with the temporary folder, or by the next that makes one
            remove(temporary)
    else:
        os.replace(temporary, path)


def remove(path: Path) -> None:
    """Whatever has that name, if anything has. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(first: Path, second: Path) -> None:
    """Two names change places at one moment; where there is no such call, for a moment nothing has the second."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    working_folder, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    paths = (working_folder, os.fsencode(first), working_folder, os.fsencode(second))
    if renameat2 is None or renameat2(*paths, exchange) != 0:
        aside = first.with_name(f"{first.name}.old")
        os.replace(second, aside)
        os.replace(first, second)
        os.replace(aside, first)


def explain(path: Path, error: OSError) -> SteerlibError:
    """Why a path could not be written, and the remedy."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space and run again; what is already done is kept" if full else "check the folder and run again"
    above = error.filename and Path(os.fsdecode(error.filename)) in Path(path).parents  # what is in the way
    why = f"{error.filename}: {error.strerror}" if above else error.strerror or error
    return SteerlibError(f"{path}: cannot be written ({why}); {remedy}")


def digest(dataset: xr.Dataset) -> str:
    """Hash of values, coordinates and names: equal for equal data, whatever wrote the file."""
    sha256 = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        values = np.ascontiguousarray(dataset[name].values)
        data = "\0".join(map(str, values.ravel())).encode() if values.dtype.kind in "OUT" else values.tobytes()
        sha256.update(f"{name}{dataset[name].dims}{values.shape}".encode() + data)
    return sha256.hexdigest()
