"""``plot --what quantity:NAME`` draws what the run recorded, and names the quantities or the cadence where it did not."""

from __future__ import annotations

import numpy as np

from rhotrace.runfile.reader import open_trace

ASKED = ("record.every={stable_rank: 10, effective_dimension: 20}",)


def drawn(figures):
    return [[line for line in axes.get_lines() if len(line.get_xdata())] for axes in figures[-1].axes]


def test_each_value_along_an_axis_is_a_line_of_its_own(train, command, figures):
    run = train(*ASKED)
    for name, labels in (
        ("stable_rank", ["layer 1", "layer 2", "layer 3"]),
        ("effective_dimension", ["z 0.0001", "z 0.001", "z 0.01", "z 0.1", "z 1"]),
        ("loss", ["_child0"]),
    ):
        code, out, err = command("plot", run, "--what", f"quantity:{name}", "-o", f"{name}.png")
        assert (code, err) == (0, "")
        assert f"{name} over time" in out
        ((*lines,),) = drawn(figures)
        assert [line.get_label() for line in lines] == labels
        with open_trace(run) as trace:
            values, steps = trace[name], trace.step_of(name)
            for place, line in enumerate(lines):
                at = steps.searchsorted(line.get_xdata().astype(int))
                of_members = values.reshape(len(values), 3, -1)[at, :, place]
                assert any(np.allclose(line.get_ydata(), of_members[:, m]) for m in range(3))


def test_groups_of_members_share_a_panel_or_have_one_each(train, command, figures):
    run = train(*ASKED, "members={grid: {rho_k: [1.0, 0.8], seeds: 2}}")
    assert command("plot", run, "--what", "quantity:loss", "--steps", "10:40", "-o", "l.png")[0] == 0
    assert [len(lines) for lines in drawn(figures)] == [2]
    assert command("plot", run, "--what", "quantity:stable_rank", "-o", "s.png")[0] == 0
    assert [len(lines) for lines in drawn(figures)] == [3, 3]


def test_what_was_not_recorded_is_refused_with_what_asks_for_it(train, command):
    run = train("steps=5")
    code, _, err = command("plot", run, "--what", "quantity:nc1", "-o", "x.png")
    assert code == 2
    assert "the run did not record nc1; in a recipe, record.every.collapse asks for it" in err
    code, _, err = command("plot", run, "--what", "quantity:losss", "-o", "x.png")
    assert code == 2
    assert "did you mean loss?" in err
    _, _, err = command("plot", run, "--what", "quantity:nope", "-o", "x.png")
    assert "--what quantity:NAME: got 'nope', expected one of rho_k, grad_norm" in " ".join(err.split())
    assert "did you mean" not in err
