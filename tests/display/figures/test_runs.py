"""The pictures of ``plot`` and ``audit``: what is drawn is what was measured, labelled, described, and the same twice."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack

import numpy as np
import pytest

from rhotrace.analysis.analyze import fit_transient
from rhotrace.analysis.claims.evidence import Evidence
from rhotrace.analysis.claims.findings import audit_claims
from rhotrace.analysis.member_bands import View
from rhotrace.analysis.run_series import RunSeries
from rhotrace.display.figures import kinds as plot_kinds
from rhotrace.display.figures import style as plot_style
from rhotrace.display.figures.claims import audit_figure
from rhotrace.display.figures.runs import layers_figure, loss_figure, margins_figure, rho_figure
from rhotrace.errors import AnalysisError
from rhotrace.models.losses import Logistic, Square
from rhotrace.recording.quantities import QUANTILES, QUANTITIES
from rhotrace.runfile.reader import open_trace
from rhotrace.theory.step_laws import ROUNDING

BEGINS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
LONG = ("steps=800", "optimizer.lr=0.1", "record.snapshots=2")
SGD = (*LONG, "optimizer={kind: sgd, lr: 0.1, batch_size: 8}", "record={full_every: 2, snapshots: 2}")


pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A long run under GD, its twin under SGD, and one of several starts, trained once."""
    from small import SMALL

    from rhotrace.config import recipe
    from rhotrace.training.train import train

    folder = tmp_path_factory.mktemp("plots")
    several = (*LONG, "members={seeds: [0, 1, 0, 1], rho_k: [1.2, 1.2, 0.8, 0.8]}")
    for name, overrides in {"gd": LONG, "sgd": SGD, "starts": several}.items():
        train(recipe.parse(SMALL, list(overrides)), folder / f"{name}.h5", device="cpu")
    return folder


def typical(trace):
    """The network of median T, the slow way."""
    T = [(each.T, each.member) for each in fit_transient(trace, fit=False).each if each.T > 0]
    return sorted(T)[(len(T) - 1) // 2][1]


def draw(kind, paths, out):
    with ExitStack() as stack:
        plot_kinds.KINDS[kind].draw([stack.enter_context(open_trace(path)) for path in paths], out, 0.5)


@pytest.mark.parametrize("kind", list(plot_kinds.KINDS))
def test_every_kind_is_drawn_in_every_format_described_and_twice_the_same(runs, kind, tmp_path, figures):
    paths = [runs / "starts.h5"] if kind == "scaling" else [runs / "gd.h5", runs / "sgd.h5"]
    for ending, begins in BEGINS.items():
        draw(kind, paths, tmp_path / f"first{ending}")
        assert (tmp_path / f"first{ending}").read_bytes().startswith(begins)
    draw(kind, paths, tmp_path / "second.svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    figure = figures[0]
    assert len(figure.get_label()) > 60
    assert not set("$\\") & set(figure.get_label())
    svg = (tmp_path / "first.svg").read_text(encoding="utf-8")
    assert plot_style.described_in(svg) == figure.get_label()
    for axes in figure.axes:
        assert axes.lines or axes.containers


def test_rho_and_rho_eq_are_those_of_the_network_of_median_T_which_stands_where_it_was_measured(
    runs, tmp_path, figures
):
    with open_trace(runs / "gd.h5") as trace:
        rho_figure([trace], tmp_path / "rho.png")
        rho, eq, T, _ = figures[0].axes[0].lines
        steps = rho.get_xdata()
        assert (steps[0], steps[-1]) == (0, 799)
        ten = np.log(10)
        m = typical(trace)
        np.testing.assert_allclose(rho.get_ydata(), trace["log_rho"][steps, m] / ten)
        wanted = trace["log_rho_eq"][eq.get_xdata(), m] / ten
        np.testing.assert_allclose(eq.get_ydata(), wanted)
        pool = fit_transient(trace, fit=False).pools[0].T
    assert T.get_xdata()[0] == pool.value
    shaded = figures[0].axes[0].patches[-1]
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == pytest.approx((pool.low, pool.high))
    assert f"T = {pool.value:.4g}"[:6] in figures[0].get_label()


def test_a_single_network_has_a_line_without_a_band_and_the_interval_of_its_own_crossing(train, tmp_path, figures):
    with open_trace(train(*LONG, "members.seeds=1")) as trace:
        rho_figure([trace], tmp_path / "one.png")
        crossing = fit_transient(trace, fit=False).each[0].crossing
    axes = figures[0].axes[0]
    assert not axes.collections
    assert axes.patches[-1].get_x() == pytest.approx(crossing.low)
    assert "one network" in axes.get_title(loc="left")


def test_every_start_has_a_band_of_its_own(runs, tmp_path, figures):
    with open_trace(runs / "starts.h5") as trace:
        rho_figure([trace], tmp_path / "starts.png")
    *panels, distance = figures[0].axes
    assert [len(axes.collections) for axes in panels] == [2, 2]  # rho and rho_eq of two starts
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["$\\rho_k(0)$ = 1.2", "$\\rho_k(0)$ = 0.8"]  # the learning rate is the same in all
    assert len(distance.lines) == 2


def test_runs_have_panels_of_their_own_and_their_distance_from_equilibrium_one_together(runs, tmp_path, figures):
    """Under SGD rho fluctuates by less than a line is wide: it shows in the distance, and no run covers another."""
    paths = runs / "gd.h5", runs / "sgd.h5"
    with open_trace(paths[0]) as gd, open_trace(paths[1]) as sgd:
        rho_figure([gd, sgd], tmp_path / "two.png")
        *panels, distance = figures[0].axes
        assert [axes.get_title(loc="left") for axes in panels] == ["gd", "sgd"]
        assert len({line.get_color() for axes in panels for line in axes.lines[:2]}) == 2
        for line, trace in zip(distance.lines, (gd, sgd), strict=True):
            m, ten = typical(trace), np.log(10)
            log_rho = trace["log_rho"][:: trace.strides["full"], m]
            apart = np.abs(log_rho - trace["log_rho_eq"][:, m]) / ten
            wanted = dict(zip(trace.step_of("log_rho_eq").tolist(), apart.tolist(), strict=True))
            np.testing.assert_allclose(line.get_ydata(), [wanted[step] for step in line.get_xdata().tolist()])
    assert distance.get_yscale() == "log"


def test_a_band_begins_where_every_member_has_a_rho_eq(runs, tmp_path, figures):
    with open_trace(runs / "gd.h5") as trace:
        eq, steps = trace["log_rho_eq"].copy(), trace.step_of("log_rho_eq")
        rows = np.isfinite(eq).argmax(axis=0)
        rho_figure([trace], tmp_path / "band.png")
    band = figures[0].axes[0].collections[1].get_paths()[0].vertices[:, 0]
    assert band.min() == steps[rows.max()]


def test_only_the_members_and_steps_asked_for_are_drawn_and_means_over_steps(runs, tmp_path, figures):
    with open_trace(runs / "gd.h5") as trace:
        layers_figure([trace], tmp_path / "part.png", view=View((1,), (100, 500), 21))
        above = figures[0].axes[0]
        rho_k = trace["rho_k"][:, 1, 0]
    line = above.lines[0]
    steps = line.get_xdata()
    assert (steps[0], steps[-1]) == (100, 500)
    wanted = [rho_k[step - 10 : step + 11].mean() for step in steps]
    np.testing.assert_allclose(line.get_ydata(), wanted, rtol=1e-12)
    assert figures[0].axes[1].collections == [] or "one network" in above.get_title(loc="left")


def test_layers_show_every_norm_and_the_balance_starts_at_zero(runs, tmp_path, figures):
    with open_trace(runs / "gd.h5") as trace:
        layers_figure([trace], tmp_path / "layers.png")
        above, below = figures[0].axes
        for k, line in enumerate(above.lines[: trace.depth]):
            wanted = trace["rho_k"][:, typical(trace), k]
            np.testing.assert_allclose(line.get_ydata(), wanted[line.get_xdata()])
        square = trace["rho_k"] ** 2 - trace["rho_k"][0] ** 2
        apart = (square[:, :, 0] - square.mean(axis=2))[:, typical(trace)]
        np.testing.assert_allclose(below.lines[0].get_ydata(), apart[below.lines[0].get_xdata()], atol=1e-15)
        assert all(line.get_ydata()[0] == 0 for line in below.lines[: trace.depth])


def test_margins_are_the_quantiles_and_those_of_f_are_divided_by_rho(runs, tmp_path, figures):
    with open_trace(runs / "gd.h5") as trace:
        margins_figure([trace], tmp_path / "margins.png")
        above, below = figures[0].axes
        middle = QUANTILES.index(0.5)
        g = trace["margin_quantile"][:, typical(trace), middle]
        f = g * np.exp(-trace["log_rho"][:, typical(trace)])
        line = next(line for line in below.lines if line.get_label() == "median sample")
        np.testing.assert_allclose(line.get_ydata(), g[line.get_xdata()])
        line = next(line for line in above.lines if line.get_label() == "median sample")
        power = round(np.log10(line.get_ydata()[-1] / f[-1]))
        np.testing.assert_allclose(line.get_ydata(), 10.0**power * f[line.get_xdata()])


def test_margins_of_a_net_whose_f_underflows_are_drawn(train, tmp_path, figures):
    """rho = 4^9 and more: f is of the order of 1e-6, and a power of ten on the axis says so."""
    with open_trace(train("network.depth=9", "init.rho_k=4.0", "steps=5", "record.snapshots=0")) as trace:
        margins_figure([trace], tmp_path / "m.png")
    assert "in units of $10^{-" in figures[0].axes[0].get_ylabel()
    low, high = figures[0].axes[0].get_ylim()
    assert 0.01 < max(-low, high) < 100


def test_loss_and_error_of_both_sets_are_drawn_at_their_own_steps(runs, tmp_path, figures):
    with open_trace(runs / "sgd.h5") as trace:
        loss_figure([trace], tmp_path / "loss.png")
        loss, test = figures[0].axes[0].lines[:2]
        assert set(loss.get_xdata().tolist()) <= set(trace.step_of("loss").tolist())
        np.testing.assert_array_equal(test.get_xdata(), trace.step_of("test_loss"))
        np.testing.assert_allclose(test.get_ydata(), trace["test_loss"][:, typical(trace)])
    above, below = figures[0].axes
    assert above.get_yscale() == "log"
    assert (above.get_ylabel(), below.get_ylabel()) == ("loss (output²)", "error")  # L is the depth


def test_the_picture_of_the_audit_has_what_the_audit_measured_and_its_tolerance(runs, tmp_path, figures):
    with open_trace(runs / "gd.h5") as trace:
        claims = audit_claims(trace)
        evidence = Evidence(RunSeries(trace))
        audit_figure(evidence, claims, tmp_path / "audit.png")
        measured = evidence.run.audit
    step, balance, equilibrium, across = figures[0].axes
    assert np.nanmax(step.lines[0].get_ydata()) == measured.residual
    assert step.lines[1].get_ydata()[0] == ROUNDING["float64"]
    assert np.nanmax(balance.lines[0].get_ydata()) == measured.balance
    assert equilibrium.lines[0].get_ydata()[0] > 0.5
    assert np.nanmax(across.lines[0].get_ydata()) == 1.0
    fails = sum(claim.finding.outcome == "fails" for claim in claims)
    assert f"{fails} fail" in figures[0].get_label()


def test_the_picture_of_an_audit_under_minibatches_says_what_is_not_there(runs, tmp_path, figures):
    with open_trace(runs / "sgd.h5") as trace:
        audit_figure(Evidence(RunSeries(trace)), audit_claims(trace), tmp_path / "audit.png")
    assert [text.get_text() for text in figures[0].axes[3].texts] == ["needs full batches"]
    assert figures[0].axes[0].get_xticks().size > 2


@pytest.mark.parametrize(
    "overrides", [["optimizer.lr=1e6"], ["network.depth=1"], ["optimizer.lr=1e9", "network.depth=1"]]
)
@pytest.mark.parametrize("figure", [rho_figure, layers_figure, margins_figure, loss_figure])
def test_runs_that_die_diverge_or_have_one_layer_are_drawn(train, tmp_path, figures, overrides, figure):
    with open_trace(train(*overrides, "steps=40", "record.snapshots=0")) as trace:
        figure([trace], tmp_path / "x.png")
        quantity = {rho_figure: "log_rho", layers_figure: "rho_k", margins_figure: None, loss_figure: "loss"}[figure]
        left = [each.T for each in fit_transient(trace, fit=False).each if each.T > 0]
        recorded = trace[quantity] if quantity else None
    for axes in figures[0].axes:
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()
        assert any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in axes.lines)
    if recorded is not None:
        scale = np.log(10) if quantity == "log_rho" else 1.0
        starts = recorded[0].reshape(len(recorded[0]), -1)[:, 0] / scale
        assert np.isclose(figures[0].axes[0].lines[0].get_ydata()[0], starts, atol=1e-12).any()
    if figure is not loss_figure:
        assert ("no network left its transient" in figures[0].get_label()) == (not left)


def test_a_fluctuation_that_is_not_there_is_refused_with_the_reason(train, tmp_path):
    with pytest.raises(AnalysisError, match="nothing to draw: member 0 never left the transient; train for longer"):
        draw("fluctuation", [train("steps=30")], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_symbols_of_the_table_are_valid_mathematics():
    from matplotlib.mathtext import MathTextParser

    for quantity in QUANTITIES.values():
        for decimal in (False, True):
            MathTextParser("path").parse(plot_style.symbol(quantity.name, decimal=decimal))
    assert plot_style.symbol("log_rho_eq", decimal=True) == "$\\log_{10} \\rho_\\mathrm{eq}$"
    assert plot_style.units(QUANTITIES["loss"].describe(Square())) == " (output²)"
    assert plot_style.units(QUANTITIES["loss"].describe(Logistic())) == ""


def test_a_file_name_with_dollars_is_no_mathematics(train, tmp_path):
    paths = [train(name="a$b$.h5"), train(name="c_$.h5")]
    for kind in ("rho", "layers", "transient"):
        draw(kind, paths, tmp_path / f"{kind}.svg")
        letters = re.findall(r">([^<>]+)</t(?:ext|span)>", (tmp_path / f"{kind}.svg").read_text(encoding="utf-8"))
        dollars = "".join(letters).count("$")  # mathematics would have taken them for its own
        assert dollars > 0, kind
        assert dollars % 3 == 0, kind


# --- the command -------------------------------------------------------------------------------------------


def test_plot_says_what_it_drew(command, runs, tmp_path):
    code, out, err = command("plot", runs / "gd.h5", "-o", "deep/rho.svg")
    assert (code, err) == (0, "")
    assert out == "deep/rho.svg: rho and rho_eq, T with its interval; several runs in panels of their own\n"
    code, out, err = command("plot", runs / "gd.h5", runs / "sgd.h5", "--what", "loss", "-o", "l.pdf", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["path"] == "l.pdf"
    assert (tmp_path / "l.pdf").read_bytes().startswith(b"%PDF")


def test_plot_fits_a_column_unless_another_size_style_and_title_are_asked_for(command, runs, figures):
    assert command("plot", runs / "gd.h5", "-o", "own.png")[0] == 0
    words = ("--width", 7, "--height", 2.5, "--style", "dark_background", "--title", "Ours, at $5")
    assert command("plot", runs / "gd.h5", "-o", "other.png", "--what", "loss", *words)[0] == 0
    own, other = figures
    assert own.get_figwidth() == 3.5
    assert tuple(other.get_size_inches()) == (7, 2.5)
    assert other.axes[0].get_title(loc="left") == "Ours, at \\$5"
    assert other.axes[0].get_facecolor()[:3] == (0, 0, 0)
    assert other.axes[0].lines[0].get_color() != own.axes[0].lines[0].get_color()


@pytest.mark.parametrize("kind", [kind for kind in plot_kinds.KINDS if kind != "scaling"])
def test_nothing_is_cut_off_in_a_column(command, runs, figures, kind):
    assert command("plot", runs / "gd.h5", runs / "sgd.h5", "-o", "x.png", "--what", kind)[0] == 0
    figure = figures[0]
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1


def test_audit_draws(command, runs, tmp_path):
    code, out, err = command("audit", runs / "gd.h5", "--plot", "a.png")
    assert (code, err) == (0, "")
    assert out.endswith("drawn in a.png\n")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--what", "margin", "-o", "x.png"], "did you mean margins?"),
        (["-o", "x.jpg"], "-o: got x.jpg, expected a name that ends in .png, .svg, .pdf"),
        (["-o", "x.png", "--theta", "2"], "--theta: got 2"),
        (["-o", "x.png", "--members", "0:7"], "--members: got 3, but the members of"),
        (["-o", "x.png", "--members", "a"], "--members: got 'a', expected numbers such as 0,2 or a range such as 0:3"),
        (["-o", "x.png", "--steps", "9"], "--steps: got '9', expected A:B with whole numbers A < B"),
        (["-o", "x.png", "--steps", "9:5000"], "--steps: got 9:5000, but the steps of"),
        (
            ["-o", "x.png", "--what", "scaling", "--smooth", "9"],
            "--smooth: got it with --what scaling, expected --what",
        ),
        (["-o", "x.png", "--width", "0.1"], "--width: got 0.1, expected 1 to 40 inches"),
        (["-o", "x.png", "--height", "nan"], "--height: got nan, expected 1 to 40 inches"),
        (["-o", "x.png", "--style", "gplot"], "did you mean ggplot?"),
        (["--what", "phase", "-o", "x.png"], "no sweep.json of a sweep"),
        (["--what", "scaling", "-o", "file/x.png"], "the figure cannot be written"),
    ],
    ids=[
        *("kind", "ending", "theta", "no member", "members", "steps", "no step", "smooth", "width", "height", "style"),
        *("phase", "place"),
    ],
)
def test_plot_refuses_in_a_line(command, runs, tmp_path, words, said):
    (tmp_path / "file").write_text("")
    code, out, err = command("plot", runs / "gd.h5", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_loss_without_rho_eq_is_drawn_without_it(train, tmp_path, figures, command):
    path = train("loss={kind: logistic}", "steps=20", "record.snapshots=0")
    code, out, _ = command("plot", path, "-o", "rho.png")
    assert (code, out.strip()) == (0, "rho.png: rho; T does not apply: the loss logistic has no a, q and rho_eq")
    assert "eq" not in figures[0].axes[0].get_ylabel() + figures[0].axes[0].get_title(loc="left")
    assert "rho_eq" not in figures[0].get_label()
    code, _, err = command("plot", path, "--what", "transient", "-o", "T.png")
    assert (code, "nothing to draw: T does not apply: the loss logistic" in " ".join(err.split())) == (2, True)
    assert "rho_eq/rho" not in command("analyze", path)[1]
    assert command("report", path, "-o", "report.html")[0] == 0
    html = (tmp_path / "report.html").read_text()
    assert "Norm and loss" in html
    assert "dashed" not in html
    assert "quilibrium norm and loss" not in html


def test_layers_of_a_normalised_network_are_drawn_without_the_balance(train, runs, tmp_path, figures, command):
    path = train("network={kind: mlp, depth: 3, width: 8, batch_norm: true}", "steps=20", "record.snapshots=0")
    code, out, _ = command("plot", path, "--what", "layers", "-o", "layers.png")
    assert (code, "norm of each layer; Lemma 1 does not apply: a normalisation takes" in out) == (0, True)
    above, below = figures[0].axes
    assert (len(above.lines) >= 3, len(below.lines), below.axison) == (True, 0, False)
    assert "the balance of the layers does not apply: a normalisation takes" in figures[0].get_label()
    draw("layers", [path, runs / "gd.h5"], tmp_path / "both.png")
    *_, without, balance = figures[1].axes
    assert (len(without.lines), len(balance.lines)) == (0, 3)
    assert "Lemma 1 does not apply" in " ".join(without.get_title(loc="left").split())
    with open_trace(path) as trace:
        audit_figure(Evidence(RunSeries(trace)), audit_claims(trace), tmp_path / "audit.png")
    assert [len(axes.lines) for axes in figures[2].axes[1:3]] == [0, 0]
