"""Every picture, drawn for small runs: labelled, the same file twice, and thinned without losing what can be seen."""

from __future__ import annotations

import re
from contextlib import ExitStack

import numpy as np
import pytest
from small import SMALL

from rhotrace.analysis.analyze import fit_transient
from rhotrace.analysis.fluctuation.comparison import alone, compare
from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.scaling.with_start import scaling
from rhotrace.analysis.transient.closed_form_fit import Series
from rhotrace.analysis.transient.simulation import Constants, simulate
from rhotrace.analysis.transient.transient_time import MemberTransient, TransientFit, measure, pool
from rhotrace.config import recipe
from rhotrace.display.figures import style as plot_style
from rhotrace.display.figures import transient as plots
from rhotrace.display.figures.comparison import comparison_figure
from rhotrace.errors import RhoTraceError
from rhotrace.runfile.reader import open_trace
from rhotrace.statistics import extremes
from rhotrace.training.train import train as train_recipe

ONE = Constants(1.0, 1.0, 0.0, "given")
BEGINS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


pytestmark = pytest.mark.usefixtures("strict")


def drawers(train):
    """Every picture by name, as a function of a path."""
    run = train("members={seeds: [0, 1, 0, 1], rho_k: [1.2, 1.2, 0.8, 0.8]}", "steps=400", "record.snapshots=0")
    with open_trace(run) as trace:
        series, transient, laws = RunSeries(trace).members, fit_transient(trace, fit=False), scaling([trace])
    result = simulate([1, 2, 4], [0.1, 0.3, 1.5], ONE)
    several = {f"figure {name}": lambda path, draw=draw: draw(result, path) for name, draw in plots.FIGURES.items()}
    return {
        "transient": lambda path: plots.transient_figure({"": (series, transient)}, path),
        "scaling": lambda path: plots.scaling_figure(laws, path),
        **several,
    }


def test_every_picture_is_drawn_in_every_format_with_labels_and_twice_the_same(train, tmp_path, figures):
    for name, draw in drawers(train).items():
        for ending, begins in BEGINS.items():
            first, second = tmp_path / f"first{ending}", tmp_path / "new folder" / f"second{ending}"
            draw(first)
            draw(second)
            assert first.read_bytes().startswith(begins), name
            assert first.read_bytes() == second.read_bytes(), (name, ending)
        for figure in figures:
            shared = len(figure.axes) > 1 and figure.axes[0].get_shared_x_axes().joined(*figure.axes[:2])
            stacked = figure.axes[0].get_position().x0 == figure.axes[-1].get_position().x0
            for axes in figure.axes:
                assert axes.get_ylabel(), name
                assert axes.get_xlabel() or ((shared or stacked) and axes is not figure.axes[-1]), name
                assert axes.lines, name
        figures.clear()


@pytest.mark.parametrize("ending", BEGINS)
def test_a_picture_is_drawn_once(tmp_path, monkeypatch, ending):
    """``savefig`` would draw it a first time for its layout alone."""
    from matplotlib.figure import Figure

    drawn, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: (drawn.append(renderer), draw(self, renderer)))
    plots.memo_figure(simulate([4], [0.1], ONE), tmp_path / f"f{ending}")
    assert len(drawn) == 1


def test_pdfs_have_no_type_3_fonts(tmp_path):
    """Publishers refuse them, whatever the style asks for."""
    simulation = simulate([4], [0.1, 0.2], ONE)
    plots.memo_figure(simulation, tmp_path / "own.pdf")
    with plot_style.look(plot_style.Look(styles=("classic",))):
        plots.memo_figure(simulation, tmp_path / "classic.pdf")
    for name in ("own", "classic"):
        fonts = re.findall(rb"/Type /Font\b(?:(?!endobj).)*", (tmp_path / f"{name}.pdf").read_bytes(), re.DOTALL)
        assert fonts
        assert not any(b"/Subtype /Type3" in font for font in fonts)


def test_the_axis_of_figure_1_ends_where_the_curves_have_settled(tmp_path, figures):
    result = simulate([4], [0.1, 0.15, 0.2, 0.3], ONE)
    plots.memo_figure(result, tmp_path / "f.png")
    T = max(each.T for each in result.each)
    assert T < figures[0].axes[0].get_xlim()[1] < 1.5 * T


def test_words_in_an_svg_are_words(tmp_path):
    path = tmp_path / "f.svg"
    plots.memo_figure(simulate([4], [0.1, 0.2], ONE), path)
    text = path.read_text()
    assert "<text" in text
    assert "Memo 112, Figure 1" in text


@pytest.mark.parametrize("name", ["x.gif", "x", ".png", "x.png.txt"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(RhoTraceError, match=r"ends in \.png, \.svg, \.pdf"):
        plot_style.check_format(tmp_path / name)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RhoTraceError, match=r"file/x\.png: the figure cannot be written: "):
        plots.memo_figure(simulate([4], [0.1], ONE), tmp_path / "file" / "x.png")


@pytest.mark.parametrize("figure", list(plots.FIGURES))
@pytest.mark.parametrize(
    ("depths", "starts", "A"),
    [
        ([4], [0.1], -1.0),
        ([3], [2.0, 3.0], 1.0),
        ([1], [1.0], 1.0),
        (list(range(1, 31)), [0.5], 1.0),
        ([2, 8], [], 1.0),
    ],
    ids=["decay", "above", "at equilibrium", "thirty depths", "three hundred starts"],
)
def test_the_figures_of_unusual_simulations_are_drawn(tmp_path, figure, depths, starts, A):
    result = simulate(depths, starts or np.geomspace(0.05, 3, 300).tolist(), Constants(A, 1.0, 0.0, "given"))
    path = tmp_path / "f.png"
    plots.FIGURES[figure](result, path)
    width, height = (int.from_bytes(path.read_bytes()[at : at + 4]) for at in (16, 20))
    assert width < 2500
    assert height < 5000


@pytest.fixture(scope="module")
def gd_and_sgd(tmp_path_factory):
    """A run under GD, and one under SGD with copies of its weights, trained once."""
    common = "steps=1500", "optimizer.lr=0.1", "record={snapshots: 30, test_every: 1500}"
    paths = [tmp_path_factory.mktemp("compared") / f"run{number}.h5" for number in (1, 2)]
    for path, more in zip(paths, [(), ("optimizer={kind: sgd, lr: 0.1, batch_size: 8}",)], strict=True):
        train_recipe(recipe.parse(SMALL, [*common, *more]), path, device="cpu")
    return paths


@pytest.mark.parametrize(("align", "predicting"), [("step", False), ("time", True)])
def test_a_comparison_is_drawn_in_every_format_and_twice_the_same(gd_and_sgd, tmp_path, figures, align, predicting):
    with ExitStack() as stack:
        traces = [stack.enter_context(open_trace(run)) for run in gd_and_sgd]
        result = compare(traces, align=align, predicting=predicting)
        for ending, begins in BEGINS.items():
            first, second = (tmp_path / f"{name}{ending}" for name in ("first", "second"))
            comparison_figure(result, traces, first)
            comparison_figure(result, traces, second)
            assert first.read_bytes().startswith(begins)
            assert first.read_bytes() == second.read_bytes()
    *strips, spectra, fluctuations, noise = figures[0].axes
    assert len(strips) == 2
    assert all(len(axes.lines) == 2 for axes in strips)  # delta, and zero
    assert len(spectra.lines) == 2
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in (spectra, noise))
    shown = {line.get_marker() for line in fluctuations.lines}
    assert ("D" in shown) == predicting
    assert "v" in shown
    assert len(noise.lines) == 2  # one run with minibatches: no exponent, but the course of both
    drawn_names = [text.get_text() for axes in strips for text in axes.texts]
    ticks = [text.get_text() for text in fluctuations.get_xticklabels()]
    named = [text.get_text() for text in spectra.get_legend().get_texts()]
    assert drawn_names == ticks == named == [run.stem for run in gd_and_sgd]  # A and B are the memo's sums
    assert fluctuations.get_title(loc="left") == "Size, and as predicted (hollow)"


def test_the_fluctuation_of_a_run_without_a_prediction_is_not_titled_with_one(gd_and_sgd, tmp_path, figures):
    with open_trace(gd_and_sgd[0]) as trace:
        comparison_figure(alone(trace), [trace], tmp_path / "gd.png")
    assert figures[0].axes[2].get_title(loc="left") == "Size"


def test_a_comparison_of_many_runs_without_a_T_is_drawn(train, tmp_path, figures):
    runs = [train("steps=10", f"members.seeds=[{seed}]") for seed in range(10)]
    with ExitStack() as stack:
        traces = [stack.enter_context(open_trace(run)) for run in runs]
        comparison_figure(compare(traces), traces, tmp_path / "many.png")
    assert len(figures[0].axes) == 8 + 3
    assert "first 8 of 10 runs" in figures[0].axes[0].get_title(loc="left")


@pytest.mark.parametrize(
    ("overrides", "have_T"),
    [(("steps=5",), 0), (("optimizer.lr=1000", "steps=40"), 0), (("network.depth=1",), 3)],
    ids=["short", "died", "one layer"],
)
def test_a_T_is_marked_where_there_is_one(train, tmp_path, figures, overrides, have_T):
    with open_trace(train(*overrides, "record.snapshots=0")) as trace:
        fitted = fit_transient(trace)
        plots.transient_figure({"": (RunSeries(trace).members, fitted)}, tmp_path / "transient.png")
        plots.scaling_figure(scaling([trace]), tmp_path / "scaling.png")
        start = trace["log_rho"][0] / np.log(10)
        starts = trace["init_rho_k"].tolist()
    transient, laws = figures
    above = transient.axes[0]
    marks = [
        line.get_xdata()[0] for line in above.lines if line.get_marker() in plot_style.MARKERS and len(line.get_xdata())
    ]
    assert marks == [each.T for each in fitted.each if each.T > 0]
    assert len(marks) == have_T
    curves = [line for line in above.lines if line.get_marker() == "None" and len(line.get_xdata())]
    np.testing.assert_allclose([line.get_ydata()[0] for line in curves[::3]], start, atol=1e-12)
    assert ("T of each member: –, –, – steps" in transient.get_label()) == (not have_T)
    empty = [text.get_text() for axes in laws.axes for text in axes.texts]
    one_start = "one start at each depth has no slope;\ntrain with several values of members.rho_k"
    assert empty == ([one_start] if have_T else ["nothing to draw"] * 2)
    assert ("one start at each depth" in laws.get_label()) == (len(set(starts)) == 1)


def made(rows: int, member: int) -> tuple[Series, MemberTransient]:
    """A member whose rho_eq has one spike between rows that rho alone would not keep."""
    steps = np.arange(rows)
    log_rho = np.linspace(0, 3, rows)
    ratio = np.exp(np.linspace(5, 0, rows))
    ratio[rows // 3 + member] = 1e6
    a = np.full(rows, 1e-9)
    one = Series(steps, log_rho, ratio, a, a / ratio, 2, 1e-3)
    return one, measure(member, one, fit=False)


def test_many_members_of_a_million_rows_are_thinned_with_extremes_and_ends(tmp_path, figures):
    rows = 1_000_000
    members = [made(rows, m) for m in range(2)] + [made(100, m) for m in range(2, 12)]
    transient = TransientFit(0.5, tuple(t for _, t in members), pool([t for _, t in members], ["all"] * 12, range(12)))
    path = tmp_path / "many.svg"
    plots.transient_figure({"": ([s for s, _ in members], transient)}, path)
    assert path.stat().st_size < 3_000_000
    above = figures[0].axes[0]
    assert "the first 7 of 12 members" in above.get_title(loc="left")
    long = [line for line in above.lines if len(line.get_xdata()) > 100]
    assert len(long) == 6  # rho, rho_eq and the driven solution of the two long members
    for line in long:
        assert len(line.get_xdata()) <= 4002
        assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0, rows - 1)
    spiked = long[1]
    at = list(spiked.get_xdata()).index(rows // 3)
    assert spiked.get_ydata()[at] == pytest.approx(np.log10(np.exp(1.0)) + 6, abs=1e-3)


def test_thinning_keeps_extremes_ends_and_order_and_looks_past_what_is_no_number():
    values = np.sin(np.arange(200_000) / 700)
    values[[77_777, 123_456]] = [5.0, -5.0]
    values[:50_000] = np.nan
    values[60_000:60_050] = np.nan
    rows = extremes.thinned(values)
    assert len(rows) <= 4002
    assert {0, 77_777, 123_456, 199_999} <= set(rows.tolist())
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(extremes.thinned(values[:10]), np.arange(10))


def test_the_legend_of_the_scaling_has_each_exponent_with_its_interval(train, tmp_path, figures):
    path = train("steps=600", "optimizer.lr=0.1", "members={grid: {rho_k: [0.6, 0.8, 1.0], seeds: 3}}")
    with open_trace(path) as trace:
        laws = scaling([trace])
        plots.scaling_figure(laws, tmp_path / "scaling.png")
    (legend,) = figures[0].legends
    said = [" ".join(text.get_text().split()).replace("\N{MINUS SIGN}", "-") for text in legend.get_texts()]
    e = laws.each[0].exponent
    assert f"L = 3, exponent {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" in said
