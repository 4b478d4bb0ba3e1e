"""Datasets: one class each, found in the files of this folder.

To add one, put a file here with a class that extends ``samples.Samples`` and is decorated with ``DATASETS.register``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, Literal

from rhotrace.models.datasets.data_roots import cache_root, roots
from rhotrace.models.datasets.samples import DATASETS, Dataset, Samples

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DATASETS", "Dataset", "Samples", "cache_root", "load", "roots"]


def load(*, dtype: str = "float64", **options: Any) -> Dataset:  # noqa: ANN401 - each dataset's own
    """``DATASETS[dataset](**options).load(dtype)``, for callers without the component."""
    return DATASETS[options["dataset"]].model_construct(**options).load(dtype)


def class_groups(dataset: str, classes: Any) -> list[list[int]]:  # noqa: ANN401 - as in a recipe
    """See ``LabelledImages.groups``; for callers without the component."""
    from rhotrace.models.datasets.torchvision_images import LabelledImages

    component = DATASETS[dataset]
    assert issubclass(component, LabelledImages)  # noqa: S101 - the type of the three that recipes know so far
    return component.model_construct(dataset=dataset, classes=classes).groups()


def _signature() -> inspect.Signature:
    """Until recipes take the components themselves: what the datasets of torchvision share, as ``load``'s parameters."""
    first = DATASETS["mnist"]
    names = Literal["mnist", "fashion-mnist", "cifar-10"]
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if name == "dataset" else field.default,
            annotation=names if name == "dataset" else field.rebuild_annotation(),
        )
        for name, field in first.model_fields.items()
    ]
    dtype = inspect.Parameter("dtype", inspect.Parameter.KEYWORD_ONLY, default="float64", annotation=str)
    return inspect.Signature([*parameters, dtype], return_annotation=Dataset)


load.__signature__ = _signature()  # type: ignore[attr-defined]
