"""Datasets: one class each, found in the files of this folder.

To add one, put a file here with a class that extends ``samples.Samples`` and is decorated with ``DATASETS.register``.
"""

from __future__ import annotations

import importlib
import pkgutil

from rhotrace.models.datasets.data_roots import cache_root, roots
from rhotrace.models.datasets.samples import DATASETS, Dataset, Samples

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DATASETS", "Dataset", "Samples", "cache_root", "roots"]
