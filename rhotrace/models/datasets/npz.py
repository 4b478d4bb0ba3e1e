"""A dataset of one's own: a NumPy file with the arrays x, y, x_test and y_test."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from rhotrace.errors import DataError, nearest_file
from rhotrace.models.component import fault
from rhotrace.models.datasets import data_roots
from rhotrace.models.datasets.samples import (
    DATASETS,
    Dataset,
    Samples,
    digest_of,
    refuse_repeated,
    targets,
    two_groups,
)

KEYS = ("x", "y", "x_test", "y_test")
MAX_CLASSES = 1000
_SAVE = "np.savez(FILE, x=..., y=..., x_test=..., y_test=...)"

Arrays = dict[str, NDArray[Any]]


@DATASETS.register
class Npz(Samples):
    """Arrays from a file made by ``np.savez``.

    ``x`` and ``x_test`` are the inputs, (N, d) or (N, channels, height, width): real numbers, which are changed only by
    ``unit_norm``. ``y`` and ``y_test`` are integer class labels, (N,), or -1 and +1, (N,), or real targets, (N,) or
    (N, C), as floating-point numbers. Labels become targets as in
    the other datasets: -1/+1 for two classes, the smaller label being -1, and one-hot for more. Real targets have no
    classes, so ``classes``, ``balanced`` and ``label_noise`` do not apply to them. Other arrays in the file are ignored.
    """

    dataset: Literal["npz"] = "npz"
    classes: Literal["all"] | list[int | list[int]] = Field(  # type: ignore[assignment]
        default="all", description="all labels of y, or two of them or two groups of them (-1/+1)"
    )
    balanced: bool = Field(
        default=False, description="draw equally many samples of each target (sizes differ by one at most)"
    )
    file: Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]+$")] = Field(
        description="path of the npz file, from one of the data roots, with the arrays x, y, x_test and y_test"
    )

    @model_validator(mode="after")
    def _two_groups(self) -> Self:
        if self.classes != "all":
            try:
                refuse_repeated(two_groups(self.classes), self.classes)
            except DataError as problem:
                raise fault("classes", str(problem).removeprefix("data.classes: ")) from None
        return self

    def load(self, dtype: str) -> Dataset:
        """See ``Samples.load``."""
        path = self._path()
        state = path.stat()
        arrays, md5 = _read(path, (state.st_mtime_ns, state.st_size))
        _check(path, arrays)
        shape = arrays["x"].shape[1:]
        if arrays["y"].dtype.kind == "f" and not _are_signs(arrays):
            return self._with_real_targets(path, arrays, dtype, md5)
        labels, numbers, test_numbers = self._labels(path, arrays)
        groups = self._groups(path, labels)
        chosen = self.choose(numbers, test_numbers, groups)
        x, x_test = (arrays[key].reshape(len(arrays[key]), -1) for key in ("x", "x_test"))
        x, x_test = _exact(x[chosen.train]), _exact(x_test[chosen.test])
        return Dataset(
            x=self._inputs(path, "x", x, chosen.train, dtype),
            y=targets(chosen.target, len(groups), dtype),
            x_test=self._inputs(path, "x_test", x_test, chosen.test, dtype),
            y_test=targets(chosen.test_target, len(groups), dtype),
            classes=tuple("+".join(str(labels[c]) for c in group) for group in groups),
            digest=digest_of(
                (self.dataset, shape, groups, self.unit_norm), (x, chosen.target, x_test, chosen.test_target)
            ),
            files={path.name: md5},
            chosen=chosen,
            shape=shape,
        )

    def _with_real_targets(self, path: Path, arrays: Arrays, dtype: str, md5: str) -> Dataset:
        for option, asks in (
            ("classes", self.classes != "all"),
            ("balanced", self.balanced),
            ("label_noise", self.label_noise > 0),
        ):
            if asks:
                raise DataError(
                    f"data.{option}: {path} has real targets, to which it does not apply; remove it, "
                    "or save class labels as integers"
                )
        x, x_test = (arrays[key].reshape(len(arrays[key]), -1) for key in ("x", "x_test"))
        y, y_test = (arrays[key].reshape(len(arrays[key]), -1) for key in ("y", "y_test"))
        chosen = self.choose(np.zeros(len(y), np.int64), np.zeros(len(y_test), np.int64), [[0]])
        x, y = _exact(x[chosen.train]), _exact(y[chosen.train])
        x_test, y_test = _exact(x_test[chosen.test]), _exact(y_test[chosen.test])
        return Dataset(
            x=self._inputs(path, "x", x, chosen.train, dtype),
            y=_cast(path, "y", y, dtype),
            x_test=self._inputs(path, "x_test", x_test, chosen.test, dtype),
            y_test=_cast(path, "y_test", y_test, dtype),
            classes=("real targets",),
            digest=digest_of((self.dataset, arrays["x"].shape[1:], "real", self.unit_norm), (x, y, x_test, y_test)),
            files={path.name: md5},
            chosen=chosen,
            shape=arrays["x"].shape[1:],
        )

    def _path(self) -> Path:
        given = Path(self.file).expanduser()
        searched = data_roots.roots(self.root)
        places = [given] if given.is_absolute() else [root / given for root in searched]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            near = next(filter(None, (nearest_file(place, "*.npz") for place in places)), None)
            where = "" if given.is_absolute() else f" under {', '.join(map(str, searched))}"
            hint = f"did you mean {near}?" if near else "give an absolute path, or set data.root to its folder"
            raise DataError(f"data.file: no file {self.file}{where}; {hint}", brief=f"data.file: no file {self.file}")
        return found.absolute()

    def _labels(self, path: Path, arrays: Arrays) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64]]:
        """The labels in order, and the number of each sample's label in that order; a test sample's may be none, -1."""
        labels = np.unique(arrays["y"])
        if not 2 <= len(labels) <= MAX_CLASSES:
            raise DataError(
                f"{path}: y has {len(labels)} different labels, expected 2 to {MAX_CLASSES} classes; "
                "save real targets as floating-point numbers"
            )
        if self.classes == "all":
            strange = np.setdiff1d(arrays["y_test"], labels)
            if len(strange):
                raise DataError(f"{path}: y_test has the label {int(strange[0])}, which y does not have")
        number = np.searchsorted(labels, arrays["y"])
        place = np.minimum(np.searchsorted(labels, arrays["y_test"]), len(labels) - 1)
        there = labels[place] == arrays["y_test"]
        return [int(label) for label in labels], number, np.where(there, place, len(labels))

    def _groups(self, path: Path, labels: list[int]) -> list[list[int]]:
        if self.classes == "all":
            return [[number] for number in range(len(labels))]
        known = ", ".join(map(str, labels if len(labels) <= 20 else [*labels[:20], "..."]))
        groups = two_groups(self.classes)
        for label in (label for group in groups for label in group):
            if label not in labels:
                raise DataError(f"data.classes: got {label}, expected a label of y in {path}: {known}")
        return [[labels.index(label) for label in group] for group in groups]

    def _inputs(self, path: Path, name: str, x: NDArray[Any], chosen: NDArray[np.int64], dtype: str) -> NDArray[Any]:
        if self.unit_norm:
            with np.errstate(over="ignore"):  # such a norm is refused
                norms = np.linalg.norm(x, axis=1, keepdims=True)
            bad = np.flatnonzero(~((norms > 0) & np.isfinite(norms)))
            if len(bad):
                raise DataError(
                    f"{path}: {name}[{chosen[bad[0]]}] has norm {norms[bad[0], 0]:g} and cannot be scaled to norm 1; "
                    "remove it, or set data.unit_norm to false"
                )
            x = x / norms
        return _cast(path, name, x, dtype)


def _exact(values: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # of a longer type; refused by _cast
        return values.astype("<f8")


def _cast(path: Path, name: str, values: NDArray[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # refused below
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        raise DataError(f"{path}: {name} has numbers that {dtype} cannot represent; set network.dtype to float64")
    return cast


def _are_signs(arrays: Arrays) -> bool:
    """Whether the targets are -1 and +1, which are labels of two classes."""
    both = [arrays[key] for key in ("y", "y_test")]
    return all(y.ndim == 1 and bool((np.abs(y) == 1).all()) for y in both)


@lru_cache(maxsize=1)
def _read(path: Path, _state: tuple[int, int]) -> tuple[Arrays, str]:
    """The four arrays, and the md5 of the file."""
    try:
        with path.open("rb") as content:
            if not zipfile.is_zipfile(content):
                raise DataError(f"{path}: not an npz file; make one with {_SAVE}")
            content.seek(0)
            md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        with np.load(path, allow_pickle=False) as file:
            return _arrays(path, file), md5
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise DataError(f"{path}: cannot be read as an npz file ({problem}); make one with {_SAVE}") from None


def _arrays(path: Path, file: Any) -> Arrays:  # noqa: ANN401 - an NpzFile, which NumPy does not export
    import psutil

    sizes = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}
    missing = [key for key in KEYS if key not in sizes]
    if missing:
        raise DataError(f"{path}: lacks the array {missing[0]}, has {', '.join(sizes) or 'none'}; save it with {_SAVE}")
    size, free = sum(sizes[key] for key in KEYS), psutil.virtual_memory().available
    if size > free:
        raise DataError(
            f"{path}: its arrays take {size / 1e9:.3g} GB, but {free / 1e9:.3g} GB of memory are free; save fewer samples"
        )
    arrays: Arrays = {}
    for key in KEYS:
        try:
            values = file[key]
        except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, MemoryError, RuntimeError) as problem:
            raise DataError(
                f"{path}: the array {key} cannot be read ({' '.join(str(problem).split())}); "
                f"save plain numbers with {_SAVE}"
            ) from None
        if not isinstance(values, np.ndarray):
            raise DataError(f"{path}: {key} is not a NumPy array; save it with {_SAVE}")
        arrays[key] = values
    return arrays


def _check(path: Path, arrays: Arrays) -> None:
    """Raises DataError unless the arrays are inputs and targets that fit each other."""
    for key, values in arrays.items():
        if why := _why_unusable(key, values):
            raise DataError(f"{path}: {key}{why}")
    for suffix in ("", "_test"):
        x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
        if len(x) != len(y):
            raise DataError(f"{path}: x{suffix} has {len(x)} samples, y{suffix} {len(y)}; expected the same number")
    for key in ("x", "y"):
        here, there = arrays[key], arrays[f"{key}_test"]
        if here.shape[1:] != there.shape[1:]:
            raise DataError(f"{path}: {key} has shape {here.shape}, {key}_test {there.shape}; only N may differ")
    if (arrays["y"].dtype.kind == "f") != (arrays["y_test"].dtype.kind == "f"):
        raise DataError(
            f"{path}: y has type {arrays['y'].dtype}, y_test {arrays['y_test'].dtype}; "
            "expected labels in both (integers), or real targets in both"
        )


def _why_unusable(key: str, values: NDArray[Any]) -> str:
    """What is wrong with an array by itself; nothing where it can be used."""
    inputs = key.startswith("x")
    if values.dtype.kind not in "biuf":
        return f" has type {values.dtype}, expected real numbers"
    if values.ndim not in ((2, 4) if inputs else (1, 2)):
        expected = "(N, d) or (N, channels, height, width)" if inputs else "(N,) or (N, C)"
        return f" has shape {values.shape}, expected {expected}"
    if not values.size:
        return f" has shape {values.shape}, which has no samples"
    finite = np.isfinite(values)
    if not finite.all():
        at = np.argwhere(~finite)[0]
        return f"[{', '.join(map(str, at))}] is {values[tuple(at)]}; expected finite numbers"
    if not inputs and values.ndim == 2 and values.dtype.kind != "f":
        return (
            f" has integers of shape {values.shape}, expected labels (N,), "
            "or real targets (N, C) as floating-point numbers"
        )
    return ""
