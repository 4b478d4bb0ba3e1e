from __future__ import annotations

import csv

import numpy as np
import pytest

from rhotrace import export as exporting
from rhotrace.errors import RhoTraceError
from rhotrace.quantities import QUANTILES
from rhotrace.trace import open_trace

SGD = ("optimizer={kind: sgd, lr: 0.05, batch_size: 8}", "record={full_every: 3, test_every: 10, snapshots: 2}")


@pytest.fixture
def run(train):
    return train(*SGD)


def expected(trace, every):
    """The table the slow way: a dictionary for each step and member."""
    rows = []
    for step in range(0, trace.steps, every):
        for member in range(trace.members):
            row = {"step": step, "member": member, "seed": int(trace["seed"][member]), "lr": float(trace["lr"][member])}
            for quantity in trace.quantities:
                at = np.flatnonzero(trace.step_of(quantity.name) == step)
                value = trace[quantity.name][at[0], member] if len(at) else None
                if quantity.axes == ("member",):
                    row[quantity.name] = value
                labels = range(1, trace.depth + 1) if "layer" in quantity.axes else QUANTILES
                if quantity.axes != ("member",):
                    for number, label in enumerate(labels):
                        row[f"{quantity.name}_{label:g}"] = None if value is None else value[number]
            rows.append(row)
    return rows


@pytest.mark.parametrize("every", [1, 7])
def test_a_csv_holds_every_number_at_its_step_and_member(run, tmp_path, every, monkeypatch):
    monkeypatch.setattr(exporting, "_ROWS", 4)  # several blocks
    with open_trace(run) as trace:
        written = exporting.export(trace, "csv", tmp_path / "run.csv", every=every)
        wanted = expected(trace, every)
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(wanted) == written
    for got, row in zip(found, wanted, strict=True):
        for name, value in row.items():
            empty = value is None or np.isnan(value)
            assert got[name] == "" if empty else float(got[name]) == value, name


def test_a_parquet_file_holds_what_the_csv_does(run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_trace(run) as trace:
        exporting.export(trace, "parquet", tmp_path / "run.parquet")
        wanted = expected(trace, 1)
    table = parquet.read_table(tmp_path / "run.parquet")
    assert table.num_rows == len(wanted)
    for name in ("rho_k_2", "a", "test_loss", "margin_quantile_0.5"):
        column = np.array([np.nan if row[name] is None else row[name] for row in wanted])
        np.testing.assert_array_equal(table[name].to_numpy(), column)
    assert b"steps: 60" in table.schema.metadata[b"recipe"]


@pytest.mark.parametrize("every", [1, 6])
def test_a_netcdf_file_opens_in_xarray_with_the_same_numbers(run, tmp_path, every):
    xarray = pytest.importorskip("xarray")
    with open_trace(run) as trace:
        exporting.export(trace, "netcdf", tmp_path / "run.nc", every=every)
        with xarray.open_dataset(tmp_path / "run.nc") as found:
            np.testing.assert_array_equal(found.step, np.arange(0, 60, every))
            np.testing.assert_array_equal(found.rho_k, trace["rho_k"][::every])
            np.testing.assert_array_equal(found.a.values, trace["a"][:: max(1, every // 3)])
            assert found.rho_k.dims == ("step", "member", "layer")
            assert "steps: 60" in found.attrs["recipe"]


def test_nothing_is_replaced_unasked_and_nothing_half_written_stays(run, tmp_path, monkeypatch):
    path = tmp_path / "run.csv"
    path.write_text("mine", encoding="utf-8")
    with open_trace(run) as trace:
        with pytest.raises(RhoTraceError, match="--force"):
            exporting.export(trace, "csv", path)
        assert path.read_text(encoding="utf-8") == "mine"

        def fails(*_, **__):
            yield from exporting_columns(trace, every=40)
            raise OSError(28, "No space left on device")

        exporting_columns = exporting.columns
        monkeypatch.setattr(exporting, "columns", fails)
        with pytest.raises(RhoTraceError, match="No space left"):
            exporting.export(trace, "csv", path, force=True)
    assert path.read_text(encoding="utf-8") == "mine"
    assert not list(tmp_path.glob("*.half")) + list(tmp_path.glob(".*.half"))


def test_the_command_exports_beside_the_run_and_refuses_in_a_line(run, command):
    code, out, err = command("export", run, "--to", "csv", "--every", "10")
    assert (code, err) == (0, "")
    assert out.strip() == f"{run.with_suffix('.csv')}: 18 rows"
    assert run.with_suffix(".csv").exists()
    for words, said in ((["--to", "xml"], "expected one of csv"), (["--to", "csv"], "is there already")):
        code, out, err = command("export", run, *words)
        assert (code, out) == (2, "")
        assert said in err
