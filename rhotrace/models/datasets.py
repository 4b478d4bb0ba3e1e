"""Real datasets as unit-norm inputs and -1/+1 or one-hot targets, read and verified by torchvision."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import platformdirs
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from rhotrace.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ClassLabel = int | str
Raw = tuple[NDArray[np.uint8], NDArray[np.int64]]
Parts = tuple[Raw, Raw, dict[str, str]]


@dataclass(frozen=True)
class Source:
    """Where torchvision keeps a dataset below a data root, and what its classes are called."""

    loader: str  # class in torchvision.datasets
    folder: str
    files: tuple[str, ...]
    classes: tuple[str, ...]


_IDX = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_CIFAR = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

SOURCES: dict[str, Source] = {
    "mnist": Source("MNIST", "MNIST/raw", _IDX, tuple("0123456789")),
    "fashion-mnist": Source(
        "FashionMNIST",
        "FashionMNIST/raw",
        _IDX,
        (
            "t-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
    ),
    "cifar-10": Source(
        "CIFAR10",
        "cifar-10-batches-py",
        _CIFAR,
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
}


@dataclass(frozen=True)
class Dataset:
    """Training and test samples, ready for a network.

    Attributes:
        x: training inputs, (N, d), with ||x_n|| = 1 unless the recipe says otherwise.
        y: training targets, (N, C): -1/+1 with C = 1, or one-hot.
        x_test: test inputs, (N_test, d).
        y_test: test targets, (N_test, C); never noisy.
        classes: what the targets stand for, in order (the first of two is -1).
        digest: SHA-256 of the chosen pixels and targets, whatever the floating-point type.
        files: md5 of each file that was read, by name.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    classes: tuple[str, ...]
    digest: str
    files: Mapping[str, str]


def load(
    *,
    dataset: Literal["mnist", "fashion-mnist", "cifar-10"],
    classes: Literal["all"] | list[ClassLabel | list[ClassLabel]] = "all",
    train: Annotated[int, Ge(1)] | None = None,
    test: Annotated[int, Ge(1)] | None = None,
    balanced: bool = True,
    label_noise: Annotated[float, Ge(0), Lt(1)] = 0.0,
    unit_norm: bool = True,
    seed: Annotated[int, Ge(0)] = 0,
    noise_seed: Annotated[int, Ge(0)] = 0,
    root: str | None = None,
    dtype: str = "float64",
) -> Dataset:
    """Reads a dataset and cuts it to the classes and sizes asked for.

    Args:
        dataset: which of ``SOURCES``.
        classes: ``"all"`` (one-hot targets), or two classes, or two groups of classes (-1/+1), by
            number or by name.
        train: number of training samples; None takes all there are.
        test: number of test samples; None takes all there are.
        balanced: draw equally many samples of each target (sizes differ by one at most).
        label_noise: fraction of training targets replaced by a wrong one; exactly round(fraction N).
        unit_norm: scale each input to ||x|| = 1, as the memo assumes; otherwise pixels are in [0, 1].
        seed: chooses the subset and its order.
        noise_seed: chooses which targets are wrong.
        root: data root, before ``RHOTRACE_DATA``, the checkout and the user's cache.
        dtype: floating-point type of the arrays.

    Raises:
        DataError: the files are absent or damaged, a class does not exist, or too few samples.
    """
    source = SOURCES[dataset]
    groups = class_groups(dataset, classes)
    (pixels, labels), (test_pixels, test_labels), files = _read(dataset, root)
    chosen, target = _subset(labels, groups, train, balanced, np.random.default_rng([seed, 0]), "training")
    chosen_test, target_test = _subset(test_labels, groups, test, balanced, np.random.default_rng([seed, 1]), "test")
    target = _with_noise(target, label_noise, len(groups), np.random.default_rng([noise_seed, 2]))
    images, test_images = pixels[chosen], test_pixels[chosen_test]
    digest = hashlib.sha256(repr((dataset, groups, unit_norm)).encode())
    for part in (images, target, test_images, target_test):
        digest.update(np.ascontiguousarray(part).tobytes())
    return Dataset(
        x=_inputs(images, unit_norm, dtype),
        y=_targets(target, len(groups), dtype),
        x_test=_inputs(test_images, unit_norm, dtype),
        y_test=_targets(target_test, len(groups), dtype),
        classes=tuple("+".join(source.classes[c] for c in group) for group in groups),
        digest=digest.hexdigest(),
        files=files,
    )


def class_groups(dataset: str, classes: str | Sequence[Any]) -> list[list[int]]:
    """Class numbers behind each target, from numbers, names or groups of them.

    Raises:
        DataError: an unknown class, a class named twice, or not exactly two groups.
    """
    names = SOURCES[dataset].classes
    if classes == "all":
        return [[c] for c in range(len(names))]
    groups = [[_class_number(dataset, c) for c in (g if isinstance(g, list) else [g])] for g in classes]
    if len(groups) != 2 or not all(groups):
        raise DataError(
            f"data.classes: got {len(groups)} groups ({list(classes)}), expected 'all' or exactly two non-empty "
            "classes or groups of classes, such as [4, 9] or [[0, 1], [2, 3]]"
        )
    flat = [c for group in groups for c in group]
    if len(set(flat)) != len(flat):
        raise DataError(f"data.classes: got {list(classes)}, in which a class stands twice; name each once")
    return groups


def _class_number(dataset: str, label: ClassLabel) -> int:
    names = SOURCES[dataset].classes
    if isinstance(label, str) and label.lower() in names:
        return names.index(label.lower())
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    raise DataError(
        f"data.classes: got {label!r}, expected a class of {dataset}: 0 to {len(names) - 1} ({', '.join(names)})"
    )


def roots(root: str | None = None) -> list[Path]:
    """The folders searched for data, in order: recipe, ``RHOTRACE_DATA``, checkout, user's cache."""
    found = [Path(p).expanduser() for p in (root, os.environ.get("RHOTRACE_DATA")) if p]
    checkout = Path(__file__).resolve().parents[2] / "data"
    if checkout.is_dir():
        found.append(checkout)
    return [*found, cache_root()]


def cache_root() -> Path:
    """The user's own cache folder, into which absent data is downloaded."""
    return Path(platformdirs.user_cache_dir("rhotrace")) / "data"


def _read(name: str, root: str | None) -> Parts:
    """All pixels and labels, (n, d) and (n,), of the training and the test part; and the md5 of each file."""
    source = SOURCES[name]
    searched = roots(root)
    found = _find(source, searched)
    if not found:
        loader = _torchvision_loader(source)
        try:
            loader(str(cache_root()), download=True)
        except (OSError, RuntimeError) as problem:
            raise DataError(
                f"data: {name} not found: expected {', '.join(source.files)} in {source.folder}/ under one of "
                f"{', '.join(map(str, searched))}, and the download failed ({' '.join(str(problem).split())}).\n"
                f"With a network: python -c \"import torchvision as t; t.datasets.{source.loader}('DIR', download=True)\", "
                f"then set RHOTRACE_DATA=DIR",
                brief=f"data: {name} not found",
            ) from None
        found = _find(source, [cache_root()])
        if not found:
            raise DataError(f"data: {name} was downloaded, but {cache_root() / source.folder} lacks some of its files")
    state = [(found / f).stat() for f in source.files]
    return _read_folder(name, found, tuple((s.st_mtime_ns, s.st_size) for s in state))


def _find(source: Source, bases: Sequence[Path]) -> Path | None:
    folders = (base / source.folder for base in bases)
    return next((folder for folder in folders if all((folder / f).is_file() for f in source.files)), None)


@lru_cache(maxsize=2)
def _read_folder(name: str, folder: Path, _state: tuple[tuple[int, int], ...]) -> Parts:
    source = SOURCES[name]
    loader = _torchvision_loader(source)
    from torchvision.datasets.utils import calculate_md5

    files = {file: calculate_md5(folder / file) for file in source.files}
    if not source.files[0].endswith(".gz"):
        try:
            train, test = (loader(str(folder.parent), train=train, download=False) for train in (True, False))
        except (OSError, RuntimeError, ValueError) as problem:
            raise DataError(f"{folder}: torchvision refuses these files ({problem}); fetch them again") from None
        return _arrays(train), _arrays(test), files
    expected = dict(loader.resources)
    for file, got in files.items():
        if got != expected[file]:
            raise DataError(f"{folder / file}: got md5 {got}, expected {expected[file]}; fetch the file again")
    # torchvision unpacks beside the archives; a temporary folder of links keeps that out of the data root.
    with tempfile.TemporaryDirectory(prefix="rhotrace-") as scratch:
        raw = Path(scratch) / source.loader / "raw"
        raw.mkdir(parents=True)
        for file in source.files:
            (raw / file).symlink_to((folder / file).resolve())
        train, test = (loader(scratch, train=train, download=True) for train in (True, False))
        return _arrays(train), _arrays(test), files


def _torchvision_loader(source: Source) -> Any:  # noqa: ANN401 - a torchvision class, and torchvision is untyped
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError, AttributeError, OSError) as problem:
        torch, vision = map(_version, ("torch", "torchvision"))
        if vision is None:
            what = "torchvision is not installed; the datasets are read through it"
        else:
            needs = [r for r in metadata.requires("torchvision") or [] if r.startswith("torch")]
            why = " ".join(str(problem).split()) or type(problem).__name__
            what = (
                f"torchvision {vision} does not import beside torch {torch} ({why[:200]}); it needs {', '.join(needs)}"
            )
        raise DataError(
            f"{what}.\nInstall a matching pair from one source: python -m pip install --upgrade torch torchvision"
        ) from None
    return getattr(datasets, source.loader)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _arrays(part: Any) -> Raw:  # noqa: ANN401 - a torchvision dataset, and torchvision is untyped
    pixels = np.asarray(part.data, dtype=np.uint8)
    return pixels.reshape(len(pixels), -1), np.asarray(part.targets, dtype=np.int64)


def _subset(
    labels: NDArray[np.int64],
    groups: list[list[int]],
    size: int | None,
    balanced: bool,
    rng: np.random.Generator,
    part: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the chosen samples in random order, and the group number of each."""
    group_of = np.full(int(labels.max()) + 1, -1, dtype=np.int64)
    for number, group in enumerate(groups):
        group_of[group] = number
    target = group_of[labels]
    order = rng.permutation(np.flatnonzero(target >= 0))
    if balanced:
        members = [order[target[order] == number] for number in range(len(groups))]
        most = min(map(len, members)) * len(groups)
        size = most if size is None else size
        share = [size // len(groups) + (number < size % len(groups)) for number in range(len(groups))]
        if any(s > len(m) for s, m in zip(share, members, strict=True)):
            raise DataError(
                f"data: got {size} {part} samples, but the chosen classes hold {most} balanced ones at most"
            )
        order = rng.permutation(np.concatenate([m[:s] for s, m in zip(share, members, strict=True)]))
    elif size is not None and size > len(order):
        raise DataError(f"data: got {size} {part} samples, but the chosen classes hold {len(order)} at most")
    order = order[:size]
    return order, target[order]


def _with_noise(target: NDArray[np.int64], fraction: float, groups: int, rng: np.random.Generator) -> NDArray[np.int64]:
    wrong = rng.permutation(len(target))[: round(fraction * len(target))]
    noisy = target.copy()
    noisy[wrong] = (target[wrong] + rng.integers(1, groups, size=len(wrong))) % groups
    return noisy


def _inputs(pixels: NDArray[np.uint8], unit_norm: bool, dtype: str) -> NDArray[Any]:
    x = np.empty(pixels.shape, dtype)
    for start in range(0, len(x), 4096):  # in float64, a piece at a time
        piece = pixels[start : start + 4096] / 255
        if unit_norm:
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        x[start : start + 4096] = piece
    return x


def _targets(target: NDArray[np.int64], groups: int, dtype: str) -> NDArray[Any]:
    if groups == 2:
        return (2 * target - 1).astype(dtype)[:, None]
    return np.eye(groups, dtype=dtype)[target]
