"""Neural collapse against numpy and explicit covariances, and planted: a simplex and an orthogonal frame."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from recorded import moment_of

from rhotrace.errors import RecipeError
from rhotrace.models.network import Applied
from rhotrace.recording.quantity import QUANTITIES

NAMES = ("nc1", "nc2_norms", "nc2_cosines", "nc2_simplex", "nc3", "nc3_centred", "nc4")
FOR_ONE_OUTPUT = ("nc1", "nc3", "nc4")
ASKED = "record.every.collapse=4"


def collapse(h, W, labels, g):
    """The definitions of arXiv:2008.08186, with covariances as p x p matrices."""
    C = int(labels.max()) + 1
    means = np.array([h[labels == c].mean(axis=0) for c in range(C)])
    m = means - means.mean(axis=0)
    within = sum(np.outer(d, d) for d in h - means[labels]) / len(h)
    between = sum(np.outer(d, d) for d in m) / C
    lengths = np.linalg.norm(m, axis=1)
    cosines = np.array([m[a] @ m[b] / lengths[a] / lengths[b] for a in range(C) for b in range(C) if a != b])
    nearest = np.array([np.argmin([np.linalg.norm(one - mean) for mean in means]) for one in h])

    def apart(W):
        return np.linalg.norm(W / np.linalg.norm(W) - m / np.linalg.norm(m))

    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / C,
        "nc2_norms": lengths.std() / lengths.mean(),
        "nc2_cosines": cosines.std(),
        "nc2_simplex": np.abs(cosines + 1 / (C - 1)).mean(),
        "nc3": apart(W),
        "nc3_centred": apart(W - W.mean(axis=0)),
        "nc4": (g.argmax(axis=1) != nearest).mean(),
    }


def of_mlp(weights, x):
    *_, before, g = oracle.preactivations(weights, x)
    return np.maximum(before, 0), g


def of_conv(weights, x):
    """Two kernels of 3 by 3 with stride 2 and padding 1, pixel by pixel, over images of 6 by 6."""
    h = x.reshape(len(x), 1, 6, 6)
    for W in weights[:-1]:
        kernel = W.reshape(len(W), h.shape[1], 3, 3)
        padded = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
        side = (h.shape[2] + 1) // 2
        out = np.empty((len(x), len(W), side, side))
        for i in range(side):
            for j in range(side):
                out[:, :, i, j] = np.einsum("ncij,ocij->no", padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel)
        h = np.maximum(out, 0)
    flat = h.reshape(len(x), -1)
    return flat, flat @ weights[-1].T


def of_residual(weights, x):
    """h + W relu(h) in each block; the last layer reads relu(h)."""
    h = x @ weights[0].T
    for W in weights[1:-1]:
        h = h + np.maximum(h, 0) @ W.T
    return np.maximum(h, 0), np.maximum(h, 0) @ weights[-1].T


NETWORKS = {
    "mlp": ("network={kind: mlp, depth: 3, width: [6, 4], dtype: float64}", of_mlp),
    "conv": ("network={kind: conv, channels: [3, 4], dtype: float64}", of_conv),
    "residual": ("network={kind: residual, depth: 4, width: 5, dtype: float64}", of_residual),
}


@pytest.mark.parametrize(("network", "forward"), NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_run_records_the_collapse_of_its_last_features(recorded, network, forward, classes):
    run = recorded(network, ASKED, classes=classes)
    names = FOR_ONE_OUTPUT if classes == 2 else NAMES
    assert {name for name in NAMES if name in run.rows} == set(names)
    y = run.data.y if classes > 2 else np.hstack([-run.data.y, run.data.y])
    for name in names:
        assert run.steps[name] == [0, 4, 8]
        for found, weights in run.of(name):
            h, g = forward(weights, run.data.x)
            W = weights[-1]
            if classes == 2:
                W, g = np.vstack([-W, W]), np.hstack([-g, g])
            assert found == pytest.approx(collapse(h, W, y.argmax(axis=1), g)[name], rel=1e-7, abs=1e-12), name


def planted(means, W):
    """The collapse of features at class means, with a last layer W; each quantity by name."""
    C, p = means.shape
    labels = np.repeat(np.arange(C), 5)
    features = torch.as_tensor(means[labels])[None]

    def evaluate(*_):
        return Applied((features @ torch.as_tensor(W).T).mT, {"h": features})

    y = torch.as_tensor(np.eye(C)[labels])
    moment = moment_of(np.ones((1, p, 3)), W[None], evaluate=evaluate, x=torch.zeros(len(labels), 3), y=y)
    return {name: float(QUANTITIES[name].measure(moment)[0]) for name in NAMES}


def test_a_simplex_is_a_perfect_collapse_and_an_orthogonal_frame_lacks_the_mean_in_its_last_layer_alone():
    C = 5
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((8, C)))[0].T  # orthonormal rows
    simplex = basis - basis.mean(axis=0)
    common = np.linalg.svd(basis)[2][-1]  # orthogonal to all of them
    for means, W in ((3 * common + simplex, 2 * simplex), (basis, basis)):
        found = planted(means, W)
        for name in ("nc1", "nc2_norms", "nc2_cosines", "nc2_simplex", "nc3_centred", "nc4"):
            assert found[name] == pytest.approx(0, abs=1e-10), name
        apart = 0 if means is not basis else np.sqrt(2 - 2 * np.sqrt((C - 1) / C))
        assert found["nc3"] == pytest.approx(apart, abs=1e-10)
    assert np.isnan(planted(np.zeros((C, 8)), basis)["nc1"])


def test_where_there_are_no_features_or_no_classes_it_is_refused(recorded, small_text, tmp_path):
    with pytest.raises(
        RecipeError, match=r"record\.every\.collapse: got 4, but this network does not say .*; remove it"
    ):
        recorded("network={kind: mlp, depth: 1}", ASKED)
    text = small_text().replace("train: 24, test: 10", "train: 24, test: 10, balanced: false")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "own.npz",
        **{key: rng.normal(size=(40, 36 if "x" in key else 1)) for key in ("x", "y", "x_test", "y_test")},
    )
    with pytest.raises(RecipeError, match=r"record\.every\.collapse: got 4, but the targets are real numbers"):
        recorded(ASKED, text=text)
