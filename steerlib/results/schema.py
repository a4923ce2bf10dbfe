"""What every variable of a result is called and counted in: `schema.yaml`, by the groups of the results."""

from pathlib import Path

import xarray as xr

from steerlib.files import params

_GROUPS = params.table(Path(__file__).with_suffix(".yaml"))
# name -> (long_name, units)
SCHEMA = {name: (long_name, units) for group in _GROUPS.values() for name, (long_name, units) in group.items()}


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with `long_name` and `units` on every variable. Raises KeyError outside the schema."""
    if unknown := [name for name in dataset.data_vars if name not in SCHEMA]:
        raise KeyError(f"{unknown[0]}: steerlib/results/schema.yaml does not say what it is and what it is counted in")
    for name, variable in dataset.data_vars.items():
        long_name, unit = SCHEMA[name]
        # Log-odds and slopes say so themselves, as only their study knows of what and by what alpha.
        unit = variable.attrs.get("units", unit) if unit.startswith("nat") else unit
        variable.attrs = {**variable.attrs, "long_name": long_name, "units": unit}
    return dataset
