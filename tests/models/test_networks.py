"""Every network kind beside the plain perceptron: its definition, gradients, degrees and members, against other means.

The forward passes are compared with torch modules, or numpy written out; gradients with finite differences; the
degrees of homogeneity with derivatives along each layer's own weights, and with scaled weights.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.models.losses import Square
from rhotrace.models.network import TOGETHER, Network
from rhotrace.models.networks import NETWORKS

IMAGE, MEMBERS, SAMPLES, OUTPUTS = (2, 9, 8), 3, 6, 2
KINDS = {
    "conv": "{kind: conv, channels: [3, 4], dtype: float64}",
    "conv, one wide kernel": "{kind: conv, channels: [3], kernel: 5, stride: 3, padding: 0, dtype: float64}",
    "conv, batch norm": "{kind: conv, channels: [3, 4], batch_norm: true, dtype: float64}",
    "mlp, batch norm": "{kind: mlp, depth: 4, width: [5, 6, 4], batch_norm: true, dtype: float64}",
    "mlp, batch norm with epsilon": "{kind: mlp, depth: 3, width: 5, batch_norm: true, batch_norm_epsilon: 0.01, dtype: float64}",
    "residual": "{kind: residual, depth: 4, width: 5, dtype: float64}",
    "residual of two layers": "{kind: residual, depth: 2, width: 5, dtype: float64}",
    "residual-conv": "{kind: residual-conv, channels: [3, 2], blocks: 2, dtype: float64}",
    "shared": "{kind: shared, depth: 5, width: 6, dtype: float64}",
}
kinds = pytest.mark.parametrize("kind", KINDS)


def options(text, *overrides):
    fixed = (
        "data: {dataset: mnist, classes: [0, 1]}\ninit: {kind: he}\noptimizer: {kind: gd, lr: 0.1}\nsteps: 1\nnetwork: "
    )
    return recipe.parse(fixed + text, list(overrides)).network


def problem(kind, members=MEMBERS):
    """The network, parameters and buffers of the members, and x and y shared by them."""
    network = options(KINDS[kind]).build(IMAGE, OUTPUTS)
    rng = np.random.default_rng(1)
    parameters = tuple(
        torch.as_tensor(rng.standard_normal((members, *block.matrix)) / np.sqrt(block.matrix[1]))
        for block in network.parameters
    )
    buffers = tuple(torch.as_tensor(rng.uniform(0.5, 2, (members, *block.matrix))) for block in network.buffers)
    x = torch.as_tensor(rng.standard_normal((SAMPLES, int(np.prod(IMAGE)))))
    y = torch.as_tensor(rng.standard_normal((SAMPLES, OUTPUTS)))
    return network, parameters, buffers, x, y


def trained_outputs(network, parameters, buffers, x):
    """g in mode ``train``, (M, C, N)."""
    y = torch.zeros(x.shape[-2], OUTPUTS, dtype=x.dtype)
    return network.gradients(parameters, x, y, Square(), buffers).outputs


# --- the definitions ---------------------------------------------------------------------------------------


class Shortcut(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        return h + self.layer(h.relu())


def linear(into, out):
    return nn.Linear(into, out, bias=False)


def conv(into, out, kernel, stride, padding):
    return nn.Conv2d(into, out, kernel, stride, padding, bias=False)


def as_modules(kind):
    """The same network in torch modules, whose parameters and buffers come in the order of the blocks."""
    images, flat = nn.Unflatten(1, IMAGE), nn.Flatten()
    d = int(np.prod(IMAGE))
    shared = linear(6, 6)
    epsilon = 0.01 if "epsilon" in kind else 1e-300  # which is 0 to rounding; torch refuses 0

    def norm(units, kind=nn.BatchNorm1d):
        return kind(units, affine=False, eps=epsilon)

    layers = {
        "conv": [
            images, conv(2, 3, 3, 2, 1), nn.ReLU(), conv(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, OUTPUTS, (3, 2), bias=False),
            flat,
        ],
        "conv, one wide kernel": [
            images, conv(2, 3, 5, 3, 0), nn.ReLU(), nn.Conv2d(3, OUTPUTS, (2, 2), bias=False), flat
        ],
        "conv, batch norm": [
            images, conv(2, 3, 3, 2, 1), norm(3, nn.BatchNorm2d), nn.ReLU(), conv(3, 4, 3, 2, 1), norm(4, nn.BatchNorm2d),
            nn.ReLU(), nn.Conv2d(4, OUTPUTS, (3, 2), bias=False), flat,
        ],
        "mlp, batch norm": [
            linear(d, 5), norm(5), nn.ReLU(), linear(5, 6), norm(6), nn.ReLU(), linear(6, 4), norm(4), nn.ReLU(),
            linear(4, OUTPUTS),
        ],
        "mlp, batch norm with epsilon": [
            linear(d, 5), norm(5), nn.ReLU(), linear(5, 5), norm(5), nn.ReLU(), linear(5, OUTPUTS)
        ],
        "residual": [linear(d, 5), Shortcut(linear(5, 5)), Shortcut(linear(5, 5)), nn.ReLU(), linear(5, OUTPUTS)],
        "residual of two layers": [linear(d, 5), nn.ReLU(), linear(5, OUTPUTS)],
        "residual-conv": [
            images, conv(2, 3, 3, 2, 1), *(Shortcut(conv(3, 3, 3, 1, 1)) for _ in range(2)), nn.ReLU(), conv(3, 2, 3, 2, 1),
            *(Shortcut(conv(2, 2, 3, 1, 1)) for _ in range(2)), nn.ReLU(), nn.Conv2d(2, OUTPUTS, (3, 2), bias=False), flat,
        ],
        "shared": [
            linear(d, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), linear(6, OUTPUTS)
        ],
    }[kind]  # fmt: skip
    return nn.Sequential(*layers).double()


@kinds
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_it_is_the_network_that_torch_modules_make(kind, mode):
    network, parameters, buffers, x, _ = problem(kind)
    together = (
        network.forward(parameters, x, buffers) if mode == "eval" else trained_outputs(network, parameters, buffers, x)
    )
    after = network.gradients(parameters, x, torch.zeros(SAMPLES, OUTPUTS).double(), Square(), buffers).buffers
    for member in range(MEMBERS):
        modules = as_modules(kind).train(mode == "train")
        running = [b for name, b in modules.named_buffers() if "num_batches" not in name]
        with torch.no_grad():
            for theirs, ours in zip([*modules.parameters(), *running], [*parameters, *buffers], strict=True):
                theirs.copy_(ours[member].reshape(theirs.shape))
            expected = modules(x)
        torch.testing.assert_close(together[member].mT, expected, rtol=1e-10, atol=1e-12)
        if mode == "train":
            for theirs, ours in zip(running, after, strict=True):
                torch.testing.assert_close(ours[member].flatten(), theirs, rtol=1e-10, atol=1e-12)


# --- gradients and degrees ---------------------------------------------------------------------------------


@kinds
def test_gradients_are_those_of_finite_differences(kind):
    network, parameters, buffers, x, y = problem(kind)
    gradients = network.gradients(parameters, x, y, Square(), buffers).gradients
    rng, step = np.random.default_rng(2), 1e-6
    for k, G in enumerate(gradients):
        direction = torch.as_tensor(rng.standard_normal(G.shape))
        sides = []
        for sign in (1, -1):
            moved = [W + sign * step * direction if j == k else W for j, W in enumerate(parameters)]
            sides.append(Square().value(trained_outputs(network, tuple(moved), buffers, x), y.mT))
        slope = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close((G * direction).sum((1, 2)), slope, rtol=1e-5, atol=1e-7)


@kinds
def test_the_outputs_are_homogeneous_in_each_layer_of_the_degree_that_it_claims_and_in_no_other(kind):
    network, parameters, buffers, x, y = problem(kind)
    g = trained_outputs(network, parameters, buffers, x)
    gradients = network.gradients(parameters, x, y, Square(), buffers).gradients
    off = 2 * ((g - y.mT) * g).sum((1, 2)) / SAMPLES  # 2 (q - a)
    for k, block in enumerate(network.parameters):

        def along(t, k=k):
            moved = [W * (1 + t) if j == k else W for j, W in enumerate(parameters)]
            return trained_outputs(network, tuple(moved), buffers, x)

        slope = (along(1e-5) - along(-1e-5)) / 2e-5  # <W_k, dg/dW_k>
        inner = (parameters[k] * gradients[k]).sum((1, 2))
        if block.degree is None:
            ratio = (slope * g).sum((1, 2)) / g.square().sum((1, 2))
            assert ((slope - ratio[:, None, None] * g).norm(dim=(1, 2)) > 1e-3 * g.norm(dim=(1, 2))).all()
        else:
            torch.testing.assert_close(slope, block.degree * g, rtol=1e-7, atol=1e-8)
            torch.testing.assert_close(along(2.0), 3.0**block.degree * g, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(inner, block.degree * off, rtol=1e-10, atol=1e-12)


def test_the_degrees_are_those_that_the_pages_state():
    def degrees(kind):
        return [block.degree for block in problem(kind)[0].layers]

    assert degrees("conv") == [1, 1, 1]
    assert degrees("conv, batch norm") == [0, 0, 1]
    assert degrees("mlp, batch norm") == [0, 0, 0, 1]
    assert degrees("mlp, batch norm with epsilon") == [None, None, 1]
    assert degrees("residual") == [1, None, None, 1]
    assert degrees("residual-conv") == [1, None, None, 1, None, None, 1]
    assert degrees("shared") == [1, 3, 1]


# --- members -----------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("own_inputs", [False, True])
def test_members_are_the_networks_alone(kind, own_inputs):
    network, parameters, buffers, x, y = problem(kind)
    if own_inputs:
        x = torch.stack([x, 2 * x, x.flip(0)])
        y = torch.stack([y, -y, y])
    together = network.gradients(parameters, x, y, Square(), buffers)
    applied = network.evaluate(parameters, x, buffers)
    tolerance = {"rtol": 0, "atol": 0} if network.one_by_one else {"rtol": 1e-11, "atol": 1e-13}
    for m in range(MEMBERS):
        own, constants = (tuple(t[m : m + 1] for t in tensors) for tensors in (parameters, buffers))
        inputs, targets = (t[m : m + 1] if own_inputs else t for t in (x, y))
        alone = network.gradients(own, inputs, targets, Square(), constants)
        torch.testing.assert_close(together.outputs[m], alone.outputs[0], **tolerance)
        for of_all, of_one in zip(
            (*together.gradients, *together.buffers), (*alone.gradients, *alone.buffers), strict=True
        ):
            torch.testing.assert_close(of_all[m], of_one[0], **tolerance)
        evaluated = network.evaluate(own, inputs, constants)
        torch.testing.assert_close(applied.outputs[m], evaluated.outputs[0], **tolerance)
        for name, values in applied.features.items():
            torch.testing.assert_close(values[m], evaluated.features[name][0], **tolerance)


@pytest.mark.parametrize("kind", ["conv", "conv, batch norm", "residual-conv"])
def test_members_one_by_one_are_those_side_by_side(kind):
    network, parameters, buffers, x, y = problem(kind)
    both = []
    for one_by_one in (True, False):
        network.one_by_one = one_by_one
        backward = network.gradients(parameters, x, y, Square(), buffers)
        applied = network.evaluate(parameters, x, buffers)
        product = network.hessian_product(parameters, x, y, Square(), parameters, buffers)
        found = [backward.outputs, *backward.gradients, *backward.buffers, applied.outputs, *product]
        both.append([*found, *applied.features.values()])
    for one, other in zip(*both, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_perceptron_without_normalisation_is_the_class_with_the_forms_by_hand():
    plain, normalised = (
        options(f"{{kind: mlp, depth: 3, batch_norm: {on}}}").build((4,), 1) for on in ("false", "true")
    )
    assert type(plain).gradients is not Network.gradients
    assert type(normalised).gradients is Network.gradients
    assert not plain.buffers


def test_a_unit_that_is_constant_over_the_batch_becomes_0_with_gradient_0():
    network, parameters, buffers, x, y = problem("mlp, batch norm")
    parameters[1][:, 2] = 0
    _, gradients, after = network.gradients(parameters, x, y, Square(), buffers)
    assert all(tensor.isfinite().all() for tensor in (*gradients, *after))
    assert (gradients[1][:, 2] == 0).all()


# --- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["conv, batch norm", "mlp, batch norm", "shared"])
def test_a_large_set_is_evaluated_a_part_at_a_time_and_a_small_one_at_once(kind, monkeypatch):
    network, parameters, buffers, _, _ = problem(kind)
    seen, honest = [], type(network).apply

    def counting(self, parameters, buffers, x, mode):
        seen.append(len(x))
        return honest(self, parameters, buffers, x, mode)

    monkeypatch.setattr(type(network), "apply", counting)
    x = torch.as_tensor(np.random.default_rng(4).standard_normal((TOGETHER + 3, int(np.prod(IMAGE)))))
    large = network.forward(parameters, x, buffers)
    assert set(seen) == {TOGETHER, 3}
    together = network.evaluate(parameters, x, buffers).outputs
    torch.testing.assert_close(large, together, rtol=1e-12, atol=1e-14)
    seen.clear()
    small = network.forward(parameters, x[:TOGETHER], buffers)
    assert set(seen) == {TOGETHER}
    assert torch.equal(small, network.evaluate(parameters, x[:TOGETHER], buffers).outputs)
    assert torch.equal(small, large[..., :TOGETHER])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{kind: conv}", 2 * (32 * 16**2 + 64 * 8**2 + 128 * 4**2)),  # each convolution and its ReLU
        ("{kind: conv, channels: [8], stride: 1}", 2 * 8 * 32**2),
        ("{kind: residual-conv, channels: [8], blocks: 1}", 4 * 8 * 16**2),
        ("{kind: residual, depth: 6, width: 100}", 100 * (1 + 4 * 3 + 1)),
        ("{kind: shared, depth: 6, width: 100}", 2 * 5 * 100),
    ],
)
def test_the_units_for_estimates_of_memory_are_what_a_forward_pass_makes_of_one_sample(text, expected):
    network = options(text).build((3, 32, 32), 1)
    assert expected <= network.units(3 * 32 * 32) <= expected + 2 * 3 * 32 * 32


# --- errors ------------------------------------------------------------------------------------------------


def test_the_default_is_the_network_of_the_follow_up():
    for image in ((3, 32, 32), (1, 28, 28)):
        blocks = options("{kind: conv}").build(image, 1).blocks
        assert [block.shape for block in blocks] == [
            (32, image[0], 3, 3), (64, 32, 3, 3), (128, 64, 3, 3), (1, 128, 4, 4)
        ]  # fmt: skip


@pytest.mark.parametrize("kind", ["conv", "residual-conv"])
def test_a_convolution_needs_images(kind):
    with pytest.raises(RecipeError, match=rf"network.kind: got {kind} and samples of shape \(20\), expected images"):
        options(f"{{kind: {kind}}}").build((20,), 1)


def test_an_image_smaller_than_the_kernel_is_refused():
    with pytest.raises(RecipeError, match=r"convolution 2 of 2: got an image of 1 x 2 and padding 0 .* 3 x 3"):
        options("{kind: conv, channels: [2, 2], padding: 0}").build((1, 4, 6), 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{kind: conv, padding: 3}", "network.padding: got 3, expected less than network.kernel = 3"),
        ("{kind: conv, channels: []}", "network.channels"),
        ("{kind: residual-conv, kernel: 4}", "network.kernel: got 4, expected an odd number"),
        ("{kind: shared, depth: 2}", "network.depth: got 2"),
        ("{kind: mlp, depth: 2, batch_norm_epsilon: 0.1}", "network.batch_norm_epsilon: got 0.1"),
        ("{kind: mlp, depth: 2, batch_norm: true, batch_norm_epsilon: -1}", "network.batch_norm_epsilon: got -1"),
    ],
)
def test_impossible_options_are_refused_in_the_recipe(text, says):
    with pytest.raises(RecipeError) as refused:
        options(text)
    assert says in str(refused.value)


@pytest.mark.parametrize("network", ["{kind: mlp, depth: 2, batch_norm: true}", "{kind: conv, batch_norm: true}"])
def test_a_normalisation_needs_two_samples(network):
    alone = "optimizer={kind: sgd, lr: 0.1, batch_size: 1}"
    with pytest.raises(RecipeError, match=r"optimizer.batch_size: got 1, expected at least 2: network.batch_norm"):
        options(network, alone)
    with pytest.raises(RecipeError, match=r"data.train: got 1, expected at least 2: network.batch_norm"):
        options(network, "data.train=1")
    options(network, alone, "optimizer.batch_size=2")
    options(network, alone, "network.batch_norm=false")


def test_every_file_of_the_folder_is_registered():
    assert {"mlp", "conv", "residual", "residual-conv", "shared"} <= set(NETWORKS)
