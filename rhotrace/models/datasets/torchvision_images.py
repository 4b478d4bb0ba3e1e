"""MNIST, Fashion-MNIST and CIFAR-10 in the files that torchvision keeps, archives or unpacked; checked, never changed."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rhotrace.errors import DataError
from rhotrace.models.augmentation import Augment
from rhotrace.models.component import fault
from rhotrace.models.datasets import data_roots
from rhotrace.models.datasets.samples import (
    DATASETS,
    ClassLabel,
    Dataset,
    Samples,
    digest_of,
    refuse_repeated,
    targets,
    two_groups,
)

Raw = tuple[NDArray[np.uint8], NDArray[np.int64]]
Parts = tuple[Raw, Raw, dict[str, str]]
Moments = tuple[NDArray[np.float64], NDArray[np.float64]]

_PARTS = ("train", "t10k")
_KINDS = ("images-idx3", "labels-idx1")
_IDX = tuple(f"{part}-{kind}-ubyte" for part in _PARTS for kind in _KINDS)
_CIFAR = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")


class LabelledImages(Samples):
    """Images of named classes that torchvision can download: what each dataset declares, and how they are read."""

    loader: ClassVar[str]  # class in torchvision.datasets
    folder: ClassVar[str]  # below a data root
    files: ClassVar[tuple[tuple[str, ...], ...]]  # the sets of files that contain it, the preferred one first
    names: ClassVar[tuple[str, ...]]  # of the classes
    shape: ClassVar[tuple[int, int, int]]  # of an image: channels, height, width
    channels_last: ClassVar[bool] = False

    standardise: bool = Field(
        default=False,
        description="subtract the mean and divide by the standard deviation of each colour over the training samples, "
        "before the scaling to unit norm",
    )
    augment: Augment | None = Field(
        default=None, description="what is done to the images of each minibatch; the full training set stays as it is"
    )

    @property
    def augmentation(self) -> Augment | None:
        """See ``Samples.augmentation``."""
        return self.augment

    @model_validator(mode="after")
    def _classes_exist(self) -> Self:
        try:
            self.groups()
        except DataError as problem:
            raise fault("classes", str(problem).removeprefix("data.classes: ")) from None
        return self

    def groups(self) -> list[list[int]]:
        """Class numbers behind each target.

        Raises:
            DataError: an unknown class, a class named twice, or not exactly two groups.
        """
        if self.classes == "all":
            return [[c] for c in range(len(self.names))]
        numbers = [[self._number(c) for c in (g if isinstance(g, list) else [g])] for g in self.classes]
        groups = two_groups(numbers)
        refuse_repeated(groups, self.classes)
        return groups

    def _number(self, label: ClassLabel) -> int:
        if isinstance(label, str) and label.lower() in self.names:
            return self.names.index(label.lower())
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.names):
            return label
        raise DataError(
            f"data.classes: got {label!r}, expected a class of {self.dataset}: 0 to {len(self.names) - 1} "
            f"({', '.join(self.names)})"
        )

    def load(self, dtype: str) -> Dataset:
        """See ``Samples.load``; pixels are between 0 and 1 where they are neither standardised nor scaled to unit norm."""
        groups = self.groups()
        (pixels, labels), (test_pixels, test_labels), files = self._read()
        chosen = self.choose(labels, test_labels, groups)
        images, test_images = pixels[chosen.train], test_pixels[chosen.test]
        parts = (images, chosen.target, test_images, chosen.test_target)
        moments = self._moments(images) if self.standardise else None
        about = (self.dataset, groups, self.unit_norm, *(["standardised"] if moments else []))
        return Dataset(
            x=_inputs(images, self.unit_norm, dtype, moments),
            y=targets(chosen.target, len(groups), dtype),
            x_test=_inputs(test_images, self.unit_norm, dtype, moments),
            y_test=targets(chosen.test_target, len(groups), dtype),
            classes=tuple("+".join(self.names[c] for c in group) for group in groups),
            digest=digest_of(about, parts),
            files=files,
            shape=self.shape,
            channels_last=self.channels_last,
            chosen=chosen,
        )

    def _moments(self, images: NDArray[np.uint8]) -> Moments:
        """Mean and standard deviation of each number of a row, those of its colour over all images and places."""
        channels, height, width = self.shape
        colour = (
            np.tile(np.arange(channels), height * width)
            if self.channels_last
            else np.repeat(np.arange(channels), height * width)
        )
        sums, squares = np.zeros(images.shape[1], np.int64), np.zeros(images.shape[1], np.int64)
        for start in range(0, len(images), 4096):  # whole numbers: exact
            piece = images[start : start + 4096].astype(np.int64)
            sums += piece.sum(axis=0)
            squares += (piece * piece).sum(axis=0)
        count = len(images) * height * width
        total, square = (np.bincount(colour, weights=s, minlength=channels) / count for s in (sums, squares))
        std = np.sqrt(np.maximum(square - total**2, 0))
        if not std.all():
            raise DataError("data.standardise: a colour is the same in all training pixels; remove the option")
        return (total / 255)[colour], (std / 255)[colour]

    def _read(self) -> Parts:
        """All pixels and labels, (n, d) and (n,), of the training and the test part; and the md5 of each file."""
        searched = data_roots.roots(self.root)
        found = self._find(searched)
        if not found:
            self._download(searched)
            cache = data_roots.cache_root()
            found = self._find([cache])
            if not found:
                raise DataError(
                    f"data: {self.dataset} was downloaded, but {cache / self.folder} lacks some of its files"
                )
        folder, files = found
        state = [(folder / f).stat() for f in files]
        return _read_folder(type(self), folder, files, tuple((s.st_mtime_ns, s.st_size) for s in state))

    def _find(self, bases: Sequence[Path]) -> tuple[Path, tuple[str, ...]] | None:
        for base in bases:
            for files in self.files:
                if all((base / self.folder / file).is_file() for file in files):
                    return base / self.folder, files
        return None

    def _download(self, searched: Sequence[Path]) -> None:
        loader = torchvision_class(self.loader)
        try:
            loader(str(data_roots.cache_root()), download=True)
        except (OSError, RuntimeError) as problem:
            raise DataError(
                f"data: {self.dataset} not found: expected {', '.join(self.files[0])} in {self.folder}/ under one of "
                f"{', '.join(map(str, searched))}, and the download failed ({' '.join(str(problem).split())}).\n"
                f"With a network: python -c \"import torchvision as t; t.datasets.{self.loader}('DIR', download=True)\", "
                f"then set RHOTRACE_DATA=DIR",
                brief=f"data: {self.dataset} not found",
            ) from None

    @classmethod
    def read_files(cls, folder: Path, files: tuple[str, ...]) -> Parts:
        """All samples from one of the sets of ``files``.

        Raises:
            DataError: the files are damaged, or are not those of the dataset.
        """
        raise NotImplementedError


@lru_cache(maxsize=2)
def _read_folder(
    dataset: type[LabelledImages], folder: Path, files: tuple[str, ...], _state: tuple[tuple[int, int], ...]
) -> Parts:
    return dataset.read_files(folder, files)


class _Idx(LabelledImages):
    """MNIST's format: images and labels in files of their own, each a header and then bytes."""

    files = (tuple(f"{file}.gz" for file in _IDX), _IDX)
    folder: ClassVar[str]
    shape = (1, 28, 28)
    sizes: ClassVar[tuple[int, int]] = (60_000, 10_000)
    md5: ClassVar[tuple[str, ...]]  # of the archives; torchvision has them too, but is slow to import

    @classmethod
    def read_files(cls, folder: Path, files: tuple[str, ...]) -> Parts:
        """Archives must have the official md5; of unpacked files, the headers, sizes and labels are checked."""
        raw = {file: (folder / file).read_bytes() for file in files}
        sums = {file: hashlib.md5(content, usedforsecurity=False).hexdigest() for file, content in raw.items()}
        if files == cls.files[0]:
            for file, expected in zip(files, cls.md5, strict=True):
                if sums[file] != expected:
                    raise DataError(f"{folder / file}: got md5 {sums[file]}, expected {expected}; fetch the file again")
            raw = {file: gzip.decompress(content) for file, content in raw.items()}
        parts = []
        for number, size in enumerate(cls.sizes):
            images, labels = files[2 * number : 2 * number + 2]
            pixels = _idx(folder / images, raw[images], (size, *cls.shape[1:]))
            classes = _idx(folder / labels, raw[labels], (size,)).astype(np.int64)
            if classes.max() >= len(cls.names):
                raise DataError(
                    f"{folder / labels}: got label {classes.max()}, expected 0 to {len(cls.names) - 1}; "
                    "fetch the file again"
                )
            parts.append((pixels.reshape(size, -1), classes))
        return parts[0], parts[1], sums


def _idx(path: Path, content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The bytes behind an idx header, which is two zero bytes, the type (8: bytes), the rank, and each size."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    expected = len(header) + int(np.prod(shape))
    if content[: len(header)] != header or len(content) != expected:
        what = "size" if content[: len(header)] == header else "header"
        got = f"{len(content)} bytes" if what == "size" else content[: len(header)].hex(" ", 4)
        wanted = (
            f"{expected} bytes" if what == "size" else f"{header.hex(' ', 4)} ({' x '.join(map(str, shape))} bytes)"
        )
        raise DataError(f"{path}: got the {what} {got}, expected {wanted}; fetch the file again")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


@DATASETS.register
class Mnist(_Idx):
    """Handwritten digits."""

    dataset: Literal["mnist"] = "mnist"
    loader = "MNIST"
    folder = "MNIST/raw"
    names = tuple("0123456789")
    md5 = (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    )


@DATASETS.register
class FashionMnist(_Idx):
    """Articles of clothing, in the format of MNIST."""

    dataset: Literal["fashion-mnist"] = "fashion-mnist"
    loader = "FashionMNIST"
    folder = "FashionMNIST/raw"
    names = (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )
    md5 = (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    )


@DATASETS.register
class Cifar10(LabelledImages):
    """Small colour photographs; a row of x has the three colours of a pixel side by side."""

    dataset: Literal["cifar-10"] = "cifar-10"
    loader = "CIFAR10"
    folder = "cifar-10-batches-py"
    files = (_CIFAR,)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    shape = (3, 32, 32)
    channels_last = True

    @classmethod
    def read_files(cls, folder: Path, files: tuple[str, ...]) -> Parts:
        """As torchvision reads them, which refuses files of another md5."""
        loader = torchvision_class(cls.loader)
        from torchvision.datasets.utils import calculate_md5

        sums = {file: calculate_md5(folder / file) for file in files}
        try:
            train, test = (loader(str(folder.parent), train=train, download=False) for train in (True, False))
        except (OSError, RuntimeError, ValueError) as problem:
            raise DataError(f"{folder}: torchvision refuses these files ({problem}); fetch them again") from None
        return _arrays(train), _arrays(test), sums


def _arrays(part: Any) -> Raw:  # noqa: ANN401 - a torchvision dataset, and torchvision is untyped
    pixels = np.asarray(part.data, dtype=np.uint8)
    return pixels.reshape(len(pixels), -1), np.asarray(part.targets, dtype=np.int64)


def _inputs(pixels: NDArray[np.uint8], unit_norm: bool, dtype: str, moments: Moments | None) -> NDArray[Any]:
    x = np.empty(pixels.shape, dtype)
    for start in range(0, len(x), 4096):  # in float64, a piece at a time
        piece = pixels[start : start + 4096] / 255
        if moments:
            piece = (piece - moments[0]) / moments[1]
        if unit_norm:
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        x[start : start + 4096] = piece
    return x


def torchvision_class(name: str) -> Any:  # noqa: ANN401 - a torchvision class, and torchvision is untyped
    """A class of torchvision.datasets.

    Raises:
        DataError: torchvision is not installed, or does not fit torch.
    """
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
                f"torchvision {vision} cannot be imported with torch {torch} ({why[:200]}); it needs {', '.join(needs)}"
            )
        raise DataError(
            f"{what}.\nInstall a matching pair from one source: python -m pip install --upgrade torch torchvision"
        ) from None
    return getattr(datasets, name)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
