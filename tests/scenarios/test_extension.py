"""What somebody adds from outside the package, each in one place: it trains, resumes, verifies, analyses, reports.

Nothing here touches another file, and nothing of the package is replaced: every component is registered and gone
again afterwards.
"""

from __future__ import annotations

import json
from typing import Annotated, ClassVar, Literal

import inside
import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt
from torch.nn.functional import conv2d, relu

from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.models.component import PerMember
from rhotrace.models.initial_weights import INITIALISERS, Initialiser, gaussian
from rhotrace.models.losses import LOSSES, Loss, Square
from rhotrace.models.network import NETWORKS, Applied, Block, Network, NetworkOptions
from rhotrace.models.optimizers import OPTIMIZERS, Optimizer
from rhotrace.recording.quantity import CADENCES, QUANTITIES, Axis, Cadence, Quantity, register
from rhotrace.runfile.reader import open_trace
from rhotrace.training.distributed import Team
from rhotrace.training.train import train as train_recipe

# --- what somebody adds ------------------------------------------------------------------------------------


class ConvOptions(NetworkOptions):
    kind: Literal["own-conv"] = "own-conv"
    channels: Annotated[int, Ge(1)] = 3
    reads_images: ClassVar[bool] = True

    def build(self, inputs, outputs):
        return Conv(inputs, self.channels, outputs)


class Conv(Network):
    """Two strided convolutions without bias, and a linear layer."""

    def __init__(self, inputs, channels, outputs):
        self.inputs = inputs
        side = -(-inputs[1] // 4)
        self.blocks = (
            Block("conv1", (channels, inputs[0], 3, 3)),
            Block("conv2", (channels, channels, 3, 3)),
            Block("linear", (outputs, channels * side * side)),
        )

    def apply(self, parameters, buffers, x, mode):
        del buffers, mode  # it has no buffers, and treats every sample alike
        h = x.reshape(len(x), *self.inputs)
        for name in ("conv1", "conv2"):
            h = relu(conv2d(h, parameters[name], stride=2, padding=1))
        flat = h.flatten(1)
        return Applied(flat @ parameters["linear"].mT, {"flat": flat})


class ResidualOptions(NetworkOptions):
    kind: Literal["own-residual"] = "own-residual"
    width: Annotated[int, Ge(1)] = 5

    def build(self, inputs, outputs):
        return Residual(int(np.prod(inputs)), self.width, outputs)


class Residual(Network):
    """A skip around one layer, after which nothing is homogeneous in that layer; a running mean and a trained shift."""

    def __init__(self, inputs, width, outputs):
        self.blocks = (
            Block("into", (width, inputs), degree=None),  # the shift and the mean do not scale with it
            Block("mean", (width,), role="buffer"),
            Block("around", (width, width), degree=None),
            Block("shift", (width,), role="shift", degree=None),
            Block("out", (outputs, width)),
        )

    def apply(self, parameters, buffers, x, mode):
        h = relu(x @ parameters["into"].mT)
        mean = 0.9 * buffers["mean"] + 0.1 * h.mean(0) if mode == "train" else buffers["mean"]
        h = h + relu(h @ parameters["around"].mT) + parameters["shift"] - 0.01 * mean.detach()
        return Applied(h @ parameters["out"].mT, {"h": h}, {"mean": mean.detach()})


class Huber(Loss):
    kind: Literal["huber"] = "huber"
    at: Annotated[float, Gt(0)] = 1.0
    formula: ClassVar[str] = "mean(huber(g - y))"

    def value(self, outputs, targets):
        off = (outputs - targets).abs()
        return torch.where(off < self.at, off**2 / 2, self.at * (off - self.at / 2)).sum(dim=(1, 2)) / outputs.shape[-1]

    def slope(self, outputs, targets):
        return (outputs - targets).clamp(-self.at, self.at) / outputs.shape[-1]


class Sparse(Initialiser):
    """With an option of its own, which may differ between members."""

    kind: Literal["sparse"] = "sparse"
    kept: Annotated[float, Gt(0), PerMember("fraction of weights that are not zero", "kept")] = 0.5

    def weights(self, layers, seed):
        keep = np.random.default_rng([seed, 9])
        return [W * (keep.random(W.shape) < self.kept) / np.sqrt(W.shape[1]) for W in gaussian(layers, seed)]


class Plain(Initialiser):
    """Without an option."""

    kind: Literal["plain"] = "plain"

    def weights(self, layers, seed):
        return [W / np.sqrt(W.shape[1]) for W in gaussian(layers, seed)]


class Momentum(Optimizer):
    """Heavy-ball momentum, whose step law nobody has told."""

    kind: Literal["momentum"] = "momentum"
    beta: Annotated[float, Ge(0), PerMember("momentum", "beta")] = 0.5

    def init(self, parameters):
        return {"weights": parameters, "velocity": tuple(torch.zeros_like(W) for W in parameters)}

    def step(self, state, gradients, *, lr, beta):
        for W, u, G in zip(state["weights"], state["velocity"], gradients, strict=True):
            u.mul_(beta).add_(G)
            W.addcmul_(u, lr, value=-1)


TOP = 2
SCALAR = Quantity(
    "largest_weight", "max|W|", ("member",), "1", None, "step", "largest absolute weight of any layer",
    measure=lambda m: torch.stack([W.abs().amax(dim=(1, 2)) for W in m.weights]).amax(dim=0).double(),
)  # fmt: skip
STRIDED = Quantity(
    "singular_value", "s_i", ("member", "layer", Axis("rank", (1.0, 2.0))), "1", None, "spectrum",
    "largest singular values of each layer; 0 where it has fewer",
    measure=lambda m: torch.stack([padded(torch.linalg.svdvals(W.double())) for W in m.weights], dim=1),
)  # fmt: skip
CURVATURE = Quantity(
    "curvature", "<W, H W>", ("member",), "1", None, "spectrum", "curvature of the loss along the weights",
    measure=lambda m: sum(
        (W.double() * HW.double()).sum(dim=(1, 2))
        for W, HW in zip(m.state["weights"], m.hessian_product(m.state["weights"]), strict=True)
    ),
    needs=("hessian products",),
)  # fmt: skip
FEATURE = Quantity(
    "feature_norm", "||h||", ("member",), "1", None, "spectrum", "mean norm of the last features on the training set",
    measure=lambda m: list(m.full.features.values())[-1].double().norm(dim=2).mean(dim=1),
    needs=("features",),
)  # fmt: skip


def padded(values):
    return torch.nn.functional.pad(values, (0, TOP))[:, :TOP]


@pytest.fixture(autouse=True)
def additions():
    """Each addition is one registration."""
    for registry, component in REGISTRATIONS:
        registry.register(component)
    register(SCALAR)
    register(STRIDED, Cadence("spectrum", 20, "spectra and curvature"))
    register(CURVATURE)
    register(FEATURE)
    yield
    for registry, component in REGISTRATIONS:
        registry.unregister(component.model_fields["kind"].default)
    for quantity in (SCALAR, STRIDED, CURVATURE, FEATURE):
        QUANTITIES.unregister(quantity.name)
    CADENCES.unregister("spectrum")


REGISTRATIONS = [
    (NETWORKS, ConvOptions),
    (NETWORKS, ResidualOptions),
    (LOSSES, Huber),
    (INITIALISERS, Sparse),
    (INITIALISERS, Plain),
    (OPTIMIZERS, Momentum),
]

BASE = """\
data: {dataset: mnist, classes: [0, 1], train: 30, test: 10}
network: {kind: mlp, depth: 3, width: 6, dtype: float64}
init: {kind: he}
optimizer: {kind: gd, lr: 0.05}
members: {seeds: 3}
steps: 50
record: {test_every: 10, snapshots: 4, every: {spectrum: 10}}
"""

COMBINATIONS = {
    "conv": ["network={kind: own-conv, channels: 2, dtype: float64}"],
    "conv in float32, minibatches": ["network={kind: own-conv}", "optimizer={kind: sgd, lr: 0.05, batch_size: 7}"],
    "conv under weight normalisation": ["network={kind: own-conv, dtype: float64}", "optimizer={kind: weight-norm, lr: 0.05}"],
    "residual": ["network={kind: own-residual, dtype: float64}", "init={kind: plain}"],
    "residual, minibatches": [
        "network={kind: own-residual, dtype: float64}",
        "optimizer={kind: sgd, lr: 0.05, batch_size: 7}",
    ],
    "loss": ["loss={kind: huber, at: 0.7}"],
    "initialiser with an option": ["init={kind: sparse}", "members={seeds: 3, kept: [0.2, 0.5, 0.9]}"],
    "initialiser without one": ["init={kind: plain}"],
    "optimizer": ["optimizer={kind: momentum, lr: 0.02}", "members={seeds: 3, beta: [0.0, 0.5, 0.9]}"],
    "all": [
        "network={kind: own-residual, dtype: float64}", "loss={kind: huber}", "init={kind: sparse}",
        "optimizer={kind: momentum, lr: 0.02}",
    ],
}  # fmt: skip
combinations = pytest.mark.parametrize("overrides", COMBINATIONS.values(), ids=COMBINATIONS)


def contents(path):
    with open_trace(path) as trace:
        names = [name for name in trace.dataset_names() if name != "sessions"]
        return {name: trace[name].tobytes() for name in names}


@combinations
def test_it_trains_resumes_to_the_same_bits_and_verifies(tmp_path, monkeypatch, command, overrides):
    inside.small_blocks(monkeypatch.setattr, 8)
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    given = recipe.parse(BASE, overrides)
    train_recipe(given, whole, device="cpu")

    def leave(block):
        if block.last >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, cut, device="cpu", watch=leave)
    with open_trace(cut) as trace:
        assert not trace.complete
        assert {"largest_weight", "singular_value", "curvature", "feature_norm"} <= {q.name for q in trace.quantities}
    assert command("verify", cut)[0] == 0
    train_recipe(given, cut, device="cpu")
    assert contents(cut) == contents(whole)
    code, out, err = command("verify", whole)
    assert code == 0, out + err


@pytest.mark.usefixtures("quick_pictures")
@combinations
def test_every_command_reads_it(tmp_path, command, overrides):
    (tmp_path / "own.yaml").write_text(recipe.parse(BASE, overrides).to_yaml())
    code, _, err = command("train", "own.yaml", "-o", "own.h5", "--device", "cpu")
    assert code == 0, err
    for words in (
        ["info", "own.h5"],
        ["analyze", "own.h5"],
        ["analyze", "own.h5", "--fit-transient", "--json"],
        ["audit", "own.h5"],
        ["verify", "own.h5"],
        ["watch", "own.h5", "--once"],
        ["export", "own.h5", "--to", "csv", "-o", "own.csv"],
        ["plot", "own.h5", "--what", "loss", "-o", "loss.png"],
        ["plot", "own.h5", "--what", "layers", "-o", "layers.png"],
        ["report", "own.h5", "-o", "own.html"],
    ):
        code, out, err = command(*words)
        assert code == 0, (words, out, err)
        assert "Traceback" not in err
    assert "singular_value" in (tmp_path / "own.csv").read_text().partition("\n")[0]


def test_the_gradients_of_a_new_network_are_those_of_finite_differences():
    given = recipe.parse(BASE, ["network={kind: own-conv, channels: 2, dtype: float64}"])
    network = given.network.build((1, 8, 8), 1)
    rng = np.random.default_rng(3)
    weights = tuple(torch.as_tensor(rng.standard_normal((2, *block.matrix))) for block in network.blocks)
    x, y = torch.as_tensor(rng.standard_normal((5, 64))), torch.as_tensor(rng.choice([-1.0, 1.0], (5, 1)))
    loss, step = Square(), 1e-6
    outputs, gradients, _ = network.gradients(weights, x, y, loss)
    for k, member, row, column in [(0, 0, 1, 4), (1, 1, 0, 7), (2, 0, 0, 5)]:
        moved = [W.clone() for W in weights]
        sides = []
        for sign in (1, -1):
            moved[k][member, row, column] = weights[k][member, row, column] + sign * step
            sides.append(loss.value(network.forward(tuple(moved), x), y.mT)[member])
        slope = float((sides[0] - sides[1]) / (2 * step))
        assert float(gradients[k][member, row, column]) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    inner = [(W * G).sum(dim=(1, 2)) for W, G in zip(weights, gradients, strict=True)]
    expected = 2 * ((outputs - y.mT) * outputs).mean(dim=(1, 2))
    for each in inner:  # homogeneity of degree 1 in every layer: <W_k, dL/dW_k> = 2 (q - a)
        torch.testing.assert_close(each, expected, rtol=1e-10, atol=1e-12)


def test_a_member_of_a_new_network_is_the_network_alone(tmp_path):
    together, alone = tmp_path / "together.h5", tmp_path / "alone.h5"
    overrides = ["network={kind: own-residual, dtype: float64}", "optimizer={kind: sgd, lr: 0.05, batch_size: 7}"]
    train_recipe(recipe.parse(BASE, overrides), together, device="cpu")
    train_recipe(recipe.parse(BASE, [*overrides, "members.seeds=[2]"]), alone, device="cpu")
    with open_trace(together) as all_of_them, open_trace(alone) as one:
        for name in ("rho_k", "loss", "singular_value", "curvature"):
            np.testing.assert_allclose(all_of_them[name][:, 2], one[name][:, 0], rtol=1e-9)


def test_the_curvature_is_the_second_derivative_of_the_loss_along_the_weights(tmp_path):
    path = tmp_path / "run.h5"
    given = recipe.parse(BASE, ["network={kind: own-conv, channels: 2, dtype: float64}"])
    train_recipe(given, path, device="cpu")
    data = given.load_data()
    network = given.network.build(data.shape, 1)
    x, y = torch.as_tensor(data.x), torch.as_tensor(data.y)
    with open_trace(path) as trace:
        weights = tuple(map(torch.as_tensor, trace.snapshot(0)))

        def along(t):
            return Square().value(network.forward(tuple(W * (1 + t) for W in weights), x), y.mT).numpy()

        step = 1e-4
        second = (along(step) - 2 * along(0.0) + along(-step)) / step**2
        np.testing.assert_allclose(trace["curvature"][0], second, rtol=1e-4)
        for member in range(trace.members):
            for layer, W in enumerate(weights):
                values = np.linalg.svd(W[member].numpy(), compute_uv=False)[:TOP]
                np.testing.assert_allclose(trace["singular_value"][0, member, layer, : len(values)], values, rtol=1e-10)


def test_a_run_opens_without_what_it_was_trained_with(tmp_path, command):
    """The file describes itself: only what must be computed anew needs the additions."""
    path = tmp_path / "own.h5"
    train_recipe(recipe.parse(BASE, COMBINATIONS["all"]), path, device="cpu")
    for registry, component in REGISTRATIONS:
        registry.unregister(component.model_fields["kind"].default)
    for quantity in (SCALAR, STRIDED, CURVATURE, FEATURE):
        QUANTITIES.unregister(quantity.name)
    try:
        with open_trace(path) as trace:
            assert trace["singular_value"].shape == (5, 3, 3, TOP)
            assert trace.quantity("largest_weight").says == SCALAR.says
            assert (trace.facts.loss, trace.facts.equilibrium, trace.facts.law) == ("huber", False, None)
        for words in (["info", path], ["analyze", path], ["verify", path], ["report", path, "-o", "own.html"]):
            code, out, err = command(*words)
            assert code == 0, (words, out, err)
        checks = json.loads(command("verify", path, "--json")[1])["checks"]
        assert {check["outcome"] for check in checks} == {"sound", "not checked"}
        code, _, err = command("train", path.with_suffix(".yaml"))
        assert code == 2
    finally:
        for registry, component in REGISTRATIONS:
            registry.register(component)
        for quantity in (SCALAR, STRIDED, CURVATURE, FEATURE):
            register(quantity)


def test_a_new_quantity_orphans_no_run(tmp_path, command):
    """A run that was recorded before a quantity was added opens, verifies and resumes, with what it had."""
    inside_names = (SCALAR, STRIDED, CURVATURE, FEATURE)
    for quantity in inside_names:
        QUANTITIES.unregister(quantity.name)
    path = tmp_path / "old.h5"
    given = recipe.parse(BASE.replace(", every: {spectrum: 10}", ""))
    train_recipe(given, path, device="cpu")
    for quantity in reversed(inside_names):  # in another order, too
        register(quantity)
    assert command("verify", path)[0] == 0
    longer = recipe.parse(BASE.replace(", every: {spectrum: 10}", ""), ["steps=60"])
    train_recipe(longer, path, device="cpu", extend_run=True)
    with open_trace(path) as trace:
        assert trace.steps == 60
        assert not {quantity.name for quantity in inside_names} & {q.name for q in trace.quantities}
    assert command("verify", path)[0] == 0


def test_a_live_run_does_not_depend_on_the_order_of_the_table(tmp_path, command, monkeypatch):
    """Its checksums are those of the file's own order: while it trains, another version may have another."""
    inside.small_blocks(monkeypatch.setattr, 8)
    whole, path = tmp_path / "whole.h5", tmp_path / "live.h5"
    given = recipe.parse(BASE)
    train_recipe(given, whole, device="cpu")

    def leave(block):
        if block.last >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(given, path, device="cpu", watch=leave)
    table = list(QUANTITIES.values())
    try:
        for quantity in table:
            QUANTITIES.unregister(quantity.name)
        for quantity in reversed(table):
            register(quantity)
        assert command("verify", path)[0] == 0
        train_recipe(given, path, device="cpu")
    finally:
        for quantity in table:
            QUANTITIES.unregister(quantity.name)
        for quantity in table:
            register(quantity)
    assert contents(path) == contents(whole)


def test_a_false_degree_of_homogeneity_is_found(tmp_path, command, monkeypatch):
    """The step identity is checked by the degree that a block claims."""
    honest = Residual.__init__

    def boastful(self, *sizes):
        honest(self, *sizes)
        self.blocks = tuple(Block(b.name, b.shape, b.role, 1, b.start) for b in self.blocks)

    monkeypatch.setattr(Residual, "__init__", boastful)
    path = tmp_path / "run.h5"
    train_recipe(recipe.parse(BASE, COMBINATIONS["residual"]), path, device="cpu")
    code, out, _ = command("verify", path)
    assert code == 2
    assert "WRONG (audit of the steps)" in out


def test_a_measure_of_another_shape_is_refused_before_it_is_written(tmp_path):
    bad = Quantity(
        "bad", "bad", ("member", "layer"), "1", None, "step", "declares an axis that it lacks",
        measure=lambda m: m.batch.loss,
    )  # fmt: skip
    register(bad)
    try:
        with pytest.raises(Exception, match=r"quantity bad: its measure has shape \(3,\), expected \(3, 3\)"):
            train_recipe(recipe.parse(BASE), tmp_path / "run.h5", device="cpu")
        with open_trace(tmp_path / "run.h5") as trace:
            assert trace.steps == 0
    finally:
        QUANTITIES.unregister("bad")


def test_options_of_new_components_are_checked_as_those_of_old_ones(command, tmp_path):
    for override, words in {
        "init={kind: sparse, kept: -1}": "init.kept: got -1, expected greater than 0",
        "init={kind: sparse, keep: 1}": "did you mean 'kept'?",
        "init={kind: spares}": "expected one of 'equal-norms', 'he', 'module', 'sparse', 'plain'",
        "members={seeds: 3, kept: [0.1, 0.2, 0.3]}": "init.kind he has no kept",
        "record.every={spectra: 3}": "did you mean 'spectrum'?",
        "loss={kind: huber, at: 0}": "loss.at: got 0, expected greater than 0",
    }.items():
        (tmp_path / "own.yaml").write_text(BASE)
        code, _, err = command("recipe", "check", "own.yaml", "--set", override)
        assert code == 2
        assert words in err, err


def test_several_processes_refuse_what_none_of_them_can_compute():
    team = object.__new__(Team)
    team.size = 2
    team.refuse_needs([SCALAR, STRIDED])
    for quantity, need in ((CURVATURE, "hessian products"), (FEATURE, "features")):
        with pytest.raises(RecipeError, match=f"quantity {quantity.name}: needs {need} .* train it in one process"):
            team.refuse_needs([quantity])


def test_the_listing_says_what_each_quantity_needs(command):
    rows = {row["quantity"]: row["needs"] for row in json.loads(command("quantities", "--json")[1])}
    assert rows["curvature"] == "hessian products"
    assert rows["feature_norm"] == "features"
    assert rows["rho_k"] == ""
    assert rows["loss"] == "outputs"
