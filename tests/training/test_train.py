"""The numbers of a run, compared with an independent oracle, exact identities, and the same run done otherwise."""

from __future__ import annotations

from itertools import pairwise

import h5py
import inside
import numpy as np
import oracle
import pytest
import torch
from components import batch_indices, mlp

from rhotrace.analysis.analyze import fit_transient
from rhotrace.analysis.transient.transient_time import Outcome as Transient
from rhotrace.config import recipe
from rhotrace.models.losses import Square
from rhotrace.models.network import Network
from rhotrace.runfile.reader import open_trace
from rhotrace.training.train import train as train_recipe

# --- what the tests share ----------------------------------------------------------------------------------

CLOSE = 1e-9
GD = "optimizer={kind: gd, lr: 0.1}"
SHUFFLED = "optimizer={kind: sgd, lr: 0.08, batch_size: 7}"  # 40 samples: the last partial batch is left out
REPLACED = "optimizer={kind: sgd, lr: 0.08, batch_size: 6, sampling: with-replacement}"
WEIGHT_NORM = "optimizer={kind: weight-norm, lr: 0.08}"
WEIGHT_NORM_BATCHES = "optimizer={kind: weight-norm, lr: 0.06, batch_size: 8}"
WEIGHT_NORM_REPLACED = "optimizer={kind: weight-norm, lr: 0.06, batch_size: 5, sampling: with-replacement}"
TEN = "data={dataset: mnist, classes: all, train: 50, test: 20}"


def floors(rows):
    """Below which size a difference is no longer taken relative to the value, for values that pass through 0.

    By Cauchy-Schwarz |a| and the margins are of the size of sqrt(q), so their rounding errors are too.
    """
    typical = np.sqrt(rows["q"])
    with np.errstate(all="ignore"):
        conditioning = np.where(rows["a"] > 0, typical / rows["a"], np.nan)  # of the logarithm of a
    return {
        "log_rho": 1.0,
        "a": typical,
        "batch_a": np.sqrt(rows["batch_q"]),
        "rho_eq_over_rho": typical / rows["q"],
        "log_rho_eq": 1 + conditioning,
        "margin_min": typical,
        "margin_quantile": typical[:, None],
    }


def assert_close(got, expected, name, floor=0.0, close=CLOSE):
    assert got.shape == expected.shape, name
    assert np.array_equal(np.isnan(got), np.isnan(expected)), f"{name}: NaN in other places"
    scale = np.maximum(np.abs(expected), floor)
    off = np.nan_to_num(np.abs(got - expected)) / np.where(scale > 0, scale, 1)
    worst = np.unravel_index(np.nanargmax(off), off.shape)
    assert off[worst] <= close, f"{name}{[int(i) for i in worst]}: {got[worst]!r} instead of {expected[worst]!r}"


def assert_same_rows(rows, expected, close=CLOSE):
    floor = floors(expected)
    for name, values in expected.items():
        assert_close(rows[name], values, name, floor.get(name, 0.0), close)


def rows_of(trace):
    return {quantity.name: trace[quantity.name] for quantity in trace.quantities}


def member_rows(rows, member):
    return {name: values[:, member] for name, values in rows.items()}


def samples(trace):
    made = recipe.parse(trace.attributes["recipe"])
    return made.load_data()


def expected_of(trace, member, sample, weights):
    """The oracle's version of one member, from the file's own initial weights and its seed for the batches."""
    optimizer = trace.recipe["optimizer"]
    batches = None
    if optimizer.get("batch_size"):
        batches = batch_indices(
            [int(trace["batch_seed"][member])],
            0,
            trace.steps,
            samples=len(sample.x),
            batch_size=optimizer["batch_size"],
            sampling=optimizer["sampling"],
        )[:, 0]
    return oracle.trajectory(
        [W[member] for W in weights],
        sample.x,
        sample.y,
        (sample.x_test, sample.y_test),
        lr=float(trace["lr"][member]),
        steps=trace.steps,
        batches=batches,
        weight_norm=optimizer["kind"] == "weight-norm",
    )


def assert_oracle_agrees(trace):
    rows, sample = rows_of(trace), samples(trace)
    (first, initial), *_, (last, final) = trace.snapshots()
    assert (first, last) == (0, trace.steps)
    for member in range(trace.members):
        expected = expected_of(trace, member, sample, initial)
        assert rows.keys() == expected.rows.keys()
        assert_same_rows(member_rows(rows, member), expected.rows)
        for k, (W, right) in enumerate(zip(final, expected.weights, strict=True), 1):
            assert_close(W[member], right, f"W{k}", floor=np.abs(right).max())


def datasets(path):
    """Every dataset of a file, by path."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert values.dtype == right[name].dtype, name
        assert values.shape == right[name].shape, name
        assert values.tobytes() == right[name].tobytes(), name


# --- the oracle itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "outputs"), [(1, 1), (2, 1), (4, 1), (3, 5)])
def test_oracle_gradients_are_the_derivative_of_the_loss(depth, outputs):
    rng = np.random.default_rng(depth)
    sizes = [6, *[5] * (depth - 1), outputs]
    weights = [rng.standard_normal((out, into)) for into, out in pairwise(sizes)]
    x, y = rng.standard_normal((9, 6)), rng.standard_normal((9, outputs))
    found = oracle.gradients(weights, x, y)
    for k, G in enumerate(found):
        for entry in np.ndindex(G.shape):
            moved = [W.astype(complex) for W in weights]
            moved[k][entry] += 1e-30j  # a complex step has no cancellation, hence no step size to choose
            assert oracle.loss(moved, x, y).imag / 1e-30 == pytest.approx(G[entry], rel=1e-11, abs=1e-13)


def test_oracle_weight_norm_gradients_are_the_derivatives_of_the_product_form():
    rng = np.random.default_rng(0)
    v, gamma, G = rng.standard_normal((3, 4)), 1.7, rng.standard_normal((3, 4))

    def linear(v, gamma):  # a loss whose gradient with respect to W is G
        return (G * gamma * v / np.sqrt((v * v).sum())).sum()

    (v_next,), (gamma_next,) = oracle.descend_normalised([v], [gamma], [G], 1.0)
    assert linear(v, gamma + 1e-30j).imag / 1e-30 == pytest.approx(gamma - gamma_next, rel=1e-12)
    for entry in np.ndindex(v.shape):
        moved = v.astype(complex)
        moved[entry] += 1e-30j
        assert linear(moved, gamma).imag / 1e-30 == pytest.approx((v - v_next)[entry], rel=1e-10, abs=1e-13)


# --- whole trajectories ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([GD], id="gd"),
        pytest.param([GD, "network.depth=1"], id="gd, depth 1"),
        pytest.param([GD, "network.depth=3", "network.width=[16, 5]"], id="gd, widths 16 and 5"),
        pytest.param([GD, "network.depth=5", "init.rho_k=1.6"], id="gd, depth 5"),
        pytest.param([GD, "init={kind: he}"], id="gd, He start"),
        pytest.param([GD, "data.label_noise=0.1", "data.classes=[[0, 1, 2], [3, 4]]"], id="gd, groups, noisy labels"),
        pytest.param([GD, TEN, "network.depth=2", "init.rho_k=2.0"], id="gd, ten classes"),
        pytest.param([GD, TEN, "network.depth=1"], id="gd, ten classes, depth 1"),
        pytest.param([SHUFFLED], id="sgd shuffled"),
        pytest.param([REPLACED], id="sgd with replacement"),
        pytest.param([REPLACED, "network.depth=1"], id="sgd with replacement, depth 1"),
        pytest.param(
            [SHUFFLED, TEN, "network.width=[16, 5]", "init.rho_k=2.0"], id="sgd, ten classes, widths 16 and 5"
        ),
        pytest.param([SHUFFLED, "members.batch_seeds=[9, 9]"], id="sgd, seeds of the batches"),
        pytest.param([WEIGHT_NORM], id="weight norm"),
        pytest.param([WEIGHT_NORM, TEN, "network.width=[16, 5]", "init.rho_k=2.0"], id="weight norm, ten classes"),
        pytest.param([WEIGHT_NORM_BATCHES], id="weight norm, minibatches"),
        pytest.param([WEIGHT_NORM_REPLACED, "network.depth=1"], id="weight norm, with replacement, depth 1"),
    ],
)
def test_every_quantity_and_the_final_weights_agree_with_the_oracle_over_200_steps(train, overrides):
    with open_trace(train("steps=200", "record={test_every: 1, snapshots: 2}", "members.seeds=2", *overrides)) as trace:
        assert trace.steps == 200
        assert (trace["loss"][-1] < 0.9 * trace["loss"][0]).all()  # it trains: the weights went somewhere
        assert_oracle_agrees(trace)


@pytest.mark.parametrize(
    "optimizer", [GD, SHUFFLED, REPLACED, WEIGHT_NORM, WEIGHT_NORM_BATCHES], ids=lambda text: text[10:].strip("{}")
)
def test_members_of_different_seed_scale_and_rate_equal_the_oracle_and_the_network_trained_alone(train, optimizer):
    seeds, rho_k, lr = [5, 11, 11], [0.8, 1.0, 1.4], [0.03, 0.05, 0.1]
    together = train(
        "steps=100",
        "record={test_every: 1, snapshots: 2}",
        optimizer,
        f"members={{seeds: {seeds}, rho_k: {rho_k}, lr: {lr}}}",
    )
    with open_trace(together) as trace:
        assert list(trace["seed"]) == seeds
        assert list(trace["lr"]) == lr
        assert_close(trace["rho_k"][0], np.repeat(rho_k, 3).reshape(3, 3), "rho_k(0)", close=1e-14)
        assert_oracle_agrees(trace)
        rows = rows_of(trace)
        (_, initial), (_, final) = trace.snapshots()
        for m, seed in enumerate(seeds):
            path = train(
                "steps=100",
                "record={test_every: 1, snapshots: 2}",
                optimizer,
                f"members={{seeds: [{seed}]}}",
                f"init.rho_k={rho_k[m]}",
                f"optimizer.lr={lr[m]}",
            )
            with open_trace(path) as alone:
                assert_same_rows(member_rows(rows, m), member_rows(rows_of(alone), 0))
                for W, own in zip(final, alone.snapshots()[-1][1], strict=True):
                    assert_close(W[m], own[0], "final weights", floor=np.abs(own).max())
    for W in initial:  # the same seed at another scale is the same direction
        assert_close(W[1] / rho_k[1], W[2] / rho_k[2], "direction", floor=1.0, close=1e-15)
        assert np.abs(W[0] / rho_k[0] - W[1] / rho_k[1]).max() > 0.01


# --- exact identities of a discrete step (theory.md, section 2) --------------------------------------------

ROUNDING = 1e-13


@pytest.mark.parametrize("optimizer", [GD, SHUFFLED, REPLACED], ids=["gd", "sgd shuffled", "sgd with replacement"])
@pytest.mark.parametrize("network", ["network.depth=1", "network.width=[16, 5]"], ids=["depth 1", "depth 3"])
def test_each_layer_norm_moves_by_the_flow_and_the_finite_step_exactly(train, optimizer, network):
    with open_trace(train("steps=200", optimizer, network)) as trace:
        eta = trace["lr"][:, None]
        square, drive = trace["rho_k"] ** 2, (trace["batch_a"] - trace["batch_q"])[..., None]
        flow, finite = 4 * eta * drive, (eta * trace["grad_norm"]) ** 2
    assert np.abs(square[1:] - (square + flow + finite)[:-1]).max() < ROUNDING * square.max()
    # Each term is there to be seen: without it the identity would miss by far more than rounding.
    assert np.abs(flow).max() > 1e6 * ROUNDING
    assert np.abs(finite).max() > 1e6 * ROUNDING
    # Hence the balance moves by the finite steps alone.
    balance = square - square[..., :1]
    finite_balance = finite - finite[..., :1]
    assert np.abs(balance[1:] - (balance + finite_balance)[:-1]).max() < ROUNDING * square.max()


@pytest.mark.parametrize("optimizer", [WEIGHT_NORM, WEIGHT_NORM_BATCHES, WEIGHT_NORM_REPLACED])
def test_weight_norm_moves_each_norm_by_the_flow_and_lengthens_v_by_its_own_gradient_exactly(train, optimizer):
    with open_trace(train("steps=200", optimizer, "network.width=[16, 5]")) as trace:
        eta = trace["lr"][:, None]
        gamma, drive = trace["rho_k"], (trace["batch_a"] - trace["batch_q"])[..., None]
        v, G = trace["v_norm"], trace["grad_norm"]
    assert (gamma > 0.1).all()  # so rho_k is gamma and not -gamma
    assert np.abs(gamma[1:] - (gamma + 2 * eta / gamma * drive)[:-1]).max() < ROUNDING * gamma.max()
    along = -2 * drive / gamma  # <V_k, G_k>, by homogeneity
    v_gradient_square = (gamma / v) ** 2 * (G**2 - along**2)
    grown = v**2 + eta**2 * v_gradient_square
    assert np.abs(v[1:] ** 2 - grown[:-1]).max() < ROUNDING * (v**2).max()
    assert (v[1:] >= v[:-1] * (1 - 1e-15)).all()
    assert (v[0] == gamma[0]).all()
    assert (v[-1] - v[0] > 1e6 * ROUNDING).all()


def test_balance_drift_of_gd_over_a_fixed_time_is_first_order_in_the_step_size(train):
    drifts = []
    for steps in (100, 200, 400):
        path = train(
            f"steps={steps}", f"optimizer.lr={8 / steps}", "members.rho_k=[0.9, 1.0, 1.2]", "record.test_every=1000"
        )
        with open_trace(path) as trace:
            square = trace["rho_k"] ** 2
        balance = square[..., :, None] - square[..., None, :]
        drifts.append(np.abs(balance - balance[0]).max(axis=(0, 2, 3)))  # of each member
    coarse, middle, fine = drifts
    assert (fine > 1e-5).all()
    assert ((coarse / middle > 1.8) & (coarse / middle < 2.2)).all(), coarse / middle
    assert ((middle / fine > 1.8) & (middle / fine < 2.2)).all(), middle / fine


# --- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["shared x", "x of each member"])
@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize(("depth", "width"), [(1, 8), (2, 8), (3, [7, 3]), (6, 5)])
def test_gradients_by_hand_equal_automatic_ones_and_the_oracle(depth, width, outputs, shared):
    members, samples, inputs = 3, 11, 9
    network = mlp(inputs, outputs, depth=depth, width=width)
    random = torch.Generator().manual_seed(depth)

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    weights = tuple(normal(members, *shape) for shape in (block.matrix for block in network.blocks))
    if depth > 1:
        weights[0][:, 0] = 0  # a unit exactly at the kink for every sample
    x = normal(samples, inputs) if shared else normal(members, samples, inputs)
    y = normal(samples, outputs) if shared else normal(members, samples, outputs)
    kept = [t.clone() for t in (*weights, x, y)]
    g, by_hand, _ = network.gradients(weights, x, y, Square())
    g_automatic, automatic, _ = Network.gradients(network, weights, x, y, Square())
    assert all(torch.equal(t, before) for t, before in zip((*weights, x, y), kept, strict=True))
    assert torch.equal(g, network.forward(weights, x))
    assert_close(g.numpy(), g_automatic.numpy(), "g", floor=1.0, close=1e-12)
    for k in range(depth):
        assert by_hand[k].shape == weights[k].shape
        size = float(automatic[k].abs().max())
        assert_close(by_hand[k].numpy(), automatic[k].numpy(), f"G{k + 1}", floor=size, close=1e-12)
        for m in range(members):
            own = oracle.gradients(
                [W[m].numpy() for W in weights], *(t.numpy() if shared else t[m].numpy() for t in (x, y))
            )
            assert_close(by_hand[k][m].numpy(), own[k], f"G{k + 1}", floor=size, close=1e-12)


# --- the same run again, and recorded otherwise ------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [GD, SHUFFLED, WEIGHT_NORM_REPLACED], ids=["gd", "sgd", "weight norm"])
def test_the_same_recipe_twice_gives_the_same_bits(train, optimizer, dtype):
    first, second = (datasets(train("steps=80", optimizer, f"network.dtype={dtype}")) for _ in range(2))
    assert {"rho_k", "grad_norm", "loss", "test_error", "weights/W3", "weights/snapshot_step", "lr"} <= set(first)
    assert first["weights/W1"].dtype == dtype
    assert_same_bits(first, second)


def test_when_blocks_are_committed_changes_no_bit(train, monkeypatch):
    overrides = ("steps=75", SHUFFLED, "record.full_every=7", "record.test_every=10")
    one_block = datasets(train(*overrides))
    inside.small_blocks(monkeypatch.setattr, 1)
    assert_same_bits(one_block, datasets(train(*overrides)))


def test_a_longer_run_begins_with_the_shorter_one(train):
    with open_trace(train("steps=40", REPLACED)) as short, open_trace(train("steps=60", REPLACED)) as long:
        for quantity in short.quantities:
            rows = short[quantity.name]
            assert rows.tobytes() == long[quantity.name][: len(rows)].tobytes(), quantity.name


def test_strided_quantities_are_those_rows_of_the_run_that_records_every_step(train):
    # More steps than fit into a block of the recorder, and 7 does not divide a block.
    shared = ("steps=1100", "data.train=20", "members.seeds=2", "network.width=4", "record.snapshots=3", SHUFFLED)
    every = train(*shared, "record.full_every=1", "record.test_every=1")
    some = train(*shared, "record.full_every=7", "record.test_every=10")
    with open_trace(every) as dense, open_trace(some) as sparse:
        expected = {"step": np.arange(1100), "full": np.arange(0, 1100, 7), "test": np.arange(0, 1100, 10)}
        assert {q.name for q in sparse.quantities} == {q.name for q in dense.quantities}
        assert {q.cadence for q in sparse.quantities} == set(expected)
        for quantity in sparse.quantities:
            steps = sparse.step_of(quantity.name)
            assert np.array_equal(steps, expected[quantity.cadence]), quantity.name
            assert np.array_equal(dense.step_of(quantity.name), np.arange(1100)), quantity.name
            rows = sparse[quantity.name]
            assert len(rows) == len(steps)
            assert rows.tobytes() == dense[quantity.name][steps].tobytes(), quantity.name
        for (step, weights), (step_dense, weights_dense) in zip(sparse.snapshots(), dense.snapshots(), strict=True):
            assert step == step_dense
            assert all(np.array_equal(W, own) for W, own in zip(weights, weights_dense, strict=True))


def test_full_batch_runs_have_the_training_set_at_every_step_at_any_stride(train):
    with open_trace(train("record.full_every=7")) as trace:
        assert np.array_equal(trace.step_of("a"), np.arange(60))
        assert np.array_equal(trace["a"], trace["batch_a"])
        assert np.array_equal(trace["q"], trace["batch_q"])


# --- minibatches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["shuffled", "with-replacement"])
@pytest.mark.parametrize(("samples", "size"), [(40, 7), (40, 40), (1000, 1), (30, 10)])
def test_batches_depend_on_seed_and_step_alone(samples, size, sampling):
    def drawn(seeds, first, last):
        return batch_indices(seeds, first, last, samples=samples, batch_size=size, sampling=sampling)

    whole = drawn([3, 8, 5], 0, 700)
    assert whole.shape == (700, 3, size)
    assert whole.min() >= 0
    assert whole.max() < samples
    for cuts in ([0, 1, 2, 3, 700], [0, 255, 256, 257, 512, 700], [0, 5, 10, 333, 699, 700]):
        pieces = [drawn([3, 8, 5], *ends) for ends in pairwise(cuts)]
        assert np.array_equal(np.concatenate(pieces), whole)
    for step in (0, 4, 5, 255, 256, 699):
        assert np.array_equal(drawn([3, 8, 5], step, step + 1)[0], whole[step])
    assert np.array_equal(drawn([8], 0, 700)[:, 0], whole[:, 1])
    assert np.array_equal(drawn([5, 3], 0, 700), whole[:, [2, 0]])
    if size < samples:
        assert not np.array_equal(whole[:, 0], whole[:, 1])


@pytest.mark.parametrize(("samples", "size"), [(40, 8), (40, 7), (15, 1), (20, 20)])
def test_shuffled_epochs_visit_each_sample_at_most_once_in_a_new_order(samples, size):
    per_epoch = samples // size
    drawn = batch_indices([1, 2], 0, 50 * per_epoch, samples=samples, batch_size=size, sampling="shuffled")
    epochs = drawn.transpose(1, 0, 2).reshape(2, 50, per_epoch * size)
    for epoch in epochs.reshape(100, -1):
        assert len(set(epoch)) == per_epoch * size
        assert per_epoch * size > samples - size
    if samples % size == 0:
        assert (np.sort(epochs, axis=2) == np.arange(samples)).all()
    assert len({epoch.tobytes() for epoch in epochs.reshape(100, -1)}) == 100
    assert set(epochs[0].ravel()) == set(range(samples))  # what one epoch leaves out, another visits


def test_with_replacement_repeats_samples_and_draws_them_uniformly():
    drawn = batch_indices([1], 0, 2000, samples=40, batch_size=8, sampling="with-replacement")[:, 0]
    repeats = np.mean([len(set(batch)) < 8 for batch in drawn])
    assert repeats == pytest.approx(1 - np.prod(1 - np.arange(8) / 40), abs=0.05)
    counts = np.bincount(drawn.ravel(), minlength=40)
    assert ((counts - 400) ** 2 / 400).sum() < 39 + 5 * np.sqrt(2 * 39)  # chi-square with 39 degrees of freedom
    steps = drawn[:-1] == drawn[1:]
    assert steps.mean() == pytest.approx(1 / 40, abs=0.01)  # no memory from step to step


# --- the theory on real data -------------------------------------------------------------------------------


def test_transient_on_mnist_grows_with_depth_and_with_smaller_initial_norm(train):
    starts = [1.6, 1.3, 1.0]
    medians = []
    for depth in (2, 3, 4):
        path = train(
            "data.train=100",
            "network.width=16",
            f"network.depth={depth}",
            "optimizer.lr=0.1",
            "steps=350",
            "record={snapshots: 0, test_every: 350}",
            f"members={{seeds: {[0, 1, 2, 3] * 3}, rho_k: {np.repeat(starts, 4).tolist()}}}",
        )
        with open_trace(path) as trace:
            each = fit_transient(trace, fit=False).each
        assert [member.outcome for member in each] == [Transient.LEFT] * 12
        medians.append(np.median(np.reshape([member.T for member in each], (3, 4)), axis=1))
    T = np.array(medians)  # (depth, rho_k(0))
    assert (T[1:] > 1.3 * T[:-1]).all(), T
    assert (T[:, 1:] > 1.15 * T[:, :-1]).all(), T
    assert (np.diff(T[:, -1] / T[:, 0]) > 0).all(), T  # and the more steeply, the deeper the network


# --- divergence --------------------------------------------------------------------------------------------

ABSURD = {
    "gd": "optimizer={kind: gd, lr: 1.0e+6}",
    "sgd": "optimizer={kind: sgd, lr: 1.0e+6, batch_size: 5}",
    "weight norm": "optimizer={kind: weight-norm, lr: 1.0e+6}",
}


def assert_diverged_file(path, steps):
    with open_trace(path) as trace:
        assert trace.complete
        assert trace.attributes["ended"] == "diverged"
        assert trace.steps == steps
        for quantity in trace.quantities:
            rows = trace[quantity.name]
            assert len(rows) == len(trace.step_of(quantity.name)), quantity.name
        for name in ("rho_k", "grad_norm", "log_rho", "a", "q", "loss", "test_loss"):
            finite = np.isfinite(trace[name])
            assert finite[0].all(), name
            assert (finite[1:] <= finite[:-1]).all(), f"{name} comes back from infinity"
        assert not np.isfinite(trace["log_rho"][-1]).any()
        assert np.isnan(trace["error"][np.isnan(trace["q"])]).all()  # and not a count of the signs of NaN
        assert_close(trace["rho_k"][0], np.ones_like(trace["rho_k"][0]), "rho_k(0)", close=1e-6)
        step, weights = trace.snapshots()[-1]
        assert step <= steps
        assert all(len(W) == trace.members for W in weights)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ABSURD.values(), ids=ABSURD)
def test_an_absurd_rate_stops_as_diverged_and_leaves_a_readable_file(small, tmp_path, optimizer, dtype):
    changes = [optimizer, f"network.dtype={dtype}", "network.depth=1", "steps=1000000", "record.test_every=1"]
    outcome = train_recipe(recipe.parse(small, changes), tmp_path / "run.h5", device="cpu")
    assert outcome.ended == "diverged"
    assert 0 < outcome.steps <= 1024
    assert_diverged_file(tmp_path / "run.h5", outcome.steps)


def test_a_run_that_diverges_before_its_last_planned_step_says_so_too(small, tmp_path):
    changes = [ABSURD["gd"], "network.depth=1", "steps=300"]  # a single block
    outcome = train_recipe(recipe.parse(small, changes), tmp_path / "run.h5", device="cpu")
    assert outcome.ended == "diverged"
    assert_diverged_file(tmp_path / "run.h5", outcome.steps)


def test_a_diverged_member_leaves_the_others_alone(train):
    members = "members={seeds: [0, 1, 2], lr: [0.05, 1.0e+6, 0.05]}"
    with (
        open_trace(train("steps=200", "network.depth=1", members)) as trace,
        open_trace(train("steps=200", "network.depth=1")) as calm,
    ):
        assert trace.attributes["ended"] == "finished"
        assert not np.isfinite(trace["loss"][-1, 1])
        rows, expected = rows_of(trace), rows_of(calm)
    for m in (0, 2):
        assert_same_rows(member_rows(rows, m), member_rows(expected, m))
