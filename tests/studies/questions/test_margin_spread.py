"""The evenness of margins, where it is known: values that grow alike, and values of which one grows."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.recording.quantities import QUANTILES
from rhotrace.studies.questions import margin_spread

STEPS = np.arange(20)


def run(values):
    """From y f of N samples, (n, M, N), at rho = 1."""
    loss = np.mean((values - 1) ** 2, axis=2)
    rows = [int(fraction * (values.shape[2] - 1)) for fraction in QUANTILES]
    return planted(
        STEPS,
        {
            "a": values.mean(axis=2),
            "q": np.mean(values**2, axis=2),
            "loss": loss,
            "error": np.mean(values <= 0, axis=2),
            "margin_quantile": np.sort(values, axis=2)[..., rows],
            "log_rho": np.zeros(loss.shape) + 0.1 * np.arange(loss.shape[1]),
        },
        seeds=[0, 1, 2, 0, 1, 2],
        init_rho_k=np.array([1.0, 1, 1, 2, 2, 2]),
    )


def values(final, noise=0.02):
    """From separated at step 5 on: y f goes from one random set to ``final``."""
    rng = np.random.default_rng(0)
    first = 0.2 + 0.1 * rng.random((6, 40))
    share = np.clip((STEPS - 5) / 10, 0, 1)[:, None, None]
    moving = first + share * (final + noise * rng.standard_normal((6, 40)) - first)
    moving[:5, :, 0] = -0.1
    return moving


def test_values_that_become_equal_and_values_of_which_one_stands_out():
    even = margin_spread.answer({"starts-gd": run(values(np.ones(40)))})
    assert even.verdict == "no"
    assert even.values["change"].low > 0
    lonely = np.full(40, 0.1)
    lonely[3] = 1.0
    odd = margin_spread.answer({"starts-gd": run(values(lonely, 0.001))})
    assert odd.verdict == "yes"
    assert odd.values["change"].high < 0
    ratio = lonely.mean() / np.sqrt(np.mean(lonely**2))
    own = margin_spread.evenness(run(values(lonely, 0.001)))
    assert own[-1] == pytest.approx(ratio, rel=0.01)


def test_it_counts_the_networks_that_separate_their_samples():
    never = values(np.ones(40))
    never[:, 2, 0] = -0.1
    assert np.isnan(margin_spread.separated(run(never))).tolist() == [False, False, True, False, False, False]
    assert "5 of 6 networks separate" in margin_spread.answer({"starts-gd": run(never)}).limits
