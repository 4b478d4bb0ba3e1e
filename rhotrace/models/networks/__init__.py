"""Networks: one kind in each file of this folder.

To add one, put a file here with a class that extends ``network.NetworkOptions`` and is decorated with
``NETWORKS.register``.
"""

from __future__ import annotations

import importlib
import pkgutil

from rhotrace.models.network import NETWORKS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["NETWORKS"]
