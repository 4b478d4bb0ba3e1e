"""Run files as xarray sees them: named dimensions and units."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from rhotrace.runfile.reader import open_trace


@pytest.mark.parametrize("kind", ["gd", "sgd", "weight-norm"])
def test_xarray_names_every_dimension_and_every_quantity_has_units(runs, kind):
    with open_trace(runs[kind]) as trace:
        content, steps = trace.recipe, trace.steps
        expected = {q: (trace.axis(q.name), trace[q.name]) for q in trace.quantities}
    with xr.open_dataset(runs[kind], engine="h5netcdf") as opened:
        for quantity, (axis, array) in expected.items():
            variable = opened[quantity.name]
            assert variable.dims == (axis, *quantity.axes)
            assert variable.attrs["units"] == quantity.units
            assert variable.attrs["long_name"] == quantity.says
            assert variable.attrs["symbol"] == quantity.symbol
            np.testing.assert_array_equal(variable.values, array)
        for name in ("seed", "batch_seed", "lr", "init_rho_k"):
            assert opened[name].dims == ("member",)
        samples = {"train_sample", "test_sample"}
        assert set(opened.sizes) - samples <= {"step", "full_step", "test_step", "member", "layer", "quantile"}
        np.testing.assert_array_equal(opened["layer"], [1, 2, 3])
        np.testing.assert_array_equal(opened["step"], np.arange(steps))
        assert json.loads(opened.attrs["recipe_json"]) == content


def test_a_run_that_xarray_has_open_in_the_same_process_opens_too(runs):
    with xr.open_dataset(runs["gd"], engine="h5netcdf"), open_trace(runs["gd"]) as trace:
        assert trace.steps == 60


@pytest.mark.parametrize("kind", ["gd", "sgd", "weight-norm"])
def test_xarray_names_every_dimension_of_the_weights(runs, kind):
    with xr.open_dataset(runs[kind], engine="h5netcdf", group="weights") as weights:
        for k in (1, 2, 3):
            assert weights[f"W{k}"].dims == ("snapshot", "member", f"W{k}_out", f"W{k}_in")
            assert weights[f"W{k}"].attrs["units"] == "1"
            assert (
                weights[f"W{k}"].attrs["long_name"]
                == f"weight W{k}, flattened from {weights[f'W{k}'].shape[2]}x{weights[f'W{k}'].shape[3]}"
            )
        assert weights["snapshot_step"].dims == ("snapshot",)
        assert dict(weights.sizes) == {
            "snapshot": 6,
            "member": 3,
            "W1_in": 784,
            "W1_out": 8,
            "W2_in": 8,
            "W2_out": 8,
            "W3_in": 8,
            "W3_out": 1,
        }
