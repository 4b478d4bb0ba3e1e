"""Norms at equal loss: starts that are kept in part, and a noise that adds to the norm."""

from __future__ import annotations

import numpy as np
import pytest
from planted_run import planted

from rhotrace.studies.questions import minimum_norm

STEPS = np.arange(100)


def run(kept, more=0.0):
    """log rho ends at ``kept`` of its start, plus something of the seed's own, plus ``more``."""
    seeds = [0, 1, 2] * 2
    start = np.repeat([-1.0, 3.0], 3)
    own = np.array([0.0, 0.1, -0.1] * 2)
    share = np.clip(STEPS / 50, 0, 1)[:, None]
    loss = np.exp(-STEPS / 10)[:, None] * np.ones(6)
    wobble = more * (1 + 0.01 * np.array([1, 0, -1] * 2))
    log_rho = start * (1 - share) + share * (kept * start + own + wobble + 2)
    return planted(STEPS, {"loss": loss, "log_rho": log_rho}, seeds=seeds, init_rho_k=np.exp(start))


@pytest.mark.parametrize(
    ("kept", "more", "verdict"),
    [(0.3, 0.5, "yes"), (0.3, -0.5, "in part"), (-1.0, -0.5, "no"), (0.3, 0.0, "in part")],
)
def test_the_share_of_the_start_that_is_kept_and_what_noise_adds(kept, more, verdict):
    runs = {"starts-gd": run(kept), "starts-sgd": run(kept, more)}
    late = minimum_norm.norm_at(runs["starts-gd"], np.exp(-6.05))  # after the change from one norm to the other
    assert late[3] - late[0] == pytest.approx(4 * kept)
    found = minimum_norm.answer(runs)
    assert found.values["sgd_minus_gd"].value == pytest.approx(
        0.6 * more, abs=1e-9
    )  # loss 0.05 is reached at 0.6 of the way
    assert found.verdict == verdict


def test_networks_that_do_not_come_down_to_the_loss_are_counted():
    own = run(0.3)
    own.trace["loss"][:, 1] = 1.0
    found = minimum_norm.answer({"starts-gd": own, "starts-sgd": run(0.3, 0.5)})
    assert "1 network of GD and 0 of SGD have no loss below" in found.limits
