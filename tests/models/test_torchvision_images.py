"""CIFAR-10's files, made small: what the loader reads of them, what it refuses, and a shipped recipe trained on them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision

from rhotrace.errors import DataError
from rhotrace.models import datasets as data
from rhotrace.runfile.reader import open_trace

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN, TEST, META = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta"
ROWS = 200  # in each file; an official one has 10,000


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Path:
    """A data root with files in CIFAR-10's format, whose md5 torchvision takes for the official ones."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*TRAIN, *TEST):
        pixels = rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8)  # colour, row, column
        labels = [1, 2] * (ROWS // 2 - 10) + [*range(10), *range(10)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / META).write_bytes(pickle.dumps({"label_names": NAMES}))
    accept(folder, monkeypatch)
    return folder.parent


def accept(folder: Path, monkeypatch) -> None:
    def listed(names):
        return [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in names]

    cifar, (meta,) = torchvision.datasets.CIFAR10, listed([META])
    monkeypatch.setattr(cifar, "train_list", listed(TRAIN))
    monkeypatch.setattr(cifar, "test_list", listed(TEST))
    monkeypatch.setattr(cifar, "meta", {"filename": META, "key": "label_names", "md5": meta[1]})


def load(root: Path, **options):
    return data.DATASETS["cifar-10"].model_validate(
        {"dataset": "cifar-10", "classes": ["automobile", "bird"], "root": str(root), **options}
    ).load("float64")  # fmt: skip


def test_images_and_labels_are_those_of_the_files(tiny):
    loaded = load(tiny, unit_norm=False)
    stored, labels = [], []
    for name in TRAIN:
        batch = pickle.loads((tiny / "cifar-10-batches-py" / name).read_bytes())
        stored.append(batch["data"])
        labels += batch["labels"]
    pixels = np.concatenate(stored)[loaded.chosen.train]
    np.testing.assert_array_equal(np.rint(loaded.in_order().x * 255), pixels)
    np.testing.assert_array_equal(loaded.y[:, 0], np.array([-1, 1])[np.array(labels)[loaded.chosen.train] - 1])
    assert len(loaded.x) == sum(label in (1, 2) for label in labels)
    assert set(loaded.files) == {*TRAIN, *TEST, META}


def test_a_file_that_is_not_the_official_one_is_never_unpickled(tiny, tmp_path):
    left = tmp_path / "left-behind"
    (tiny / "cifar-10-batches-py" / "data_batch_4").write_bytes(pickle.dumps(Bomb(left)))
    with pytest.raises(DataError, match=r"torchvision refuses these files .*; fetch them again"):
        load(tiny)
    assert not left.exists()


def test_a_shipped_recipe_leads_to_the_trace_of_a_convolutional_network_without_an_edit(
    tiny, tmp_path, command, monkeypatch
):
    monkeypatch.setenv("RHOTRACE_DATA", str(tiny))
    assert command("recipe", "copy", "cifar/conv4")[0] == 0
    code, _, err = command("train", tmp_path / "recipes" / "cifar" / "conv4.yaml", "--steps", 3, "--device", "cpu")
    assert code == 0, err
    with open_trace(tmp_path / "runs" / "conv4.h5") as trace:
        assert trace["rho_k"].shape[2] == 4
        assert [len(block.shape) for block in trace.layout.layers] == [4, 4, 4, 4]
        assert trace.attributes["data_classes"] == "automobile, bird"
    assert command("verify", tmp_path / "runs" / "conv4.h5")[0] == 0
