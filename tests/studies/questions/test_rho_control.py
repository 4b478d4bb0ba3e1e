"""Which schedule is better, when it is planted."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.statistics.intervals import Interval, mean
from rhotrace.studies.questions import rho_control

STEPS = np.arange(30)


def run(starts, final, best=0.05):
    """Test errors fall to ``best`` and rise to ``final`` for each start, with little scatter over 4 seeds."""
    start = np.repeat(np.array(starts, dtype=float), 4)
    noise = np.tile([0, 1e-4, -1e-4, 2e-4], len(starts))
    error = np.interp(STEPS, [0, 15, 29], [0.5, best, 0])[:, None] + np.interp(STEPS, [15, 29], [0, 1])[
        :, None
    ] * np.repeat(final, 4)
    values = {
        "test_error": error + noise * np.roll([1, -1], 1)[STEPS % 2][:, None],
        "log_rho": np.log(start) * np.ones((30, 1)),
    }
    return planted(
        STEPS, {**values, "loss": np.ones(error.shape)}, seeds=list(range(4)) * len(starts), init_rho_k=start
    )


def runs(controlled, best):
    return {
        "starts-gd": run([0.5, 1, 2, 4], [0.12, 0.11, 0.10, 0.09]),
        "control-constant": run([2, 3, 4], [controlled, 0.11, 0.11], best),
        **{f"control-{name}": run([1], [0.11]) for name in rho_control.SCHEDULES},
    }


TITLE = "3 against 8 (MNIST)"


@pytest.mark.parametrize(
    ("end", "best", "verdict"),
    [(0.08, 0.04, "yes"), (0.08, 0.05, "in part"), (0.10, 0.05, "in part"), (0.11, 0.05, "undecided")],
)
def test_a_schedule_must_be_better_at_the_end_and_at_the_best_time(end, best, verdict):
    found = rho_control.answer(runs(end, best))
    assert found.verdict == verdict
    assert found.values[TITLE]["best_start"] == "rho_k(0) 4"
    against = found.values[TITLE]["against_free"]["held, rho_k(0) 2"]
    assert against.value == pytest.approx(end - 0.11, abs=3e-4)


def test_without_cifar_it_is_answered_on_mnist_and_says_so():
    small = runs(0.08, 0.04)
    found = rho_control.answer(small)
    assert list(found.values) == [TITLE]
    assert "Not trained: automobile against bird (CIFAR-10), because the data are not available." in found.words
    cifar = {name.replace("control", "control-cifar"): run for name, run in runs(0.11, 0.05).items()}
    cifar["control-cifar-free"] = cifar.pop("starts-gd")
    both = rho_control.answer(small | cifar)
    assert list(both.values) == [TITLE, "automobile against bird (CIFAR-10)"]
    assert "Not trained" not in both.words
    assert both.verdict == "in part"  # yes on one, undecided on the other
    assert "for 9 comparisons at once" in found.limits
    assert "for 18 comparisons at once" in both.limits


@pytest.mark.parametrize(
    ("verdicts", "all_of_them"),
    [(["yes", "yes"], "yes"), (["yes", "no"], "in part"), (["no", "undecided"], "undecided"), (["no"], "no")],
)
def test_one_verdict_of_several_data_sets(verdicts, all_of_them):
    assert rho_control.of_all(verdicts) == all_of_them


def test_intervals_for_several_comparisons_are_wider_and_none_better_is_no():
    values = np.array([0.1, 0.2, 0.3, 0.4])
    one, six = (rho_control.difference(values, 0 * values, comparisons) for comparisons in (1, 6))
    assert one.low == pytest.approx(mean(values).low)
    assert six.high - six.value > 1.5 * (one.high - one.value)
    worse = [Interval(0.1, 0.05, 0.15)]
    assert rho_control.verdict(worse, worse, worse) == "no"
