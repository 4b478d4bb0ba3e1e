"""RhoTrace: the norm dynamics of deep ReLU networks under the square loss, recorded at every step.

From Python: ``rhotrace.open(path)`` is a run, ``rhotrace.fit_transient(trace)`` its transient time, and
``rhotrace.compare([trace, ...])`` the fluctuation of several runs. ``rhotrace.record(path, model, optimizer, ...)`` records
a training loop of one's own. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhotrace.analysis.analyze import fit_transient
    from rhotrace.analysis.fluctuation.comparison import compare
    from rhotrace.own_loop.own_quantity import Own
    from rhotrace.own_loop.record import Recording, record
    from rhotrace.runfile.reader import Trace
    from rhotrace.runfile.reader import open_trace as open  # noqa: A004 - read as rhotrace.open

__all__ = ["Own", "Recording", "Trace", "compare", "fit_transient", "open", "record"]

_HOMES = {
    "Own": ("rhotrace.own_loop.own_quantity", "Own"),
    "Recording": ("rhotrace.own_loop.record", "Recording"),
    "Trace": ("rhotrace.runfile.reader", "Trace"),
    "compare": ("rhotrace.analysis.fluctuation.comparison", "compare"),
    "fit_transient": ("rhotrace.analysis.analyze", "fit_transient"),
    "open": ("rhotrace.runfile.reader", "open_trace"),
    "record": ("rhotrace.own_loop.record", "record"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    if name not in _HOMES:
        raise AttributeError(f"module 'rhotrace' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
