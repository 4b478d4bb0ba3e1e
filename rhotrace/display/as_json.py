"""Results as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from rhotrace.display.printable import escaped_in_json


def to_json(result: Any, *, indent: int | None = 2) -> str:  # noqa: ANN401 - any result dataclass or plain value
    """A result as JSON; a number that is not finite becomes null."""
    return escaped_in_json(json.dumps(_finite(result), indent=indent, ensure_ascii=False))


def plain(result: Any) -> Any:  # noqa: ANN401 - as ``to_json``
    """A result dataclass as a mapping; anything else unchanged."""
    return dataclasses.asdict(result) if dataclasses.is_dataclass(result) and not isinstance(result, type) else result


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON values
    value = plain(value)
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
