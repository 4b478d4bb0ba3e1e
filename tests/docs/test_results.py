"""docs/results.md is what benchmarks/results.py makes of docs/results.json."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from rhotrace.theory import paper

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "benchmarks" / "results.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def content():
    return json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))


def test_the_page_is_rendered_from_the_committed_figures(results, content):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert page == results.render(content), "run: python benchmarks/results.py --render"


def test_another_figure_makes_another_page(results, content):
    content = json.loads(json.dumps(content))
    content["deep8"]["figures"]["T"]["value"] = 1234.0
    assert "T = 1230 steps" in results.render(content)


def test_the_readme_says_what_the_page_says(content):
    T = content["deep8"]["figures"]["T"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"T = {round(T['value'], -1):.0f} steps [{T['low']:.0f}, {T['high']:.0f}]" in readme
    assert f"T = {content['quick']['figures']['T']['value']:.1f} steps" in readme


@pytest.mark.parametrize(
    ("source", "pair"),
    [
        ("by_default", "noisy49-sgd/noisy49-gd"),
        ("settled", "noisy49-sgd/noisy49-gd"),
        ("eight_layers", "deep8-sgd/deep8"),
    ],
)
def test_the_readme_has_the_ratio_of_remark_5_with_its_interval_and_window(results, content, source, pair):
    found = content[source]["figures"]["contrasts"][pair]["ratio"]
    value, rest = results.interval(found).split(" ", 1)
    assert f"{value} times {rest}" in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_remark_5_is_not_said_to_hold_where_the_default_window_does_not_show_it(results, content):
    rows = [line for line in results.render(content).splitlines() if line.startswith("| remark 5 |")]
    assert len(rows) == 1
    assert "| not shown |" in rows[0]
    content = json.loads(json.dumps(content))
    content["by_default"]["figures"]["contrasts"]["noisy49-sgd/noisy49-gd"]["ratio"]["low"] = 1.5
    assert "under GD, L = 4, wrong labels | holds |" in results.render(content)


def test_every_source_is_measured_and_says_when_and_with_what(results, content):
    assert list(content) == list(results.SOURCES)
    for name, source in content.items():
        assert source["command"] == results.SOURCES[name].command
        assert {"date", "rhotrace", "torch", "numpy", "machine"} == set(source["measured"])
    assert set(content["audit"]["figures"]["outcome"]) == set(paper.STATEMENTS)


def test_the_page_has_a_cell_for_every_figure_and_no_paragraph_in_a_cell():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert not [row for row in rows if "None" in row or "nan" in row or "inf" in row]
    measured = [
        row.replace("\\|", "").split("|") for row in page.split("## The claims")[1].split("\n## ")[0].splitlines()
    ]
    cells = [row[4].strip() for row in measured if len(row) == 7]
    assert len(cells) > 40
    assert max(map(len, cells)) < 50


@pytest.mark.parametrize(
    ("pattern", "text", "numbers"),
    [
        ("is # to #", "|log(rho/rho_eq)| is 4.2e-04 to 1.7e-03 over", [4.2e-4, 1.7e-3]),
        ("= #", "largest |f_n| = 10^-4.50: the bound", [10**-4.5]),
        ("in # % .* in # %", "shrinks in 0.023 % of the steps, and in 99.9 % of the others", [0.023, 99.9]),
    ],
)
def test_numbers_are_found_in_what_the_audit_says(results, pattern, text, numbers):
    assert results.found(pattern, text) == numbers


def test_every_figure_of_the_audit_is_found_in_its_words(results, train, command):
    path = train("steps=2500", "init.rho_k=0.5", "record.test_every=500")
    _, out, _ = command("audit", path, "--json")
    figures = results.claims(json.loads(out))
    with h5py.File(path) as file:
        log_rho, log_rho_eq = file["log_rho"][:], file["log_rho_eq"][:]
        loss, rho_k = file["loss"][-1], file["rho_k"][:]
    assert figures["measured"]["interpolation"] == pytest.approx([loss.max(), 0], rel=0.05)
    assert figures["measured"]["eq7"] == pytest.approx((np.ptp(rho_k, axis=2) / rho_k.mean(axis=2)).max(), rel=0.05)
    off = abs(log_rho - log_rho_eq)[-250:].mean(axis=0)
    assert figures["measured"]["eq6"] == pytest.approx([off.min(), off.max()], rel=0.05)


def test_words_without_their_number_are_an_error(results):
    with pytest.raises(ValueError, match="expected 'is #'"):
        results.found("is #", "every output is zero")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (("scientific", 3.9967e-8), "4·10⁻⁸"),
        (("scientific", 29500.0, 3), "2.95·10⁴"),
        (("significant", 22858.0), "23,000"),
        (("significant", 0.34), "0.34"),
        (("significant", 7.5113), "7.5"),
        (("significant", 0.999, 2), "1.0"),
        (("percent", 0.0376), "3.8 %"),
        (("fixed", -1.0483, 2), "-1.05"),
    ],
)
def test_figures_are_written_as_the_page_needs_them(results, shown, expected):
    kind, *figure = shown
    assert results.FILTERS[kind](*figure) == expected


def test_a_command_whose_runs_are_missing_keeps_its_figures(results, tmp_path, monkeypatch, capsys):
    kept = {"quick": {"command": "as before", "measured": {}, "figures": {"T": 1.0}}}
    data = tmp_path / "results.json"
    data.write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.setattr(results, "DATA", data)
    results.update(tmp_path, ["quick"])
    assert json.loads(data.read_text(encoding="utf-8")) == kept
    assert "its figures stay" in capsys.readouterr().err


def test_figures_are_those_of_the_command(results, train, tmp_path, monkeypatch):
    import rhotrace

    path = train("steps=400", name="quick.h5")
    data = tmp_path / "results.json"
    monkeypatch.setattr(results, "DATA", data)
    results.update(tmp_path, ["quick"])
    figures = json.loads(data.read_text(encoding="utf-8"))["quick"]["figures"]
    with rhotrace.open(path) as run:
        T = rhotrace.fit_transient(run).pools[0].T
    assert figures["T"]["value"] == pytest.approx(T.value, rel=1e-4)


def test_the_figures_on_cifar_10_are_those_of_the_recorded_series(results, train):
    normalised = "network={kind: mlp, depth: 4, width: 6, batch_norm: true}"
    path = train(normalised, "optimizer={kind: sgd, lr: 0.02, batch_size: 8}", "steps=110", "record.every={rank: 50}")
    figures, ranks = results.follow_up(str(path)), results.low_rank(str(path))
    with h5py.File(path) as file:
        norms = np.prod(file["rho_k"][:], axis=2)
        rho, ends = np.exp(file["log_rho_bn"][:]) / 2**0.5, file["test_error"][-1]
        assert figures["at"]["60"] == pytest.approx(rho[60].tolist())
        assert figures["product_100"] == pytest.approx(norms[100].tolist())
        assert figures["test_error"] == ends.tolist()
        assert ranks["8"]["rank"] == pytest.approx(file["rank"][-1][:, 1:3].mean(axis=1).tolist())
    assert list(figures["at"]) == ["0", "20", "40", "60", "80", "100"]
    assert figures["lr"] == [0.02] * 3
