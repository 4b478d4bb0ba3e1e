"""What every dataset has: the options of a recipe's ``data`` section, and the choice of samples, labels and noise."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from pydantic import Field

from rhotrace.errors import DataError
from rhotrace.models.augmentation import Augment
from rhotrace.models.component import Component, Registry

ClassLabel = int | str


@dataclass(frozen=True)
class Dataset:
    """Training and test samples, ready for a network.

    Attributes:
        x: training inputs, (N, d), with ||x_n|| = 1 unless the recipe says otherwise.
        y: training targets, (N, C): -1/+1 with C = 1, one-hot, or real numbers.
        x_test: test inputs, (N_test, d).
        y_test: test targets, (N_test, C); never noisy.
        classes: what the targets stand for, in order (the first of two is -1); ``real targets`` if they are none.
        digest: SHA-256 of the chosen inputs and targets, independent of the floating-point type.
        files: md5 of each file that was read, by name.
        shape: of one input: (d,), or (channels, height, width) of an image.
        channels_last: whether a row of x is in the order height, width, channel; else it is in the order of ``shape``.
        chosen: where the samples are in the whole dataset, for the run file; None where a dataset does not say.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]
    classes: tuple[str, ...]
    digest: str
    files: Mapping[str, str]
    shape: tuple[int, ...]
    channels_last: bool = False
    chosen: Chosen | None = None

    def in_order(self) -> Dataset:
        """The same samples with each row in the order of ``shape``, as a network that reshapes its inputs needs them."""
        if not self.channels_last:
            return self
        channels, height, width = self.shape

        def ordered(x: NDArray[Any]) -> NDArray[Any]:
            return np.moveaxis(x.reshape(len(x), height, width, channels), 3, 1).reshape(len(x), -1)

        return replace(self, x=ordered(self.x), x_test=ordered(self.x_test), channels_last=False)


class Samples(Component):
    """Options that datasets share; a dataset adds its name, its own options and ``load``."""

    dataset: str
    classes: Literal["all"] | list[ClassLabel | list[ClassLabel]] = Field(
        default="all",
        description="all (one-hot targets), or two classes or two groups of classes (-1/+1), by number or name",
    )
    train: Annotated[int, Ge(1)] | None = Field(
        default=None, description="number of training samples; null takes all there are"
    )
    test: Annotated[int, Ge(1)] | None = Field(
        default=None, description="number of test samples; null takes all there are"
    )
    balanced: bool = Field(
        default=True, description="draw equally many samples of each target (sizes differ by one at most)"
    )
    label_noise: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.0, description="fraction of the training targets that are replaced by a wrong one, exactly"
    )
    unit_norm: bool = Field(default=True, description="scale each input to norm 1, as the memo assumes")
    seed: Annotated[int, Ge(0)] = Field(default=0, description="chooses the subset and its order")
    noise_seed: Annotated[int, Ge(0)] = Field(default=0, description="chooses which targets are wrong")
    root: str | None = Field(
        default=None, description="data root that is searched first, before RHOTRACE_DATA and the user's cache"
    )

    @property
    def augmentation(self) -> Augment | None:
        """What is done to the images of each minibatch."""
        return None

    @abstractmethod
    def load(self, dtype: str) -> Dataset:
        """Reads the dataset and reduces it to the chosen classes and sizes.

        Args:
            dtype: floating-point type of the arrays.

        Raises:
            DataError: the data is absent or damaged, a class does not exist, or there are too few samples.
        """

    def choose(self, labels: NDArray[np.int64], test_labels: NDArray[np.int64], groups: list[list[int]]) -> Chosen:
        """The samples that the options ask for, with the number of each one's group; noise is on the training targets.

        Args:
            labels: class number of each training sample, from 0.
            test_labels: of each test sample.
            groups: class numbers behind each target.

        Raises:
            DataError: there are too few samples.
        """
        train, target = subset(
            labels, groups, self.train, self.balanced, np.random.default_rng([self.seed, 0]), "training"
        )
        test, test_target = subset(
            test_labels, groups, self.test, self.balanced, np.random.default_rng([self.seed, 1]), "test"
        )
        noise = np.random.default_rng([self.noise_seed, 2])
        noisy, wrong = _with_noise(target, self.label_noise, len(groups), noise)
        return Chosen(train, noisy, test, test_target, wrong)


class Chosen(NamedTuple):
    """Indices of the chosen samples in random order, and the number of each one's group.

    Attributes:
        train: index of each training sample in the dataset's training part.
        target: number of its group, after the noise.
        test: index of each test sample in the dataset's test part.
        test_target: number of its group.
        wrong: places in ``train``, ascending, whose target was replaced by a wrong one.
    """

    train: NDArray[np.int64]
    target: NDArray[np.int64]
    test: NDArray[np.int64]
    test_target: NDArray[np.int64]
    wrong: NDArray[np.int64]


DATASETS: Registry[Samples] = Registry("data", tag="dataset")


def two_groups(classes: Sequence[Any]) -> list[list[Any]]:
    """Classes or groups of classes, as two groups.

    Raises:
        DataError: not exactly two groups.
    """
    groups = [g if isinstance(g, list) else [g] for g in classes]
    if len(groups) != 2 or not all(groups):
        raise DataError(
            f"data.classes: got {len(groups)} groups ({list(classes)}), expected 'all' or exactly two non-empty "
            "classes or groups of classes, such as [4, 9] or [[0, 1], [2, 3]]"
        )
    return groups


def refuse_repeated(groups: list[list[Any]], classes: Sequence[Any]) -> None:
    """Raises DataError where a class is in the groups twice."""
    flat = [c for group in groups for c in group]
    if len(set(flat)) != len(flat):
        raise DataError(f"data.classes: got {list(classes)}, which names a class twice; name each once")


def subset(
    labels: NDArray[np.int64],
    groups: list[list[int]],
    size: int | None,
    balanced: bool,
    rng: np.random.Generator,
    part: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the chosen samples in random order, and the group number of each."""
    group_of = np.full(1 + max(int(labels.max()), *map(max, groups)), -1, dtype=np.int64)
    for number, group in enumerate(groups):
        group_of[group] = number
    target = group_of[labels]
    order = rng.permutation(np.flatnonzero(target >= 0))
    if balanced:
        members = [order[target[order] == number] for number in range(len(groups))]
        most = min(map(len, members)) * len(groups)
        size = most if size is None else size
        share = [size // len(groups) + (number < size % len(groups)) for number in range(len(groups))]
        if not most or any(s > len(m) for s, m in zip(share, members, strict=True)):
            raise DataError(
                f"data: got {size} {part} samples, but the chosen classes contain {most} balanced ones at most"
            )
        order = rng.permutation(np.concatenate([m[:s] for s, m in zip(share, members, strict=True)]))
    elif len(order) < max(1, size or 1):
        raise DataError(f"data: got {size or 1} {part} samples, but the chosen classes contain {len(order)} at most")
    order = order[:size]
    return order, target[order]


def _with_noise(
    target: NDArray[np.int64], fraction: float, groups: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The targets with a fraction of them wrong, and the places of these."""
    wrong = rng.permutation(len(target))[: round(fraction * len(target))]
    noisy = target.copy()
    noisy[wrong] = (target[wrong] + rng.integers(1, groups, size=len(wrong))) % groups
    return noisy, np.sort(wrong)


def targets(target: NDArray[np.int64], groups: int, dtype: str) -> NDArray[Any]:
    """Group numbers as targets: -1/+1, (N, 1), of two groups, or one-hot, (N, C)."""
    if groups == 2:
        return (2 * target - 1).astype(dtype)[:, None]
    return np.eye(groups, dtype=dtype)[target]


def digest_of(about: object, parts: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of arrays and of what they are."""
    digest = hashlib.sha256(repr(about).encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
