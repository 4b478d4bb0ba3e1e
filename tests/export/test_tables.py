from __future__ import annotations

import csv
import json
import sys

import h5py
import numpy as np
import pytest
from exported import expected

from rhotrace.errors import RhoTraceError
from rhotrace.export import tables as exporting
from rhotrace.runfile.reader import open_trace
from rhotrace.runfile.xarray_view import to_xarray


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


@pytest.mark.parametrize("every", [1, 6])
def test_to_xarray_is_what_the_netcdf_file_holds(run, tmp_path, every):
    xarray = pytest.importorskip("xarray")
    with open_trace(run) as trace:
        labelled = to_xarray(trace, every=every)
        exporting.export(trace, "netcdf", tmp_path / "run.nc", every=every)
        with xarray.open_dataset(tmp_path / "run.nc") as found:
            xarray.testing.assert_identical(labelled, found.load())
        assert labelled.lr.dims == ("member",)
        assert set(labelled.coords) >= {"seed", "batch_seed", "lr", "init_rho_k", "step", "full_step", "test_step"}
        assert labelled.rho_k.sel(layer=2, member=1, step=30).item() == trace["rho_k"][30, 1, 1]
        assert labelled.rho_k.attrs["units"] == "1"
        assert labelled.a.attrs["symbol"] == "a"
        assert "training set" in labelled.a.attrs["long_name"]


@pytest.mark.parametrize("every", [1, 6])
def test_a_netcdf_file_is_written_in_windows_as_xarray_writes_it_at_once(run, tmp_path, monkeypatch, every):
    pytest.importorskip("xarray")
    monkeypatch.setattr(exporting, "WINDOW_BYTES", 500)
    with open_trace(run) as trace:
        to_xarray(trace, every=every).to_netcdf(tmp_path / "whole.nc", engine="h5netcdf")
        exporting.export(trace, "netcdf", tmp_path / "windows.nc", every=every)
    references = {"REFERENCE_LIST", "DIMENSION_LIST"}
    with h5py.File(tmp_path / "whole.nc") as whole, h5py.File(tmp_path / "windows.nc") as windows:
        assert set(whole) == set(windows)
        for name in ("/", *whole):
            own, other = (
                {k: str(v) for k, v in file[name].attrs.items() if k not in references} for file in (whole, windows)
            )
            assert own == other, name
            if name != "/":
                assert whole[name].dtype == windows[name].dtype
                np.testing.assert_array_equal(whole[name][:], windows[name][:])


def test_a_block_reads_no_more_than_its_rows(run, monkeypatch):
    monkeypatch.setattr(exporting, "_ROWS", 30)
    with open_trace(run) as trace:
        for every, rows in ((1, 30), (5, 6), (40, 3)):
            assert {len(block["step"]) for block in exporting.columns(trace, every=every)} == {rows}


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
    for words, said in ((["--to", "xml"], "expected one of csv"), (["--to", "csv"], "exists already")):
        code, out, err = command("export", run, *words)
        assert (code, out) == (2, "")
        assert said in err


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        ("parquet", "pyarrow", "parquet"),
        ("netcdf", "h5netcdf", "netcdf"),
        ("netcdf", "xarray", "netcdf"),
        ("tensorboard", "tensorboard", "tensorboard"),
        ("wandb-offline", "wandb", "wandb"),
    ],
)
def test_what_is_not_installed_is_named_with_the_remedy(run, kind, package, extra, command, monkeypatch):
    loaded = [name for name in sys.modules if name.partition(".")[0] == package]
    for name in {package, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = command("export", run, "--to", kind)
    assert (code, out) == (2, "")
    assert err.endswith(f"python -m pip install 'rhotrace[{extra}]'\n")
    assert err.count("\n") == 1
    assert [path for path in run.parent.iterdir() if path != run] == []


def test_to_xarray_names_the_remedy_where_there_is_no_xarray(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with open_trace(run) as trace, pytest.raises(RhoTraceError, match=r"install 'rhotrace\[netcdf\]'"):
        to_xarray(trace)


@pytest.mark.parametrize("kind", ["csv", "netcdf", "tensorboard"])
def test_json_says_where_what_and_how_much(run, kind, command):
    pytest.importorskip({"csv": "csv", "netcdf": "xarray"}.get(kind, kind))
    code, out, err = command("export", run, "--to", kind, "--every", "10", "--json")
    assert (code, err) == (0, "")
    path = run.with_suffix(exporting.ENDINGS[kind])
    assert json.loads(out) == {"path": str(path), "format": kind, "rows": 6 if kind == "netcdf" else 18}
    assert path.exists()
