"""A sweep as a person sees it: the tables at any width, and the pictures."""

from __future__ import annotations

import io
import itertools
import math
import re

import numpy as np
import pytest
from rich.console import Console

from rhotrace.analysis.transient.transient_time import Outcome
from rhotrace.display.figures.sweep import sweep_figure
from rhotrace.display.pages.sweep import end_page, sweep_page
from rhotrace.display.terminal.renderer import show
from rhotrace.display.terminal.sweep import SweepView
from rhotrace.errors import RhoTraceError
from rhotrace.statistics.intervals import NONE, geometric_mean
from rhotrace.sweeps.results import PointResult, SweepResult
from rhotrace.sweeps.runner import State, carry_out, plan
from rhotrace.sweeps.sweep_file import read

LEFT, NEVER, NO = str(Outcome.LEFT), str(Outcome.NEVER), str(Outcome.NONE)


def point(values: dict, *outcomes: str, T: float = 10.0) -> PointResult:
    """A point with these outcomes; those that left have T, T 1.1, T 1.21 and so on."""
    left = T * 1.1 ** np.arange(outcomes.count(LEFT))
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    return PointResult(values, len(outcomes), 100, len(left), geometric_mean(left) if len(left) else NONE, counts)


def result_of(axes: dict[str, list], outcomes=lambda _: (LEFT, LEFT)) -> SweepResult:
    """A sweep over the product of some axes, with T 10, 20, 30 and so on."""
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    made = [point(values, *outcomes(values), T=10.0 * (n + 1)) for n, values in enumerate(points)]
    return SweepResult("sweeps/x", tuple(axes), tuple(made), ())


def printed(result: SweepResult, width: int = 120, terminal: bool = False) -> str:
    to = io.StringIO()
    show(Console(file=to, width=width, force_terminal=terminal, color_system=None), sweep_page(result, {}))
    return to.getvalue()


SQUARE = {"network.depth": [2, 3, 4], "init.rho_k": [0.5, 1.25]}


# --- tables ------------------------------------------------------------------------------------------------


def test_two_axes_make_a_table_with_a_row_and_a_column_for_each_value():
    lines = [re.split(r"\s{2,}", line.strip()) for line in printed(result_of(SQUARE)).splitlines()]
    assert ["depth", "0.5", "1.25"] in lines
    for row, depth in enumerate([2, 3, 4]):
        (cells,) = [cells[1:] for cells in lines if cells[0] == str(depth)]
        T = [math.sqrt(1.1) * 10 * (2 * row + column + 1) for column in range(2)]
        assert [float(cell.split(" ")[0]) for cell in cells] == pytest.approx(T, rel=6e-3)


@pytest.mark.parametrize(
    ("outcomes", "cell"),
    [
        ((NEVER, NEVER), "never"),
        ((NO, NO, NEVER), "none"),
        ((str(Outcome.DIVERGED),) * 2, "diverged"),
        ((str(Outcome.DECAYED),) * 2, "decayed"),
        ((str(Outcome.DEAD),) * 2, "died"),
        ((str(Outcome.OSCILLATING),) * 2, "oscillating"),
        ((str(Outcome.TOO_SHORT),) * 2, "too short"),
        ((str(Outcome.UNSETTLED),) * 2, "unsettled"),
        (("missing", "missing"), "missing"),
        (("not begun",), "not begun"),
        ((LEFT, NEVER, NEVER), "(1 of 3)"),
        ((LEFT, LEFT, LEFT), "± 27 %"),
    ],
)
def test_a_cell_says_what_became_of_the_networks(outcomes, cell):
    axes = {"network.depth": [2, 3], "init.rho_k": [0.5, 1.5]}
    result = result_of(axes, lambda values: outcomes if values == {"network.depth": 3, "init.rho_k": 1.5} else (LEFT,))
    (row,) = [line for line in printed(result).splitlines() if line.strip().startswith("3 ")]
    assert row.rstrip().endswith(cell)


def test_one_axis_makes_a_list_with_the_outcomes():
    text = printed(
        result_of(
            {"optimizer.lr": [0.1, 0.2]}, lambda v: (LEFT, NEVER, NO) if v["optimizer.lr"] == 0.2 else (LEFT,) * 3
        )
    )
    first, second = [line for line in text.splitlines() if re.match(r"\s*0\.[12]\b", line)]
    assert "3 of 3" in first
    assert "1 of 3" in second
    assert "1 never, 1 none" in second


def test_three_axes_make_a_list_with_a_column_for_each():
    text = printed(result_of({"network.depth": [2, 3], "init.rho_k": [0.5, 1.0], "optimizer.lr": [0.1, 0.2]}))
    assert all(key in text for key in ("network.depth", "init.rho_k", "optimizer.lr"))
    assert sum(line.rstrip().endswith("2 of 2") for line in text.splitlines()) == 8


def test_points_whose_values_look_alike_in_four_digits_have_cells_of_their_own():
    result = result_of({"network.depth": [2, 3], "init.rho_k": [1.00001, 1.00002]})
    text = printed(result)
    for made in result.points:
        assert f"{made.T.value:#.3g}" in text


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize(
    "axes", [SQUARE, {"init.rho_k": [0.5, 1.0]}, {**SQUARE, "optimizer.lr": [0.1]}], ids=["2", "1", "3"]
)
def test_no_terminal_is_too_narrow(axes, width):
    result = result_of(axes)
    found = printed(result, width, terminal=True)
    assert max(map(len, found.splitlines())) <= width
    for made in result.points:
        shown = f"{made.T.value:#.3g}" if len(axes) == 2 else f"{made.T.value:#.4g}"
        assert width < 80 or shown.rstrip(".") in found


@pytest.mark.parametrize("across", ["plain", "[red]", "[/]", "a|b", "<a"])
def test_names_in_brackets_and_missing_files_are_shown_as_they_are(across):
    made = point({"data.classes": "[bold]x", "data.dataset": across}, LEFT)
    result = SweepResult("sweeps/[red]y", ("data.classes", "data.dataset"), (made,), ("[bold]gone.h5: no such file",))
    text = printed(result)
    for words in ("sweeps/[red]y", "missing: [bold]gone.h5: no such file", "[bold]x", across):
        assert words in text


@pytest.mark.parametrize(("width", "terminal"), [(20, True), (40, True), (40, False)])
def test_the_live_view_shows_every_state_at_any_width(tmp_path, small, width, terminal):
    (tmp_path / "small.yaml").write_text(small)
    (tmp_path / "sweep.yaml").write_text(
        "recipe: small.yaml\nset: {steps: 3}\naxes: [{grid: {network.depth: [2, 3]}}]\n"
    )
    to = io.StringIO()
    console = Console(file=to, width=width, height=10, force_terminal=terminal, color_system=None)
    planned = plan(read(tmp_path / "sweep.yaml"), tmp_path / "out")
    first, second = planned.runs
    with SweepView(console, every=0) as view:
        view({"a": State(first, "waiting"), "b": State(second, "waiting")})
        view({"a": State(first, "training", 2, 0.1), "b": State(second, "failed", why="[red]x")})
    ended = {"a": State(first, "finished", 3), "b": State(second, "failed", why="[red]x", notes=("[i]n",))}
    show(console, end_page(ended))
    text = re.sub(r"\s", "", to.getvalue())
    assert f"failed:{second.name}:[red]x" in text
    assert "note:[i]n" in text
    assert "runs:1finished,1failed" in text
    assert carry_out(planned, lambda _: iter(()))[first.name].state == "waiting"


# --- pictures ----------------------------------------------------------------------------------------------


SOME = result_of(
    SQUARE, lambda v: (NEVER, NO, NEVER) if v == {"network.depth": 4, "init.rho_k": 0.5} else (LEFT, NEVER)
)
NONE_LEFT = {
    1: result_of({"init.rho_k": [0.5, 1.0]}, lambda _: (NEVER,)),
    2: result_of(SQUARE, lambda _: (NO,)),
}


@pytest.mark.parametrize(
    ("axes", "ending"),
    [(SQUARE, "png"), (SQUARE, "pdf"), ({"init.rho_k": [0.5, 1.0]}, "SVG"), ({**SQUARE, "optimizer.lr": [0.1]}, "svg")],
    ids=["two axes, png", "two axes, pdf", "one axis, SVG", "three axes, svg"],
)
def test_the_picture_is_written_in_the_format_of_its_name(tmp_path, axes, ending):
    path = tmp_path / "deep" / f"picture.{ending}"
    sweep_figure(result_of(axes), path)
    begins = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending.lower()]
    assert path.read_bytes().startswith(begins)


def test_the_phase_diagram_has_the_number_or_the_word_of_each_cell(tmp_path):
    sweep_figure(SOME, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    words = re.findall(r">([^<>]+)</text>", text)
    assert words.count("never") == 1
    assert words.count("1/2") == 5
    for number in ("10", "20", "30", "40", "60"):
        assert number in words
    assert "L" in words


def test_lines_have_a_curve_for_each_value_of_the_other_axes(tmp_path):
    result = result_of({"init.rho_k": [0.5, 1.0, 2.0], "network.depth": [2, 3], "optimizer.lr": [0.1, 0.2]})
    sweep_figure(result, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for depth, lr in itertools.product((2, 3), (0.1, 0.2)):
        assert f"L = {depth}, η = {lr}" in text


@pytest.mark.parametrize("axes", [1, 2])
def test_where_nothing_left_its_transient_there_is_still_a_picture(tmp_path, axes):
    sweep_figure(NONE_LEFT[axes], tmp_path / "p.svg")
    assert ("none" if axes == 2 else "nothing to draw") in (tmp_path / "p.svg").read_text()


@pytest.mark.parametrize(
    "axes",
    [
        {"network.width": [[4, 5], 8]},
        {"network.width": [[4, 5], 8], "data.dataset": ["mnist", "$[b]_x^"]},
        {"init.rho_k": [0, -1.0, 2.0]},
        {"data.balanced": [True, False]},
        {"data.classes": [[0, 1], [2, 3]], "init.rho_k": [1.0, 2.0], "optimizer.lr": [0.1]},
        {"data.root": [None, "/x"], "init.rho_k": [1.0]},
        {"init.rho_k": [1.0]},
        {"init.rho_k": [1.0], "optimizer.lr": [0.1]},
        {"network.depth": list(range(1, 13)), "init.rho_k": [0.1 * n for n in range(1, 13)]},
    ],
    ids=["lists", "words", "not positive", "true", "three", "none", "one point", "one cell", "144 cells"],
)
def test_values_of_any_kind_can_be_drawn_and_printed(tmp_path, axes):
    result = result_of(axes)
    sweep_figure(result, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 1000
    assert "sweeps/x" in printed(result)


def test_a_T_of_zero_or_of_one_seed_can_be_drawn(tmp_path):
    zero = PointResult({"init.rho_k": 1.0}, 1, 9, 1, geometric_mean(np.array([3.0])), {LEFT: 1})
    sweep_figure(SweepResult("x", ("init.rho_k",), (zero,), ()), tmp_path / "p.svg")
    assert "nothing to draw" not in (tmp_path / "p.svg").read_text()


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(RhoTraceError, match="cannot be written"):
        sweep_figure(SOME, tmp_path / "file" / "p.svg")
    with pytest.raises(RhoTraceError, match="expected a name that ends in"):
        sweep_figure(SOME, tmp_path / "p.gif")


@pytest.mark.parametrize("name", ["2", "1 row", "1 column"])
def test_no_word_of_a_small_picture_is_cut_off(tmp_path, name):
    from matplotlib.figure import Figure

    axes = {"2": {"network.depth": [2, 3], "init.rho_k": [0.5, 1]}, "1 row": {"network.depth": [2], "init.rho_k": [0.5, 1, 2]},
            "1 column": {"network.depth": [2, 3, 4], "init.rho_k": [1]}}[name]  # fmt: skip
    outside = []
    save = Figure.savefig

    def measured(self, *words, **options):
        save(self, *words, **options)
        drawn = self.canvas.get_renderer() if hasattr(self.canvas, "get_renderer") else None
        box = self.axes[0].title.get_window_extent(drawn)
        left = self.axes[0]._left_title.get_window_extent(drawn)
        outside.extend(b for b in (box, left) if b.x1 > self.bbox.x1 + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", measured)
        sweep_figure(result_of(axes), tmp_path / "p.png")
    assert not outside


def test_the_same_sweep_gives_the_same_picture(tmp_path):
    for name in ("a.svg", "b.svg"):
        sweep_figure(SOME, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
