"""docs/run-file.md says of a run file what is in one."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import h5py
import numpy as np

from rhotrace.recording.quantity import CADENCES
from rhotrace.runfile.layout import FORMAT_VERSION

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "run-file.md").read_text(encoding="utf-8")


def rows(header: str) -> set[str]:
    """What stands in the first column of the table with this header."""
    table = PAGE.split(header)[1].split("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_the_page_is_of_the_format_that_is_written(train):
    assert f"format version {FORMAT_VERSION}." in PAGE
    with h5py.File(train()) as file:
        assert rows("| key | what it says |") == set(json.loads(file.attrs["layout"]))
        named = set(re.findall(r"`(recipe\w*|status|ended|layout)`", PAGE))
        assert {"recipe", "recipe_json", "status", "ended", "layout"} <= named & set(file.attrs)
        assert "W1_out" in file["weights"]


def test_every_cadence_of_the_code_is_explained():
    assert rows("| cadence | evaluated |") == set(CADENCES)


def test_the_samples_and_streams_of_the_page_are_those_of_a_run(train):
    """Drawn again as the page says, from the labels in the archive, and compared with the file."""
    path = train(
        "data={dataset: mnist, classes: [4, 9], train: 101, test: 51, label_noise: 0.1, seed: 3, noise_seed: 5}",
        "optimizer={kind: sgd, lr: 0.01, batch_size: 7}",
        "record.snapshots=1",
        "steps=3",
    )
    folder = Path(__file__).resolve().parents[2] / "data" / "MNIST" / "raw"
    with h5py.File(path) as file:
        found = {name: file[name][:] for name in ("train_sample", "test_sample", "noisy_sample", "seed")}
        weights = [file[f"weights/W{k}"][0] for k in (1, 2, 3)]
    for part, name, stream, size in (("train", "train_sample", 0, 101), ("t10k", "test_sample", 1, 51)):
        labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
        rng = np.random.default_rng([3, stream])
        order = rng.permutation(np.flatnonzero((labels == 4) | (labels == 9)))
        shares = zip((4, 9), (-(-size // 2), size // 2), strict=True)
        balanced = [order[labels[order] == label][:share] for label, share in shares]
        np.testing.assert_array_equal(found[name], rng.permutation(np.concatenate(balanced)))
    wrong = np.random.default_rng([5, 2]).permutation(101)[:10]
    np.testing.assert_array_equal(found["noisy_sample"], np.sort(wrong))
    for member, seed in enumerate(found["seed"]):
        for layer, stored in enumerate(weights):
            drawn = np.random.default_rng([seed, 3, layer]).standard_normal(stored[member].shape)
            np.testing.assert_allclose(stored[member] / np.linalg.norm(stored[member]), drawn / np.linalg.norm(drawn))
