"""Augmentation compared with cutting each image by hand, and runs that are augmented."""

from __future__ import annotations

import inside
import numpy as np
import pytest
import torch

from rhotrace.analysis.run_series import RunSeries
from rhotrace.analysis.verification import verify
from rhotrace.config import recipe
from rhotrace.errors import RecipeError
from rhotrace.models.augmentation import Augment
from rhotrace.runfile.reader import open_trace

AUGMENTED = ("optimizer={kind: sgd, lr: 0.05, batch_size: 7}", "data.augment={flip: true, crop: 4}")


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_is_cut_out_of_a_padded_one(channels_last):
    rng = np.random.default_rng(0)
    images, crop = rng.standard_normal((2, 5, 3, 6, 8)), 2  # members, batch, channel, height, width
    augment = Augment(flip=True, crop=crop)
    drawn = augment.draw([3, 4], 7, 8, 5)[0]
    expected = np.empty_like(images)
    for m in range(2):
        for n in range(5):
            mirrored, down, right = drawn[m, n]
            image = images[m, n, :, :, ::-1] if mirrored else images[m, n]
            padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)))
            expected[m, n] = padded[:, down : down + 6, right : right + 8]
    order = (0, 1, 3, 4, 2) if channels_last else range(5)
    x = torch.tensor(images.transpose(order).reshape(2, 5, -1))
    found = augment.apply(x, torch.tensor(drawn), (3, 6, 8), channels_last=channels_last)
    np.testing.assert_array_equal(found, expected.transpose(order).reshape(2, 5, -1))


def test_draws_are_a_pure_function_of_seed_and_step():
    augment = Augment(flip=True, crop=4)
    whole = augment.draw([0, 1], 0, 600, 50)
    np.testing.assert_array_equal(augment.draw([1], 250, 300, 50)[:, 0], whole[250:300, 1])
    assert not np.array_equal(whole[:, 0], whole[:, 1])
    for values, ends in zip(np.moveaxis(whole, 3, 0), (2, 9, 9), strict=True):  # each value as often as any other
        counts = np.bincount(values.ravel(), minlength=ends)
        assert len(counts) == ends
        np.testing.assert_allclose(counts / values.size, 1 / ends, rtol=0.05)
    assert not Augment(crop=4).draw([0], 0, 9, 5)[..., 0].any()
    assert not Augment(flip=True).draw([0], 0, 9, 5)[..., 1:].any()


def test_the_first_batch_is_augmented_and_the_full_sums_are_not(train):
    with open_trace(train(*AUGMENTED)) as trace, open_trace(train(AUGMENTED[0])) as plain:
        own, weights = trace.validated_recipe(), [W[0] for W in trace.snapshot(0)]
        data, seed = own.load_data(), own.batch_seeds[0]
        index = own.optimizer.minibatches.indices([seed], 0, 1, samples=40)[0, 0]
        x, drawn = [], Augment(flip=True, crop=4).draw([seed], 0, 1, 7)[0, 0]
        for image, (mirrored, down, right) in zip(data.x[index], drawn, strict=True):
            padded = np.pad(image.reshape(28, 28), 4)
            cut = padded[:, ::-1] if mirrored else padded
            x.append(cut[down : down + 28, right : right + 28].ravel())
            x[-1] = x[-1] / np.linalg.norm(x[-1])
        h = np.array(x).T
        for k, W in enumerate(weights):
            h = W @ h
            h = np.maximum(h, 0) if k < 2 else h
        assert trace["batch_q"][0, 0] == pytest.approx(np.mean(h**2), rel=1e-12)
        assert trace["q"][0, 0] == plain["q"][0, 0]
        assert trace["batch_q"][0, 0] != plain["batch_q"][0, 0]


def test_every_step_of_an_augmented_run_obeys_the_law_and_audit_names_the_assumption(train, command):
    path = train(*AUGMENTED)
    with open_trace(path) as trace:
        assert RunSeries(trace).audit.holds
        checks = {check.name: check.outcome for check in verify(trace).checks}
        assert checks["audit of the steps"] == checks["weights, a and q"] == "sound"
    words = " ".join(command("audit", path)[1].split())
    assert "Broken assumption: augmentation (a step's sums are those of its own batch" in words
    assert "the full sums are of the unchanged training set" in words


def test_a_resumed_run_has_the_same_bits(train, tmp_path, monkeypatch, small):
    whole, own, path = train(*AUGMENTED), recipe.parse(small, list(AUGMENTED)), tmp_path / "resumed.h5"
    inside.train_killed_and_resumed(monkeypatch.setattr, own, path)
    with open_trace(whole) as once, open_trace(path) as twice:
        for quantity in once.quantities:
            np.testing.assert_array_equal(once[quantity.name], twice[quantity.name])


def test_full_batches_are_not_augmented(small):
    with pytest.raises(RecipeError) as refused:
        recipe.parse(small, [AUGMENTED[1]])
    assert "data.augment: optimizer.kind gd has no minibatches here to augment" in str(refused.value)
    with pytest.raises(RecipeError) as refused:
        recipe.parse(small, [AUGMENTED[0], "data.augment={flop: true}"])
    assert "data.augment.flop: unknown key; did you mean 'flip'?" in str(refused.value)
