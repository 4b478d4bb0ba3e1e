from __future__ import annotations

import numpy as np
import pytest
from test_fluctuation import ar1

from rhotrace.compare import compare
from rhotrace.errors import AnalysisError
from rhotrace.sealing import seal
from rhotrace.trace import open_trace
from rhotrace.trace_layout import Layout
from rhotrace.trace_writer import create

CROSSING = 200


@pytest.fixture
def planted(train, tmp_path):
    """Writes a run whose delta after step 200 is a chosen series; everything else comes from a real short run."""
    with open_trace(train("steps=20")) as trace:
        quantities = trace.quantities
        attributes = {k: v for k, v in trace.attributes.items() if k not in {"strides", "status"}}
        template = {q.name: trace[q.name][:1] for q in quantities}
    made = 0

    def write(delta: np.ndarray, **changed: object):
        nonlocal made
        made += 1
        rows, members = delta.shape
        strides = {"free": 1, "forward": 1, "test": 1}
        layout = Layout(rows, members, ((8, 784), (8, 8), (1, 8)), "float64", strides, [], quantities, {})
        block = {n: np.broadcast_to(v[:, :1], (rows, members, *v.shape[2:])).copy() for n, v in template.items()}
        full = np.where(np.arange(rows)[:, None] < CROSSING, np.log(0.01), delta)
        block["rho_eq_over_rho"] = np.exp(-full)
        block["a"], block["q"] = np.exp(-full), np.ones((rows, members))
        per_member = {"seed": np.arange(members), "lr": np.full(members, 0.05), "init_rho_k": np.ones(members)}
        path = tmp_path / f"planted{made}.h5"
        writer = create(path, layout, {**attributes, **changed}, per_member)
        writer.append(0, rows, block)
        writer.commit(rows, {})
        writer.close()
        seal(path, {"ended": "finished"})
        return path

    return write


def noise(std: float, members: int, seed: int, rows: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([ar1(rows, 0.8, std, rng) for _ in range(members)], axis=1)


def compared(first, second):
    with open_trace(first) as a, open_trace(second) as b:
        return compare(a, b)


def test_a_planted_ratio_is_recovered_within_its_interval(planted):
    result = compared(planted(noise(0.01, 5, 1)), planted(noise(0.05, 5, 2)))
    assert result.paired == 5
    assert result.ratio.low < 5 < result.ratio.high
    assert result.ratio.high / result.ratio.low < 1.6
    assert "times as much" in result.verdict
    assert result.first.std.value == pytest.approx(0.01, rel=0.1)
    assert result.second.each[0].tau == pytest.approx(9, rel=0.4)


def test_equal_fluctuations_get_no_verdict_in_95_percent(planted):
    result = compared(planted(noise(0.02, 6, 3)), planted(noise(0.02, 6, 4)))
    assert result.ratio.low < 1 < result.ratio.high
    assert "No difference is shown" in result.verdict


def test_a_single_member_gets_its_interval_from_blocks_of_time(planted):
    result = compared(planted(noise(0.01, 1, 5)), planted(noise(0.03, 1, 6)))
    assert result.paired == 0
    assert result.ratio.low < 3 < result.ratio.high


def test_members_without_a_transient_end_are_left_out_by_name(planted):
    delta = noise(0.01, 4, 7)
    delta[:, 2] = np.log(0.01)
    result = compared(planted(delta), planted(noise(0.01, 4, 8)))
    assert list(result.first.left_out) == [2]
    assert any("never left the transient" in c for c in result.cautions)


def test_an_alternation_is_called_an_oscillation(planted):
    stepping = 0.02 * (-1.0) ** np.arange(6000)[:, None] + noise(1e-3, 3, 9)
    result = compared(planted(stepping), planted(noise(0.01, 3, 10)))
    assert any("edge of stability" in c for c in result.cautions)


def test_the_same_run_twice_is_refused(planted):
    run = planted(noise(0.01, 3, 13))
    with pytest.raises(AnalysisError, match="the same run twice"):
        compared(run, run)


def test_a_fluctuation_that_swells_is_cautioned_about(planted):
    swelling = noise(0.01, 3, 14) * np.linspace(0.1, 3, 6000)[:, None]
    result = compared(planted(swelling), planted(noise(0.01, 3, 15)))
    assert any(c.startswith("A: ") and "depends on when the run ends" in c for c in result.cautions)
    assert not any(c.startswith("B: ") for c in result.cautions)


def test_the_verdict_says_that_rho_eq_moves_where_log_rho_is_still(planted):
    result = compared(planted(noise(0.01, 4, 16)), planted(noise(0.05, 4, 17)))
    assert result.second.std_rho_eq == pytest.approx(0.05, rel=0.1)
    assert result.second.std_rho < 1e-6
    assert "mostly rho_eq that moves" in result.verdict


def test_runs_on_different_data_are_refused(planted):
    with pytest.raises(AnalysisError, match="different data"):
        compared(planted(noise(0.01, 3, 11)), planted(noise(0.01, 3, 12), data_digest="other"))


def test_sgd_fluctuates_more_than_gd_on_real_noisy_labels(train):
    common = [
        "data={dataset: mnist, classes: [4, 9], train: 300, test: 20, label_noise: 0.3}",
        *("network.width=16", "init.rho_k=2.0", "members.seeds=4", "steps=4000", "record.test_every=4000"),
    ]
    gd = train(*common, "optimizer={kind: gd, lr: 0.01}")
    sgd = train(*common, "optimizer={kind: sgd, lr: 0.01, batch_size: 10, sampling: with-replacement}")
    result = compared(gd, sgd)
    assert result.differs["optimizer.kind"] == ("gd", "sgd")
    assert result.ratio.low > 1, result
    assert "remark 5" in result.verdict
