"""Data compared with the archives' own bytes, which are read here by a few lines that share nothing with the package."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import shutil
import struct
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import inside
import numpy as np
import pytest
from pydantic import ValidationError

from rhotrace.errors import DataError
from rhotrace.models import datasets as data
from rhotrace.models.datasets import data_roots, torchvision_images
from rhotrace.runfile import provenance

MNIST = Path(__file__).resolve().parents[2] / "data" / "MNIST" / "raw"
PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def load(dtype="float64", **options) -> data.Dataset:
    options = {"dataset": "mnist", "classes": [0, 1], "train": 100, "test": 50, **options}
    return data.DATASETS[options["dataset"]](**options).load(dtype)


@cache
def idx(part: str) -> np.ndarray:
    """An archive's array by the format's description: two zero bytes, type, rank, sizes, values."""
    raw = gzip.decompress((MNIST / f"{part}-ubyte.gz").read_bytes())
    zero, kind, rank = struct.unpack(">HBB", raw[:4])
    assert (zero, kind) == (0, 8)
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape[0], -1)


def original(loaded: np.ndarray, targets: np.ndarray, part: str) -> np.ndarray:
    """The label in the archives of each loaded sample, found by its pixels; the targets only bring company."""
    assert len(loaded) == len(targets)
    label_of = {
        row.tobytes(): int(label)
        for row, label in zip(idx(f"{part}-images-idx3"), idx(f"{part}-labels-idx1")[:, 0], strict=True)
    }
    return np.array([label_of[row.tobytes()] for row in np.rint(loaded * 255).astype(np.uint8)])


def fault(**options) -> str:
    with pytest.raises(DataError) as caught:
        load(**options)
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 2, message
    return message


@pytest.fixture
def copy(tmp_path) -> Path:
    """A data root of its own with the four archives."""
    folder = tmp_path / "root" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in PARTS:
        shutil.copy(MNIST / f"{part}-ubyte.gz", folder)
    return tmp_path / "root"


@pytest.fixture
def nowhere(monkeypatch, tmp_path) -> Path:
    """No data root but an empty one, and no network."""

    def offline(*_, **__):
        raise URLError("no route to host")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    empty = tmp_path / "empty"
    monkeypatch.setattr(data_roots, "roots", lambda root=None: [*([Path(root)] if root else []), empty])
    monkeypatch.setattr(data_roots, "cache_root", lambda: empty)
    return empty


@pytest.fixture
def cifar() -> Path:
    """A data root that has CIFAR-10, which is not part of the repository."""
    given = os.environ.get("RHOTRACE_TEST_CIFAR")
    for root in [Path(given)] if given else data.roots():
        if (root / "cifar-10-batches-py" / "data_batch_1").is_file():
            return root
    if given:
        pytest.fail(f"RHOTRACE_TEST_CIFAR={given} does not contain cifar-10-batches-py/data_batch_1")
    pytest.skip("CIFAR-10 is in no data root; set RHOTRACE_TEST_CIFAR to one that has cifar-10-batches-py/")


# --- what is loaded ----------------------------------------------------------------------------------------


def test_inputs_have_unit_norm_and_targets_are_signs():
    loaded = load(dtype="float64")
    for x, y, samples in ((loaded.x, loaded.y, 100), (loaded.x_test, loaded.y_test, 50)):
        assert x.shape == (samples, 784)
        assert y.shape == (samples, 1)
        assert x.dtype == y.dtype == np.float64
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-14)
        assert set(y.ravel()) == {-1.0, 1.0}
        assert x.min() >= 0
    assert loaded.classes == ("0", "1")


def test_standardised_inputs_are_those_of_the_chosen_training_samples_and_then_of_norm_1():
    plain = load(unit_norm=False)
    pixels = np.rint(plain.x * 255) / 255
    mean, std = pixels.mean(), pixels.std()
    alone, scaled = load(unit_norm=False, standardise=True), load(standardise=True)
    np.testing.assert_allclose(alone.x, (pixels - mean) / std, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(alone.x_test, (plain.x_test - mean) / std, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(scaled.x, alone.x / np.linalg.norm(alone.x, axis=1, keepdims=True), rtol=1e-12)
    assert len({own.digest for own in (plain, alone, scaled, load())}) == 4
    assert load(standardise=False).digest == load().digest


@pytest.mark.parametrize("channels_last", [True, False])
def test_each_colour_is_standardised_by_itself(monkeypatch, channels_last):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(60, 32, 32, 3)).astype(np.uint8) // np.array([1, 2, 5], np.uint8)
    rows = (images if channels_last else np.moveaxis(images, 3, 1)).reshape(60, -1)
    parts = ((rows[:40], np.arange(40) % 2), (rows[40:], np.arange(20) % 2), {})
    monkeypatch.setattr(torchvision_images.Cifar10, "channels_last", channels_last)
    inside.pixels_at_hand(monkeypatch.setattr, parts)
    options = {"dataset": "cifar-10", "train": 40, "test": 20, "unit_norm": False}
    plain, standard = load(**options), load(**options, standardise=True)
    assert plain.channels_last == channels_last
    x = standard.in_order().x.reshape(40, 3, -1)
    np.testing.assert_allclose(x.mean(axis=(0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=(0, 2)), 1, rtol=1e-12)


def test_float32_is_the_same_data_rounded():
    double, single = load(dtype="float64"), load(dtype="float32")
    assert single.x.dtype == single.y.dtype == single.x_test.dtype == np.float32
    np.testing.assert_allclose(single.x, double.x, rtol=3e-7)
    np.testing.assert_array_equal(single.y, double.y)
    assert single.digest == double.digest


def test_without_unit_norm_pixels_are_between_0_and_1():
    loaded = load(unit_norm=False)
    assert loaded.x.min() == 0
    assert loaded.x.max() == 1
    assert np.linalg.norm(loaded.x, axis=1).std() > 0.1
    scaled = loaded.x / np.linalg.norm(loaded.x, axis=1, keepdims=True)
    np.testing.assert_allclose(load().x, scaled, rtol=1e-13)


def test_all_classes_have_one_hot_targets():
    loaded = load(classes="all", train=200, test=100, unit_norm=False)
    assert loaded.y.shape == (200, 10)
    assert set(loaded.y.ravel()) == {0.0, 1.0}
    np.testing.assert_array_equal(loaded.y.sum(axis=1), 1)
    np.testing.assert_array_equal(loaded.y.argmax(axis=1), original(loaded.x, loaded.y, "train"))
    np.testing.assert_array_equal(loaded.y_test.argmax(axis=1), original(loaded.x_test, loaded.y_test, "t10k"))
    assert loaded.classes == tuple("0123456789")


def test_the_first_class_is_minus_one_and_the_second_plus_one():
    loaded = load(classes=[7, 3], unit_norm=False)
    np.testing.assert_array_equal(np.where(loaded.y[:, 0] < 0, 7, 3), original(loaded.x, loaded.y, "train"))
    np.testing.assert_array_equal(
        np.where(loaded.y_test[:, 0] < 0, 7, 3), original(loaded.x_test, loaded.y_test, "t10k")
    )


def test_groups_of_classes_share_a_target():
    loaded = load(classes=[[0, 1, 2], [8]], train=400, unit_norm=False)
    digits = original(loaded.x, loaded.y, "train")
    np.testing.assert_array_equal(loaded.y[:, 0] > 0, digits == 8)
    assert set(digits) == {0, 1, 2, 8}
    assert loaded.classes == ("0+1+2", "8")
    assert (loaded.y > 0).sum() == 200


def test_a_single_class_may_stand_beside_a_group():
    assert load(classes=[[0, 1], 8]).digest == load(classes=[[0, 1], [8]]).digest


def test_classes_by_name_are_classes_by_number():
    assert load(classes=["4", "9"]).digest == load(classes=[4, 9]).digest
    cifar, fashion = data.DATASETS["cifar-10"], data.DATASETS["fashion-mnist"]
    assert cifar(classes=["Cat", ["dog", 0]]).groups() == [[3], [5, 0]]
    assert fashion(classes=["ankle boot", "t-shirt"]).groups() == [[9], [0]]
    assert cifar(classes="all").groups() == [[c] for c in range(10)]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ([0, 10], "got 10"),
        ([0, -1], "got -1"),
        (["cat", 1], "got 'cat'"),
        ([3, 3], "twice"),
        ([[1, 2], [2, 3]], "twice"),
        ([1], "exactly two"),
        ([1, 2, 3], "exactly two"),
        ([[], [1]], "non-empty"),
        ([], "exactly two"),
    ],
)
def test_classes_that_are_not_there_are_refused(classes, says):
    with pytest.raises(ValidationError) as caught:
        load(classes=classes)
    message = str(caught.value.errors()[0]["ctx"]["error"])
    assert message.startswith("classes: ")
    assert says in message


@pytest.mark.parametrize(("train", "counts"), [(100, (50, 50)), (101, (51, 50)), (1, (1, 0))])
def test_balanced_targets_differ_by_one_at_most(train, counts):
    y = load(train=train).y
    assert ((y < 0).sum(), (y > 0).sum()) == counts


def test_balanced_one_hot_targets_differ_by_one_at_most():
    assert sorted(load(classes="all", train=207).y.sum(axis=0)) == [20] * 3 + [21] * 7


def test_without_a_size_all_there_are_is_taken():
    zeros, ones = ((idx("train-labels-idx1") == c).sum() for c in (0, 1))
    everything = load(train=None, test=None, balanced=False)
    assert (len(everything.x), len(everything.x_test)) == (zeros + ones, 980 + 1135)
    assert (everything.y < 0).sum() == zeros
    assert len(load(train=None).x) == 2 * min(zeros, ones)


def test_every_sample_is_one_of_the_archive_and_none_comes_twice():
    loaded = load(classes=[4, 9], train=None, test=None, balanced=False, unit_norm=False)
    for x, y, part in ((loaded.x, loaded.y, "train"), (loaded.x_test, loaded.y_test, "t10k")):
        images, labels = idx(f"{part}-images-idx3"), idx(f"{part}-labels-idx1")[:, 0]
        for digit, sign in ((4, -1), (9, 1)):
            got = np.rint(x[y[:, 0] == sign] * 255).astype(np.uint8)
            assert sorted(map(bytes, got)) == sorted(map(bytes, images[labels == digit]))


def test_an_unbalanced_subset_keeps_the_archive_s_proportions():
    loaded = load(classes=[[1], [0, 2, 3, 4, 5, 6, 7, 8, 9]], train=4000, balanced=False)
    assert abs((loaded.y < 0).mean() - (idx("train-labels-idx1") == 1).mean()) < 0.02


@pytest.mark.parametrize(("fraction", "train"), [(0.1, 100), (0.25, 90), (0.013, 101), (0.999, 60), (0.0, 60)])
@pytest.mark.parametrize("classes", [[0, 1], "all"])
def test_label_noise_is_exactly_that_many_wrong_targets(fraction, train, classes):
    clean, noisy = (load(classes=classes, train=train, label_noise=f) for f in (0.0, fraction))
    np.testing.assert_array_equal(clean.x, noisy.x)
    assert (clean.y != noisy.y).any(axis=1).sum() == round(fraction * train)
    np.testing.assert_array_equal(clean.x_test, noisy.x_test)
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    if classes == "all":
        np.testing.assert_array_equal(noisy.y.sum(axis=1), 1)


def test_wrong_targets_spread_over_all_other_classes():
    clean, noisy = (load(classes="all", train=2000, label_noise=f) for f in (0.0, 0.9))
    wrong = (clean.y != noisy.y).any(axis=1)
    shift = (noisy.y.argmax(axis=1) - clean.y.argmax(axis=1))[wrong] % 10
    assert np.bincount(shift, minlength=10)[1:].min() > 140  # 200 of each expected


# --- seeds and digests -------------------------------------------------------------------------------------


def bits(loaded: data.Dataset) -> list[bytes]:
    return [part.tobytes() for part in (loaded.x, loaded.y, loaded.x_test, loaded.y_test)]


def test_the_same_seeds_repeat_every_bit():
    again = {"seed": 3, "noise_seed": 5, "label_noise": 0.2}
    first = load(**again)
    torchvision_images._read_folder.cache_clear()
    second = load(**again)
    assert bits(first) == bits(second)
    assert first.digest == second.digest


def test_each_seed_changes_what_it_should():
    base = load(label_noise=0.2)
    other = load(label_noise=0.2, seed=1)
    assert all(a != b for a, b in zip(bits(base), bits(other), strict=True))
    noise = load(label_noise=0.2, noise_seed=1)
    assert [a == b for a, b in zip(bits(base), bits(noise), strict=True)] == [True, False, True, True]


def test_a_larger_training_set_leaves_the_test_set_alone():
    assert bits(load())[2:] == bits(load(train=200))[2:]


@pytest.mark.parametrize(
    "options",
    [
        {"classes": [1, 0]},
        {"classes": [0, 2]},
        {"train": 99},
        {"test": 49},
        {"balanced": False},
        {"label_noise": 0.01},
        {"unit_norm": False},
        {"seed": 1},
    ],
)
def test_the_digest_changes_with_what_matters(options):
    assert load(**options).digest != load().digest


def test_the_digest_ignores_the_floating_point_type_the_root_and_unused_noise_seeds(copy):
    assert len(load().digest) == 64
    assert load(dtype="float32").digest == load(root=str(copy)).digest == load(noise_seed=9).digest == load().digest


# --- too many samples --------------------------------------------------------------------------------------


def test_more_training_samples_than_there_are_is_refused_with_the_most_there_are():
    assert (
        fault(train=100_000)
        == "data: got 100000 training samples, but the chosen classes contain 11846 balanced ones at most"
    )
    message = fault(train=100_000, balanced=False)
    assert "12665" in message
    assert "training" in message


def test_more_test_samples_than_there_are_is_refused_with_the_most_there_are():
    assert "1960" in fault(test=1961)
    assert "2115" in fault(test=2116, balanced=False)
    assert len(load(test=1960).x_test) == 1960


# --- where data is looked for ------------------------------------------------------------------------------


def test_roots_are_searched_from_the_recipe_to_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RHOTRACE_DATA", str(tmp_path / "environment"))
    found = data.roots(str(tmp_path / "recipe"))
    assert found == [tmp_path / "recipe", tmp_path / "environment", MNIST.parent.parent, data.cache_root()]
    monkeypatch.delenv("RHOTRACE_DATA")
    assert data.roots() == [MNIST.parent.parent, data.cache_root()]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.roots("~/d")[0] == tmp_path / "d"


def test_the_first_root_that_has_the_files_is_read(monkeypatch, copy, tmp_path):
    damage(copy, "train-labels-idx1", 30)
    monkeypatch.setenv("RHOTRACE_DATA", str(copy))
    assert str(copy) in fault()
    assert load(root=str(MNIST.parent.parent)).digest  # the recipe's comes first
    (copy / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert load().digest  # an incomplete root is passed over
    monkeypatch.setenv("RHOTRACE_DATA", str(tmp_path / "nowhere"))
    assert load().digest


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*"))


def test_nothing_is_unpacked_into_the_data_folder(copy):
    before = listing(copy), listing(MNIST)
    torchvision_images._read_folder.cache_clear()
    load(root=str(copy))
    assert (listing(copy), listing(MNIST)) == before


def test_a_read_only_data_root_works(copy):
    folders = [copy, copy / "MNIST", copy / "MNIST" / "raw"]
    for file in folders[-1].iterdir():
        file.chmod(0o444)
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert load(root=str(copy)).digest == load().digest
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_the_unpacked_archives_are_gone_afterwards(copy, monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    load(root=str(copy))
    assert not list(scratch.iterdir())


def test_a_symbolic_link_as_data_root_works(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    assert load(root=str(tmp_path / "link")).digest == load().digest


# --- unpacked files ----------------------------------------------------------------------------------------


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """A data root of its own with the four files as torchvision unpacks them, and no archive."""
    folder = tmp_path / "unpacked" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in PARTS:
        (folder / f"{part}-ubyte").write_bytes(gzip.decompress((MNIST / f"{part}-ubyte.gz").read_bytes()))
    return tmp_path / "unpacked"


def test_unpacked_files_hold_the_same_data_as_the_archives(unpacked, copy):
    import torchvision

    assert torchvision.datasets.MNIST(str(unpacked), download=False).data.shape == (60_000, 28, 28)  # it accepts them
    archives = load(root=str(copy))
    loaded = load(root=str(unpacked))
    assert loaded.digest == archives.digest
    assert bits(loaded) == bits(archives)
    for file, md5 in loaded.files.items():
        content = (unpacked / "MNIST" / "raw" / file).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5
    assert sorted(loaded.files) == sorted(f"{part}-ubyte" for part in PARTS)


def test_archives_come_before_unpacked_files_of_the_same_root(unpacked):
    for part in PARTS:
        shutil.copy(MNIST / f"{part}-ubyte.gz", unpacked / "MNIST" / "raw")
        (unpacked / "MNIST" / "raw" / f"{part}-ubyte").write_bytes(b"other")
    assert sorted(load(root=str(unpacked)).files) == sorted(f"{part}-ubyte.gz" for part in PARTS)


def patched(root: Path, part: str, place: int, byte: int) -> Path:
    file = root / "MNIST" / "raw" / f"{part}-ubyte"
    content = bytearray(file.read_bytes())
    content[place] = byte
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("part", "place", "byte", "says"),
    [
        ("train-images-idx3", 2, 9, "got the header 00000903"),  # of another type
        ("train-labels-idx1", 3, 3, "got the header 00000803"),  # images in place of labels
        ("t10k-images-idx3", 7, 11, "expected 00000803 00002710 0000001c 0000001c (10000 x 28 x 28 bytes)"),
        ("t10k-labels-idx1", 7, 11, "expected 00000801 00002710 (10000 bytes)"),  # fewer labels than images
        ("train-labels-idx1", 5000, 10, "got label 10, expected 0 to 9"),
    ],
)
def test_unpacked_files_of_another_content_are_refused(unpacked, part, place, byte, says):
    file = patched(unpacked, part, place, byte)
    message = fault(root=str(unpacked))
    assert message.startswith(f"{file}: ")
    assert says in message
    assert "fetch the file again" in message


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", [-1, 1])
def test_unpacked_files_of_another_size_are_refused(unpacked, part, change):
    file = unpacked / "MNIST" / "raw" / f"{part}-ubyte"
    size = file.stat().st_size
    os.truncate(file, size + change)
    assert fault(root=str(unpacked)).startswith(f"{file}: got the size {size + change} bytes, expected {size} bytes")


def test_a_root_with_some_files_packed_and_some_unpacked_is_passed_over(unpacked):
    folder = unpacked / "MNIST" / "raw"
    (folder / "train-images-idx3-ubyte").unlink()
    shutil.copy(MNIST / "train-images-idx3-ubyte.gz", folder)
    assert all(file.endswith(".gz") for file in load(root=str(unpacked)).files)


# --- shapes ------------------------------------------------------------------------------------------------


def test_rows_of_gray_images_are_in_the_order_of_their_shape():
    loaded = load()
    assert loaded.shape == (1, 28, 28)
    assert loaded.in_order() is loaded


def test_rows_of_colour_images_can_be_brought_into_the_order_of_their_shape(cifar):
    loaded = load(dataset="cifar-10", root=str(cifar), unit_norm=False)
    assert loaded.shape == (3, 32, 32)
    ordered = loaded.in_order()
    assert ordered.digest == loaded.digest
    for x, names in ((ordered.x, [f"data_batch_{i}" for i in range(1, 6)]), (ordered.x_test, ["test_batch"])):
        stored = set()  # as colour, row, column
        for name in names:
            with (cifar / "cifar-10-batches-py" / name).open("rb") as file:
                stored |= {row.tobytes() for row in pickle.load(file, encoding="latin1")["data"]}
        assert {np.rint(image * 255).astype(np.uint8).tobytes() for image in x} <= stored


# --- absent and damaged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "cifar-10"])
def test_absent_data_without_a_network_names_files_folder_and_command(nowhere, dataset):
    message = fault(dataset=dataset)
    source = data.DATASETS[dataset]
    for words in (
        dataset,
        source.files[0][0],
        source.files[0][-1],
        source.folder,
        str(nowhere),
        f"datasets.{source.loader}(",
        "RHOTRACE_DATA=",
    ):
        assert words in message


def test_absent_data_names_the_recipe_s_root_too(nowhere, tmp_path):
    message = fault(root=str(tmp_path / "mine"))
    assert str(tmp_path / "mine") in message
    assert str(nowhere) in message


def damage(root: Path, part: str, place: int) -> Path:
    file = root / "MNIST" / "raw" / f"{part}-ubyte.gz"
    raw = bytearray(file.read_bytes())
    raw[place] ^= 1
    file.write_bytes(raw)
    return file


@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_bit_is_found_by_the_md5_sum(copy, part):
    file = damage(copy, part, 1000)
    message = fault(root=str(copy))
    assert message.startswith(f"{file}: got md5 ")
    assert "fetch the file again" in message


def test_a_file_cut_short_is_found_by_the_md5_sum(copy):
    file = copy / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    os.truncate(file, 5000)
    assert fault(root=str(copy)).startswith(f"{file}: got md5 ")


def test_damage_after_a_first_reading_is_not_hidden_by_the_cache(copy):
    load(root=str(copy))
    file = damage(copy, "t10k-labels-idx1", 1000)
    assert str(file) in fault(root=str(copy))


@pytest.mark.parametrize("dataset", [torchvision_images.Mnist, torchvision_images.FashionMnist])
def test_the_md5_sums_are_those_of_torchvision(dataset):
    import torchvision

    official = dict(getattr(torchvision.datasets, dataset.loader).resources)
    assert dict(zip(dataset.files[0], dataset.md5, strict=True)) == official


# --- CIFAR-10 ----------------------------------------------------------------------------------------------


def test_torchvision_that_does_not_import_names_the_pair_and_a_command(cifar, monkeypatch):
    torchvision_images._read_folder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = fault(dataset="cifar-10", classes=["cat", "dog"], root=str(cifar))
    assert "torchvision " + provenance.version("torchvision") in message
    assert "torch " + provenance.version("torch") in message
    assert "it needs torch" in message
    assert "pip install --upgrade torch torchvision" in message


def test_torchvision_that_fails_without_a_word_is_a_data_error_too(cifar, monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError

    torchvision_images._read_folder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", Broken())
    assert "cannot be imported" in fault(dataset="cifar-10", classes=["cat", "dog"], root=str(cifar))


def test_torchvision_that_is_not_installed_is_not_called_none(cifar, monkeypatch):
    torchvision_images._read_folder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision", None)
    version = metadata.version

    def without(package):
        if package == "torchvision":
            raise metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(metadata, "version", without)
    message = fault(dataset="cifar-10", classes=["cat", "dog"], root=str(cifar))
    assert "None" not in message.replace("None in sys.modules", "")
    assert "pip install" in message


def test_cifar_10_agrees_with_the_pickles(cifar):
    loaded = load(dataset="cifar-10", classes=["cat", "dog"], train=64, test=32, unit_norm=False, root=str(cifar))
    assert loaded.x.shape == (64, 3072)
    assert loaded.classes == ("cat", "dog")
    for x, y, names in (
        (loaded.x, loaded.y, [f"data_batch_{i}" for i in range(1, 6)]),
        (loaded.x_test, loaded.y_test, ["test_batch"]),
    ):
        label_of = {}
        for name in names:
            with (cifar / "cifar-10-batches-py" / name).open("rb") as file:
                batch = pickle.load(file, encoding="latin1")
            # stored as colour, row, column; torchvision gives row, column, colour
            pixels = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).reshape(-1, 3072)
            label_of |= {row.tobytes(): label for row, label in zip(pixels, batch["labels"], strict=True)}
        for row, target in zip(np.rint(x * 255).astype(np.uint8), y[:, 0], strict=True):
            assert label_of[row.tobytes()] == (3 if target < 0 else 5)


def test_cifar_10_damaged_is_refused(cifar, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(cifar / "cifar-10-batches-py", folder)
    file = folder / "data_batch_3"
    os.truncate(file, file.stat().st_size - 1)
    message = fault(dataset="cifar-10", root=str(tmp_path))
    assert message.startswith(str(folder))
    assert "fetch" in message


# --- a dataset of one's own code ---------------------------------------------------------------------------


@pytest.fixture
def toy():
    """A dataset that is defined here alone: points on a circle, of which the upper half is +1."""

    @data.DATASETS.register
    class Toy(data.Samples):
        dataset: Literal["toy"] = "toy"
        points: int

        def load(self, dtype):
            angles = (np.arange(self.points) + 0.5) * 2 * np.pi / self.points
            x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(dtype)
            y = np.sign(x[:, 1:])
            return data.Dataset(x, y, x, y, ("lower", "upper"), f"{self.points}", {}, (2,))

    yield
    data.DATASETS.unregister("toy")


@pytest.mark.usefixtures("toy")
def test_a_new_dataset_is_one_class(small, tmp_path, command):
    (tmp_path / "toy.yaml").write_text(
        small.replace("dataset: mnist, classes: [0, 1], train: 40, test: 20", "dataset: toy, points: 9")
    )
    assert command("train", "toy.yaml", "-o", "run.h5", "--device", "cpu")[0] == 0
    assert command("verify", "run.h5")[0] == 0
    code, _, err = command("train", "toy.yaml", "--set", "data.points=x")
    assert code == 2
    assert "data.points: got 'x', expected a valid integer" in err
    schema = json.loads(command("recipe", "schema")[1])
    assert "points" in str(schema)
