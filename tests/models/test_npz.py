"""A dataset of one's own: what is read is what was saved, and each thing that can be wrong is named."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from rhotrace.errors import DataError
from rhotrace.models.datasets import DATASETS, Dataset
from rhotrace.runfile.reader import open_trace

RNG = np.random.default_rng(0)
X, X_TEST = RNG.normal(size=(40, 6)), RNG.normal(size=(20, 6))
Y, Y_TEST = np.arange(40) % 4 + 3, np.arange(20) % 4 + 3


@pytest.fixture
def save(tmp_path):
    """Saves the arrays above, some of them replaced or removed (None), as own.npz in a data root; returns the path."""

    def make(**changes: object) -> Path:
        arrays = {"x": X, "y": Y, "x_test": X_TEST, "y_test": Y_TEST, **changes}
        path = tmp_path / "own.npz"
        np.savez(path, **{key: values for key, values in arrays.items() if values is not None})
        return path

    return make


def load(path: Path, dtype: str = "float64", **options) -> Dataset:
    return DATASETS["npz"](file=path.name, **{"root": str(path.parent), **options}).load(dtype)


def fault(path: Path, dtype: str = "float64", **options) -> str:
    with pytest.raises(DataError) as caught:
        load(path, dtype, **options)
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 2, message
    return message


def rows(x: np.ndarray) -> dict[bytes, int]:
    return {row.tobytes(): number for number, row in enumerate(x)}


# --- what is read ------------------------------------------------------------------------------------------


def test_labels_become_one_hot_targets_in_their_order(save):
    loaded = load(save(), unit_norm=False)
    assert (loaded.x.shape, loaded.y.shape, loaded.x_test.shape) == ((40, 6), (40, 4), (20, 6))
    assert (loaded.shape, loaded.channels_last, loaded.classes) == ((6,), False, ("3", "4", "5", "6"))
    for x, y, saved, labels in ((loaded.x, loaded.y, X, Y), (loaded.x_test, loaded.y_test, X_TEST, Y_TEST)):
        found = [rows(saved)[row.tobytes()] for row in x]
        assert sorted(found) == list(range(len(saved)))
        np.testing.assert_array_equal(y.argmax(axis=1) + 3, labels[found])
        np.testing.assert_array_equal(y.sum(axis=1), 1)


def test_groups_of_labels_become_signs(save):
    loaded = load(save(), unit_norm=False, classes=[[6, 3], 4], balanced=True, train=20)
    found = [rows(X)[row.tobytes()] for row in loaded.x]
    np.testing.assert_array_equal(loaded.y[:, 0], np.where(Y[found] == 4, 1, -1))
    assert set(Y[found]) <= {3, 4, 6}
    assert (loaded.y > 0).sum() == 10
    assert loaded.classes == ("6+3", "4")


@pytest.mark.parametrize("kind", [np.int8, np.float32])
def test_signs_are_themselves(save, kind):
    signs, test_signs = np.where(Y > 4, 1, -1), np.where(Y_TEST > 4, 1, -1)
    loaded = load(save(y=signs.astype(kind), y_test=test_signs.astype(kind)), unit_norm=False)
    assert loaded.y.shape == (40, 1)
    found = [rows(X)[row.tobytes()] for row in loaded.x]
    np.testing.assert_array_equal(loaded.y[:, 0], signs[found])
    assert loaded.classes == ("-1", "1")


@pytest.mark.parametrize("width", [None, 1, 3])
def test_real_targets_stay_as_they_are(save, width):
    y, y_test = (RNG.normal(size=(n, width) if width else n) for n in (40, 20))
    loaded = load(save(y=y, y_test=y_test), unit_norm=False, train=15)
    found = [rows(X)[row.tobytes()] for row in loaded.x]
    np.testing.assert_array_equal(loaded.y, y.reshape(40, -1)[found])
    assert len(set(found)) == 15
    assert loaded.y_test.shape == (20, width or 1)
    assert loaded.classes == ("real targets",)


def test_images_keep_their_shape_and_inputs_get_unit_norm(save):
    x, x_test = (RNG.integers(0, 256, size=(n, 3, 4, 5), dtype=np.uint8) for n in (40, 20))
    loaded = load(save(x=x, x_test=x_test), "float32")
    assert loaded.shape == (3, 4, 5)
    assert loaded.x.dtype == loaded.y.dtype == np.float32
    assert loaded.x.shape == (40, 60)
    np.testing.assert_allclose(np.linalg.norm(loaded.x, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(load(save(x=x, x_test=x_test), unit_norm=False).x.max(), x.max())


def test_noise_makes_exactly_that_many_wrong_targets(save):
    clean, noisy = (load(save(), label_noise=f) for f in (0.0, 0.3))
    np.testing.assert_array_equal(clean.x, noisy.x)
    np.testing.assert_array_equal(clean.y_test, noisy.y_test)
    assert (clean.y != noisy.y).any(axis=1).sum() == 12


def test_the_digest_is_of_the_numbers_and_not_of_their_storage(save):
    single = X.astype(np.float32), X_TEST.astype(np.float32)
    first = load(save(x=single[0], x_test=single[1]))
    again = load(save(x=single[0].astype(">f8"), x_test=np.asfortranarray(single[1]), extra=np.zeros(3)))
    assert first.digest == again.digest
    assert first.files.keys() == {"own.npz"}
    changes = [
        {"x": X + 1e-9},
        {"x_test": X_TEST + 1e-9},
        {"y": Y[::-1]},
        {"y_test": Y_TEST[::-1]},
        {"x": X.reshape(40, 1, 2, 3), "x_test": X_TEST.reshape(20, 1, 2, 3)},
        {"y": Y.astype(float), "y_test": Y_TEST.astype(float)},
    ]
    digests = {load(save(**change)).digest for change in changes}
    digests |= {load(save(), **options).digest for options in ({}, {"seed": 1}, {"unit_norm": False}, {"train": 39})}
    assert len(digests) == len(changes) + 4
    assert load(save(), noise_seed=4).digest == load(save()).digest


def test_a_file_is_found_in_the_environment_s_root_and_by_its_absolute_path(save, tmp_path, monkeypatch):
    path = save()
    monkeypatch.setenv("RHOTRACE_DATA", str(tmp_path))
    assert load(path, root=None).digest == load(path).digest
    monkeypatch.delenv("RHOTRACE_DATA")
    assert DATASETS["npz"](file=str(path)).load("float64").digest == load(path).digest


# --- what can be wrong -------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named_with_the_nearest(save):
    path = save()
    message = fault(path.with_name("owm.npz"))
    assert message.startswith("data.file: no file owm.npz under ")
    assert f"did you mean {path}?" in message
    assert "set data.root" in fault(path.with_name("elsewhere"))
    assert "no file" in fault(path.parent)


@pytest.mark.parametrize("content", [b"", b"no zip", pickle.dumps({"x": 1})], ids=["empty", "text", "pickle"])
def test_what_is_no_npz_file_is_refused(save, content):
    path = save()
    path.write_bytes(content)
    assert fault(path).startswith(f"{path}: not an npz file; make one with np.savez(")


def test_an_npy_file_is_refused(save):
    path = save()
    with path.open("wb") as file:
        np.save(file, X)
    assert "not an npz file" in fault(path)


@pytest.mark.parametrize("key", ["x", "y", "x_test", "y_test"])
def test_a_missing_array_is_named(save, key):
    message = fault(save(**{key: None}))
    assert f"lacks the array {key}, has " in message


@pytest.mark.parametrize("key", ["x", "y"])
def test_object_arrays_are_refused_and_never_unpickled(save, key, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    message = fault(save(**{key: np.array([Trap()] * 40, dtype=object)}))
    assert f"the array {key} cannot be read (Object arrays" in message
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "bytes", "lying"])
def test_a_damaged_file_is_refused(save, damage):
    path = save()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:2000])
    elif damage == "flipped":
        content[content.index(X.tobytes()) + 100] ^= 1
        path.write_bytes(content)
    else:
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**15, 10**3)})
        with zipfile.ZipFile(path, "w") as archive:
            for key in ("x", "y", "x_test", "y_test"):
                archive.writestr(f"{key}.npy", b"text" if damage == "bytes" else buffer.getvalue())
    says = {
        "cut": "not an npz file",
        "flipped": "the array x cannot be read (Bad CRC-32",
        "bytes": "x is not a NumPy array",
        "lying": "the array x cannot be read (",
    }
    assert says[damage] in fault(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["x", "x_test"])
def test_numbers_that_are_not_finite_are_named_with_their_place(save, key, value):
    bad = {"x": X, "x_test": X_TEST}[key].copy()
    bad[7, 2] = value
    assert f"{key}[7, 2] is {value}" in fault(save(**{key: bad}))


def test_real_targets_must_be_finite_too(save):
    y = Y + 0.5
    y[3] = np.nan
    assert "y[3] is nan" in fault(save(y=y, y_test=Y_TEST + 0.5))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y": Y[:-1]}, "x has 40 samples, y 39"),
        ({"x_test": X_TEST[1:]}, "x_test has 19 samples, y_test 20"),
        ({"x": X[:, 0]}, "x has shape (40,), expected (N, d) or (N, channels, height, width)"),
        ({"x_test": X_TEST.reshape(20, 2, 3)}, "x_test has shape (20, 2, 3), expected (N, d)"),
        ({"y": np.zeros((40, 1, 1))}, "y has shape (40, 1, 1), expected (N,) or (N, C)"),
        ({"x_test": X_TEST[:, :5]}, "x has shape (40, 6), x_test (20, 5)"),
        ({"x": X.reshape(40, 1, 2, 3)}, "x has shape (40, 1, 2, 3), x_test (20, 6)"),
        ({"y": Y + 0.5, "y_test": np.zeros((20, 2))}, "y has shape (40,), y_test (20, 2)"),
        ({"y": Y + 0.5}, "y has type float64, y_test int64"),
        ({"x": X + 1j}, "x has type complex128, expected real numbers"),
        ({"y": Y.astype(str)}, "y has type <U21, expected real numbers"),
        ({"y": np.eye(4, dtype=int)[Y - 3]}, "y has integers of shape (40, 4), expected labels (N,)"),
        ({"x": X[:0], "y": Y[:0]}, "x has shape (0, 6), which has no samples"),
        ({"x": X[:, :0]}, "x has shape (40, 0), which has no samples"),
        ({"y": np.full(40, 3)}, "y has 1 different labels, expected 2 to 1000"),
        ({"y_test": Y_TEST + 1}, "y_test has the label 7, which y does not have"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(save, changes, says):
    path = save(**changes)
    message = fault(path)
    assert message.startswith(f"{path}: ")
    assert says in message


def test_integers_that_are_no_labels_are_not_made_one_hot(save):
    path = save(x=np.ones((1500, 6)), y=np.arange(1500))
    assert "y has 1500 different labels" in fault(path)
    assert "floating-point" in fault(path)


def test_labels_that_are_not_there_are_refused(save):
    assert fault(save(), classes=[3, 9]).startswith("data.classes: got 9, expected a label of y in ")
    assert "3, 4, 5, 6" in fault(save(), classes=[3, 9])
    load(save(y_test=Y_TEST + 1), classes=[4, 5])  # what is not chosen does not matter


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train": 41}, "got 41 training samples, but the chosen classes contain 40 at most"),
        ({"test": 21}, "got 21 test samples, but the chosen classes contain 20 at most"),
        ({"train": 21, "classes": [3, 4], "balanced": True}, "contain 20 balanced ones at most"),
    ],
)
def test_too_few_samples_are_refused_with_what_there_is(save, options, says):
    assert says in fault(save(), **options)


def test_no_test_sample_of_the_chosen_classes_is_refused(save):
    path = save(x_test=X_TEST[:1], y_test=Y_TEST[:1])
    assert "got 1 test samples, but the chosen classes contain 0 at most" in fault(path, classes=[4, 5])
    assert "contain 0 balanced ones at most" in fault(path, balanced=True)


@pytest.mark.parametrize(
    "options", [{"classes": [3, 4]}, {"balanced": True}, {"label_noise": 0.1}], ids=["classes", "balanced", "noise"]
)
def test_real_targets_have_no_classes(save, options):
    message = fault(save(y=Y + 0.5, y_test=Y_TEST + 0.5), **options)
    assert message.startswith(f"data.{next(iter(options))}: ")
    assert "real targets" in message


@pytest.mark.parametrize("factor", [0.0, 1e-200, 1e200])
def test_an_input_that_has_no_direction_is_refused_with_unit_norm(save, factor):
    x = X.copy()
    x[11] *= factor
    path = save(x=x)
    message = fault(path)
    assert message.startswith(f"{path}: x[11] has norm {'inf' if factor > 1 else '0'}")
    assert "unit_norm" in message
    assert load(path, unit_norm=False).x.shape == (40, 6)


def test_numbers_beyond_float32_are_refused(save):
    path = save(x=X * 1e100)
    assert "x has numbers that float32 cannot represent; set network.dtype" in fault(path, "float32", unit_norm=False)
    assert load(path, "float32").x.shape == (40, 6)


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(save, monkeypatch):
    path = save()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    message = fault(path)
    assert message.startswith(f"{path}: its arrays take ")
    assert "of memory are free" in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": [1, 2, 3]}, "exactly two"),
        ({"classes": [1, 1]}, "twice"),
        ({"classes": ["a", "b"]}, "valid integer"),
        ({"file": ""}, "at least 1 character"),
        ({"file": "a\0b"}, "pattern"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_before_the_file_is_looked_for(options, says):
    with pytest.raises(ValidationError, match=says):
        DATASETS["npz"](**{"file": "absent.npz", **options})


def test_the_schema_describes_every_option():
    described = DATASETS["npz"].model_json_schema()["properties"]
    assert all("description" in each for name, each in described.items() if name != "dataset"), json.dumps(described)


# --- as a user ---------------------------------------------------------------------------------------------

RECIPE = """\
data: {{dataset: npz, file: own.npz, root: ., unit_norm: {unit_norm}}}
network: {{kind: mlp, depth: 2, width: 5, dtype: float64}}
init: {{kind: equal-norms, rho_k: 1.0}}
optimizer: {{kind: gd, lr: 0.05}}
steps: 20
"""


@pytest.mark.parametrize("targets", ["labels", "signs", "real"])
def test_a_run_trains_on_one_s_own_data(save, tmp_path, command, targets):
    changes = {
        "labels": {},
        "signs": {"y": np.where(Y > 4, 1, -1), "y_test": np.where(Y_TEST > 4, 1, -1)},
        "real": {"y": np.sin(X[:, :2]), "y_test": np.sin(X_TEST[:, :2])},
    }
    save(**changes[targets])
    (tmp_path / "own.yaml").write_text(RECIPE.format(unit_norm="true"))
    assert command("train", "own.yaml", "-o", "run.h5", "--device", "cpu")[0] == 0
    code, out, err = command("verify", "run.h5")
    assert code == 0, out + err
    with open_trace(tmp_path / "run.h5") as trace:
        assert (
            trace.attributes["data_classes"]
            == {"labels": "3, 4, 5, 6", "signs": "-1, 1", "real": "real targets"}[targets]
        )
        assert trace.attributes["data_md5"].startswith("own.npz ")


def test_a_recipe_s_mistake_about_one_s_own_data_is_a_line(save, tmp_path, command):
    save(x_test=None)
    (tmp_path / "own.yaml").write_text(RECIPE.format(unit_norm="true"))
    code, out, err = command("train", "own.yaml", "-o", "run.h5", "--device", "cpu")
    assert (code, out) == (2, "")
    assert "lacks the array x_test" in err
    code, _, err = command("train", "own.yaml", "-o", "run.h5", "--set", "data.flie=own.npz")
    assert code == 2
    assert "data.flie: unknown key; did you mean 'file'?" in err
