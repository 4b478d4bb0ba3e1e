"""RhoTrace: the norm dynamics of deep ReLU networks under the square loss, recorded at every step.

From Python: ``rhotrace.open(path)`` is a run, ``rhotrace.fit_transient(trace)`` its transient time, and
``rhotrace.compare([trace, ...])`` the fluctuation of several runs. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhotrace.analysis.analyze import fit_transient
    from rhotrace.analysis.fluctuation.comparison import compare
    from rhotrace.runfile.reader import Trace
    from rhotrace.runfile.reader import open_trace as open  # noqa: A004 - read as rhotrace.open

__all__ = ["Trace", "compare", "fit_transient", "open"]

_HOMES = {
    "Trace": ("rhotrace.runfile.reader", "Trace"),
    "compare": ("rhotrace.analysis.fluctuation.comparison", "compare"),
    "fit_transient": ("rhotrace.analysis.analyze", "fit_transient"),
    "open": ("rhotrace.runfile.reader", "open_trace"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    if name not in _HOMES:
        raise AttributeError(f"module 'rhotrace' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
